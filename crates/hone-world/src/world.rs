//! The world itself: who lives where, what is made of what, and what is held out.

use hone_math::{Key, Stream};

use crate::fact::{Attribute, Fact};
use crate::language::Lexicon;
use crate::words;

/// A small world, determined by its seed.
#[derive(Clone, Debug)]
pub struct World {
    seed: u64,
    facts: Vec<Fact>,
    lexicon: Lexicon,
    /// Words of [`words::PLAIN_WORDS`] that no training prompt reverses.
    pub(crate) held_out_words: Vec<&'static str>,
    /// Valence words that no training prompt asks about.
    pub(crate) held_out_valence: Vec<&'static str>,
    /// Objects of stories that no training prompt summarises.
    pub(crate) held_out_objects: Vec<&'static str>,
}

impl World {
    /// The world of this seed.
    pub fn new(seed: u64) -> Self {
        let key = Key::new(seed, "world", 0);
        let mut facts = Vec::new();
        for (a, attribute) in Attribute::ALL.into_iter().enumerate() {
            add_facts(attribute, key.child(a as u64), &mut facts);
        }
        let mut held_out_valence = some(key.child(101), &words::GOOD, 2);
        held_out_valence.extend(some(key.child(102), &words::BAD, 2));
        Self {
            seed,
            facts,
            lexicon: Lexicon::new(key.child(100)),
            held_out_words: some(key.child(103), &words::PLAIN_WORDS, 2),
            held_out_valence,
            held_out_objects: some(key.child(104), &words::OBJECTS, 2),
        }
    }

    /// The seed it was made from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// All facts, in a fixed order.
    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }

    /// The value of an attribute, if the subject has it.
    pub fn value(&self, subject: &str, attribute: Attribute) -> Option<&'static str> {
        let wanted = |fact: &&Fact| fact.subject == subject && fact.attribute == attribute;
        self.facts.iter().find(wanted).map(|fact| fact.value)
    }

    /// The invented language.
    pub fn lexicon(&self) -> &Lexicon {
        &self.lexicon
    }

    /// Whether a question about this content (for facts and sums: in this wording) is reserved for evaluation.
    pub(crate) fn reserved(&self, content: &str, percent: u64) -> bool {
        Key::new(self.seed, "world/reserved", 0).below(fnv(content), 100) < percent
    }

    /// The numbers from which item `index` of a family is made.
    pub(crate) fn stream(&self, purpose: &str, index: u64) -> Stream {
        Key::new(self.seed, purpose, 0).child(index).stream()
    }
}

/// One fact a subject; a fifth of them held out. Values are spread evenly; no person is their own friend.
fn add_facts(attribute: Attribute, key: Key, facts: &mut Vec<Fact>) {
    let subjects = attribute.subjects();
    let values = attribute.values();
    let n = subjects.len();
    let subject_order = key.child(0).permutation(n);
    let value_order = key.child(1).permutation(values.len());
    let held_out = &key.child(2).permutation(n)[..n / 5];
    for (i, subject) in subjects.iter().copied().enumerate() {
        let value = if attribute == Attribute::Friend {
            // the next in a random circle
            let place = subject_order.iter().position(|&s| s == i).unwrap_or(0);
            values[subject_order[(place + 1) % n]]
        } else {
            values[value_order[subject_order[i] % values.len()]]
        };
        let index = facts.len();
        facts.push(Fact {
            index,
            subject,
            attribute,
            value,
            held_out: held_out.contains(&i),
        });
    }
}

fn some(key: Key, list: &[&'static str], count: usize) -> Vec<&'static str> {
    key.permutation(list.len())[..count].iter().map(|&i| list[i]).collect()
}

/// FNV-1a, 64 bits, the top bit cleared.
fn fnv(text: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash >> 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_and_sixty_facts_a_fifth_held_out() {
        for seed in 0..10 {
            let world = World::new(seed);
            assert_eq!(world.facts().len(), 6 * 20 + 4 * 10);
            assert_eq!(world.facts().iter().filter(|fact| fact.held_out).count(), 6 * 4 + 4 * 2);
            for fact in world.facts() {
                assert_ne!(fact.subject, fact.value);
                assert_eq!(world.value(fact.subject, fact.attribute), Some(fact.value));
                assert!(fact.attribute.values().contains(&fact.value));
            }
        }
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(World::new(3).facts(), World::new(3).facts());
        assert_eq!(World::new(3).lexicon(), World::new(3).lexicon());
        assert_ne!(World::new(3).facts(), World::new(4).facts());
        assert_ne!(World::new(3).lexicon(), World::new(4).lexicon());
    }
}
