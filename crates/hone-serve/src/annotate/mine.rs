//! What somebody has judged, for themselves to look at and to change.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use minijinja::context;

use hone_data::annotations::{Annotator, Role, Submission, Task};

use super::error::Failure;
use super::form::{self, Form};
use super::pages;
use super::session::User;
use super::state::{Shared, now, on_store};
use super::task::{Place, Seen, active, render, see, taken};

/// Judgements on the page: the newest.
const SHOWN: u32 = 100;

/// `GET /mine`
pub(super) async fn list(State(state): State<Shared>, User(user): User) -> Result<Response, Failure> {
    let annotator = user.id;
    let (project, judged) = on_store(&state, move |state| {
        let judged = state.store.own(&state.project, annotator, SHOWN)?;
        Ok((state.project.name.clone(), judged))
    })
    .await?;
    Ok(pages::page(
        StatusCode::OK,
        "mine.html",
        context! {
            project => project,
            judged => judged,
            most => SHOWN,
            user => user.name,
            owner => user.role == Role::Owner,
            on => true,
        },
    ))
}

/// `GET /mine/{event}`: the task again, with what was said of it.
pub(super) async fn show(
    State(state): State<Shared>,
    User(user): User,
    Path(event): Path<String>,
) -> Result<Response, Failure> {
    let (event, seen) = judged(&state, &user, &event).await?;
    let earlier = seen.task.earlier.clone().unwrap_or_default();
    let active = seen.task.spent;
    Ok(render(&user, &seen, (Place::Judged(event), &earlier, active), None))
}

/// `POST /mine/{event}`: what is said instead.
pub(super) async fn edit(
    State(state): State<Shared>,
    User(user): User,
    Path(event): Path<String>,
    Form(fields): Form,
) -> Result<Response, Failure> {
    let (event, seen) = judged(&state, &user, &event).await?;
    let judgement = form::judgement(&fields, &seen.task, &seen.project.settings.flags);
    let active = active(&fields);
    let submission = Submission {
        lease: seen.task.lease,
        annotator: user.id,
        judgement: judgement.clone(),
        started: seen.task.claimed,
        active,
    };
    let result = on_store(&state, move |state| taken(state.store.edit(event, submission, now()))).await?;
    Ok(match result {
        Ok(_) => Redirect::to("/mine").into_response(),
        Err(reason) => render(
            &user,
            &seen,
            (Place::Judged(event), &judgement, active),
            Some((reason.as_str(), &fields)),
        ),
    })
}

/// A judgement of somebody's own in this project, by the number in its address.
async fn judged(state: &Shared, user: &Annotator, event: &str) -> Result<(i64, Seen<Task>), Failure> {
    let event: i64 = event
        .parse()
        .map_err(|_| Failure::new(StatusCode::NOT_FOUND, "There is no such judgement."))?;
    let annotator = user.id;
    let seen = see(state, annotator, move |store, project| {
        store.judged(project, event, annotator)
    })
    .await?;
    Ok((event, seen))
}
