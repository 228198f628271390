//! A question and its examples in the form that a model answers.

use hone_text::{
    AddSpecial, Chat, GenerationPrompt, Message, PromptTemplate, QaExample, QaFraming, TextError, Tokenizer,
    TrainedTurns,
};
use serde_json::{Value, json};

use super::Question;
use crate::text::raw_stop_tokens;

/// Where an answer in `Q:`/`A:` form ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerEnd {
    /// At the line's end, or where the next question begins.
    Line,
    /// Where a line begins with the next question.
    NextQuestion,
}

impl AnswerEnd {
    /// Where examples have answers of one line, the line's end; else the next question.
    pub fn of(examples: &[QaExample]) -> Self {
        if examples.iter().any(|example| example.answer.trim().contains('\n')) {
            Self::NextQuestion
        } else {
            Self::Line
        }
    }

    fn stop_texts(self) -> &'static [&'static str] {
        match self {
            Self::Line => &["\n", "Q:"],
            Self::NextQuestion => &["\nQ:"],
        }
    }
}

/// How a question is framed.
pub enum Frame {
    /// `Q: ..` and `A: ..`, for base models (see [`QaFraming`]).
    Qa(AnswerEnd),
    /// Turns through the chat template, examples as earlier turns.
    Chat(Box<Chat>),
    /// A template of the user's own, with `examples` (each a `question` and an `answer`), `question`, `messages` and the row's
    /// columns. What it writes is taken as it stands.
    Template(Box<PromptTemplate>),
}

/// A prompt as a model gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framed {
    /// Its text.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// How many of the examples are in it: the last ones.
    pub shots: usize,
}

/// A question that cannot be framed.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// A template or a tokenizer.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A conversation where one question is wanted.
    #[error(
        "has {turns} turns, and the frame `qa` writes one question; frame it as a chat, or by a template that reads `messages`"
    )]
    SeveralTurns {
        /// How many.
        turns: usize,
    },
    /// A prompt without a token.
    #[error("the prompt has no token; expected at least one")]
    Empty,
    /// An option without a token.
    #[error("option {index} is empty; expected text")]
    EmptyOption {
        /// Which, from 0.
        index: usize,
    },
    /// Longer than the context, even without examples.
    #[error("needs at least {tokens} tokens; the model's context is {context}; shorten the question, or its options")]
    TooLong {
        /// Tokens of the prompt and of the longest option.
        tokens: usize,
        /// The model's context.
        context: usize,
    },
}

/// Frames questions for one model.
#[derive(Clone, Copy)]
pub struct Framer<'a> {
    tokenizer: &'a Tokenizer,
    frame: &'a Frame,
}

impl<'a> Framer<'a> {
    /// For a model with this tokenizer.
    pub fn new(tokenizer: &'a Tokenizer, frame: &'a Frame) -> Self {
        Self { tokenizer, frame }
    }

    /// The prompt with as many of the examples as leave it within `room` tokens: the first are left out. Without any it may still be
    /// longer.
    ///
    /// # Errors
    /// [`PromptError`], but for its options and lengths.
    pub fn fitted(&self, question: &Question, examples: &[&QaExample], room: usize) -> Result<Framed, PromptError> {
        let mut left_out = 0;
        loop {
            let framed = self.framed(question, &examples[left_out..])?;
            if framed.ids.len() <= room || left_out == examples.len() {
                return Ok(framed);
            }
            left_out += 1;
        }
    }

    /// The prompt and the tokens of each option after it, with as many of the examples as leave all of it within the context.
    ///
    /// # Errors
    /// [`PromptError`].
    pub fn with_options(
        &self,
        question: &Question,
        examples: &[&QaExample],
        options: &[String],
        context: usize,
    ) -> Result<(Framed, Vec<Vec<u32>>), PromptError> {
        let mut left_out = 0;
        loop {
            let examples = &examples[left_out..];
            let framed = self.framed(question, examples)?;
            let mut tokens = Vec::with_capacity(options.len());
            for (index, option) in options.iter().enumerate() {
                let ids = self.option(question, examples, &framed, option)?;
                if ids.is_empty() || option.trim().is_empty() {
                    return Err(PromptError::EmptyOption { index });
                }
                tokens.push(ids);
            }
            let longest = framed.ids.len() + tokens.iter().map(Vec::len).max().unwrap_or(0);
            if longest <= context {
                return Ok((framed, tokens));
            }
            if examples.is_empty() {
                return Err(PromptError::TooLong {
                    tokens: longest,
                    context,
                });
            }
            left_out += 1;
        }
    }

    /// Tokens that end an answer.
    ///
    /// # Errors
    /// A chat template without an end of turn.
    pub fn stop_tokens(&self) -> Result<Vec<u32>, PromptError> {
        match self.frame {
            Frame::Chat(chat) => Ok(chat.stop_ids()?),
            Frame::Qa(_) | Frame::Template(_) => Ok(raw_stop_tokens(self.tokenizer)),
        }
    }

    /// Texts that end an answer.
    pub fn stop_texts(&self) -> &'static [&'static str] {
        match self.frame {
            Frame::Qa(end) => end.stop_texts(),
            Frame::Chat(_) | Frame::Template(_) => &[],
        }
    }

    /// Whether a completion goes on with the prompt's own text, rather than being a turn of its own.
    pub fn is_raw(&self) -> bool {
        !matches!(self.frame, Frame::Chat(_))
    }

    fn framed(&self, question: &Question, examples: &[&QaExample]) -> Result<Framed, PromptError> {
        let (text, ids) = match self.frame {
            Frame::Qa(_) => {
                if question.turns.len() != 1 {
                    return Err(PromptError::SeveralTurns {
                        turns: question.turns.len(),
                    });
                }
                let examples = examples.iter().map(|example| (*example).clone()).collect();
                let text = QaFraming::few_shot(examples).prompt(question.text());
                let ids = self.tokenizer.encode(&text, AddSpecial::Yes)?;
                (text, ids)
            }
            Frame::Chat(chat) => {
                let messages = turns(question, examples);
                (
                    chat.render(&messages, GenerationPrompt::Add)?,
                    chat.prompt_ids(&messages)?,
                )
            }
            Frame::Template(template) => {
                let text = template.render(&row(question, examples))?;
                let ids = self.tokenizer.encode(&text, AddSpecial::Yes)?;
                (text, ids)
            }
        };
        if ids.is_empty() {
            return Err(PromptError::Empty);
        }
        Ok(Framed {
            text,
            ids,
            shots: examples.len(),
        })
    }

    /// The tokens of an option after the prompt, without an end of turn. After text that does not end in white space a space
    /// stands before it. The whole is tokenised at once where that leaves the prompt's tokens as they are, else the option alone.
    fn option(
        &self,
        question: &Question,
        examples: &[&QaExample],
        framed: &Framed,
        option: &str,
    ) -> Result<Vec<u32>, PromptError> {
        if let Frame::Chat(chat) = self.frame {
            let mut messages = turns(question, examples);
            messages.push(Message::assistant(option));
            let tokens = chat.encode(&messages, TrainedTurns::Last)?;
            let span = tokens.spans.last().map(|span| span.start..span.end.saturating_sub(1));
            return Ok(span.map(|span| tokens.ids[span].to_vec()).unwrap_or_default());
        }
        let apart = framed.text.is_empty() || framed.text.ends_with(char::is_whitespace);
        let written = if apart { option.to_owned() } else { format!(" {option}") };
        let whole = self
            .tokenizer
            .encode(&format!("{}{written}", framed.text), AddSpecial::Yes)?;
        match whole.strip_prefix(framed.ids.as_slice()) {
            Some(rest) if !rest.is_empty() => Ok(rest.to_vec()),
            _ => Ok(self.tokenizer.encode_after(&framed.text, &written)?),
        }
    }
}

/// The conversation: system messages, examples as turns, then the rest of what is asked.
fn turns(question: &Question, examples: &[&QaExample]) -> Vec<Message> {
    let system = question.turns.iter().take_while(|turn| turn.role == "system").count();
    let (before, asked) = question.turns.split_at(system);
    let own = |turns: &[hone_data::Message]| -> Vec<Message> {
        turns
            .iter()
            .map(|turn| Message::new(&turn.role, &turn.content))
            .collect()
    };
    let mut messages = own(before);
    for example in examples {
        messages.push(Message::user(&example.question));
        messages.push(Message::assistant(&example.answer));
    }
    messages.extend(own(asked));
    messages
}

/// What a template reads: the row's columns, `question`, `messages` and `examples`, which come before columns of these names.
fn row(question: &Question, examples: &[&QaExample]) -> serde_json::Map<String, Value> {
    let mut row = question.columns.clone();
    row.insert("question".into(), question.text().into());
    row.insert("messages".into(), json!(question.turns));
    let example = |example: &&QaExample| json!({ "question": example.question, "answer": example.answer });
    row.insert("examples".into(), examples.iter().map(example).collect());
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_data::Message as Turn;
    use hone_text::{TrainOptions, train_bpe};

    fn tokenizer() -> Tokenizer {
        let text = "Q: what is the sum of two and three?\nA: the sum is five\n\n".repeat(9);
        let options = TrainOptions {
            vocab_size: 290,
            ..TrainOptions::default()
        };
        train_bpe(std::iter::once(text), &options).unwrap()
    }

    fn example(question: &str, answer: &str) -> QaExample {
        QaExample {
            question: question.into(),
            answer: answer.into(),
        }
    }

    fn question(text: &str) -> Question {
        let columns = json!({"hint": "count", "answer": "5"});
        Question {
            turns: vec![Turn::user(text)],
            columns: columns.as_object().unwrap().clone(),
        }
    }

    #[test]
    fn each_frame_writes_what_it_should() {
        let tokenizer = tokenizer();
        let (a, b) = (example("one?", "1"), example(" two?", "2\n"));
        let asked = question("three?");
        let frames = [
            (Frame::Qa(AnswerEnd::Line), "Q: one?\nA: 1\n\nQ: two?\nA: 2\n\nQ: three?\nA:"),
            (
                Frame::Chat(Box::new(Chat::new(&tokenizer).unwrap())),
                "<|im_start|>user\none?<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n<|im_start|>user\n two?<|im_end|>\n\
                 <|im_start|>assistant\n2\n<|im_end|>\n<|im_start|>user\nthree?<|im_end|>\n<|im_start|>assistant\n",
            ),
            (
                Frame::Template(Box::new(
                    PromptTemplate::new(
                        "{% for e in examples %}{{ e.question }} -> {{ e.answer }};{% endfor %}{{ question }} ({{ hint }}) -> ",
                    )
                    .unwrap(),
                )),
                "one? -> 1; two? -> 2\n;three? (count) -> ",
            ),
        ];
        for (frame, expected) in &frames {
            let framer = Framer::new(&tokenizer, frame);
            let framed = framer.fitted(&asked, &[&a, &b], 1000).unwrap();
            assert_eq!((framed.text.as_str(), framed.shots), (*expected, 2));
            assert_eq!(
                tokenizer.decode(&framed.ids, hone_text::SkipSpecial::No).unwrap(),
                *expected
            );
            // An option goes on with these tokens, and its text with that text
            let (prompt, options) = framer.with_options(&asked, &[&a, &b], &["five".into()], 1000).unwrap();
            assert_eq!(prompt, framed);
            let whole = tokenizer
                .decode(&[&framed.ids[..], &options[0]].concat(), hone_text::SkipSpecial::No)
                .unwrap();
            let space = if expected.ends_with(':') { " " } else { "" };
            assert_eq!(whole, format!("{expected}{space}five"));
        }
        assert_eq!(Framer::new(&tokenizer, &frames[0].0).stop_texts(), ["\n", "Q:"]);
        assert!(Framer::new(&tokenizer, &frames[1].0).stop_texts().is_empty());
    }

    #[test]
    fn a_system_message_comes_before_the_examples() {
        let mut asked = question("three?");
        asked.turns.insert(0, Turn::new("system", "Be brief."));
        let roles: Vec<String> = turns(&asked, &[&example("one?", "1")])
            .into_iter()
            .map(|m| m.role)
            .collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        let tokenizer = tokenizer();
        let frame = Frame::Qa(AnswerEnd::Line);
        let error = Framer::new(&tokenizer, &frame).fitted(&asked, &[], 1000).unwrap_err();
        assert!(matches!(error, PromptError::SeveralTurns { turns: 2 }), "{error}");
    }

    #[test]
    fn the_first_examples_give_way_to_the_context() {
        let tokenizer = tokenizer();
        let frame = Frame::Qa(AnswerEnd::Line);
        let framer = Framer::new(&tokenizer, &frame);
        let asked = question("three?");
        let examples = [example("one?", "1"), example("two?", "2")];
        let examples: Vec<&QaExample> = examples.iter().collect();
        let length = |count: usize| framer.fitted(&asked, &examples[2 - count..], 1000).unwrap().ids.len();
        let fitted = framer.fitted(&asked, &examples, length(1)).unwrap();
        assert_eq!(
            (fitted.shots, fitted.text.as_str()),
            (1, "Q: two?\nA: 2\n\nQ: three?\nA:")
        );
        assert_eq!(framer.fitted(&asked, &examples, length(1) - 1).unwrap().shots, 0);
        // The longest option counts
        let options = ["5".to_string(), "the sum is five".to_string()];
        let (_, tokens) = framer.with_options(&asked, &examples, &options, 1000).unwrap();
        let longest = tokens.iter().map(Vec::len).max().unwrap();
        let context = length(2) + longest;
        assert_eq!(
            framer
                .with_options(&asked, &examples, &options, context)
                .unwrap()
                .0
                .shots,
            2
        );
        assert_eq!(
            framer
                .with_options(&asked, &examples, &options, context - 1)
                .unwrap()
                .0
                .shots,
            1
        );
        let error = framer.with_options(&asked, &examples, &options, length(0)).unwrap_err();
        assert!(matches!(error, PromptError::TooLong { .. }), "{error}");
        let error = framer
            .with_options(&asked, &[], &["a".into(), " ".into()], 1000)
            .unwrap_err();
        assert!(matches!(error, PromptError::EmptyOption { index: 1 }), "{error}");
    }

    #[test]
    fn answers_of_several_lines_end_with_the_next_question() {
        assert_eq!(AnswerEnd::of(&[]), AnswerEnd::Line);
        assert_eq!(AnswerEnd::of(&[example("a", "b\n")]), AnswerEnd::Line);
        assert_eq!(
            AnswerEnd::of(&[example("a", "b"), example("a", "b\nc")]),
            AnswerEnd::NextQuestion
        );
    }
}
