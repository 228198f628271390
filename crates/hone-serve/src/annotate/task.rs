//! One task after another.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use minijinja::{Value, context};
use serde::Serialize;

use hone_data::annotations::{
    AnnotationProblem, Annotator, Degree, Judgement, Project, Role, Store, Submission, Submitted, Task, TaskKind,
};
use hone_data::{DataError, Message};

use super::error::Failure;
use super::form::{self, Fields, Form};
use super::pages;
use super::session::User;
use super::state::{Shared, now, on_store};

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

/// What a page of an annotator needs of the store.
pub(super) struct Seen<T> {
    /// The project with the settings that it has now.
    pub project: Project,
    /// The event that an undo would be about.
    last: Option<i64>,
    pub task: T,
}

/// Where a form goes.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// To the task in hand.
    Task,
    /// To a judgement, which it replaces.
    Judged(i64),
}

pub(super) async fn see<T: Send + 'static>(
    state: &Shared,
    annotator: i64,
    task: impl FnOnce(&Store, &Project) -> Result<T, DataError> + Send + 'static,
) -> Result<Seen<T>, Failure> {
    on_store(state, move |state| {
        let project = state.store.project(&state.project.name)?;
        let task = task(&state.store, &project)?;
        let last = state.store.last_event(&project, annotator)?;
        Ok(Seen { project, last, task })
    })
    .await
}

/// `GET /task`
pub(super) async fn show(State(state): State<Shared>, User(user): User) -> Result<Response, Failure> {
    let annotator = user.id;
    let seen = see(&state, annotator, move |store, project| {
        store.claim(project, annotator, now())
    })
    .await?;
    let Seen { project, last, task } = seen;
    Ok(match task {
        Some(task) => {
            let earlier = task.earlier.clone().unwrap_or_default();
            let active = task.spent;
            render(
                &user,
                &Seen { project, last, task },
                (Place::Task, &earlier, active),
                None,
            )
        }
        None => pages::page(
            StatusCode::OK,
            "message.html",
            context! {
                message => "There is nothing for you to judge now. Thank you!",
                last => last,
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
    Form(fields): Form,
) -> Result<Response, Failure> {
    let seen = task_of(&state, &user, &fields).await?;
    let judgement = form::judgement(&fields, &seen.task, &seen.project.settings.flags);
    let active = active(&fields);
    let submission = Submission {
        lease: seen.task.lease,
        annotator: user.id,
        judgement: judgement.clone(),
        started: seen.task.claimed,
        active,
    };
    let result = on_store(&state, move |state| taken(state.store.submit(submission, now()))).await?;
    Ok(match result {
        Ok(_) => Redirect::to("/task").into_response(),
        // The same page again, with what was entered and what is missing
        Err(reason) => render(
            &user,
            &seen,
            (Place::Task, &judgement, active),
            Some((reason.as_str(), &fields)),
        ),
    })
}

/// What became of a judgement: why not, where it does not fit its task.
pub(super) fn taken(result: Result<Submitted, DataError>) -> Result<Result<Submitted, String>, DataError> {
    match result {
        Ok(submitted) => Ok(Ok(submitted)),
        Err(DataError::Annotations {
            problem: AnnotationProblem::Judgement { reason, .. },
            ..
        }) => Ok(Err(reason)),
        Err(other) => Err(other),
    }
}

/// Attention as the page measured it; nothing without its script.
pub(super) fn active(fields: &Fields) -> Option<i64> {
    let measured = form::number(fields, "active").filter(|&active| active > 0);
    measured.map(|active| active.min(MOST_ACTIVE))
}

/// A number that a form of ours holds.
fn number_of(fields: &Fields, name: &str, missing: &str) -> Result<i64, Failure> {
    form::number(fields, name).ok_or_else(|| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, missing))
}

async fn task_of(state: &Shared, user: &Annotator, fields: &Fields) -> Result<Seen<Task>, Failure> {
    let lease = number_of(fields, "lease", "the form names no task")?;
    let annotator = user.id;
    see(state, annotator, move |store, _| store.task(lease, annotator)).await
}

/// `POST /task/skip`
pub(super) async fn skip(
    State(state): State<Shared>,
    User(user): User,
    Form(fields): Form,
) -> Result<Response, Failure> {
    let lease = task_of(&state, &user, &fields).await?.task.lease;
    let reason = form::field(&fields, "reason").unwrap_or_default().to_string();
    on_store(&state, move |state| state.store.skip(lease, user.id, &reason, now())).await?;
    Ok(Redirect::to("/task").into_response())
}

/// `POST /task/undo`: of the event that the page showed as the last one, so that a form that comes twice undoes one thing. The task that it
/// opens again is the next one.
pub(super) async fn undo(
    State(state): State<Shared>,
    User(user): User,
    Form(fields): Form,
) -> Result<Response, Failure> {
    let event = number_of(&fields, "event", "the form does not say what to undo")?;
    on_store(&state, move |state| {
        state.store.undo(&state.project, user.id, event, now())
    })
    .await?;
    Ok(Redirect::to("/task").into_response())
}

/// The page of a task, with a judgement and its attention filled in; where it was refused, with why and the form as it came.
pub(super) fn render(
    user: &Annotator,
    seen: &Seen<Task>,
    filled: (Place, &Judgement, Option<i64>),
    missing: Option<(&str, &Fields)>,
) -> Response {
    let status = match missing {
        Some(_) => StatusCode::UNPROCESSABLE_ENTITY,
        None => StatusCode::OK,
    };
    pages::page(status, "task.html", view(user, seen, filled, missing))
}

fn task_number(seen: &Seen<Task>) -> String {
    seen.task.lease.to_string()
}

fn view(
    user: &Annotator,
    seen: &Seen<Task>,
    (place, judgement, active): (Place, &Judgement, Option<i64>),
    missing: Option<(&str, &Fields)>,
) -> Value {
    // A draft in the browser goes by the value of `lease`
    let (action, lease) = match place {
        Place::Task => ("/task/submit".to_owned(), task_number(seen)),
        Place::Judged(event) => (format!("/mine/{event}"), format!("of judgement {event}")),
    };
    let Seen { project, last, task } = seen;
    let place_of = |index: usize| {
        let groups = judgement.ranking.as_ref()?;
        groups.iter().position(|group| group.contains(&index))
    };
    // Ranks of some answers are no order, and stay on the page all the same
    let entered = |letter: char| {
        let place = u32::from(letter) - u32::from('A');
        let rank = form::number(missing?.1, &format!("rank_{place}"))?;
        usize::try_from(rank).ok()
    };
    let answers: Vec<Answer> = task
        .shown
        .iter()
        .zip('A'..)
        .map(|(&index, letter)| Answer {
            letter,
            text: task.input.responses[index].text.clone(),
            rank: place_of(index).map(|place| place + 1).or_else(|| entered(letter)),
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
        project => project.name,
        guideline => project.settings.guideline,
        user => user.name,
        owner => user.role == Role::Owner,
        kind => task.kind.name(),
        comparing => comparing,
        action => action,
        lease => lease,
        editing => matches!(place, Place::Judged(_)),
        active => active,
        last => last,
        prompt => prompt,
        answers => answers,
        places => (1..=task.shown.len()).collect::<Vec<_>>(),
        flags => project.settings.flags,
        reasons => REASONS,
        choice => choice,
        degree => degree,
        all_bad => judgement.all_bad,
        rewrite => judgement.rewrite.as_ref().map(|rewrite| rewrite.text.as_str()),
        rewrite_of => rewrite_of,
        comment => judgement.comment,
        missing => missing.map(|(reason, _)| reason),
        on => true,
    }
}
