//! What owners see: progress, agreement, people, exports.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use minijinja::context;

use hone_data::annotations::{Annotator, Export, Role};
use hone_eval::{Bootstrap, annotation_report};
use hone_math::Key;

use super::error::{AnnotateError, Failure};
use super::form::{self, Form};
use super::pages;
use super::session::Owner;
use super::state::{Shared, now, on_store};

/// Times that items are drawn again for an interval.
const RESAMPLES: u32 = 400;

/// `GET /agreement`
pub(super) async fn agreement(State(state): State<Shared>, Owner(owner): Owner) -> Result<Response, Failure> {
    let (progress, report) = on_store(&state, move |state| {
        let progress = state.store.progress(&state.project)?;
        let records = state.store.records(&state.project)?;
        let draws = Bootstrap {
            resamples: RESAMPLES,
            ..Bootstrap::new(Key::new(state.project.settings.seed, "annotation report", 0))
        };
        Ok((progress, annotation_report(&records, &draws)))
    })
    .await?;
    let report = report.map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let exports: Vec<&str> = Export::ALL.iter().map(|export| export.name()).collect();
    Ok(pages::page(
        StatusCode::OK,
        "agreement.html",
        context! {
            project => state.project.name,
            overlap => state.project.settings.overlap,
            user => owner.name,
            owner => true,
            progress => progress,
            report => report,
            exports => exports,
            on => true,
        },
    ))
}

/// `GET /people`
pub(super) async fn people(State(state): State<Shared>, Owner(owner): Owner) -> Result<Response, Failure> {
    people_page(&state, &owner, None).await
}

/// `POST /people`: invites somebody, or gives them a new link.
pub(super) async fn invite(
    State(state): State<Shared>,
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
    State(state): State<Shared>,
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
