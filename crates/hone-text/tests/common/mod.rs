//! Texts and tokenizers that several tests use.
#![allow(dead_code)]

use hone_text::{Tokenizer, TrainOptions, train_bpe};

/// A few hundred sentences with sums, made by rule.
pub fn corpus() -> Vec<String> {
    let things = ["apple", "river", "lantern", "sparrow", "window", "garden"];
    let verbs = ["sees", "carries", "remembers", "paints"];
    let mut texts = Vec::new();
    for (i, thing) in things.iter().enumerate() {
        for (j, verb) in verbs.iter().enumerate() {
            for (k, other) in things.iter().enumerate() {
                let (a, b) = (7 * i + j, 3 * k + 11);
                texts.push(format!(
                    "The {thing} {verb} the {other}; it's {a} + {b} = {}.\nDon't count the {other}s twice!",
                    a + b
                ));
            }
        }
    }
    texts
}

pub fn options(vocab_size: usize) -> TrainOptions {
    TrainOptions {
        vocab_size,
        ..TrainOptions::default()
    }
}

/// A small trained tokenizer with ChatML.
pub fn trained() -> Tokenizer {
    train_bpe(corpus().into_iter(), &options(320)).unwrap()
}

/// Numbers for tests, from a linear congruential generator.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    /// A string of characters from all planes, with control tokens and odd spaces among them.
    pub fn text(&mut self, length: usize) -> String {
        let pieces = [
            "<|im_end|>",
            "<|im_start|>",
            "<|endoftext|>",
            "\r\n",
            "\n\n\n",
            "   ",
            "\t",
            "\u{a0}",
            "\0",
            "é",
            "e\u{301}",
            "水",
            "👩‍👩‍👧",
            "\u{FDD0}",
            "\u{2581}",
            "<0x0A>",
            "'LL",
            "12345",
        ];
        let mut text = String::new();
        for _ in 0..length {
            match self.below(4) {
                0 => text.push_str(pieces[self.below(pieces.len() as u64) as usize]),
                1 => text.push((b' ' + self.below(95) as u8) as char),
                _ => text.extend(char::from_u32(self.below(0x11_0000) as u32)),
            }
        }
        text
    }
}
