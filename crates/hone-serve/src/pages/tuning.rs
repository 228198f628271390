//! The page to tune models: a file is dropped, what was understood of it is shown, a job is started and watched, and its model
//! is talked to beside the one that it was made from.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use minijinja::context;
use serde_json::Value;

use crate::openai::{files, fine_tuning};
use crate::pages::{of, rendered};
use crate::shared::Shared;

/// Jobs that the page has from the start; its program asks for all.
const SHOWN: usize = 20;

/// The page. Where a token is asked for, it names nothing: it asks with the token that is typed in.
pub(crate) async fn page(State(shared): State<Arc<Shared>>) -> Response {
    let jobs = match shared.jobs() {
        Ok(jobs) => jobs,
        Err(error) => return error.into_response(),
    };
    let locked = shared.gate.asks_for_tokens();
    let (models, listed, uploaded) = match locked {
        true => Default::default(),
        false => {
            let models = shared.models.all();
            let models: Vec<String> = models
                .iter()
                .filter(|served| !served.is_reward())
                .map(|served| served.name.clone())
                .collect();
            let listed: Vec<Value> = jobs
                .jobs()
                .iter()
                .rev()
                .take(SHOWN)
                .map(fine_tuning::described)
                .collect();
            let uploaded: Vec<Value> = jobs
                .files()
                .iter()
                .rev()
                .filter(|file| file.rows.is_some())
                .map(files::described)
                .collect();
            (models, listed, uploaded)
        }
    };
    let values = context! {
        locked,
        models,
        jobs => listed,
        files => uploaded,
        version => env!("CARGO_PKG_VERSION"),
    };
    rendered("fine-tuning.html", values)
}

/// The page's style, beside that of the chat page.
pub(crate) async fn style() -> Response {
    of("text/css; charset=utf-8", include_str!("fine-tuning.css").to_owned())
}

/// The page's program.
pub(crate) async fn script() -> Response {
    of(
        "text/javascript; charset=utf-8",
        include_str!("fine-tuning.js").to_owned(),
    )
}
