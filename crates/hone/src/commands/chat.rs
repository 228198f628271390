//! `hone chat`: a conversation on the terminal.

use std::io::{self, BufRead, IsTerminal};

use anyhow::Result;
use clap::Args;
use hone_compute::Engine;
use hone_generate::samples_of;
use hone_math::Key;
use hone_text::{Chat, Message, SkipSpecial};

use super::sample::{SamplingArguments, request, stream_text};
use crate::model::{EngineArguments, LoadedModel, ModelArguments};
use crate::output::{self, Output, colours};

/// Talk to a model, turn by turn
///
/// One line is one turn. /system TEXT sets the system message, /reset forgets the conversation, /exit ends it.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    engine: EngineArguments,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// The system message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
}

const HELP: &str = "/system TEXT  sets the system message and begins anew\n/reset        forgets the conversation\n/exit         ends it";

struct Session<'a> {
    engine: &'a Engine,
    loaded: &'a LoadedModel,
    chat: Chat,
    arguments: &'a Arguments,
    messages: Vec<Message>,
    turns: u64,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let engine = arguments.engine.engine()?;
    let loaded = arguments.model.load(&engine)?;
    let chat = loaded.chat()?;
    let messages = arguments.system.iter().map(Message::system).collect();
    let mut session = Session {
        engine: &engine,
        loaded: &loaded,
        chat,
        arguments,
        messages,
        turns: 0,
    };
    let mut output = Output::new();
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if terminal {
        output::note("One line is one turn; /help lists the commands.");
    }
    let mut lines = io::stdin().lock().lines();
    loop {
        if terminal {
            output.stream(if colours() {
                "\x1b[1myou>\x1b[0m "
            } else {
                "you> "
            })?;
        }
        let Some(line) = lines.next() else { break };
        let line = line?;
        match line.trim() {
            "" => {}
            "/exit" | "/quit" => break,
            "/help" => output::note(HELP),
            "/reset" => session.reset(None),
            command if command.starts_with("/system") => {
                let text = command["/system".len()..].trim();
                session.reset((!text.is_empty()).then_some(text));
            }
            command if command.starts_with('/') => {
                output::note(&format!("{command}: no such command\n{HELP}"))
            }
            text => session.turn(text, &mut output)?,
        }
    }
    Ok(output.finish()?)
}

impl Session<'_> {
    /// Begins anew, with this system message or the one there was.
    fn reset(&mut self, system: Option<&str>) {
        match system {
            Some(text) => self.messages = vec![Message::system(text)],
            None => self.messages.retain(|message| message.role == "system"),
        }
    }

    fn turn(&mut self, text: &str, output: &mut Output) -> Result<()> {
        self.messages.push(Message::user(text));
        let ids = self.chat.prompt_ids(&self.messages)?;
        let context = self.loaded.model.architecture().context;
        if ids.len() >= context {
            self.messages.pop();
            let used = ids.len();
            output::note(&format!(
                "the conversation has {used} tokens, and the model's context is {context}; /reset begins anew"
            ));
            return Ok(());
        }
        let key = Key::new(self.arguments.sampling.seed, "chat", self.turns);
        self.turns += 1;
        let stop = self.chat.stop_ids()?.into();
        let request = request(self.loaded, ids.into(), key, stop, &self.arguments.sampling);
        let decoder = self.loaded.tokenizer.decode_stream(SkipSpecial::Yes);
        let reply = stream_text(
            self.engine,
            self.loaded,
            (&samples_of(&request, 1), decoder),
            output,
        )?;
        output.stream("\n")?;
        self.messages.push(Message::assistant(reply));
        Ok(())
    }
}
