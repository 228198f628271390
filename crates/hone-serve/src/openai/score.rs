//! `POST /score`: a reward model's scores. Not of OpenAI's interface, in its style.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use hone_data::PromptInput;
use serde_json::{Value, json};

use crate::bounds;
use crate::engine::{Answer, Question};
use crate::models::Weights;
use crate::openai::fields::{Fields, wrong};
use crate::openai::logprobs::number;
use crate::openai::run::usage;
use crate::openai::{ApiError, answered, prepared, prompts, reply};
use crate::shared::{Found, Shared};

/// Answers to be scored, as tokens.
struct Asked {
    found: Found,
    answers: Vec<Arc<[u32]>>,
}

/// Scores answers: `input` is one or a list of `{"prompt", "completion"}` or `{"messages"}`.
pub(crate) async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answered(try_answer(&shared, request).await)
}

async fn try_answer(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let Asked { found, answers } = prepared(shared, request, prepare).await?;
    let _places = shared.places(answers.len())?;
    let tokens: usize = answers.iter().map(|ids| ids.len()).sum();
    let texts = answers.into_iter().map(|ids| (Question::Score, ids)).collect();
    let scores = shared.engine.read(found.0, texts).await?;
    let datum = |(index, answer): (usize, Answer)| {
        let Answer::Score(score) = answer else {
            return Value::Null;
        };
        let score = if score.is_finite() {
            f64::from(score)
        } else {
            number(score)
        };
        json!({"object": "score", "index": index, "score": score})
    };
    let data: Vec<Value> = scores.into_iter().enumerate().map(datum).collect();
    Ok(reply(&json!({
        "object": "list",
        "model": found.1.name,
        "data": data,
        "usage": usage(tokens, 0),
    })))
}

fn prepare(shared: &Shared, mut fields: Fields) -> Result<Asked, ApiError> {
    let found = shared.model(fields.text("model")?.as_deref())?;
    let served = &found.1;
    let Weights::Reward(scorer) = &served.weights else {
        let message = format!("`{}` is not a reward model; train one with hone reward", served.name);
        return Err(ApiError::bad("model", message));
    };
    const EXPECTED: &str = r#"{"prompt", "completion"} or {"messages"}, or a list of these"#;
    let list = match fields.take("input") {
        Some(Value::Array(list)) => list,
        Some(one) => vec![one],
        None => {
            return Err(ApiError::bad(
                "input",
                format!("`input` is missing; expected {EXPECTED}"),
            ));
        }
    };
    fields.pass_over(&["user"]);
    fields.finish()?;
    if list.is_empty() || list.len() > bounds::PROMPTS {
        let message = format!(
            "`input` has {} answers; expected from 1 to {}",
            list.len(),
            bounds::PROMPTS
        );
        return Err(ApiError::bad("input", message));
    }
    let mut answers = Vec::with_capacity(list.len());
    for (i, item) in list.into_iter().enumerate() {
        let place = format!("input[{i}]");
        let Value::Object(item) = item else {
            return Err(wrong(place, &item, EXPECTED));
        };
        let (prompt, completion) = read(&place, Fields::of(item)).map_err(|mut error| {
            error.param = Some(place.clone());
            error
        })?;
        let ids = scorer.encode(&prompt, &completion);
        let ids = ids.map_err(|error| ApiError::bad(&*place, error.to_string()))?;
        prompts::check_length(served, &place, ids.len(), 0)?;
        answers.push(ids.into());
    }
    Ok(Asked { found, answers })
}

/// A prompt and its answer.
fn read(place: &str, mut fields: Fields) -> Result<(PromptInput, String), ApiError> {
    let turns = |value: Value| prompts::messages("messages", value);
    let input = match (
        fields.take("prompt"),
        fields.text("completion")?,
        fields.take("messages"),
    ) {
        (Some(Value::String(text)), Some(completion), None) => (PromptInput::Text(text), completion),
        (Some(list), Some(completion), None) => (conversation(turns(list)?), completion),
        (None, None, Some(list)) => {
            let mut turns = turns(list)?;
            match turns.pop() {
                Some(last) if last.is_assistant() => (conversation(turns), last.content),
                _ => {
                    let message = format!("{place}: the conversation does not end with a reply of the assistant");
                    return Err(ApiError::bad(place, message));
                }
            }
        }
        _ => {
            let message = format!("{place}: expected `prompt` and `completion`, or `messages`");
            return Err(ApiError::bad(place, message));
        }
    };
    fields.finish()?;
    Ok(input)
}

fn conversation(turns: Vec<hone_text::Message>) -> PromptInput {
    let turn = |message: hone_text::Message| hone_data::Message::new(message.role, message.content);
    PromptInput::Messages(turns.into_iter().map(turn).collect())
}
