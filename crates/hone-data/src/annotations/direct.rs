//! A judgement of somebody who did not come through the queue: item and judgement at once.

use rusqlite::{Connection, OptionalExtension, params};

use super::events::{edit, submit, undo_skip};
use super::people::check_name;
use super::problem::AnnotationProblem;
use super::queue::change_taken;
use super::store::{Store, add_item, digest, from_json, settings_of, to_json};
use super::types::{Input, Judgement, NewItem, Project, Submission, Submitted};
use crate::error::DataError;

/// What somebody judged, where they met it.
#[derive(Clone, Debug, PartialEq)]
pub struct Direct {
    /// What was judged.
    pub item: NewItem,
    /// Indices of the answers in the order in which they were shown.
    pub shown: Vec<usize>,
    /// Who judged: somebody the store knows, or a new name, which no link signs in until its owner makes one.
    pub annotator: String,
    /// Whether it is known that it was them; otherwise the name of somebody who was ever invited is refused.
    pub vouched: bool,
    /// What was found.
    pub judgement: Judgement,
    /// When the answers were first seen.
    pub started: i64,
}

impl Store {
    /// Takes a judgement of something that need not be in the project: the item is added where it is not there. The same judgement again
    /// answers as the first time and changes nothing; another one of the same person and item replaces the first, whose ratings, flags,
    /// rewrite and comment stay where the new one has none.
    ///
    /// # Errors
    /// An item that nobody could judge; a judgement that does not fit it; an order that does not name each answer once; an empty name, or
    /// one that belongs to somebody else.
    pub fn judge(&self, project: &Project, direct: Direct, now: i64) -> Result<Submitted, DataError> {
        let project = project.clone();
        self.write(move |connection| judge(connection, &project, &direct, now))
    }
}

fn judge(
    connection: &Connection,
    project: &Project,
    direct: &Direct,
    now: i64,
) -> Result<Submitted, AnnotationProblem> {
    let mut named = direct.shown.clone();
    named.sort_unstable();
    if !named.iter().copied().eq(0..direct.item.input.responses.len()) {
        let reason = "the order shown does not name each answer once".into();
        return Err(AnnotationProblem::Item { number: 1, reason });
    }
    let settings = settings_of(connection, project.id)?;
    let added = add_item(connection, (project.id, &settings), (1, &direct.item))?;
    let stored: String = connection
        .prepare_cached("SELECT input FROM items WHERE id = ?1")?
        .query_row([added.id], |row| row.get(0))?;
    let direct = &at_places_of(direct, &from_json(added.id, "input", &stored)?);
    let item = added.id;
    let annotator = annotator(connection, direct, now)?;
    let submission = |lease| Submission {
        lease,
        annotator,
        judgement: direct.judgement.clone(),
        started: direct.started,
        active: None,
    };
    let held: Option<(i64, String)> = connection
        .prepare_cached("SELECT id, state FROM leases WHERE item = ?1 AND annotator = ?2 AND round = 0")?
        .query_row([item, annotator], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match held {
        None => {
            let lease = take(connection, (item, annotator), direct, i64::from(settings.overlap))?;
            submit(connection, &submission(lease), now)
        }
        Some((lease, state)) => match state.as_str() {
            "judged" | "surplus" => again(connection, (item, annotator), (submission(lease), &direct.shown), now),
            // Taken from the queue, and seen here first
            "open" | "expired" => {
                connection
                    .prepare_cached("UPDATE leases SET shown = ?2 WHERE id = ?1")?
                    .execute(params![lease, to_json(&direct.shown)])?;
                submit(connection, &submission(lease), now)
            }
            // Given back, and taken up again: under a new number, since a number is handed in once
            _ => {
                undo_skip(connection, (item, annotator), now)?;
                connection
                    .prepare_cached("DELETE FROM leases WHERE id = ?1")?
                    .execute([lease])?;
                let lease = take(connection, (item, annotator), direct, i64::from(settings.overlap))?;
                submit(connection, &submission(lease), now)
            }
        },
    }
}

/// The same of an item whose answers stand in another order, as one may that was there already.
fn at_places_of(direct: &Direct, stored: &Input) -> Direct {
    let mut places: Vec<usize> = Vec::new();
    for response in &direct.item.input.responses {
        let same = |&at: &usize| stored.responses[at].text == response.text && !places.contains(&at);
        places.extend((0..stored.responses.len()).find(same));
    }
    let moved = |index: &usize| places.get(*index).copied().unwrap_or(*index);
    let mut out = direct.clone();
    out.shown = direct.shown.iter().map(moved).collect();
    let judgement = &mut out.judgement;
    for group in judgement.ranking.iter_mut().flatten() {
        *group = group.iter().map(moved).collect();
    }
    for (from, rating) in direct.judgement.ratings.iter().enumerate() {
        if let Some(to) = judgement.ratings.get_mut(moved(&from)) {
            *to = *rating;
        }
    }
    for (from, flags) in direct.judgement.flags.iter().enumerate() {
        if let Some(to) = judgement.flags.get_mut(moved(&from)) {
            to.clone_from(flags);
        }
    }
    if let Some(rewrite) = &mut judgement.rewrite {
        rewrite.of = rewrite.of.as_ref().map(moved);
    }
    out
}

/// A place of the item, if it has one left; else one that is over already, so that what is handed in is surplus.
fn take(
    connection: &Connection,
    (item, annotator): (i64, i64),
    direct: &Direct,
    overlap: i64,
) -> Result<i64, AnnotationProblem> {
    let (taken, gold): (i64, bool) = connection
        .prepare_cached("SELECT taken, gold IS NOT NULL FROM items WHERE id = ?1")?
        .query_row([item], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let free = gold || taken < overlap;
    if free && !gold {
        change_taken(connection, item, 1)?;
    }
    connection
        .prepare_cached(
            "INSERT INTO leases (item, annotator, round, state, shown, claimed, expires) VALUES (?1, ?2, 0, ?3, ?4, ?5, ?5)",
        )?
        .execute(params![
            item,
            annotator,
            if free { "open" } else { "expired" },
            to_json(&direct.shown),
            direct.started
        ])?;
    Ok(connection.last_insert_rowid())
}

/// The judgement that stands, if it is the same; else an edit of it, which keeps what only the first one says.
fn again(
    connection: &Connection,
    (item, annotator): (i64, i64),
    (mut submission, shown): (Submission, &[usize]),
    now: i64,
) -> Result<Submitted, AnnotationProblem> {
    let (event, surplus, before): (i64, bool, String) = connection
        .prepare_cached(
            "SELECT id, surplus, judgement FROM standing
            WHERE item = ?1 AND annotator = ?2 AND round = 0 AND kind = 'judgement' AND live",
        )?
        .query_row([item, annotator], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    submission.judgement = with_rest_of(submission.judgement, from_json(event, "judgement", &before)?);
    match before == to_json(&submission.judgement) {
        true => Ok(Submitted { event, surplus }),
        false => edit(connection, event, (&submission, Some(shown)), now),
    }
}

/// A judgement, with what it leaves open as it was before. A degree is one of its preference.
fn with_rest_of(new: Judgement, before: Judgement) -> Judgement {
    let same = new.ranking.is_none() || new.ranking == before.ranking;
    let tied = new.ranking.as_ref().is_some_and(|groups| groups.len() == 1);
    Judgement {
        degree: new.degree.or(before.degree.filter(|_| same)),
        all_bad: new.all_bad || (before.all_bad && !tied),
        ranking: new.ranking.or(before.ranking),
        ratings: if new.ratings.is_empty() {
            before.ratings
        } else {
            new.ratings
        },
        flags: if new.flags.is_empty() { before.flags } else { new.flags },
        rewrite: new.rewrite.or(before.rewrite),
        comment: new.comment.or(before.comment),
    }
}

fn annotator(connection: &Connection, direct: &Direct, now: i64) -> Result<i64, AnnotationProblem> {
    let name = direct.annotator.trim();
    check_name(name)?;
    // What no token has as its digest
    let nobodys = format!("none: {}", digest(name.as_bytes()));
    connection
        .prepare_cached(
            "INSERT INTO annotators (name, role, token_digest, created) VALUES (?1, 'annotator', ?2, ?3)
            ON CONFLICT (name) DO NOTHING",
        )?
        .execute(params![name, nobodys, now])?;
    let (id, theirs): (i64, bool) = connection
        .prepare_cached("SELECT id, token_digest <> ?2 FROM annotators WHERE name = ?1")?
        .query_row([name, &nobodys], |row| Ok((row.get(0)?, row.get(1)?)))?;
    match theirs && !direct.vouched {
        true => Err(AnnotationProblem::Invited { name: name.into() }),
        false => Ok(id),
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{Degree, Response, Rewrite, Role, Settings, TaskKind};
    use super::*;
    use crate::items::Message;

    type Test = Result<(), Box<dyn std::error::Error>>;

    fn direct(annotator: &str, best: usize) -> Direct {
        Direct {
            item: NewItem {
                kind: TaskKind::Rank,
                input: Input {
                    prompt: vec![Message::user("Why?")],
                    responses: vec![Response::new("So."), Response::new("Thus.")],
                },
                gold: None,
            },
            shown: vec![1, 0],
            annotator: annotator.into(),
            vouched: true,
            judgement: Judgement {
                ranking: Some(vec![vec![best], vec![1 - best]]),
                ..Judgement::default()
            },
            started: 5,
        }
    }

    #[test]
    fn a_judgement_is_kept_once_and_a_change_of_mind_replaces_it() -> Test {
        let folder = tempfile::tempdir()?;
        let store = Store::open(&folder.path().join("a.db"))?;
        let project = store.put_project("p", &Settings::default(), 0)?;
        let first = store.judge(&project, direct("ann", 0), 10)?;
        assert_eq!(store.judge(&project, direct(" ann ", 0), 11)?, first);
        let other = store.judge(&project, direct("ann", 1), 12)?;
        assert!(other.event > first.event && !other.surplus);
        let records = store.records(&project)?;
        assert_eq!(records.len(), 2);
        assert!(!records[0].live && records[1].counts());
        assert_eq!(records[1].supersedes, Some(first.event));
        assert_eq!(
            (records[0].shown.clone(), records[0].started, records[0].submitted),
            (vec![1, 0], 5, 10)
        );
        let ranking = records[1].ranking().ok_or("no ranking")?;
        assert_eq!(ranking.groups, [vec![1], vec![0]]);
        let progress = store.progress(&project)?;
        assert_eq!((progress.items, progress.judged, progress.open), (1, 1, 0));
        // Beyond the overlap it is kept and counts nowhere
        assert!(store.judge(&project, direct("bob", 0), 13)?.surplus);
        assert_eq!(store.progress(&project)?.judged, 1);
        Ok(())
    }

    #[test]
    fn what_the_queue_has_handed_out_is_judged_in_its_place() -> Test {
        let folder = tempfile::tempdir()?;
        let store = Store::open(&folder.path().join("a.db"))?;
        let project = store.put_project("p", &Settings::default(), 0)?;
        store.add_items(&project, vec![direct("ann", 0).item])?;
        let ann = store.put_annotator("ann", Role::Owner, "digest", 0)?;
        let task = store.claim(&project, ann.id, 1)?.ok_or("no task")?;
        store.judge(&project, direct("ann", 0), 10)?;
        assert_eq!(store.claim(&project, ann.id, 11)?, None);
        assert_eq!(store.annotators()?, std::slice::from_ref(&ann), "who they are stays");
        // Undone it is open again, and judged again
        let event = store.last_event(&project, ann.id)?.ok_or("nothing stands")?;
        assert!(store.undo(&project, ann.id, event, 12)?.task.is_some());
        assert!(!store.judge(&project, direct("ann", 1), 13)?.surplus);
        // Skipped it is taken up again
        let event = store.last_event(&project, ann.id)?.ok_or("nothing stands")?;
        let open = store.undo(&project, ann.id, event, 14)?.task.ok_or("not open")?;
        assert_ne!(open.lease, task.lease);
        store.skip(open.lease, ann.id, "tired", 15)?;
        assert!(!store.judge(&project, direct("ann", 1), 16)?.surplus);
        let progress = store.progress(&project)?;
        assert_eq!((progress.complete, progress.judged, progress.open), (1, 1, 0));
        // Undone it is open, and not skipped as before
        let event = store.last_event(&project, ann.id)?.ok_or("nothing stands")?;
        assert!(store.undo(&project, ann.id, event, 17)?.task.is_some());
        assert_eq!(store.last_event(&project, ann.id)?, None);
        let progress = store.progress(&project)?;
        assert_eq!((progress.complete, progress.judged, progress.open), (0, 0, 1));
        assert!(!store.judge(&project, direct("ann", 0), 18)?.surplus);
        assert_eq!(store.progress(&project)?.judged, 1);
        Ok(())
    }

    /// What a page says of two answers takes nothing back of what was said of them elsewhere, and is of the order that the page had.
    #[test]
    fn a_change_of_mind_keeps_the_rest_and_says_in_which_order_it_saw_them() -> Test {
        let folder = tempfile::tempdir()?;
        let store = Store::open(&folder.path().join("a.db"))?;
        let project = store.put_project("p", &Settings::default(), 0)?;
        let mut whole = direct("ann", 0);
        whole.judgement.degree = Some(Degree::Much);
        whole.judgement.ratings = vec![Some(7), Some(2)];
        whole.judgement.flags = vec![vec![], vec!["unclear".into()]];
        whole.judgement.comment = Some("so it is".into());
        let first = store.judge(&project, whole.clone(), 10)?;
        let turned = |best| Direct {
            shown: vec![0, 1],
            ..direct("ann", best)
        };
        assert_eq!(store.judge(&project, turned(0), 11)?, first, "it says nothing new");
        let other = store.judge(&project, turned(1), 12)?;
        assert_eq!(store.judge(&project, turned(1), 13)?, other);
        let records = store.records(&project)?;
        assert_eq!(
            (records[0].shown.clone(), records[1].shown.clone()),
            (vec![1, 0], vec![0, 1])
        );
        let expected = Judgement {
            ranking: Some(vec![vec![1], vec![0]]),
            degree: None,
            ..whole.judgement
        };
        assert_eq!(records[1].judgement, Some(expected));
        Ok(())
    }

    #[test]
    fn a_name_that_was_invited_is_refused_to_others() -> Test {
        let folder = tempfile::tempdir()?;
        let store = Store::open(&folder.path().join("a.db"))?;
        let project = store.put_project("p", &Settings::default(), 0)?;
        let anybody = |name: &str, best| Direct {
            vouched: false,
            ..direct(name, best)
        };
        store.judge(&project, anybody("ann", 0), 1)?;
        store.judge(&project, anybody("ann", 1), 2)?;
        store.add_annotator("bob", Role::Annotator, "digest", 3)?;
        store.put_annotator("ann", Role::Owner, "other", 4)?;
        for name in ["bob", " ann "] {
            let error = store.judge(&project, anybody(name, 0), 5).err().ok_or("it was taken")?;
            assert!(error.to_string().contains("give another name"), "{error}");
        }
        assert_eq!(store.records(&project)?.len(), 2);
        Ok(())
    }

    /// Whatever order the answers stand in, the judgement is of the same texts.
    #[test]
    fn an_item_with_its_answers_in_another_order_is_the_same() -> Test {
        let folder = tempfile::tempdir()?;
        let store = Store::open(&folder.path().join("a.db"))?;
        let project = store.put_project("p", &Settings::default(), 0)?;
        store.add_items(&project, vec![direct("ann", 0).item])?;
        let mut turned = direct("ann", 0);
        turned.item.input.responses.reverse();
        turned.shown = vec![0, 1];
        turned.judgement.ratings = vec![Some(7), Some(2)];
        turned.judgement.flags = vec![vec![], vec!["unclear".into()]];
        turned.judgement.rewrite = Some(Rewrite {
            of: Some(0),
            text: "Thus it is.".into(),
        });
        store.judge(&project, turned, 10)?;
        assert_eq!(store.progress(&project)?.items, 1);
        let record = store.records(&project)?.remove(0);
        let judged = record.judgement.ok_or("no judgement")?;
        // "Thus." was the better one and shown first, and is the second of the item
        assert_eq!(
            (judged.ranking, record.shown),
            (Some(vec![vec![1], vec![0]]), vec![1, 0])
        );
        assert_eq!(judged.ratings, [Some(2), Some(7)]);
        assert_eq!(judged.flags, [vec!["unclear".to_string()], vec![]]);
        assert_eq!(judged.rewrite.and_then(|rewrite| rewrite.of), Some(1));
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_nothing() -> Test {
        let folder = tempfile::tempdir()?;
        let store = Store::open(&folder.path().join("a.db"))?;
        let project = store.put_project("p", &Settings::default(), 0)?;
        let order = Direct {
            shown: vec![0, 0],
            ..direct("ann", 0)
        };
        let judgement = Direct {
            judgement: Judgement::default(),
            ..direct("ann", 0)
        };
        for (wrong, said) in [
            (order, "order shown"),
            (judgement, "no ranking"),
            (direct(" ", 0), "a name of 1 to 100 bytes"),
        ] {
            let error = store.judge(&project, wrong, 1).err().ok_or("it was taken")?;
            assert!(error.to_string().contains(said), "{error}");
        }
        assert_eq!(store.progress(&project)?.items, 0);
        assert!(store.annotators()?.is_empty());
        Ok(())
    }
}
