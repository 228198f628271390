//! `POST /preferences`: which of two answers somebody prefers, kept in a store of annotations. Not of OpenAI's interface, in its style.
//!
//! It becomes a record like any other: the conversation, the answers with their model, sampling and digest of weights, the order in which they
//! were shown, and who preferred which. Whoever chats sees the models' names, so these judgements are not blind.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use hone_data::annotations::{
    AnnotationProblem, Direct, Input, Judgement, NewItem, Project, Response as Answer, Settings, Store, Submitted,
    TaskKind, now, same_text,
};
use hone_data::{DataError, Message};
use serde_json::{Map, Value, json};

use crate::bounds::{UNPREPARED, WRITTEN};
use crate::desk::Desk;
use crate::error::ServeError;
use crate::openai::fields::{Fields, wrong};
use crate::openai::{ApiError, answered, prepared, prompts, reply};
use crate::shared::Shared;

/// The project where the store has none, and who prefers where nobody says.
const NAME: &str = "chat";
/// Seconds that answers may have been looked at: a day.
const MOST_SECONDS: f64 = 86_400.0;

/// Where preferences go.
#[derive(Clone, Debug)]
pub struct AnnotationOptions {
    /// The store; made where there is none.
    pub store: PathBuf,
    /// The project in it; none: the only one, or a new one called `chat`.
    pub project: Option<String>,
    /// Digests of the models' weights, by their names.
    pub weights: BTreeMap<String, String>,
}

/// An open store.
pub(crate) struct Preferences {
    store: Store,
    project: Project,
    weights: BTreeMap<String, String>,
    /// Where they are written: other programs may hold the store, and other requests do not wait for them.
    writing: Desk,
}

impl Preferences {
    /// Opens it, and finds or makes the project. How a project that is there is run stays as it is.
    ///
    /// # Errors
    /// A file that is no store, or that has several projects where none is named.
    pub fn open(options: &AnnotationOptions) -> Result<Self, ServeError> {
        let opened = || -> Result<Self, DataError> {
            let store = Store::open(&options.store)?;
            let known = store.projects()?;
            let project = match &options.project {
                Some(name) if known.contains(name) => store.project(name)?,
                None if !known.is_empty() => store.only_project("choose one with --project-name NAME")?,
                name => store.put_project(name.as_deref().unwrap_or(NAME), &Settings::default(), now())?,
            };
            Ok(Self {
                store,
                project,
                weights: options.weights.clone(),
                writing: Desk::new(WRITTEN, UNPREPARED),
            })
        };
        opened().map_err(ServeError::Annotations)
    }
}

/// Keeps a preference: `messages`, two `responses` in the order in which they were shown, `preferred` (0 or 1), `annotator`, `seconds`.
pub(crate) async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answered(try_answer(&shared, request).await)
}

async fn try_answer(shared: &Arc<Shared>, request: Request) -> Result<Response, ApiError> {
    let Some(preferences) = &shared.preferences else {
        return Err(disabled());
    };
    let direct = prepared(shared, request, read).await?;
    let own = Arc::clone(shared);
    let kept = preferences.writing.work(move || keep(&own, direct)).await?;
    Ok(reply(&kept?))
}

fn disabled() -> ApiError {
    ApiError {
        code: Some("preferences_disabled"),
        ..ApiError::of(
            StatusCode::NOT_FOUND,
            "this server keeps no preferences; start it with --annotations FILE.db",
        )
    }
}

/// Writes a preference; when it is answered, that is on the disk.
fn keep(shared: &Shared, direct: Direct) -> Result<Value, ApiError> {
    let preferences = shared.preferences.as_ref().ok_or_else(disabled)?;
    let kept = preferences.store.judge(&preferences.project, direct, now());
    let Submitted { event, surplus } = kept.map_err(refused)?;
    Ok(json!({
        "object": "preference",
        "event": event,
        "project": preferences.project.name,
        "counts": !surplus,
    }))
}

/// What the store says to a request. Where it lies is nobody's concern but the owner's.
fn refused(error: DataError) -> ApiError {
    match error {
        DataError::Annotations { problem, .. } => match problem {
            AnnotationProblem::Item { reason, .. } => ApiError::bad("messages", reason),
            AnnotationProblem::Judgement { .. } => ApiError::bad("preferred", problem.to_string()),
            AnnotationProblem::Setting { .. } => ApiError::bad("annotator", problem.to_string()),
            AnnotationProblem::Invited { .. } => ApiError {
                param: Some("annotator".into()),
                code: Some("annotator_invited"),
                ..ApiError::of(StatusCode::CONFLICT, problem.to_string())
            },
            other => ApiError::internal(format!("the preference was not kept: {other}")),
        },
        _ => ApiError::internal("the preference was not kept: the store cannot be used"),
    }
}

/// Reads a request. What it says of a name is anybody's word.
fn read(shared: &Shared, mut fields: Fields) -> Result<Direct, ApiError> {
    let preferences = shared.preferences.as_ref().ok_or_else(disabled)?;
    let missing = |name: &str, expected: &str| ApiError::bad(name, format!("`{name}` is missing; expected {expected}"));
    let Some(messages) = fields.take("messages") else {
        return Err(missing("messages", "the conversation up to the answers"));
    };
    let messages = prompts::messages("messages", messages)?;
    const TWO: &str = "a list of two answers, each with `model` and `text`";
    let responses = match fields.take("responses") {
        Some(Value::Array(list)) if list.len() == 2 => list,
        Some(other) => return Err(wrong("responses", &other, TWO)),
        None => return Err(missing("responses", TWO)),
    };
    let Some(preferred) = fields.whole("preferred", 0..=1)? else {
        return Err(missing(
            "preferred",
            "0 or 1, the place of the better answer in `responses`",
        ));
    };
    let annotator = fields.text("annotator")?.unwrap_or_else(|| NAME.to_owned());
    let seconds = fields.number("seconds", 0.0..=MOST_SECONDS)?.unwrap_or(0.0);
    fields.finish()?;
    let mut answers = Vec::with_capacity(2);
    for (i, value) in responses.into_iter().enumerate() {
        let place = format!("responses[{i}]");
        let Value::Object(object) = value else {
            return Err(wrong(place, &value, "an object with `model` and `text`"));
        };
        let read = response(shared, preferences, Fields::of(object));
        answers.push(read.map_err(|error| error.within(&place))?);
    }
    if same_text(&answers[0].text, &answers[1].text) {
        return Err(ApiError::bad(
            "responses",
            "both answers are the same text; there is nothing to prefer",
        ));
    }
    let better = preferred as usize;
    Ok(Direct {
        item: NewItem {
            kind: TaskKind::Rank,
            input: Input {
                prompt: messages.into_iter().map(|m| Message::new(m.role, m.content)).collect(),
                responses: answers,
            },
            gold: None,
        },
        shown: vec![0, 1],
        annotator,
        vouched: false,
        judgement: Judgement {
            ranking: Some(vec![vec![better], vec![1 - better]]),
            ..Judgement::default()
        },
        started: now() - (seconds * 1000.0) as i64,
    })
}

/// One of the answers. Its model is one that is served, or was until it was deleted: what it answered stays its answer.
fn response(shared: &Shared, preferences: &Preferences, mut fields: Fields) -> Result<Answer, ApiError> {
    let Some(model) = fields.text("model")? else {
        return Err(ApiError::bad(
            "model",
            "`model` is missing; expected the name of a model that is served",
        ));
    };
    let model = match shared.language_model(Some(&model)) {
        Ok((_, served)) => served.name.clone(),
        Err(error) if error.status == StatusCode::NOT_FOUND && was_deleted(shared, &model) => model,
        Err(error) => return Err(error),
    };
    let Some(text) = fields.text("text")? else {
        return Err(ApiError::bad(
            "text",
            "`text` is missing; expected what the model answered",
        ));
    };
    let sampling = match fields.take("sampling") {
        None => None,
        Some(Value::Object(given)) => {
            let read = sampling(Fields::of(given));
            Some(read.map_err(|error| error.within("sampling"))?)
        }
        Some(other) => return Err(wrong("sampling", &other, "an object of sampling parameters")),
    };
    fields.finish()?;
    Ok(Answer {
        text,
        weights: weights(shared, preferences, &model),
        model: Some(model),
        sampling,
    })
}

/// Whether a job here made this model, and it was deleted.
fn was_deleted(shared: &Shared, model: &str) -> bool {
    let maker = shared.jobs.as_ref().and_then(|jobs| jobs.maker(model));
    maker.is_some_and(|job| job.deleted)
}

/// How an answer was sampled, as its request said it.
fn sampling(mut fields: Fields) -> Result<Value, ApiError> {
    let mut told = Map::new();
    for (name, range) in [
        ("temperature", 0.0..=2.0),
        ("top_p", 0.0..=1.0),
        ("min_p", 0.0..=1.0),
        ("repetition_penalty", 0.01..=100.0),
    ] {
        if let Some(number) = fields.number(name, range)? {
            told.insert(name.into(), number.into());
        }
    }
    for name in ["top_k", "max_tokens"] {
        if let Some(number) = fields.whole(name, 0..=u64::from(u32::MAX))? {
            told.insert(name.into(), number.into());
        }
    }
    match fields.take("seed") {
        None => {}
        Some(seed) if seed.is_u64() || seed.is_i64() => {
            told.insert("seed".into(), seed);
        }
        Some(other) => return Err(wrong("seed", &other, "a whole number of 64 bits")),
    }
    fields.finish()?;
    Ok(Value::Object(told))
}

/// The digest of a model's weights; `base+adapter` where that is what a job has made. None of one that was deleted.
fn weights(shared: &Shared, preferences: &Preferences, name: &str) -> Option<String> {
    if let Some(known) = preferences.weights.get(name) {
        return Some(known.clone());
    }
    let jobs = shared.jobs.as_ref()?;
    let job = jobs.maker(name)?;
    let result = jobs.result(&job.id);
    let own = hone_run::digest_of(&result).ok().flatten()?;
    if result.join("config.json").is_file() {
        return Some(own);
    }
    // An adapter that was tuned further stands on what the one before stood on
    let before = weights(shared, preferences, &job.model)?;
    let base = before.split('+').next().unwrap_or_default();
    Some(format!("{base}+{own}"))
}
