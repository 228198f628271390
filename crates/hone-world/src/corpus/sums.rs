//! Sums in prose.

use hone_math::Stream;

use crate::task::{addends, expression};
use crate::words::{NUMBERS, OBJECTS, PEOPLE};

pub(super) fn document(stream: &mut Stream) -> String {
    match stream.below(3) {
        0 => table(stream),
        1 => stories(stream),
        _ => statements(stream),
    }
}

/// One number and all of one to seven.
fn table(stream: &mut Stream) -> String {
    let fixed = 1 + stream.below(7);
    let first = stream.chance(0.5);
    let rows: Vec<String> = (1..=7)
        .map(|other| {
            let numbers = if first { [fixed, other] } else { [other, fixed] };
            format!("{} is {}.", expression(&numbers), NUMBERS[fixed + other])
        })
        .collect();
    rows.join("\n")
}

fn statements(stream: &mut Stream) -> String {
    let rows: Vec<String> = (0..6 + stream.below(5))
        .map(|_| {
            let numbers = addends(stream);
            let total = NUMBERS[numbers.iter().sum::<usize>()];
            let expression = expression(&numbers);
            match stream.below(3) {
                0 => format!("{} is {total}.", capitalised(&expression)),
                1 => format!("If you add up {expression}, you get {total}."),
                _ => format!("The sum of {expression} is {total}."),
            }
        })
        .collect();
    rows.join(" ")
}

/// Such as: Anna has two hats and gets three more. Now Anna has five hats.
fn stories(stream: &mut Stream) -> String {
    let rows: Vec<String> = (0..3 + stream.below(3))
        .map(|_| {
            let (a, b) = (1 + stream.below(7), 1 + stream.below(7));
            let (name, pronoun) = *stream.pick(&PEOPLE);
            let object = *stream.pick(&OBJECTS);
            let (x, y, total) = (NUMBERS[a], NUMBERS[b], NUMBERS[a + b]);
            let s = if a == 1 { "" } else { "s" };
            format!(
                "{name} has {x} {object}{s} and gets {y} more. {} plus {y} is {total}, so {pronoun} has {total} {object}s.",
                capitalised(x)
            )
        })
        .collect();
    rows.join(" ")
}

/// With its first letter in upper case.
fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}
