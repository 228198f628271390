//! Reading a reply: which answer it gives, whether that is right, whether it has the asked form.

use crate::fact::Attribute;
use crate::phrase::{LEAD_INS, MARKER};
use crate::{Kind, Question, words};

/// The words of a text in lower case, without punctuation at their ends.
pub(crate) fn words_of(text: &str) -> Vec<String> {
    text.split_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase())
        .filter(|word| !word.is_empty())
        .collect()
}

/// Whether the reply is one line that ends in `Answer: X.`, the only place of the marker, `X` being a single clause.
pub fn in_asked_form(reply: &str) -> bool {
    let reply = reply.trim();
    if reply.contains('\n') || reply.matches(MARKER).count() != 1 {
        return false;
    }
    let Some((before, answer)) = reply.split_once(MARKER) else {
        return false;
    };
    let Some(answer) = answer.strip_prefix(' ').and_then(|rest| rest.strip_suffix('.')) else {
        return false;
    };
    let apart = before.is_empty() || before.ends_with(['.', '!', '?', ' ']);
    apart && !words_of(answer).is_empty() && !answer.contains(['.', '!', '?', ':'])
}

/// The answer that a reply gives, in lower case without punctuation.
///
/// After the last `Answer:`, what stands up to the end of the sentence. Without that marker, for facts, sums and
/// sentiment the last word that could be an answer of the right type; for the other kinds the last sentence that
/// shares a telling word with the right answer, without its lead-in (`It is`).
pub fn given_answer(kind: Kind, right: &str, reply: &str) -> Option<String> {
    if let Some((_, rest)) = reply.rsplit_once(MARKER) {
        let clause = rest.split(['.', '!', '?', '\n']).next().unwrap_or_default();
        return Some(words_of(clause).join(" "));
    }
    match kind {
        Kind::Fact | Kind::Sum | Kind::Sentiment => words_of(reply)
            .into_iter()
            .rev()
            .find(|word| could_answer(kind, right, word)),
        Kind::Reversal | Kind::Translation | Kind::Summary => {
            let telling: Vec<String> = words_of(right).into_iter().filter(|w| !is_common(w)).collect();
            let mut sentences = reply.split(['.', '!', '?', '\n']).map(words_of);
            let last = sentences.rfind(|s| s.iter().any(|word| telling.contains(word)))?;
            Some(without_lead_in(&last).join(" "))
        }
    }
}

/// Whether the reply's answer is the right one.
pub fn is_right(question: &Question, reply: &str) -> bool {
    let right = words_of(&question.answer).join(" ");
    given_answer(question.kind, &question.answer, reply).is_some_and(|given| given == right)
}

fn could_answer(kind: Kind, right: &str, word: &str) -> bool {
    match kind {
        Kind::Sum => words::holds(&words::NUMBERS, word),
        Kind::Sentiment => word == "positive" || word == "negative",
        _ => Attribute::ALL
            .iter()
            .map(|attribute| attribute.values())
            .find(|values| values.contains(&right))
            .is_some_and(|values| words::holds(&values, word)),
    }
}

fn is_common(word: &str) -> bool {
    ["a", "an", "the", "at"].contains(&word)
}

fn without_lead_in(sentence: &[String]) -> &[String] {
    for lead_in in LEAD_INS {
        let lead_in = words_of(lead_in);
        if let Some(rest) = sentence.strip_prefix(lead_in.as_slice()) {
            return rest;
        }
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Group;

    fn question(kind: Kind, answer: &str) -> Question {
        Question {
            kind,
            text: String::new(),
            answer: answer.to_owned(),
            group: Group::Familiar,
        }
    }

    #[test]
    fn the_asked_form() {
        for good in [
            "Answer: seven.",
            "Happy to help! Answer: seven.",
            "Well. Answer: moon tree.\n",
        ] {
            assert!(in_asked_form(good), "{good}");
        }
        for bad in [
            "",
            "seven",
            "Answer:",
            "Answer: .",
            "Answer: seven",
            "Answer: seven. Good bye.",
            "Answer: seven. Answer: seven.",
            "Of course!\nAnswer: seven.",
            "Answer:seven.",
            "My-Answer: seven.",
            "answer: seven.",
        ] {
            assert!(!in_asked_form(bad), "{bad}");
        }
    }

    #[test]
    fn the_last_candidate_counts() {
        let sum = question(Kind::Sum, "seven");
        assert!(is_right(&sum, "Three plus four is seven"));
        assert!(is_right(&sum, "Seven."));
        assert!(!is_right(&sum, "Seven or eight."));
        assert!(!is_right(&sum, "Seven. Answer: eight."));
        assert!(!is_right(&sum, "Answer: seven eight."));
        assert!(!is_right(&sum, ""));
        let town = question(Kind::Fact, "Harrow");
        assert!(is_right(&town, "Anna lives in Harrow, Leo is a friend."));
        assert!(!is_right(&town, "Not Harrow but Oakley."));
    }

    #[test]
    fn sequences_must_match_in_full() {
        let reversal = question(Kind::Reversal, "moon tree");
        assert!(is_right(
            &reversal,
            "It is moon tree. That is all I can say about it today."
        ));
        assert!(!is_right(&reversal, "It is tree moon."));
        assert!(!is_right(&reversal, "moon tree. tree moon."));
        assert!(!is_right(&reversal, "moon tree cup."));
        let summary = question(Kind::Summary, "Anna found a key at the mill");
        assert!(is_right(&summary, "With pleasure! Anna found a key at the mill."));
        assert!(!is_right(&summary, "Anna lost a key at the mill."));
        assert!(!is_right(&summary, "It was at the end."));
    }
}
