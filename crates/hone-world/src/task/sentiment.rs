//! Whether a short review is positive or negative.

use hone_math::Stream;

use super::{Draft, Kind, Marks, wording};
use crate::World;
use crate::words::{BAD, GOOD, SUBJECTS};

const WORDINGS: [&str; 6] = [
    "Is this review positive or negative? {x}",
    "Positive or negative? {x}",
    "Does the writer feel positive or negative? {x}",
    "Say if this is positive or negative: {x}",
    "Would you call these words positive or negative? {x}",
    "Decide between positive and negative: {x}",
];
const RESERVED: u64 = 15;

pub(super) fn draft(world: &World, stream: &mut Stream) -> Draft {
    let review = review(stream);
    let (template, new_phrasing) = wording(&WORDINGS, stream);
    let new_content = review.valence.iter().any(|word| world.held_out_valence.contains(word));
    let marks = Marks {
        new_phrasing,
        new_content,
        reserved: review.reserved(world),
    };
    let answer = if review.positive { "positive" } else { "negative" };
    Draft::open(
        Kind::Sentiment,
        template.replace("{x}", &review.text),
        answer.to_owned(),
        marks,
    )
}

/// A review of one or two clauses of one valence.
pub(crate) struct Review {
    pub(crate) text: String,
    pub(crate) positive: bool,
    valence: Vec<&'static str>,
}

impl Review {
    /// Whether it is reserved for evaluation.
    pub(crate) fn reserved(&self, world: &World) -> bool {
        world.reserved(&self.text, RESERVED)
    }
}

/// One review in five denies its first clause (`was not lovely`), which turns that word around.
pub(crate) fn review(stream: &mut Stream) -> Review {
    let positive = stream.chance(0.5);
    let clauses = 1 + stream.below(2);
    let mut subjects: Vec<&str> = Vec::new();
    let mut valence = Vec::new();
    let mut parts = Vec::new();
    while parts.len() < clauses {
        let subject = *stream.pick(&SUBJECTS);
        if subjects.contains(&subject) {
            continue;
        }
        subjects.push(subject);
        let denied = parts.is_empty() && stream.chance(0.2);
        let word = *stream.pick(if positive == denied { &BAD } else { &GOOD });
        valence.push(word);
        let verb = if denied { "was not" } else { "was" };
        parts.push(format!("the {subject} {verb} {word}"));
    }
    let joined = parts.join(" and ");
    let text = format!("T{}.", &joined[1..]);
    Review {
        text,
        positive,
        valence,
    }
}

pub(super) fn other(answer: &str) -> String {
    if answer == "positive" { "negative" } else { "positive" }.to_owned()
}
