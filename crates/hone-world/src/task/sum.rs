//! Sums in words: two numbers up to seven, or three up to three.

use hone_math::Stream;

use super::{Draft, Kind, Marks, wording};
use crate::World;
use crate::words::NUMBERS;

const WORDINGS: [&str; 6] = [
    "What is {x}?",
    "How much is {x}?",
    "Add up {x}.",
    "What do you get from {x}?",
    "Please work out {x}.",
    "Tell me how much {x} is.",
];
const RESERVED: u64 = 25;
const HELD_OUT: u64 = 15;

pub(super) fn draft(world: &World, stream: &mut Stream) -> Draft {
    let numbers = addends(stream);
    let (template, new_phrasing) = wording(&WORDINGS, stream);
    let expression = expression(&numbers);
    let text = template.replace("{x}", &expression);
    let mut unordered = numbers.clone();
    unordered.sort_unstable();
    let new_content = world.reserved(&format!("sum {unordered:?}"), HELD_OUT);
    let marks = Marks {
        new_phrasing,
        new_content,
        reserved: world.reserved(&text, RESERVED),
    };
    let total: usize = numbers.iter().sum();
    Draft::closed(Kind::Sum, text, NUMBERS[total].to_owned(), marks)
}

/// Two numbers of 1 to 7; one time in eight three of 1 to 3.
pub(crate) fn addends(stream: &mut Stream) -> Vec<usize> {
    if stream.chance(0.125) {
        (0..3).map(|_| 1 + stream.below(3)).collect()
    } else {
        (0..2).map(|_| 1 + stream.below(7)).collect()
    }
}

/// Such as `two plus three`.
pub(crate) fn expression(numbers: &[usize]) -> String {
    let words: Vec<&str> = numbers.iter().map(|&n| NUMBERS[n]).collect();
    words.join(" plus ")
}

/// Off by one or two.
pub(super) fn near_miss(answer: &str, stream: &mut Stream) -> String {
    let right = NUMBERS.iter().position(|&word| word == answer).unwrap_or(0);
    let moved = (right + stream.below(5)).saturating_sub(2);
    NUMBERS[moved.min(NUMBERS.len() - 1)].to_owned()
}
