//! Pages about the invented language.

use hone_math::Stream;

use crate::World;
use crate::language::{Entry, LANGUAGE};
use crate::task::phrase;

pub(super) fn document(world: &World, stream: &mut Stream) -> String {
    if stream.chance(0.4) {
        dictionary(world, stream)
    } else {
        phrases(world, stream)
    }
}

/// Ten words with their translation, in one direction.
fn dictionary(world: &World, stream: &mut Stream) -> String {
    let mut left: Vec<&Entry> = world.lexicon().entries().collect();
    let mut rows = vec![format!("Words of {LANGUAGE}.")];
    while rows.len() <= 10 {
        let entry = left.swap_remove(stream.below(left.len()));
        rows.push(format!("{} is {}.", entry.english, entry.lumi));
    }
    rows.join("\n")
}

/// Phrases in both languages, the rule said now and then.
fn phrases(world: &World, stream: &mut Stream) -> String {
    let mut sentences = Vec::new();
    if stream.chance(0.3) {
        sentences.push(format!(
            "In {LANGUAGE} the noun comes first and the adjective comes after it."
        ));
    }
    let wording = stream.below(3);
    for _ in 0..5 + stream.below(5) {
        let pair = phrase(world.lexicon(), stream);
        if !pair.in_text(world) {
            continue;
        }
        let (english, lumi) = (&pair.english, &pair.lumi);
        sentences.push(match wording {
            0 => format!("{english} is {lumi}."),
            1 => format!("In {LANGUAGE} they say {lumi} for {english}."),
            _ => format!("The {LANGUAGE} for {english} is {lumi}."),
        });
    }
    if sentences.is_empty() {
        return dictionary(world, stream);
    }
    sentences.join(" ")
}
