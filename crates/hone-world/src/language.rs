//! The invented language: a lexicon made from syllables, and one rule.
//!
//! Nouns end in `o`, adjectives in `a`, verbs in `i`; an adjective follows its noun. There are no articles.

use hone_math::Key;

use crate::words::{ADJECTIVES, NOUNS, VERBS};

/// The language's name.
pub const LANGUAGE: &str = "Lumi";

const CONSONANTS: [char; 14] = ['b', 'd', 'f', 'g', 'k', 'l', 'm', 'n', 'p', 'r', 's', 't', 'v', 'z'];
const VOWELS: [char; 5] = ['a', 'e', 'i', 'o', 'u'];
/// English words and names that the syllables could spell.
const AVOIDED: [&str; 16] = [
    "data", "dodo", "gogo", "lima", "mama", "papa", "polo", "sofa", "soda", "solo", "taxi", "tofu", "nazi", "lumi",
    "pita", "puma",
];

/// One word in both languages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) english: &'static str,
    pub(crate) lumi: String,
    /// Never asked in demonstrations, rankings or training prompts.
    pub(crate) held_out: bool,
}

/// The words of the language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lexicon {
    pub(crate) nouns: Vec<Entry>,
    pub(crate) adjectives: Vec<Entry>,
    pub(crate) verbs: Vec<Entry>,
}

impl Lexicon {
    pub(crate) fn new(key: Key) -> Self {
        let mut taken: Vec<String> = AVOIDED.iter().map(|word| (*word).to_owned()).collect();
        Self {
            nouns: entries(key.child(0), &NOUNS, 'o', &mut taken),
            adjectives: entries(key.child(1), &ADJECTIVES, 'a', &mut taken),
            verbs: entries(key.child(2), &VERBS, 'i', &mut taken),
        }
    }

    /// All pairs of English word and invented word: nouns, adjectives, verbs.
    pub fn pairs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.entries().map(|entry| (entry.english, entry.lumi.as_str()))
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.nouns.iter().chain(&self.adjectives).chain(&self.verbs)
    }
}

/// Invented words for the English ones; one in eight is held out.
fn entries(key: Key, english: &[&'static str], ending: char, taken: &mut Vec<String>) -> Vec<Entry> {
    let held_out = &key.child(0).permutation(english.len())[..english.len() / 8 + 1];
    let mut stream = key.child(1).stream();
    let mut made = Vec::with_capacity(english.len());
    for (i, word) in english.iter().copied().enumerate() {
        let lumi = loop {
            let first = *stream.pick(&CONSONANTS);
            let vowel = *stream.pick(&VOWELS);
            let second = *stream.pick(&CONSONANTS);
            let candidate = String::from_iter([first, vowel, second, ending]);
            if !taken.contains(&candidate) {
                break candidate;
            }
        };
        taken.push(lumi.clone());
        made.push(Entry {
            english: word,
            lumi,
            held_out: held_out.contains(&i),
        });
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forty_distinct_words_that_follow_the_endings() {
        for seed in 0..20 {
            let lexicon = Lexicon::new(Key::new(seed, "test", 0));
            let mut words: Vec<&str> = lexicon.pairs().map(|pair| pair.1).collect();
            assert_eq!(words.len(), 40);
            assert!(lexicon.nouns.iter().all(|entry| entry.lumi.ends_with('o')));
            assert!(lexicon.adjectives.iter().all(|entry| entry.lumi.ends_with('a')));
            assert!(lexicon.verbs.iter().all(|entry| entry.lumi.ends_with('i')));
            assert_eq!(lexicon.entries().filter(|entry| entry.held_out).count(), 3 + 2 + 2);
            words.sort_unstable();
            words.dedup();
            assert_eq!(words.len(), 40);
        }
    }
}
