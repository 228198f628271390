use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is ignored when two answers are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// Nothing.
    Verbatim,
    /// White space at the ends, and how much of it there is in between.
    Whitespace,
    /// Also upper and lower case.
    #[default]
    CaseInsensitive,
    /// Also ASCII punctuation and the English articles: SQuAD's rule (Rajpurkar et al., 2016, evaluation script). Signs and
    /// decimal points are punctuation to it: -1.5 equals 15.
    Squad,
}

impl Normalization {
    /// The text with what is ignored removed.
    ///
    /// A text of which nothing would be left ("The", "?!") keeps its punctuation and articles, so that it still differs from others.
    pub fn apply(self, text: &str) -> String {
        match self {
            Self::Verbatim => text.to_owned(),
            Self::Whitespace => collapse(text),
            Self::CaseInsensitive => collapse(&text.to_lowercase()),
            Self::Squad => {
                let lower = text.to_lowercase();
                let bare: String = lower.chars().filter(|c| !c.is_ascii_punctuation()).collect();
                let words: Vec<&str> = bare
                    .split_whitespace()
                    .filter(|word| !matches!(*word, "a" | "an" | "the"))
                    .collect();
                if words.is_empty() {
                    collapse(&lower)
                } else {
                    words.join(" ")
                }
            }
        }
    }
}

fn collapse(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_by_hand() {
        let text = "  The  Eiffel-Tower,\n in Paris! ";
        assert_eq!(Normalization::Verbatim.apply(text), text);
        assert_eq!(Normalization::Whitespace.apply(text), "The Eiffel-Tower, in Paris!");
        assert_eq!(
            Normalization::CaseInsensitive.apply(text),
            "the eiffel-tower, in paris!"
        );
        assert_eq!(Normalization::Squad.apply(text), "eiffeltower in paris");
    }

    #[test]
    fn articles_are_words_and_something_is_always_left() {
        assert_eq!(Normalization::Squad.apply("a theatre, an anthem"), "theatre anthem");
        assert_eq!(Normalization::Squad.apply("The"), "the");
        assert_eq!(Normalization::Squad.apply("?!"), "?!");
        assert_eq!(Normalization::Squad.apply(" "), "");
        assert_eq!(Normalization::Squad.apply("ÉTÉ"), "été");
    }
}
