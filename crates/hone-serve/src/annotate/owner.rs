//! What owners see: progress, agreement, people, exports.

use std::sync::{Arc, PoisonError};

use axum::extract::{Path, State as Of};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use minijinja::context;

use hone_data::DataError;
use hone_data::annotations::{Annotator, Export, Project, Role};
use hone_eval::{AnnotationReport, Bootstrap, annotation_report};
use hone_math::Key;

use super::error::{AnnotateError, Failure};
use super::form::{self, Form};
use super::pages;
use super::session::Owner;
use super::state::{Shared, State, now, on_store};

/// Times that items are drawn again for an interval.
const RESAMPLES: u32 = 400;

/// What is computed of all records, and holds until somebody does something.
pub(super) struct Computed {
    newest: Option<i64>,
    report: AnnotationReport,
    /// Of each format its name, its rows and the judgements of which it says nothing.
    exports: Vec<(&'static str, usize, u64)>,
}

fn compute(state: &State, project: &Project) -> Result<Result<Arc<Computed>, hone_eval::Error>, DataError> {
    // One at a time: who comes meanwhile waits for the same
    let mut known = state.computed.lock().unwrap_or_else(PoisonError::into_inner);
    let newest = state.store.newest_event(project)?;
    if let Some(computed) = known.as_ref().filter(|computed| computed.newest == newest) {
        return Ok(Ok(Arc::clone(computed)));
    }
    let records = state.store.records(project)?;
    let draws = Bootstrap {
        resamples: RESAMPLES,
        ..Bootstrap::new(Key::new(project.settings.seed, "annotation report", 0))
    };
    let report = match annotation_report(&records, &draws) {
        Ok(report) => report,
        Err(error) => return Ok(Err(error)),
    };
    let exports = Export::ALL.map(|export| {
        let exported = export.rows(&records);
        (export.name(), exported.rows.len(), exported.left_out)
    });
    let computed = Arc::new(Computed {
        // What came while it was computed is computed with the next
        newest,
        report,
        exports: exports.into(),
    });
    *known = Some(Arc::clone(&computed));
    Ok(Ok(computed))
}

/// `GET /agreement`
pub(super) async fn agreement(Of(state): Of<Shared>, Owner(owner): Owner) -> Result<Response, Failure> {
    let (project, progress, computed) = on_store(&state, move |state| {
        let project = state.store.project(&state.project.name)?;
        let progress = state.store.progress_at(&project, now())?;
        let computed = compute(state, &project)?;
        Ok((project, progress, computed))
    })
    .await?;
    let computed = computed.map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(pages::page(
        StatusCode::OK,
        "agreement.html",
        context! {
            project => project.name,
            overlap => project.settings.overlap,
            user => owner.name,
            owner => true,
            progress => progress,
            report => computed.report,
            exports => computed.exports,
            on => true,
        },
    ))
}

/// `GET /people`
pub(super) async fn people(Of(state): Of<Shared>, Owner(owner): Owner) -> Result<Response, Failure> {
    people_page(&state, &owner, None).await
}

/// `POST /people`: invites somebody, or gives them a new link.
pub(super) async fn invite(
    Of(state): Of<Shared>,
    Owner(owner): Owner,
    Form(fields): Form,
) -> Result<Response, Failure> {
    let name = form::field(&fields, "name").unwrap_or_default().trim().to_string();
    let role = match form::field(&fields, "role") {
        Some("owner") => Role::Owner,
        _ => Role::Annotator,
    };
    if name == owner.name {
        return Err(Failure::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "A new link of your own would sign you out here; start the program again for one.",
        ));
    }
    let invited = name.clone();
    let link = on_store(&state, move |state| {
        match super::invite(&state.store, &invited, role, now()) {
            Ok(link) => Ok(Ok(link)),
            Err(AnnotateError::Store(error)) => Err(error),
            Err(other) => Ok(Err(other)),
        }
    })
    .await??;
    people_page(&state, &owner, Some((name, link))).await
}

async fn people_page(
    state: &Shared,
    owner: &Annotator,
    invited: Option<(String, String)>,
) -> Result<Response, Failure> {
    let annotators = on_store(state, |state| state.store.annotators()).await?;
    let people: Vec<(String, &str)> = annotators.into_iter().map(|a| (a.name, a.role.name())).collect();
    Ok(pages::page(
        StatusCode::OK,
        "people.html",
        context! {
            project => state.project.name,
            user => owner.name,
            owner => true,
            people => people,
            invited => invited,
            on => true,
        },
    ))
}

/// `GET /export/{format}`
pub(super) async fn export(
    Of(state): Of<Shared>,
    Owner(_): Owner,
    Path(format): Path<String>,
) -> Result<Response, Failure> {
    let Some(export) = Export::of_name(&format) else {
        let known: Vec<&str> = Export::ALL.iter().map(|export| export.name()).collect();
        let message = format!("There is no export of this name; there are {}.", known.join(", "));
        return Err(Failure::new(StatusCode::NOT_FOUND, message));
    };
    let (text, left_out) = on_store(&state, move |state| {
        let exported = export.rows(&state.store.records(&state.project)?);
        let mut text = Vec::new();
        // Writing into memory does not fail
        let _ = export.write(&exported, &mut text);
        Ok((text, exported.left_out))
    })
    .await?;
    let name = format!("attachment; filename=\"{}.{}\"", export.name(), export.ending());
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_string()),
        (header::CONTENT_DISPOSITION, name),
        (header::HeaderName::from_static("x-left-out"), left_out.to_string()),
    ];
    Ok((headers, text).into_response())
}
