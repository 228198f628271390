//! Questions about facts.

use hone_math::Stream;

use super::{Draft, Kind, Marks, wording};
use crate::World;
use crate::fact::{Attribute, fill};

/// Share of the (fact, wording) pairs reserved for evaluation, in percent.
const RESERVED: u64 = 25;

pub(super) fn draft(world: &World, stream: &mut Stream) -> Draft {
    let fact = stream.pick(world.facts());
    let (template, new_phrasing) = wording(&fact.attribute.questions(), stream);
    let text = fill(template, fact.subject, "");
    let reserved = world.reserved(&text, RESERVED);
    let marks = Marks {
        new_phrasing,
        new_content: fact.held_out,
        reserved,
    };
    Draft::closed(Kind::Fact, text, fact.value.to_owned(), marks)
}

/// A value of the attribute whose values hold the answer.
pub(super) fn another_value(answer: &str, stream: &mut Stream) -> String {
    for attribute in Attribute::ALL {
        let values = attribute.values();
        if values.contains(&answer) {
            return (*stream.pick(&values)).to_owned();
        }
    }
    "nothing".to_owned()
}
