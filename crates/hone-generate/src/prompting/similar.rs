//! How alike texts are: the cosine of TF-IDF-weighted counts of character trigrams.
//!
//! A text is lower-cased, its white space collapsed, and a space put before and behind it; its trigrams are counted. A
//! trigram's weight in a text is its count times ln((1 + N)/(1 + d)) + 1, where d of the N texts have it (Salton and Buckley,
//! "Term-weighting approaches in automatic text retrieval", 1988, smoothed as is common). Characters rather than words, so that
//! inflected forms, numbers and scripts without spaces need no rules. Sums run over trigrams in the order of their characters,
//! so a similarity is the same to the bit on every machine.

use std::collections::{BTreeMap, HashMap};

/// Texts to which others are compared.
#[derive(Clone, Debug)]
pub struct Similarity {
    /// The number of each trigram, in alphabetical order.
    numbers: HashMap<[char; 3], usize>,
    /// ln((1 + N)/(1 + d)) + 1 of each.
    rarity: Vec<f64>,
    /// Of each trigram the texts that have it, in order, with its weight there divided by the text's length.
    postings: Vec<Vec<(usize, f64)>>,
    texts: usize,
}

impl Similarity {
    /// Of these texts.
    pub fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let counted: Vec<_> = texts.map(trigrams).collect();
        let mut having: BTreeMap<[char; 3], usize> = BTreeMap::new();
        for trigram in counted.iter().flat_map(BTreeMap::keys) {
            *having.entry(*trigram).or_default() += 1;
        }
        let n = counted.len();
        let rarity = having
            .values()
            .map(|&d| hone_math::ln((1 + n) as f64 / (1 + d) as f64) + 1.0)
            .collect();
        let numbers = having
            .keys()
            .enumerate()
            .map(|(number, trigram)| (*trigram, number))
            .collect();
        let mut index = Self {
            numbers,
            rarity,
            postings: vec![Vec::new(); having.len()],
            texts: n,
        };
        for (text, counts) in counted.iter().enumerate() {
            let weights = index.weights(counts);
            let length = length(&weights);
            for (number, weight) in weights {
                index.postings[number].push((text, weight / length));
            }
        }
        index
    }

    /// The cosine of a text with each of the others, from 0 to 1, in their order.
    pub fn to(&self, text: &str) -> Vec<f64> {
        let weights = self.weights(&trigrams(text));
        let length = length(&weights);
        let mut cosines = vec![0.0; self.texts];
        for (number, weight) in weights {
            for &(other, its) in &self.postings[number] {
                cosines[other] += weight / length * its;
            }
        }
        cosines
    }

    /// The known trigrams of a text by their numbers, ascending, with their weights.
    fn weights(&self, counts: &BTreeMap<[char; 3], u32>) -> Vec<(usize, f64)> {
        let known = counts
            .iter()
            .filter_map(|(trigram, &count)| Some((*self.numbers.get(trigram)?, count)));
        known
            .map(|(number, count)| (number, f64::from(count) * self.rarity[number]))
            .collect()
    }
}

/// The Euclidean length; 1 where there is nothing.
fn length(weights: &[(usize, f64)]) -> f64 {
    let squares: f64 = weights.iter().map(|(_, weight)| weight * weight).sum();
    if squares > 0.0 { squares.sqrt() } else { 1.0 }
}

fn trigrams(text: &str) -> BTreeMap<[char; 3], u32> {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    let padded: Vec<char> = format!(" {} ", words.join(" ")).chars().collect();
    let mut counts = BTreeMap::new();
    for window in padded.windows(3) {
        *counts.entry([window[0], window[1], window[2]]).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_by_hand() {
        // " ab ", " ab " and " cd ": trigrams " ab" and "ab ", " cd" and "cd "
        let index = Similarity::new(["AB", " ab\n", "cd"].into_iter());
        let close = |got: Vec<f64>, expected: [f64; 3]| {
            for (got, expected) in got.into_iter().zip(expected) {
                assert!((got - expected).abs() < 1e-15, "{got} {expected}");
            }
        };
        close(index.to("ab"), [1.0, 1.0, 0.0]);
        close(index.to("xyz"), [0.0; 3]);
        close(index.to(""), [0.0; 3]);
        // " ab", "ab ", "b c", " cd", "cd ": "b c" is in none of the texts and does not count
        let (ab, cd) = ((4f64 / 3.0).ln() + 1.0, (4f64 / 2.0).ln() + 1.0);
        let whole = (2.0 * ab * ab + 2.0 * cd * cd).sqrt();
        let expected = |own: f64| 2.0 * own * own / (whole * (2.0 * own * own).sqrt());
        close(index.to("ab cd"), [expected(ab), expected(ab), expected(cd)]);
    }

    #[test]
    fn what_is_rare_says_more_than_what_all_have() {
        let texts = [
            "What is the capital of France?",
            "What is the capital of Peru?",
            "What is the price of bread?",
        ];
        let index = Similarity::new(texts.into_iter());
        let cosines = index.to("What is the price of a capital ship?");
        assert!(cosines[2] > cosines[1], "{cosines:?}");
        let cosines = index.to("Peru: what is its capital?");
        assert!(cosines[1] > cosines[0] && cosines[0] > cosines[2], "{cosines:?}");
    }
}
