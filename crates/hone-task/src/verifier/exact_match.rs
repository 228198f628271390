use super::{Verdict, Verifier};
use crate::sample::shortened;
use crate::{Error, Normalization, PromptRow};

/// The response equals the reference, or one of several, but for what the normalisation ignores.
#[derive(Clone, Debug)]
pub struct ExactMatch {
    /// The column that holds the reference or an array of them.
    pub column: String,
    /// What is ignored.
    pub normalization: Normalization,
}

impl Default for ExactMatch {
    fn default() -> Self {
        Self {
            column: "answer".to_owned(),
            normalization: Normalization::default(),
        }
    }
}

impl Verifier for ExactMatch {
    fn name(&self) -> &str {
        "exact_match"
    }

    fn verify(&self, row: &PromptRow, response: &str) -> Result<Verdict, Error> {
        let references = row.references("exact_match", &self.column)?;
        let got = self.normalization.apply(response);
        let matching = references
            .iter()
            .find(|reference| self.normalization.apply(reference) == got);
        Ok(match matching {
            Some(reference) => Verdict::pass_if(true, format!("equals {:?}", shortened(reference))),
            None => Verdict::fail(format!(
                "{:?} is none of {} references",
                shortened(&got),
                references.len()
            )),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn normalised_answers_are_equal() {
        let row = PromptRow::new("Where is the Louvre?").with("answer", "Paris");
        let verifier = ExactMatch::default();
        for response in ["Paris", " paris.\n", "the Paris"] {
            assert!(verifier.verify(&row, response).unwrap().passes(), "{response}");
        }
        for response in ["Paris, France", "Pari", ""] {
            assert_eq!(verifier.verify(&row, response).unwrap().score, 0.0, "{response}");
        }
    }

    #[test]
    fn any_of_several_references_will_do_and_case_can_count() {
        let row = PromptRow::new("?").with("gold", json!(["UK", "United Kingdom"]));
        let verifier = ExactMatch {
            column: "gold".to_owned(),
            normalization: Normalization::Whitespace,
        };
        assert!(verifier.verify(&row, "United  Kingdom").unwrap().passes());
        let verdict = verifier.verify(&row, "uk").unwrap();
        assert!(!verdict.passes());
        assert_eq!(verdict.detail, "\"uk\" is none of 2 references");
        assert!(verifier.verify(&PromptRow::new("?"), "UK").is_err());
    }
}
