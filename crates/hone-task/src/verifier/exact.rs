use super::{Verdict, Verifier};
use crate::sample::shortened;
use crate::{Normalization, Problem, Sample};

/// The response equals the reference, or one of several, but for what the normalisation ignores.
#[derive(Clone, Debug)]
pub struct Exact {
    /// The column that holds the reference or an array of them.
    pub column: String,
    /// What is ignored.
    pub normalization: Normalization,
}

impl Verifier for Exact {
    fn verify(&self, sample: &Sample<'_>) -> Result<Verdict, Problem> {
        let references = sample.row.references(&self.column)?;
        let got = self.normalization.apply(sample.response);
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
    use crate::PromptRow;
    use serde_json::json;

    fn exact(column: &str, normalization: Normalization) -> Exact {
        Exact {
            column: column.to_owned(),
            normalization,
        }
    }

    #[test]
    fn signs_and_points_count_unless_they_are_to_be_ignored() {
        let row = PromptRow::new("?").with("answer", -1.5);
        let passes = |normalization, response: &str| {
            let verdict = exact("answer", normalization).verify(&Sample::new(&row, response));
            verdict.unwrap().passes()
        };
        assert!(passes(Normalization::default(), " -1.5\n"));
        assert!(!passes(Normalization::default(), "15") && passes(Normalization::Squad, "15"));
    }

    #[test]
    fn normalised_answers_are_equal() {
        let row = PromptRow::new("Where is the Louvre?").with("answer", "Paris");
        let verifier = exact("answer", Normalization::Squad);
        for response in ["Paris", " paris.\n", "the Paris"] {
            assert!(
                verifier.verify(&Sample::new(&row, response)).unwrap().passes(),
                "{response}"
            );
        }
        for response in ["Paris, France", "Pari", ""] {
            assert_eq!(
                verifier.verify(&Sample::new(&row, response)).unwrap().score,
                0.0,
                "{response}"
            );
        }
    }

    #[test]
    fn any_of_several_references_will_do_and_case_can_count() {
        let row = PromptRow::new("?").with("gold", json!(["UK", "United Kingdom"]));
        let verifier = exact("gold", Normalization::Whitespace);
        assert!(verifier.verify(&Sample::new(&row, "United  Kingdom")).unwrap().passes());
        let verdict = verifier.verify(&Sample::new(&row, "uk")).unwrap();
        assert!(!verdict.passes());
        assert_eq!(verdict.detail, "\"uk\" is none of 2 references");
        assert!(verifier.verify(&Sample::new(&PromptRow::new("?"), "UK")).is_err());
    }
}
