use super::{Verdict, Verifier};
use crate::{Error, PromptRow};
use serde_json::Value;

/// The response has a stated form, whatever it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Sections(Vec<String>),
    Json(Vec<String>),
}

impl Format {
    /// `<name>...</name>` for each name, once and in this order, each with something in it, and nothing but white space outside: the form of
    /// a reasoning followed by an answer.
    ///
    /// # Errors
    /// No name; a name that is empty, repeated, or has other characters than letters, digits, `-` and `_`.
    pub fn sections<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let plain =
            |name: &String| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_');
        let repeated = names.iter().enumerate().any(|(i, name)| names[..i].contains(name));
        if names.is_empty() || repeated || !names.iter().all(plain) {
            return Err(Error::Setting {
                of: "verifier format",
                name: "sections",
                got: format!("{names:?}"),
                expected: "one or more different names of letters, digits, `-` and `_`",
            });
        }
        Ok(Self(Form::Sections(names)))
    }

    /// One JSON object and nothing else, with at least these keys.
    pub fn json<S: Into<String>>(keys: impl IntoIterator<Item = S>) -> Self {
        Self(Form::Json(keys.into_iter().map(Into::into).collect()))
    }
}

impl Verifier for Format {
    fn name(&self) -> &str {
        "format"
    }

    fn verify(&self, _row: &PromptRow, response: &str) -> Result<Verdict, Error> {
        let problem = match &self.0 {
            Form::Sections(names) => sections_problem(response, names),
            Form::Json(keys) => json_problem(response, keys),
        };
        Ok(match problem {
            Some(problem) => Verdict::fail(problem),
            None => Verdict::pass_if(true, "has the form"),
        })
    }
}

fn sections_problem(response: &str, names: &[String]) -> Option<String> {
    let mut rest = response.trim();
    for name in names {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        for tag in [&open, &close] {
            let times = response.matches(tag.as_str()).count();
            if times != 1 {
                return Some(format!("{tag} stands {times} times, expected once"));
            }
        }
        let Some(inside) = rest.strip_prefix(open.as_str()) else {
            return Some(format!("{open} expected before {:?}", crate::sample::shortened(rest)));
        };
        let Some((inside, after)) = inside.split_once(close.as_str()) else {
            return Some(format!("{close} stands before {open}"));
        };
        if inside.trim().is_empty() {
            return Some(format!("{open} is empty"));
        }
        rest = after.trim_start();
    }
    (!rest.is_empty()).then(|| format!("{:?} after the last section", crate::sample::shortened(rest)))
}

fn json_problem(response: &str, keys: &[String]) -> Option<String> {
    match serde_json::from_str::<Value>(response.trim()) {
        Ok(Value::Object(object)) => keys
            .iter()
            .find(|key| !object.contains_key(key.as_str()))
            .map(|key| format!("the object has no key {key:?}")),
        Ok(_) => Some("JSON, but not an object".to_owned()),
        Err(error) => Some(format!("not JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(format: &Format, response: &str) -> (bool, String) {
        let verdict = format.verify(&PromptRow::new("?"), response).unwrap();
        (verdict.passes(), verdict.detail)
    }

    #[test]
    fn sections_in_order_once_and_filled() {
        let format = Format::sections(["think", "answer"]).unwrap();
        assert!(detail(&format, "<think>1+1</think>\n<answer>2</answer>\n").0);
        let problems = [
            (
                "<answer>2</answer><think>1</think>",
                "<think> expected before \"<answer>2</answer><think>1</think>\"",
            ),
            ("<think>1</think>", "<answer> stands 0 times, expected once"),
            (
                "<think>1</think><think>2</think><answer>2</answer>",
                "<think> stands 2 times, expected once",
            ),
            ("<think> </think><answer>2</answer>", "<think> is empty"),
            (
                "</think><think><answer>2</answer>",
                "<think> expected before \"</think><think><answer>2</answer>\"",
            ),
            (
                "<think>1</think>so<answer>2</answer>",
                "<answer> expected before \"so<answer>2</answer>\"",
            ),
            ("<think>1</think><answer>2</answer> ok", "\"ok\" after the last section"),
            ("", "<think> stands 0 times, expected once"),
        ];
        for (response, problem) in problems {
            assert_eq!(detail(&format, response), (false, problem.to_owned()));
        }
        // A section inside another is not after it
        assert!(!detail(&format, "<think>1<answer>2</answer></think>").0);
    }

    #[test]
    fn names_of_sections_are_checked() {
        for names in [&[][..], &["a", "a"], &[""], &["a>"]] {
            assert!(Format::sections(names.iter().copied()).is_err(), "{names:?}");
        }
    }

    #[test]
    fn json_objects_with_keys() {
        let format = Format::json(["city", "year"]);
        assert!(detail(&format, " {\"city\": \"Paris\", \"year\": null, \"more\": 1}\n").0);
        assert_eq!(
            detail(&format, "{\"city\": 1}"),
            (false, "the object has no key \"year\"".to_owned())
        );
        assert_eq!(detail(&format, "[1]"), (false, "JSON, but not an object".to_owned()));
        assert!(
            detail(&format, "{\"city\": 1, \"year\": 2} done")
                .1
                .starts_with("not JSON")
        );
        // Deep nesting is an answer like any other, not a crash
        assert!(!detail(&format, &"[".repeat(100_000)).0);
    }
}
