//! `GET /v1/models`, `GET /v1/models/NAME`, and `DELETE` of one that was tuned here.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::jobs::Jobs;
use crate::jobs::record::Job;
use crate::models::{Kept, Served};
use crate::openai::{ApiError, answered, reply};
use crate::shared::Shared;

/// The models that are served.
pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Response {
    let models = shared.models.all();
    let data: Vec<Value> = models.iter().map(|served| described(&shared, served)).collect();
    reply(&json!({"object": "list", "data": data}))
}

/// One of them.
pub(crate) async fn one(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    let found = shared.model(Some(&name));
    answered(found.map(|(_, served)| reply(&described(&shared, &served))))
}

/// Deletes one that a job made here, with its files, unless something needs it.
pub(crate) async fn delete(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    let deleted = match shared.jobs() {
        Err(error) => Err(error),
        Ok(jobs) => {
            let alone = jobs.deleting().await;
            let work = tokio::task::spawn_blocking(move || {
                let _alone = alone;
                try_delete(&shared, &jobs, &name)
            });
            work.await
                .unwrap_or_else(|_| Err(ApiError::internal("the model could not be deleted")))
        }
    };
    answered(deleted.map(|value| reply(&value)))
}

fn try_delete(shared: &Shared, jobs: &Jobs, name: &str) -> Result<Value, ApiError> {
    // One whose files could not be removed is deleted, and still to be deleted
    let left = |job: &Job| !job.deleted || jobs.has_run(&job.id);
    let made = jobs.maker(name).filter(left);
    let Some(job) = made.filter(|_| !shared.models.is_given(name)) else {
        let _ = shared.model(Some(name))?;
        let message = format!("`{name}` was given to the server; only what its jobs made is deleted here");
        return Err(ApiError {
            code: Some("model_not_tuned_here"),
            param: Some("model".to_owned()),
            ..ApiError::of(StatusCode::FORBIDDEN, message)
        });
    };
    let in_use = |message: String| ApiError {
        code: Some("model_in_use"),
        param: Some("model".to_owned()),
        ..ApiError::of(StatusCode::CONFLICT, message)
    };
    if let Some(given) = jobs.given_from(&job.id) {
        let message = format!("`{given}`, which was given to the server, is read from the files of `{name}`");
        return Err(in_use(message));
    }
    let against = || match jobs.needs(name) {
        None => Ok(()),
        Some(other) => Err(in_use(match other.result() {
            Some(made) => format!("`{made}` was made from `{name}` and needs it; delete that first"),
            None => format!(
                "the job `{}` starts from `{name}`; cancel it first, or wait for its end",
                other.id
            ),
        })),
    };
    let taken = shared.models.take(name, against).map_err(|kept| match kept {
        Kept::InUse => in_use(format!(
            "requests to `{name}` are being answered; try again when they have ended"
        )),
        Kept::Because(error) => error,
    })?;
    if !job.deleted
        && let Err(error) = jobs.mark_deleted(&job.id)
    {
        // What is still noted as there is there
        if let Some(taken) = taken {
            shared.models.put_back(taken);
        }
        return Err(ApiError::internal(error.to_string()));
    }
    if let Some(taken) = taken {
        shared.engine.close(taken.place);
    }
    jobs.remove_run(&job.id).map_err(|error| {
        let message =
            format!("`{name}` is served no more, but not all of its files are removed: {error}; delete it again");
        ApiError::internal(message)
    })?;
    Ok(json!({"id": name, "object": "model", "deleted": true}))
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
