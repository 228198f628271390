//! `GET /v1/models` and `GET /v1/models/NAME`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

use crate::models::Served;
use crate::openai::{answered, reply};
use crate::shared::Shared;

/// The models that are served.
pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Response {
    let data: Vec<Value> = shared.models.iter().map(|served| described(&shared, served)).collect();
    reply(&json!({"object": "list", "data": data}))
}

/// One of them.
pub(crate) async fn one(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    let found = shared.model(Some(&name));
    answered(found.map(|(_, served)| reply(&described(&shared, &served))))
}

fn described(shared: &Shared, served: &Served) -> Value {
    json!({
        "id": served.name,
        "object": "model",
        "created": shared.started,
        "owned_by": "hone",
        "parent": served.parent,
        "max_model_len": served.context(),
        "kind": if served.is_reward() { "reward" } else { "language" },
        "chat": served.chat.is_some() && !served.is_reward(),
    })
}
