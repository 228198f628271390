//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};

use crate::bounds;
use crate::models::InUse;
use crate::openai::fields::Fields;
use crate::openai::run::{Continued, Entry, Head, Plan, Running, Update, Whole};
use crate::openai::stream::{Format, respond};
use crate::openai::text::Growing;
use crate::openai::{ApiError, answered, logprobs, prepared, prompts, sampling, written};
use crate::shared::Shared;

/// What the request comes to.
struct Asked {
    plan: Plan,
    replies: Replies,
    head: Head,
}

/// How replies are written.
struct Replies {
    served: InUse,
    n: usize,
    logprobs: bool,
}

/// Answers a conversation.
pub(crate) async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answered(try_answer(&shared, request).await)
}

async fn try_answer(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let Asked { plan, replies, head } = prepared(shared, request, prepare).await?;
    let places = shared.places(plan.choices())?;
    let (stream, include_usage) = (plan.common.stream, plan.common.include_usage);
    let running = plan.start(shared, places)?;
    if stream {
        return Ok(respond(head, replies, running, include_usage, shared.patience.reader));
    }
    replies.whole(head, running).await
}

fn prepare(shared: &Shared, mut fields: Fields) -> Result<Asked, ApiError> {
    let found = shared.language_model(fields.text("model")?.as_deref())?;
    let served = &found.1;
    let Some(chat) = &served.chat else {
        let message = format!(
            "`{}` has no chat template; /v1/completions continues raw text",
            served.name
        );
        return Err(ApiError::bad("model", message));
    };
    let Some(messages) = fields.take("messages") else {
        return Err(ApiError::bad(
            "messages",
            "`messages` is missing; expected a list of messages",
        ));
    };
    let messages = prompts::messages("messages", messages)?;
    let mut common = sampling::common(&mut fields, shared, served.vocabulary())?;
    let logprobs = fields.flag("logprobs")?;
    if let Some(top) = fields.whole("top_logprobs", 0..=bounds::LOGPROBS)? {
        if !logprobs {
            let message = "`top_logprobs` is given without `logprobs`; expected both or neither";
            return Err(ApiError::bad("top_logprobs", message));
        }
        common.extras.alternatives = top as usize;
    }
    let newer = fields.whole("max_completion_tokens", 1..=u64::from(u32::MAX))?;
    let older = fields.whole("max_tokens", 1..=u64::from(u32::MAX))?;
    let most = match (newer, older) {
        (Some(a), Some(b)) if a != b => {
            let message = "`max_tokens` and `max_completion_tokens` differ; expected one of them";
            return Err(ApiError::bad("max_tokens", message));
        }
        (newer, older) => newer.or(older),
    };
    sampling::response_format(&mut fields)?;
    refuse_what_hone_lacks(&mut fields)?;
    fields.finish()?;

    let ids = chat
        .prompt_ids(&messages)
        .map_err(|error| ApiError::bad("messages", error.to_string()))?;
    if ids.is_empty() {
        return Err(ApiError::bad(
            "messages",
            "the chat template makes no token of these messages",
        ));
    }
    prompts::check_ids(served, "messages", &ids)?;
    prompts::check_length(served, "messages", ids.len(), 1)?;
    let room = served.context() - ids.len();
    let max_new_tokens = most.map_or(room, |most| room.min(most as usize));
    let growing = Growing::new(&served.tokenizer, &[], &common.stops)?;
    let asked = Asked {
        head: Head::new(shared, "chatcmpl", &found),
        replies: Replies {
            served: served.clone(),
            n: common.n,
            logprobs,
        },
        plan: Plan {
            prompts: vec![Continued {
                ids: ids.into(),
                max_new_tokens,
                growing,
            }],
            common,
            stop_tokens: Arc::clone(&served.chat_stop),
            found,
        },
    };
    asked.plan.check_size(0, logprobs)?;
    Ok(asked)
}

fn refuse_what_hone_lacks(fields: &mut Fields) -> Result<(), ApiError> {
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    fields.only("tools", is_empty, "hone has no tools")?;
    fields.only("functions", is_empty, "hone has no tools")?;
    let free = |value: &Value| matches!(value.as_str(), Some("none" | "auto"));
    fields.only("tool_choice", free, "hone has no tools")?;
    fields.only("function_call", free, "hone has no tools")?;
    fields.pass_over(&["parallel_tool_calls"]);
    fields.only("modalities", |value| *value == json!(["text"]), "hone has texts only")?;
    for name in ["audio", "prediction", "web_search_options", "verbosity"] {
        fields.only(name, |_| false, "hone has nothing like it")?;
    }
    let none = |value: &Value| value.as_str() == Some("none");
    fields.only(
        "reasoning_effort",
        none,
        "hone's models do not reason apart from their answer",
    )
}

impl Replies {
    fn logprobs(&self, entries: &[Entry]) -> Value {
        match self.logprobs {
            true => json!({
                "content": logprobs::content(&self.served.tokenizer, entries),
                "refusal": null,
            }),
            false => Value::Null,
        }
    }

    /// All replies at once.
    async fn whole(self, head: Head, mut running: Running) -> Result<Response, ApiError> {
        let gathered = running.gather(self.n, self.logprobs).await?;
        let usage = running.usage();
        written(move || {
            let choice = |(index, whole): (usize, Whole)| {
                json!({
                    "index": index,
                    "message": {"role": "assistant", "content": whole.text, "refusal": null},
                    "logprobs": self.logprobs(&whole.entries),
                    "finish_reason": whole.finish,
                })
            };
            let choices: Vec<Value> = gathered.into_iter().enumerate().map(choice).collect();
            let mut value = head.with("chat.completion", choices.into());
            value["usage"] = usage;
            Ok(value)
        })
        .await
    }

    fn choice(choice: usize, delta: Value, logprobs: Value, finish: Option<&str>) -> Value {
        json!({"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish})
    }
}

impl Format for Replies {
    fn object(&self) -> &'static str {
        "chat.completion.chunk"
    }

    fn opening(&self) -> Vec<Value> {
        let role = |choice| Self::choice(choice, json!({"role": "assistant", "content": ""}), Value::Null, None);
        (0..self.n).map(role).collect()
    }

    fn part(&self, update: &Update) -> Option<Value> {
        let says = update.entries.iter().any(|entry| !entry.ends);
        let something = !update.text.is_empty() || (self.logprobs && says);
        let delta = json!({"content": update.text});
        something.then(|| Self::choice(update.choice, delta, self.logprobs(&update.entries), None))
    }

    fn ending(&self, choice: usize, finish: &'static str) -> Value {
        Self::choice(choice, json!({}), Value::Null, Some(finish))
    }
}
