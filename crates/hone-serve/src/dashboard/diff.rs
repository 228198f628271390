//! What changed between two texts, word by word.

use serde_json::{Value, json};

/// Products of word counts beyond which texts are not compared word by word: 4 million cells of 2 bytes.
const MOST_CELLS: usize = 4 << 20;

/// What became of a stretch of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Same,
    Deleted,
    Inserted,
}

/// A stretch of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub kind: Kind,
    pub text: String,
}

impl Part {
    pub fn to_json(&self) -> Value {
        let kind = match self.kind {
            Kind::Same => "same",
            Kind::Deleted => "deleted",
            Kind::Inserted => "inserted",
        };
        json!({"kind": kind, "text": self.text})
    }
}

/// The parts of which the texts are made: `Same` and `Deleted` in order are the old text, `Same` and `Inserted` the new one.
///
/// A longest common subsequence of words, each with the spaces before it. Texts of many thousand words that have neither
/// beginning nor end in common are given as replaced.
pub(super) fn words(old: &str, new: &str) -> Vec<Part> {
    let (old, new) = (split(old), split(new));
    // 1. What both begin and end with needs no table
    let start = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[start..], &new[start..]);
    let end = old_rest
        .iter()
        .rev()
        .zip(new_rest.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (old_middle, new_middle) = (&old_rest[..old_rest.len() - end], &new_rest[..new_rest.len() - end]);
    let mut parts = Parts::default();
    old[..start].iter().for_each(|word| parts.push(Kind::Same, word));
    // 2. The middle
    if old_middle.len().saturating_mul(new_middle.len()) > MOST_CELLS || old_middle.len().max(new_middle.len()) > 60_000
    {
        old_middle.iter().for_each(|word| parts.push(Kind::Deleted, word));
        new_middle.iter().for_each(|word| parts.push(Kind::Inserted, word));
    } else {
        common(old_middle, new_middle, &mut parts);
    }
    old_rest[old_middle.len()..]
        .iter()
        .for_each(|word| parts.push(Kind::Same, word));
    parts.0
}

#[derive(Default)]
struct Parts(Vec<Part>);

impl Parts {
    fn push(&mut self, kind: Kind, word: &str) {
        match self.0.last_mut() {
            Some(last) if last.kind == kind => last.text.push_str(word),
            _ => self.0.push(Part {
                kind,
                text: word.to_owned(),
            }),
        }
    }
}

/// Words, each with the spaces before it; spaces at the end are a word of their own.
fn split(text: &str) -> Vec<&str> {
    let (mut words, mut begin, mut inside) = (Vec::new(), 0, false);
    for (at, character) in text.char_indices() {
        if character.is_whitespace() && inside {
            words.push(&text[begin..at]);
            begin = at;
        }
        inside = !character.is_whitespace();
    }
    if begin < text.len() {
        words.push(&text[begin..]);
    }
    words
}

fn common(old: &[&str], new: &[&str], parts: &mut Parts) {
    // length[i][j]: the longest common subsequence of old[i..] and new[j..]
    let width = new.len() + 1;
    let mut length = vec![0_u16; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            length[i * width + j] = if old[i] == new[j] {
                length[(i + 1) * width + j + 1] + 1
            } else {
                length[(i + 1) * width + j].max(length[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            parts.push(Kind::Same, old[i]);
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && length[(i + 1) * width + j] >= length[i * width + j + 1]) {
            parts.push(Kind::Deleted, old[i]);
            i += 1;
        } else {
            parts.push(Kind::Inserted, new[j]);
            j += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    fn shown(old: &str, new: &str) -> String {
        let mark = |part: &Part| match part.kind {
            Kind::Same => part.text.clone(),
            Kind::Deleted => format!("[-{}-]", part.text),
            Kind::Inserted => format!("[+{}+]", part.text),
        };
        words(old, new).iter().map(mark).collect()
    }

    #[test]
    fn words_are_the_unit() {
        assert_eq!(shown("the cat sat", "the dog sat"), "the[- cat-][+ dog+] sat");
        assert_eq!(shown("a b c", "a c"), "a[- b-] c");
        assert_eq!(shown("a c", "a b c"), "a[+ b+] c");
        assert_eq!(shown("same words", "same words"), "same words");
        assert_eq!(shown("", "new"), "[+new+]");
        assert_eq!(shown("old", ""), "[-old-]");
        assert_eq!(shown("", ""), "");
        assert_eq!(
            shown("one two three four", "zero two four five"),
            "[-one-][+zero+] two[- three-] four[+ five+]"
        );
        assert_eq!(shown("a b", "a\nb"), "a[- b-][+\nb+]");
    }

    #[test]
    fn both_texts_are_in_the_parts() {
        let text = |key: Key| -> String {
            let count = key.below(0, 12);
            let word = |i| ["a", "b ", " c", "\n", "dd"][key.below(i, 5) as usize];
            (1..=count).map(word).collect()
        };
        for trial in 0..500 {
            let (old, new) = (text(Key::new(1, "old", trial)), text(Key::new(1, "new", trial)));
            let parts = words(&old, &new);
            let side = |without: Kind| -> String {
                let kept = parts.iter().filter(|part| part.kind != without);
                kept.map(|part| part.text.as_str()).collect()
            };
            assert_eq!(side(Kind::Inserted), old);
            assert_eq!(side(Kind::Deleted), new);
            assert!(parts.windows(2).all(|two| two[0].kind != two[1].kind), "{parts:?}");
        }
    }

    #[test]
    fn very_long_texts_are_replaced() {
        let long = |word: &str| format!("same {} end", format!("{word} ").repeat(5_000));
        let parts = words(&long("x"), &long("y"));
        let kinds: Vec<Kind> = parts.iter().map(|part| part.kind).collect();
        assert_eq!(kinds, [Kind::Same, Kind::Deleted, Kind::Inserted, Kind::Same]);
    }
}
