//! The pre-training text: documents of five sources, each a function of (seed, source, index).

mod facts;
mod language;
mod stories;
mod sums;
mod worksheets;

use crate::World;

/// A source of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Short stories with dialogue, stories with their summary, reviews with their verdict.
    Stories,
    /// Facts about people, places and things, each restated in many ways.
    Facts,
    /// Pages of `Q:`/`A:` lines of one kind and one form of answer.
    Worksheets,
    /// The invented language: dictionary and phrase pages.
    Language,
    /// Sums written out in prose.
    Sums,
}

impl Source {
    /// All sources.
    pub const ALL: [Self; 5] = [Self::Stories, Self::Facts, Self::Worksheets, Self::Language, Self::Sums];

    /// The source's name, as in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stories => "stories",
            Self::Facts => "facts",
            Self::Worksheets => "worksheets",
            Self::Language => "language",
            Self::Sums => "sums",
        }
    }

    /// The source's share of the text.
    pub fn weight(self) -> f64 {
        match self {
            Self::Stories => 0.15,
            Self::Facts => 0.25,
            Self::Worksheets => 0.42,
            Self::Language => 0.10,
            Self::Sums => 0.08,
        }
    }
}

impl World {
    /// Document `index` of a source.
    pub fn document(&self, source: Source, index: u64) -> String {
        let mut stream = match source {
            Source::Stories => self.stream("world/text/stories", index),
            Source::Facts => self.stream("world/text/facts", index),
            Source::Worksheets => self.stream("world/text/worksheets", index),
            Source::Language => self.stream("world/text/language", index),
            Source::Sums => self.stream("world/text/sums", index),
        };
        match source {
            Source::Stories => stories::document(self, &mut stream),
            Source::Facts => facts::document(self, &mut stream),
            Source::Worksheets => worksheets::document(self, &mut stream),
            Source::Language => language::document(self, &mut stream),
            Source::Sums => sums::document(&mut stream),
        }
    }

    /// The first documents of a source, until they hold at least `bytes`.
    pub fn documents(&self, source: Source, bytes: usize) -> impl Iterator<Item = String> {
        let mut left = bytes;
        (0..).map_while(move |index| {
            if left == 0 {
                return None;
            }
            let document = self.document(source, index);
            left = left.saturating_sub(document.len());
            Some(document)
        })
    }

    /// About `bytes` of text: for each source its documents, in proportion to its weight.
    pub fn corpus(&self, bytes: usize) -> Vec<(Source, Vec<String>)> {
        Source::ALL
            .into_iter()
            .map(|source| {
                let share = (bytes as f64 * source.weight()) as usize;
                (source, self.documents(source, share).collect())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::reading::words_of;
    use crate::{Kind, Split};

    #[test]
    fn weights_make_one() {
        assert!((Source::ALL.map(Source::weight).iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn documents_are_functions_of_seed_and_index() {
        for source in Source::ALL {
            let document = World::new(1).document(source, 17);
            assert_eq!(document, World::new(1).document(source, 17));
            assert_ne!(document, World::new(1).document(source, 18));
            assert_ne!(document, World::new(2).document(source, 17));
            assert!(document.is_ascii() && document.trim() == document && !document.is_empty());
        }
    }

    /// Recorded: a change of these bytes changes every result that starts from the world, and belongs into the
    /// changelog.
    #[test]
    fn the_bytes_are_those_recorded() {
        let world = World::new(1);
        assert_eq!(
            world.document(Source::Worksheets, 4),
            "Q: Does the writer feel positive or negative? The music was lovely.\nA: positive.\nQ: Positive or negative? The garden was pleasant.\nA: positive.\nQ: Is this review positive or negative? The boat was disgusting and the soup was terrible.\nA: negative.\nQ: Positive or negative? The garden was splendid.\nA: positive.\nQ: Would you call these words positive or negative? The room was not noisy and the soup was superb.\nA: positive.\nQ: Is this review positive or negative? The bed was charming.\nA: positive.\nQ: Positive or negative? The bed was not awful.\nA: positive.\nQ: Would you call these words positive or negative? The waiter was broken and the boat was horrible.\nA: negative."
        );
        assert_eq!(
            world.document(Source::Language, 0),
            "fast child laughs is zamo lofa pofi. fast is lofa. big cow is mido beza. warm is nola. cold moon is vuto tuga. warm tree swims is seto nola zuli. red is lana."
        );
    }

    /// A tokenizer of about a thousand entries gives nearly every word its own only if there are few words.
    #[test]
    fn the_vocabulary_is_closed_and_small() {
        let world = World::new(1);
        let count = |bytes| {
            let corpus = world.corpus(bytes);
            let texts = corpus.iter().flat_map(|(_, documents)| documents);
            texts.flat_map(|text| words_of(text)).collect::<BTreeSet<_>>().len()
        };
        let (small, large) = (count(1_500_000), count(3_000_000));
        assert!((400..850).contains(&large), "{large} words");
        assert!(large - small <= 2, "{small} {large}");
    }

    /// Every fact and lexicon entry, held out or not, stands in the text many times.
    #[test]
    fn held_out_facts_are_in_the_text() {
        let world = World::new(1);
        let corpus = world.corpus(3_000_000);
        let text: String = corpus
            .iter()
            .flat_map(|(_, documents)| documents.concat().into_bytes())
            .map(char::from)
            .collect();
        for fact in world.facts() {
            let stated: usize = (0..6).map(|w| text.matches(&fact.statement(w)).count()).sum();
            assert!(stated >= 25, "{}: {stated}", fact.statement(0));
        }
        for (english, lumi) in world.lexicon().pairs() {
            assert!(text.matches(&format!("{english} is {lumi}")).count() >= 10, "{english}");
        }
    }

    /// What the evaluation asks of the open kinds stands nowhere in the text.
    #[test]
    fn reserved_contents_stay_out_of_the_text() -> Result<(), crate::Error> {
        let world = World::new(1);
        let corpus = world.corpus(2_000_000);
        let lines: BTreeSet<&str> = corpus
            .iter()
            .flat_map(|(_, documents)| documents)
            .flat_map(|text| text.lines())
            .collect();
        let mut asked = 0;
        for question in world.questions(1500, Split::HeldOut)? {
            let line = format!("Q: {}", question.text);
            let closed = matches!(question.kind, Kind::Fact | Kind::Sum);
            let single = question.kind == Kind::Translation && !question.answer.contains(' ');
            assert!(closed || single || !lines.contains(line.as_str()), "{line}");
            asked += usize::from(lines.contains(line.as_str()));
        }
        assert!(asked > 100, "worksheets ask the closed kinds too: {asked}");
        Ok(())
    }
}
