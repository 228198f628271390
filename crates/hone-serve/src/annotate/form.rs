//! A task's form and the judgement that it says.
//!
//! A form speaks of answers by the place in which they were shown, so that nothing on a page tells where an answer comes from; the
//! judgement speaks of them as they are stored.

use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;

use hone_data::annotations::{Degree, Judgement, Rewrite, Task, TaskKind, same_text};

use super::error::Failure;
use super::state::Shared;
use crate::bounds::{Reading, read_body};
use crate::urlencoded::parameters;

/// The largest form that is read: an answer and a comment of the most that the store takes, every byte of them written as three.
const MOST_BODY: usize = (3 << 20) + (256 << 10);
/// The largest form that somebody may send who has not signed in: two tokens.
const MOST_UNKNOWN: usize = 4 << 10;

/// The fields of a form, in the order in which they came.
pub(super) type Fields = Vec<(String, String)>;

/// The form of a request by somebody who has signed in.
pub(super) struct Form(pub Fields);

impl FromRequest<Shared> for Form {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, Failure> {
        read(request, state, MOST_BODY).await.map(Form)
    }
}

/// The form of a request by anybody.
pub(super) struct SmallForm(pub Fields);

impl FromRequest<Shared> for SmallForm {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, Failure> {
        read(request, state, MOST_UNKNOWN).await.map(SmallForm)
    }
}

async fn read(request: Request, state: &Shared, most: usize) -> Result<Fields, Failure> {
    let reading = Reading {
        kind: "application/x-www-form-urlencoded",
        most,
        time: state.patience.body,
    };
    let body = read_body(request, reading).await;
    let body = body.map_err(|unread| Failure::new(unread.status(), unread.to_string()))?;
    let fields = std::str::from_utf8(&body).ok().and_then(parameters);
    fields.ok_or_else(|| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "the form is not sound"))
}

/// The first value of a field; blank is none.
pub(super) fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    let mut named = fields
        .iter()
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value.as_str());
    named.next().filter(|value| !value.trim().is_empty())
}

/// A field that holds a number.
pub(super) fn number(fields: &Fields, name: &str) -> Option<i64> {
    field(fields, name)?.trim().parse().ok()
}

/// The judgement of a form. What makes no sense is left to the store, which says why.
pub(super) fn judgement(fields: &Fields, task: &Task, known_flags: &[String]) -> Judgement {
    let answers = task.shown.len();
    let mut found = Judgement {
        all_bad: field(fields, "all_bad").is_some(),
        rewrite: field(fields, "rewrite").map(|text| Rewrite {
            of: number(fields, "rewrite_of")
                .and_then(|place| usize::try_from(place).ok())
                .and_then(|place| task.shown.get(place).copied()),
            text: text.replace("\r\n", "\n"),
        }),
        comment: field(fields, "comment").map(|text| text.trim().replace("\r\n", "\n")),
        ..Judgement::default()
    };
    match task.kind {
        TaskKind::Rank => found.ranking = ranking(fields, task),
        TaskKind::Pair if answers == 2 => {
            let (first, second) = (task.shown[0], task.shown[1]);
            found.ranking = match field(fields, "choice") {
                Some("left") => Some(vec![vec![first], vec![second]]),
                Some("right") => Some(vec![vec![second], vec![first]]),
                Some("tie") => Some(vec![vec![first.min(second), first.max(second)]]),
                _ => None,
            };
            found.degree = match (&found.ranking, field(fields, "degree")) {
                (Some(groups), Some(degree)) if groups.len() == 2 => match degree {
                    "slightly" => Some(Degree::Slightly),
                    "better" => Some(Degree::Better),
                    "much" => Some(Degree::Much),
                    _ => None,
                },
                _ => None,
            };
        }
        _ => {}
    }
    // The order of bad answers is an order; that they are all alike says nothing beside it
    if found.all_bad && found.ranking.as_ref().is_some_and(|groups| groups.len() == 1) {
        found.ranking = None;
    }
    // An answer that was opened to be improved and left as it is was not written by anybody; where writing is the task, the store says so
    let shown = &task.input.responses;
    if task.kind != TaskKind::Write {
        found.rewrite = found
            .rewrite
            .filter(|rewrite| !shown.iter().any(|response| same_text(&response.text, &rewrite.text)));
    }
    let mut ratings = vec![None; answers];
    let mut flags: Vec<Vec<String>> = vec![Vec::new(); answers];
    for (place, &index) in task.shown.iter().enumerate() {
        ratings[index] = number(fields, &format!("rating_{place}")).and_then(|rating| u8::try_from(rating).ok());
        let name = format!("flag_{place}");
        let set = |flag: &&String| fields.iter().any(|(key, value)| *key == name && value == *flag);
        flags[index] = known_flags.iter().filter(set).cloned().collect();
    }
    if ratings.iter().any(Option::is_some) {
        found.ratings = ratings;
    }
    if flags.iter().any(|list| !list.is_empty()) {
        found.flags = flags;
    }
    found
}

/// Answers with equal ranks are tied. Nothing where an answer has none.
fn ranking(fields: &Fields, task: &Task) -> Option<Vec<Vec<usize>>> {
    let mut ranked = Vec::new();
    for (place, &index) in task.shown.iter().enumerate() {
        ranked.push((number(fields, &format!("rank_{place}"))?, index));
    }
    ranked.sort_unstable();
    let groups = ranked.chunk_by(|a, b| a.0 == b.0);
    Some(
        groups
            .map(|group| group.iter().map(|(_, index)| *index).collect())
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_data::annotations::{Input, Response};

    fn task(kind: TaskKind, shown: &[usize]) -> Task {
        Task {
            lease: 1,
            item: 1,
            kind,
            input: Input {
                prompt: Vec::new(),
                responses: (0..shown.len()).map(|i| Response::new(i.to_string())).collect(),
            },
            shown: shown.to_vec(),
            claimed: 0,
            expires: 0,
            earlier: None,
            spent: None,
        }
    }

    fn read(kind: TaskKind, shown: &[usize], pairs: &[(&str, &str)]) -> Judgement {
        let fields: Fields = pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        judgement(&fields, &task(kind, shown), &["wrong".into(), "rude".into()])
    }

    #[test]
    fn places_on_the_page_become_stored_answers() {
        let ranks = [("rank_0", "2"), ("rank_1", "1"), ("rank_2", "2")];
        let found = read(TaskKind::Rank, &[2, 0, 1], &ranks);
        assert_eq!(found.ranking, Some(vec![vec![0], vec![1, 2]]));
        assert_eq!(read(TaskKind::Rank, &[2, 0, 1], &ranks[..2]).ranking, None);
        let left = read(TaskKind::Pair, &[1, 0], &[("choice", "left"), ("degree", "much")]);
        assert_eq!(
            (left.ranking, left.degree),
            (Some(vec![vec![1], vec![0]]), Some(Degree::Much))
        );
        let tie = read(TaskKind::Pair, &[1, 0], &[("choice", "tie"), ("degree", "much")]);
        assert_eq!((tie.ranking, tie.degree), (Some(vec![vec![0, 1]]), None));
        let bad = read(
            TaskKind::Pair,
            &[1, 0],
            &[("choice", "left"), ("degree", "much"), ("all_bad", "1")],
        );
        assert_eq!(
            (bad.ranking, bad.degree, bad.all_bad),
            (Some(vec![vec![1], vec![0]]), Some(Degree::Much), true)
        );
        let alike = read(TaskKind::Pair, &[1, 0], &[("choice", "tie"), ("all_bad", "1")]);
        assert_eq!((alike.ranking, alike.all_bad), (None, true));
    }

    #[test]
    fn an_answer_that_was_not_changed_is_no_rewrite() {
        let same = [
            ("rank_0", "1"),
            ("rank_1", "2"),
            ("rewrite", " 1\r\n"),
            ("rewrite_of", "0"),
        ];
        assert_eq!(read(TaskKind::Rank, &[1, 0], &same).rewrite, None);
        assert!(read(TaskKind::Write, &[1, 0], &same).rewrite.is_some());
        let changed = [("rewrite", "1, and why"), ("rewrite_of", "0")];
        assert!(read(TaskKind::Rank, &[1, 0], &changed).rewrite.is_some());
    }

    #[test]
    fn ratings_flags_and_texts() {
        let pairs = [
            ("rating_0", "7"),
            ("rating_1", "2"),
            ("flag_1", "rude"),
            ("flag_1", "unknown"),
            ("rewrite", "a\r\nb"),
            ("rewrite_of", "0"),
            ("comment", " c "),
        ];
        let found = read(TaskKind::Rate, &[1, 0], &pairs);
        assert_eq!(found.ratings, [Some(2), Some(7)]);
        assert_eq!(found.flags, [vec!["rude".to_string()], vec![]]);
        assert_eq!(
            found.rewrite,
            Some(Rewrite {
                of: Some(1),
                text: "a\nb".into()
            })
        );
        assert_eq!(found.comment.as_deref(), Some("c"));
        let blank = read(
            TaskKind::Comment,
            &[0],
            &[("comment", " "), ("rewrite", ""), ("rewrite_of", "9")],
        );
        assert_eq!(blank, Judgement::default());
    }
}
