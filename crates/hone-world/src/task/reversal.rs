//! Two to four words to be said in the opposite order.

use hone_math::Stream;

use super::{Draft, Kind, Marks, wording};
use crate::World;
use crate::words::PLAIN_WORDS;

const WORDINGS: [&str; 6] = [
    "Say these words backwards: {x}",
    "Turn the order around: {x}",
    "Reverse the order of these words: {x}",
    "Write from last to first: {x}",
    "Which order is the opposite of this: {x}",
    "Put the last word first and the first word last: {x}",
];
const RESERVED: u64 = 15;

pub(super) fn draft(world: &World, stream: &mut Stream) -> Draft {
    let count = [2, 2, 2, 3, 3, 4][stream.below(6)];
    let mut words: Vec<&str> = Vec::with_capacity(count);
    while words.len() < count {
        let word = *stream.pick(&PLAIN_WORDS);
        if !words.contains(&word) {
            words.push(word);
        }
    }
    let (template, new_phrasing) = wording(&WORDINGS, stream);
    let list = words.join(" ");
    let new_content = words.iter().any(|word| world.held_out_words.contains(word));
    let marks = Marks {
        new_phrasing,
        new_content,
        reserved: world.reserved(&list, RESERVED),
    };
    words.reverse();
    Draft::open(Kind::Reversal, template.replace("{x}", &list), words.join(" "), marks)
}

/// The order unchanged, two neighbours exchanged, or a word replaced.
pub(super) fn misordered(answer: &str, stream: &mut Stream) -> String {
    let mut words: Vec<&str> = answer.split(' ').collect();
    match stream.below(3) {
        0 => words.reverse(),
        1 => {
            let i = stream.below(words.len().max(2) - 1);
            let next = (i + 1) % words.len();
            words.swap(i, next);
        }
        _ => {
            let i = stream.below(words.len());
            words[i] = *stream.pick(&PLAIN_WORDS);
        }
    }
    words.join(" ")
}
