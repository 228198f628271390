//! `POST /v1/completions`: raw text goes on.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use hone_compute::Choice;
use hone_generate::Ranked;
use serde_json::{Value, json};

use crate::bounds;
use crate::engine::{Answer, Question};
use crate::models::{InUse, Served};
use crate::openai::fields::Fields;
use crate::openai::logprobs::Lists;
use crate::openai::prompts::{Given, Prompt};
use crate::openai::run::{Continued, Head, Plan, Running, Update, Whole};
use crate::openai::stream::{Format, respond};
use crate::openai::text::{Growing, Laid};
use crate::openai::{ApiError, answered, prepared, prompts, sampling, written};
use crate::shared::Shared;

/// Tokens of a completion where the request does not say, as in OpenAI's interface.
const MOST_TOKENS: u64 = 16;

/// What the request comes to.
struct Asked {
    plan: Plan,
    texts: Texts,
    head: Head,
}

/// How completions are written.
struct Texts {
    served: InUse,
    /// Completions of each prompt.
    n: usize,
    /// Whether there are log-probabilities; how many alternatives, the plan says.
    logprobs: bool,
    /// What is echoed, for each prompt; empty where nothing is.
    echoes: Vec<Echo>,
    prompts: usize,
}

/// A prompt that comes before its completions.
struct Echo {
    ids: Arc<[u32]>,
    laid: Laid,
    /// The numbers of its tokens, where they are asked for.
    ranked: Option<Ranked>,
}

/// Completes prompts.
pub(crate) async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answered(try_answer(&shared, request).await)
}

async fn try_answer(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let Asked { plan, mut texts, head } = prepared(shared, request, prepare).await?;
    let places = shared.places(plan.choices())?;
    if texts.logprobs && !texts.echoes.is_empty() {
        let question = Question::Ranked(plan.common.extras.alternatives);
        let read = texts.echoes.iter().zip(places.iter().step_by(texts.n));
        let read = read.map(|(echo, place)| (question, Arc::clone(&echo.ids), Arc::clone(place)));
        let answers = shared.engine.read(plan.found.0, read.collect()).await?;
        for (echo, answer) in texts.echoes.iter_mut().zip(answers) {
            if let Answer::Ranked(ranked) = answer {
                echo.ranked = Some(ranked);
            }
        }
    }
    let (stream, include_usage) = (plan.common.stream, plan.common.include_usage);
    let running = plan.start(shared, places)?;
    if stream {
        return Ok(respond(head, texts, running, include_usage, shared.patience.reader));
    }
    texts.whole(head, running).await
}

fn prepare(shared: &Shared, mut fields: Fields) -> Result<Asked, ApiError> {
    let found = shared.language_model(fields.text("model")?.as_deref())?;
    let served = &found.1;
    let given = match fields.take("prompt") {
        Some(value) => prompts::read("prompt", value)?,
        // As in OpenAI's interface: the beginning of a document
        None => vec![Given::Text(String::new())],
    };
    let mut common = sampling::common(&mut fields, shared, served.vocabulary())?;
    let logprobs = fields.whole("logprobs", 0..=bounds::LOGPROBS)?;
    common.extras.alternatives = logprobs.unwrap_or(0) as usize;
    let echo = fields.flag("echo")?;
    let most = fields.whole("max_tokens", 0..=u64::from(u32::MAX))?;
    let most = most.unwrap_or(MOST_TOKENS) as usize;
    let n = common.n as u64;
    fields.only(
        "best_of",
        |value| value.as_u64() == Some(n),
        "ask for `n` answers and choose among them",
    )?;
    fields.only(
        "suffix",
        |value| value.as_str() == Some(""),
        "hone continues a text at its end",
    )?;
    sampling::response_format(&mut fields)?;
    fields.finish()?;

    let several = given.len() > 1;
    let mut sequences = Vec::with_capacity(given.len());
    let mut echoes = Vec::new();
    let count = given.len();
    for (i, given) in given.into_iter().enumerate() {
        let place = if several {
            format!("prompt[{i}]")
        } else {
            "prompt".to_owned()
        };
        let prompt = Prompt::raw(served, &place, given)?;
        prompts::check_length(served, &place, prompt.ids.len(), most.min(1))?;
        if echo {
            echoes.push(Echo {
                ids: Arc::clone(&prompt.ids),
                laid: prompt.laid(&served.tokenizer, most > 0)?,
                ranked: None,
            });
        }
        let room = served.context() - prompt.ids.len();
        // The answer's text goes on from the prompt's
        let growing = Growing::new(&served.tokenizer, &prompt.ids, &common.stops)?;
        sequences.push(Continued {
            ids: prompt.ids,
            max_new_tokens: most.min(room),
            growing,
        });
    }
    let echoed = echoes.iter().map(|echo| echo.ids.len()).sum();
    let asked = Asked {
        head: Head::new(shared, "cmpl", &found),
        texts: Texts {
            served: served.clone(),
            n: common.n,
            logprobs: logprobs.is_some(),
            echoes,
            prompts: count,
        },
        plan: Plan {
            prompts: sequences,
            common,
            stop_tokens: Arc::clone(&served.raw_stop),
            found,
        },
    };
    asked.plan.check_size(echoed, asked.texts.logprobs)?;
    Ok(asked)
}

impl Echo {
    /// The numbers of its tokens; the first has none.
    fn lists(&self, served: &Served, lists: &mut Lists) {
        let tokenizer = &served.tokenizer;
        let Some(ranked) = &self.ranked else { return };
        for (i, (&token, &offset)) in self.ids.iter().zip(&self.laid.offsets).enumerate() {
            let Some(before) = i.checked_sub(1) else {
                lists.first(tokenizer, token, offset);
                continue;
            };
            let chosen = Choice {
                token,
                logprob: ranked.logprobs[before],
            };
            let alternatives = ranked.best.get(before).map_or(&[][..], Vec::as_slice);
            lists.push(tokenizer, chosen, alternatives, offset);
        }
    }
}

impl Texts {
    fn echo(&self, choice: usize) -> Option<&Echo> {
        self.echoes.get(choice / self.n)
    }

    /// Characters before a completion in its text.
    fn before(&self, choice: usize) -> usize {
        self.echo(choice).map_or(0, |echo| echo.laid.text.chars().count())
    }

    /// What is echoed before a completion.
    fn begin(&self, choice: usize) -> (String, Lists) {
        let mut lists = Lists::default();
        let Some(echo) = self.echo(choice) else {
            return (String::new(), lists);
        };
        echo.lists(&self.served, &mut lists);
        (echo.laid.text.clone(), lists)
    }

    fn choice(&self, choice: usize, text: &str, lists: Lists, finish: Option<&str>) -> Value {
        let logprobs = if self.logprobs { lists.value() } else { Value::Null };
        json!({"index": choice, "text": text, "logprobs": logprobs, "finish_reason": finish})
    }

    /// All completions at once.
    async fn whole(self, head: Head, mut running: Running) -> Result<Response, ApiError> {
        let gathered = running.gather(self.prompts * self.n, self.logprobs).await?;
        let usage = running.usage();
        written(move || {
            let choice = |(choice, whole): (usize, Whole)| {
                let (mut text, mut lists) = self.begin(choice);
                text.push_str(&whole.text);
                lists.extend(&self.served.tokenizer, &whole.entries, self.before(choice));
                self.choice(choice, &text, lists, whole.finish)
            };
            let choices: Vec<Value> = gathered.into_iter().enumerate().map(choice).collect();
            let mut value = head.with("text_completion", choices.into());
            value["usage"] = usage;
            Ok(value)
        })
        .await
    }
}

impl Format for Texts {
    fn object(&self) -> &'static str {
        "text_completion"
    }

    fn opening(&self) -> Vec<Value> {
        let echoed = (0..self.prompts * self.n).filter(|&choice| self.echo(choice).is_some());
        echoed
            .map(|choice| {
                let (text, lists) = self.begin(choice);
                self.choice(choice, &text, lists, None)
            })
            .collect()
    }

    fn part(&self, update: &Update) -> Option<Value> {
        if update.text.is_empty() && (update.entries.is_empty() || !self.logprobs) {
            return None;
        }
        let mut lists = Lists::default();
        if self.logprobs {
            lists.extend(&self.served.tokenizer, &update.entries, self.before(update.choice));
        }
        Some(self.choice(update.choice, &update.text, lists, None))
    }

    fn ending(&self, choice: usize, finish: &'static str) -> Value {
        json!({"index": choice, "text": "", "logprobs": null, "finish_reason": finish})
    }
}
