//! Which items, settings and judgements make sense.

use super::problem::AnnotationProblem;
use super::types::{Judgement, NewItem, Response, Settings, TaskKind};

/// The most answers of an item: digits rank them.
pub const MOST_RESPONSES: usize = 9;
/// The longest text of an answer or a prompt's message, in bytes.
const MOST_TEXT: usize = 1 << 20;
/// The longest comment, in bytes.
const MOST_COMMENT: usize = 64 << 10;

/// # Errors
/// The first setting outside its range.
pub(super) fn settings(settings: &Settings) -> Result<(), AnnotationProblem> {
    let wrong = |key, got: String, expected| Err(AnnotationProblem::Setting { key, got, expected });
    if !(1..=1000).contains(&settings.overlap) {
        return wrong("overlap", settings.overlap.to_string(), "1 to 1000");
    }
    if !(10..=604_800).contains(&settings.lease_seconds) {
        return wrong(
            "lease_seconds",
            settings.lease_seconds.to_string(),
            "10 to 604800 (a week)",
        );
    }
    if i64::try_from(settings.seed).is_err() {
        return wrong("seed", settings.seed.to_string(), "less than 2^63");
    }
    for (key, share) in [
        ("repeat_share", settings.repeat_share),
        ("gold_share", settings.gold_share),
    ] {
        if !(0.0..1.0).contains(&share) {
            return wrong(key, share.to_string(), "at least 0 and less than 1");
        }
    }
    let flags = &settings.flags;
    if flags.len() > 32 {
        return wrong("flags", format!("a list of {}", flags.len()), "at most 32 names");
    }
    for (i, flag) in flags.iter().enumerate() {
        if flag.trim().is_empty() || flag.len() > 100 || flags[..i].contains(flag) {
            return wrong("flags", format!("{flag:?}"), "distinct names of 1 to 100 bytes");
        }
    }
    if settings.guideline.len() > MOST_TEXT {
        return wrong(
            "guideline",
            format!("{} bytes", settings.guideline.len()),
            "at most 1 MiB",
        );
    }
    Ok(())
}

/// # Errors
/// Why nobody could judge the item.
pub(super) fn item(item: &NewItem, settings: &Settings) -> Result<(), String> {
    let prompt = &item.input.prompt;
    match prompt.last() {
        None => return Err("a prompt without messages".into()),
        Some(last) if last.role == "assistant" => return Err("the prompt ends with the assistant's turn".into()),
        Some(_) => {}
    }
    let responses = &item.input.responses;
    let (least, most) = match item.kind {
        TaskKind::Rank => (2, MOST_RESPONSES),
        TaskKind::Pair => (2, 2),
        TaskKind::Rate => (1, MOST_RESPONSES),
        TaskKind::Write | TaskKind::Comment => (0, MOST_RESPONSES),
    };
    if !(least..=most).contains(&responses.len()) {
        return Err(format!(
            "{} answers for a task of kind `{}`, expected {least} to {most}",
            responses.len(),
            item.kind.name()
        ));
    }
    let texts = prompt
        .iter()
        .map(|m| &m.content)
        .chain(responses.iter().map(|r| &r.text));
    if let Some(long) = texts.map(String::len).find(|&length| length > MOST_TEXT) {
        return Err(format!("a text of {long} bytes, expected at most {MOST_TEXT}"));
    }
    match &item.gold {
        Some(gold) => judgement(gold, item.kind, responses, settings).map_err(|e| format!("`gold`: {e}")),
        None => Ok(()),
    }
}

/// Whether a judgement fits an item of this kind with these answers.
///
/// # Errors
/// Why not.
pub(super) fn judgement(
    judgement: &Judgement,
    kind: TaskKind,
    shown: &[Response],
    settings: &Settings,
) -> Result<(), String> {
    let responses = shown.len();
    if let Some(groups) = &judgement.ranking {
        ranking(groups, responses)?;
        if judgement.all_bad && groups.len() == 1 {
            return Err("all answers are tied and all are bad: say one of the two".into());
        }
    }
    let decided = judgement
        .ranking
        .as_ref()
        .is_some_and(|groups| groups.len() == 2 && responses == 2);
    if judgement.degree.is_some() && !decided {
        return Err("`degree` without a preference between two answers".into());
    }
    if !judgement.ratings.is_empty() && judgement.ratings.len() != responses {
        return Err(format!("{} ratings for {responses} answers", judgement.ratings.len()));
    }
    if let Some(rating) = judgement.ratings.iter().flatten().find(|r| !(1..=7).contains(*r)) {
        return Err(format!("a rating of {rating}, expected 1 to 7"));
    }
    if !judgement.flags.is_empty() && judgement.flags.len() != responses {
        return Err(format!(
            "{} lists of flags for {responses} answers",
            judgement.flags.len()
        ));
    }
    for list in &judgement.flags {
        for (i, flag) in list.iter().enumerate() {
            if !settings.flags.contains(flag) {
                return Err(format!(
                    "the flag `{flag}`, expected one of {}",
                    settings.flags.join(", ")
                ));
            }
            if list[..i].contains(flag) {
                return Err(format!("the flag `{flag}` twice"));
            }
        }
    }
    if let Some(rewrite) = &judgement.rewrite {
        if rewrite.text.trim().is_empty() {
            return Err("the answer that was written is empty".into());
        }
        if rewrite.text.len() > MOST_TEXT {
            return Err(format!(
                "an answer of {} bytes, expected at most {MOST_TEXT}",
                rewrite.text.len()
            ));
        }
        if let Some(of) = rewrite.of.filter(|&of| of >= responses) {
            return Err(format!("a better answer than answer {of}, there are {responses}"));
        }
        if shown.iter().any(|response| same_text(&response.text, &rewrite.text)) {
            return Err("the answer that was written is one of those shown, not changed yet".into());
        }
    }
    if let Some(comment) = &judgement.comment
        && (comment.trim().is_empty() || comment.len() > MOST_COMMENT)
    {
        return Err(format!(
            "a comment of {} bytes, expected 1 to {MOST_COMMENT}",
            comment.len()
        ));
    }
    let missing = match kind {
        TaskKind::Rank | TaskKind::Pair if judgement.ranking.is_none() && !judgement.all_bad => "no ranking",
        TaskKind::Pair if decided && judgement.degree.is_none() => "no `degree`",
        TaskKind::Rate if judgement.ratings.len() != responses || judgement.ratings.contains(&None) => {
            "an answer without a rating"
        }
        TaskKind::Write if judgement.rewrite.is_none() => "no answer was written",
        TaskKind::Comment if judgement.comment.is_none() => "no comment",
        _ => return Ok(()),
    };
    Err(missing.into())
}

/// Whether two texts are the same but for spaces around them and how their lines end.
pub fn same_text(one: &str, other: &str) -> bool {
    one.trim().replace("\r\n", "\n") == other.trim().replace("\r\n", "\n")
}

fn ranking(groups: &[Vec<usize>], responses: usize) -> Result<(), String> {
    let mut seen = vec![false; responses];
    for &index in groups.iter().flatten() {
        match seen.get_mut(index) {
            None => return Err(format!("the ranking names answer {index}, there are {responses}")),
            Some(true) => return Err(format!("the ranking names answer {index} twice")),
            Some(free) => *free = true,
        }
    }
    if let Some(missing) = seen.iter().position(|seen| !seen) {
        return Err(format!("the ranking leaves out answer {missing}"));
    }
    match groups.iter().any(Vec::is_empty) {
        true => Err("the ranking has an empty group".into()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{Degree, Input, Rewrite};
    use super::*;
    use crate::items::Message;

    fn check(found: &Judgement, kind: TaskKind, responses: usize) -> Result<(), String> {
        let shown: Vec<Response> = (0..responses).map(|i| Response::new(format!("answer {i}"))).collect();
        judgement(found, kind, &shown, &Settings::default())
    }

    fn ranked(groups: &[&[usize]]) -> Judgement {
        Judgement {
            ranking: Some(groups.iter().map(|g| g.to_vec()).collect()),
            ..Judgement::default()
        }
    }

    #[test]
    fn judgements_that_fit() {
        let degree = Some(Degree::Much);
        let all_bad = Judgement {
            all_bad: true,
            ..Judgement::default()
        };
        let rated = Judgement {
            ratings: vec![Some(1), Some(7)],
            flags: vec![vec!["hallucination".into()], vec![]],
            ..Judgement::default()
        };
        let written = Judgement {
            rewrite: Some(Rewrite {
                of: Some(1),
                text: "better".into(),
            }),
            ..Judgement::default()
        };
        let cases = [
            (ranked(&[&[2], &[0, 1]]), TaskKind::Rank, 3),
            (all_bad.clone(), TaskKind::Rank, 4),
            (all_bad, TaskKind::Pair, 2),
            (ranked(&[&[0, 1]]), TaskKind::Pair, 2),
            (
                Judgement {
                    degree,
                    ..ranked(&[&[1], &[0]])
                },
                TaskKind::Pair,
                2,
            ),
            (rated, TaskKind::Rate, 2),
            (written, TaskKind::Write, 2),
        ];
        for (found, kind, responses) in cases {
            assert_eq!(check(&found, kind, responses), Ok(()), "{found:?}");
        }
    }

    #[test]
    fn judgements_that_do_not_fit_say_why() {
        let empty = Judgement::default;
        let rating = |ratings: &[Option<u8>]| Judgement {
            ratings: ratings.to_vec(),
            ..empty()
        };
        let cases = [
            (empty(), TaskKind::Rank, 2, "no ranking"),
            (ranked(&[&[0], &[0, 1]]), TaskKind::Rank, 2, "answer 0 twice"),
            (ranked(&[&[0], &[1]]), TaskKind::Rank, 3, "leaves out answer 2"),
            (ranked(&[&[0], &[3, 1, 2]]), TaskKind::Rank, 3, "names answer 3"),
            (ranked(&[&[0, 1], &[]]), TaskKind::Rank, 2, "an empty group"),
            (ranked(&[&[0], &[1]]), TaskKind::Pair, 2, "no `degree`"),
            (
                Judgement {
                    degree: Some(Degree::Better),
                    ..ranked(&[&[0, 1]])
                },
                TaskKind::Pair,
                2,
                "without a preference",
            ),
            (
                Judgement {
                    all_bad: true,
                    ..ranked(&[&[0, 1]])
                },
                TaskKind::Rank,
                2,
                "one of the two",
            ),
            (rating(&[Some(3), None]), TaskKind::Rate, 2, "without a rating"),
            (rating(&[Some(8), Some(1)]), TaskKind::Rate, 2, "a rating of 8"),
            (rating(&[Some(1)]), TaskKind::Rate, 2, "1 ratings for 2 answers"),
            (
                Judgement {
                    flags: vec![vec!["rude".into()]],
                    ..rating(&[Some(1)])
                },
                TaskKind::Rate,
                1,
                "the flag `rude`, expected one of",
            ),
            (empty(), TaskKind::Write, 0, "no answer was written"),
            (
                Judgement {
                    rewrite: Some(Rewrite {
                        of: Some(2),
                        text: "t".into(),
                    }),
                    ..empty()
                },
                TaskKind::Write,
                2,
                "answer 2, there are 2",
            ),
            (
                Judgement {
                    rewrite: Some(Rewrite {
                        of: Some(1),
                        text: " answer 1\r\n".into(),
                    }),
                    ..empty()
                },
                TaskKind::Write,
                2,
                "not changed yet",
            ),
            (empty(), TaskKind::Comment, 1, "no comment"),
        ];
        for (found, kind, responses, reason) in cases {
            let got = check(&found, kind, responses).unwrap_err();
            assert!(got.contains(reason), "{got} / {reason}");
        }
    }

    #[test]
    fn items_and_settings_that_make_no_sense() {
        let new = |kind, responses: usize, prompt: Vec<Message>| NewItem {
            kind,
            input: Input {
                prompt,
                responses: (0..responses).map(|i| Response::new(i.to_string())).collect(),
            },
            gold: None,
        };
        let asked = || vec![Message::user("q")];
        let defaults = Settings::default();
        assert_eq!(item(&new(TaskKind::Rank, 9, asked()), &defaults), Ok(()));
        for (wrong, reason) in [
            (new(TaskKind::Rank, 1, asked()), "1 answers for a task of kind `rank`"),
            (new(TaskKind::Rank, 10, asked()), "expected 2 to 9"),
            (new(TaskKind::Pair, 3, asked()), "expected 2 to 2"),
            (new(TaskKind::Write, 0, vec![]), "without messages"),
            (
                new(TaskKind::Write, 0, vec![Message::assistant("a")]),
                "assistant's turn",
            ),
        ] {
            let got = item(&wrong, &defaults).unwrap_err();
            assert!(got.contains(reason), "{got} / {reason}");
        }
        let gold = NewItem {
            gold: Some(Judgement::default()),
            ..new(TaskKind::Rank, 2, asked())
        };
        assert!(item(&gold, &defaults).unwrap_err().contains("`gold`: no ranking"));
        for wrong in [
            Settings {
                overlap: 0,
                ..Settings::default()
            },
            Settings {
                gold_share: 1.0,
                ..Settings::default()
            },
            Settings {
                repeat_share: f64::NAN,
                ..Settings::default()
            },
            Settings {
                flags: vec!["a".into(), "a".into()],
                ..Settings::default()
            },
        ] {
            assert!(settings(&wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(settings(&defaults), Ok(()));
    }
}
