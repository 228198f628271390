//! One task after another.

use axum::Form;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use minijinja::{Value, context};
use serde::Serialize;

use hone_data::annotations::{AnnotationProblem, Annotator, Degree, Judgement, Role, Submission, Task, TaskKind};
use hone_data::{DataError, Message};

use super::error::Failure;
use super::form::{self, Fields};
use super::pages;
use super::session::User;
use super::state::{self, Shared, now, on_store};

/// Attention that one task can have, in milliseconds: a day.
const MOST_ACTIVE: i64 = 24 * 3600 * 1000;

/// What an annotator can say when they skip: the key and the reason.
const REASONS: [(&str, &str); 5] = [
    ("1", "I do not know enough about it"),
    ("2", "the question is unclear"),
    ("3", "the answers are equally good and I cannot tell"),
    ("4", "I would rather not see this"),
    ("5", "something is broken"),
];

/// An answer as the page shows it.
#[derive(Serialize)]
struct Answer {
    letter: char,
    text: String,
    /// What was judged before, where the page shows a judgement again.
    rank: Option<usize>,
    rating: Option<u8>,
    flags: Vec<String>,
}

/// `GET /task`
pub(super) async fn show(State(state): State<Shared>, User(user): User) -> Result<Response, Failure> {
    let annotator = user.id;
    let task = on_store(&state, move |state| state.store.claim(&state.project, annotator, now())).await?;
    Ok(match task {
        Some(task) => {
            let earlier = task.earlier.clone();
            render(&state, &user, &task, &earlier.unwrap_or_default(), None)
        }
        None => pages::page(
            StatusCode::OK,
            "message.html",
            context! {
                message => "There is nothing for you to judge now. Thank you!",
                undo => true,
                on => true,
                user => user.name,
                owner => user.role == Role::Owner,
            },
        ),
    })
}

/// `POST /task/submit`
pub(super) async fn submit(
    State(state): State<Shared>,
    User(user): User,
    Form(fields): Form<Fields>,
) -> Result<Response, Failure> {
    let task = task_of(&state, &user, &fields).await?;
    let judgement = form::judgement(&fields, &task, &state.project.settings.flags);
    let submission = Submission {
        lease: task.lease,
        annotator: user.id,
        judgement: judgement.clone(),
        started: task.claimed,
        active: active(&fields, &task),
    };
    let result = on_store(&state, move |state| match state.store.submit(submission, now()) {
        Ok(submitted) => Ok(Ok(submitted)),
        Err(DataError::Annotations {
            problem: AnnotationProblem::Judgement { reason, .. },
            ..
        }) => Ok(Err(reason)),
        Err(other) => Err(other),
    })
    .await?;
    Ok(match result {
        Ok(_) => Redirect::to("/task").into_response(),
        // The same page again, with what was entered and what is missing
        Err(reason) => render(&state, &user, &task, &judgement, Some(&reason)),
    })
}

/// Attention as the page measured it; without its script the time since the task was taken.
fn active(fields: &Fields, task: &Task) -> i64 {
    let measured = form::number(fields, "active").filter(|&active| active > 0);
    measured.unwrap_or_else(|| now() - task.claimed).clamp(0, MOST_ACTIVE)
}

async fn task_of(state: &Shared, user: &Annotator, fields: &Fields) -> Result<Task, Failure> {
    let lease = form::number(fields, "lease")
        .ok_or_else(|| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "the form names no task"))?;
    let annotator = user.id;
    on_store(state, move |state| state.store.task(lease, annotator)).await
}

/// `POST /task/skip`
pub(super) async fn skip(
    State(state): State<Shared>,
    User(user): User,
    Form(fields): Form<Fields>,
) -> Result<Response, Failure> {
    let task = task_of(&state, &user, &fields).await?;
    let reason = form::field(&fields, "reason").unwrap_or_default().to_string();
    on_store(&state, move |state| {
        state.store.skip(task.lease, user.id, &reason, now())
    })
    .await?;
    Ok(Redirect::to("/task").into_response())
}

/// `POST /task/undo`
pub(super) async fn undo(State(state): State<Shared>, User(user): User) -> Result<Response, Failure> {
    let annotator = user.id;
    let undone = on_store(&state, move |state| state.store.undo(&state.project, annotator, now())).await?;
    Ok(match undone.task {
        Some(task) => {
            let earlier = task.earlier.clone().unwrap_or_default();
            render(&state, &user, &task, &earlier, None)
        }
        None => Redirect::to("/task").into_response(),
    })
}

/// The page of a task, with a judgement filled in.
fn render(
    state: &state::State,
    user: &Annotator,
    task: &Task,
    judgement: &Judgement,
    missing: Option<&str>,
) -> Response {
    let status = match missing {
        Some(_) => StatusCode::UNPROCESSABLE_ENTITY,
        None => StatusCode::OK,
    };
    pages::page(status, "task.html", view(state, user, (task, judgement), missing))
}

fn view(
    state: &state::State,
    user: &Annotator,
    (task, judgement): (&Task, &Judgement),
    missing: Option<&str>,
) -> Value {
    let place_of = |index: usize| {
        let groups = judgement.ranking.as_ref()?;
        groups.iter().position(|group| group.contains(&index))
    };
    let answers: Vec<Answer> = task
        .shown
        .iter()
        .zip('A'..)
        .map(|(&index, letter)| Answer {
            letter,
            text: task.input.responses[index].text.clone(),
            rank: place_of(index).map(|place| place + 1),
            rating: judgement.ratings.get(index).copied().flatten(),
            flags: judgement.flags.get(index).cloned().unwrap_or_default(),
        })
        .collect();
    let ranked: Vec<Option<usize>> = answers.iter().map(|answer| answer.rank).collect();
    let choice = match (task.kind, ranked.as_slice()) {
        (TaskKind::Pair, [Some(left), Some(right)]) => match left.cmp(right) {
            std::cmp::Ordering::Less => "left",
            std::cmp::Ordering::Equal => "tie",
            std::cmp::Ordering::Greater => "right",
        },
        _ => "",
    };
    let degree = match judgement.degree {
        Some(Degree::Slightly) => "slightly",
        Some(Degree::Better) => "better",
        Some(Degree::Much) => "much",
        None => "",
    };
    let rewrite_of = judgement
        .rewrite
        .as_ref()
        .and_then(|rewrite| rewrite.of)
        .and_then(|index| task.shown.iter().position(|&shown| shown == index));
    let prompt: Vec<&Message> = task.input.prompt.iter().collect();
    let comparing = matches!(task.kind, TaskKind::Rank | TaskKind::Pair);
    context! {
        project => state.project.name,
        guideline => state.project.settings.guideline,
        user => user.name,
        owner => user.role == Role::Owner,
        kind => task.kind.name(),
        comparing => comparing,
        lease => task.lease,
        prompt => prompt,
        answers => answers,
        places => (1..=task.shown.len()).collect::<Vec<_>>(),
        flags => state.project.settings.flags,
        reasons => REASONS,
        choice => choice,
        degree => degree,
        all_bad => judgement.all_bad,
        rewrite => judgement.rewrite.as_ref().map(|rewrite| rewrite.text.as_str()),
        rewrite_of => rewrite_of,
        comment => judgement.comment,
        missing => missing,
        on => true,
    }
}
