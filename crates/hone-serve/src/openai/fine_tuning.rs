//! `/v1/fine_tuning/jobs`: jobs are made, listed, watched and cancelled.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::{Value, json};

use crate::jobs::cost::CostError;
use crate::jobs::record::{Job, Method, Status};
use crate::jobs::{CancelError, CreateError, Jobs, PrepareError};
use crate::openai::listing::Query;
use crate::openai::tuning;
use crate::openai::{ApiError, answered, prepared, reply};
use crate::shared::Shared;

/// Makes a job.
pub(crate) async fn create(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let made = match shared.jobs() {
        Err(error) => Err(error),
        Ok(jobs) => {
            prepared(&shared, request, move |shared, fields| {
                let new = tuning::read(shared, &jobs, fields)?;
                let job = jobs.create(new).map_err(not_made)?;
                Ok(described(&job))
            })
            .await
        }
    };
    answered(made.map(|job| reply(&job)))
}

fn not_made(error: CreateError) -> ApiError {
    match error {
        CreateError::Prepare(error) => not_prepared(&error),
        CreateError::TooMany => ApiError::of(StatusCode::TOO_MANY_REQUESTS, error.to_string()),
        CreateError::Store(_) => ApiError::internal(error.to_string()),
    }
}

fn not_prepared(error: &PrepareError) -> ApiError {
    match error {
        PrepareError::Rows { param, source } => ApiError {
            code: Some("invalid_file_format"),
            ..ApiError::bad(*param, format!("`{param}`: {source}"))
        },
        PrepareError::Write(_) | PrepareError::Config(_) => ApiError::internal(error.to_string()),
    }
}

/// What the job that a request asks for would take; nothing is made.
pub(crate) async fn plan(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answered(try_plan(&shared, request).await)
}

async fn try_plan(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let jobs = shared.jobs()?;
    let own = Arc::clone(&jobs);
    let new = prepared(shared, request, move |shared, fields| {
        tuning::read(shared, &own, fields)
    })
    .await?;
    let place = jobs.planning().await.ok_or_else(ApiError::stopping)?;
    // A client that leaves drops this, and with it what is being found out
    let wanted = Arc::new(());
    let still = Arc::downgrade(&wanted);
    let work = tokio::task::spawn_blocking(move || {
        let _place = place;
        jobs.cost(&new, &still)
    });
    match work.await {
        Ok(Ok(mut cost)) => {
            cost["object"] = "fine_tuning.plan".into();
            Ok(reply(&cost))
        }
        Ok(Err(CostError::Prepare(error))) => Err(not_prepared(&error)),
        Ok(Err(CostError::Unusable(message))) => Err(ApiError {
            code: Some("invalid_configuration"),
            ..ApiError::bad("training_file", message)
        }),
        Ok(Err(CostError::Stopping)) => Err(ApiError::stopping()),
        Ok(Err(error @ CostError::Process(_))) => Err(ApiError::internal(error.to_string())),
        Err(_) => Err(ApiError::internal("what the job would take could not be found out")),
    }
}

/// All jobs, the newest first.
pub(crate) async fn list(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let listed = shared.jobs().and_then(|jobs| {
        let all = jobs.jobs();
        Query::of(&uri).page(all.iter().rev().map(described).collect(), 20)
    });
    answered(listed.map(|page| reply(&page)))
}

/// One of them.
pub(crate) async fn one(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    answered(find(&shared, &id).map(|(_, job)| reply(&described(&job))))
}

/// Gives one up.
pub(crate) async fn cancel(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    answered(changed(&shared, &id, Jobs::cancel))
}

/// Has one wait until it is resumed.
pub(crate) async fn pause(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    answered(changed(&shared, &id, Jobs::pause))
}

/// Has a paused one go on.
pub(crate) async fn resume(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    answered(changed(&shared, &id, Jobs::resume))
}

fn changed(
    shared: &Shared,
    id: &str,
    change: impl FnOnce(&Jobs, &str) -> Result<Job, CancelError>,
) -> Result<Response, ApiError> {
    let job = change(&*shared.jobs()?, id).map_err(|error| {
        let code = match &error {
            CancelError::Absent => return absent(id),
            CancelError::Store(error) => return ApiError::internal(error.to_string()),
            CancelError::Ended(_) => "job_has_ended",
            CancelError::Elsewhere { .. } => "invalid_status",
        };
        ApiError {
            code: Some(code),
            ..ApiError::bad("fine_tuning_job_id", error.to_string())
        }
    })?;
    Ok(reply(&described(&job)))
}

/// What happened to one, the newest first.
pub(crate) async fn events(State(shared): State<Arc<Shared>>, Path(id): Path<String>, uri: Uri) -> Response {
    let listed = match find(&shared, &id) {
        Err(error) => Err(error),
        Ok((jobs, job)) => {
            let read = tokio::task::spawn_blocking(move || {
                let text = jobs.store().event_lines(&job.id);
                // A long job has many: only those that are asked for are read
                let read = |line: &str| serde_json::from_str::<Value>(line).ok();
                let is = |line: &&str, id: &str| line.contains(id) && read(line).is_some_and(|event| event["id"] == id);
                Query::of(&uri).page_of(text.lines().rev().collect(), 20, (is, read))
            });
            read.await
                .unwrap_or_else(|_| Err(ApiError::internal("the events could not be read")))
        }
    };
    answered(listed.map(|page| reply(&page)))
}

/// The models that one left: the last step's. Those between are states of the run, from which it goes on, and no models.
pub(crate) async fn checkpoints(State(shared): State<Arc<Shared>>, Path(id): Path<String>, uri: Uri) -> Response {
    let listed = match find(&shared, &id) {
        Err(error) => Err(error),
        Ok((jobs, job)) => {
            let read = tokio::task::spawn_blocking(move || Query::of(&uri).page(checkpoints_of(&jobs, &job), 10));
            read.await
                .unwrap_or_else(|_| Err(ApiError::internal("the events could not be read")))
        }
    };
    answered(listed.map(|page| reply(&page)))
}

fn checkpoints_of(jobs: &Jobs, job: &Job) -> Vec<Value> {
    let (Some(model), Status::Succeeded) = (job.result(), job.status) else {
        return Vec::new();
    };
    let events = jobs.store().events(&job.id);
    let metrics = events
        .iter()
        .filter(|event| event["type"] == "metrics")
        .map(|event| &event["data"]);
    let step = metrics
        .clone()
        .filter_map(|data| data["step"].as_u64())
        .max()
        .unwrap_or_default();
    let mut last = json!({"step": step});
    for data in metrics.filter(|data| data["step"] == step) {
        for name in ["train_loss", "train_mean_reward", "valid_loss"] {
            if !data[name].is_null() {
                last[name] = data[name].clone();
            }
        }
    }
    vec![json!({
        "object": "fine_tuning.job.checkpoint",
        "id": format!("ftckpt-{}", job.id.trim_start_matches("ftjob-")),
        "created_at": job.finished_at,
        "fine_tuned_model_checkpoint": model,
        "fine_tuning_job_id": job.id,
        "metrics": last,
        "step_number": step,
    })]
}

fn find(shared: &Shared, id: &str) -> Result<(Arc<Jobs>, Job), ApiError> {
    let jobs = shared.jobs()?;
    let job = jobs.job(id).ok_or_else(|| absent(id))?;
    Ok((jobs, job))
}

fn absent(id: &str) -> ApiError {
    let shown: String = id.chars().take(80).collect();
    ApiError::not_found(
        "fine_tuning_job_id",
        format!("there is no job `{shown}`"),
        "job_not_found",
    )
}

/// A job as the wire format has it.
pub(crate) fn described(job: &Job) -> Value {
    let hyperparameters = match job.method {
        // The older place of them
        Method::Supervised | Method::Dpo => job.asked[job.method.name()]["hyperparameters"].clone(),
        Method::Reinforcement => json!({}),
    };
    json!({
        "object": "fine_tuning.job",
        "id": job.id,
        "model": job.model,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "fine_tuned_model": job.result(),
        "organization_id": "hone",
        "result_files": job.result_files,
        "status": job.status.name(),
        "validation_file": job.validation_file,
        "training_file": job.training_file,
        "hyperparameters": hyperparameters,
        "trained_tokens": job.trained_tokens,
        "error": job.error,
        "user_provided_suffix": job.suffix,
        "seed": job.seed,
        "estimated_finish": null,
        "integrations": [],
        "metadata": job.metadata,
        "method": job.asked,
    })
}
