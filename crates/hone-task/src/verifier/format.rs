use super::{Verdict, Verifier};
use crate::sample::shortened;
use crate::{BadSetting, Problem, Sample};

/// `<name>...</name>` for each name, once and in this order, each with something in it: the form of a reasoning followed by an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    names: Vec<String>,
    text_outside: bool,
}

impl Format {
    /// Sections of these names; outside them nothing but white space may stand, unless `text_outside` says so.
    ///
    /// # Errors
    /// No name; a name that is empty, repeated, or has other characters than letters, digits, `-` and `_`.
    pub fn new(names: &[String], text_outside: bool) -> Result<Self, BadSetting> {
        let plain =
            |name: &String| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_');
        let repeated = names.iter().enumerate().any(|(i, name)| names[..i].contains(name));
        if names.is_empty() || repeated || !names.iter().all(plain) {
            return Err(BadSetting::new(
                "sections",
                format!("{names:?}"),
                "one or more different names of letters, digits, `-` and `_`",
            ));
        }
        Ok(Self {
            names: names.to_vec(),
            text_outside,
        })
    }

    /// What keeps the response from having the form.
    fn problem(&self, response: &str) -> Option<String> {
        let mut rest = response.trim();
        for name in &self.names {
            let (open, close) = (format!("<{name}>"), format!("</{name}>"));
            for tag in [&open, &close] {
                let times = response.matches(tag.as_str()).count();
                if times != 1 {
                    return Some(format!("{tag} stands {times} times, expected once"));
                }
            }
            let inside = match rest.split_once(open.as_str()) {
                Some((before, inside)) if before.trim().is_empty() || self.text_outside => inside,
                _ => return Some(format!("{open} expected before {:?}", shortened(rest))),
            };
            let Some((inside, after)) = inside.split_once(close.as_str()) else {
                return Some(format!("{close} stands before {open}"));
            };
            if inside.trim().is_empty() {
                return Some(format!("{open} is empty"));
            }
            rest = after.trim_start();
        }
        (!rest.is_empty() && !self.text_outside).then(|| format!("{:?} after the last section", shortened(rest)))
    }
}

impl Verifier for Format {
    fn verify(&self, sample: &Sample<'_>) -> Result<Verdict, Problem> {
        Ok(match self.problem(sample.response) {
            Some(problem) => Verdict::fail(problem),
            None => Verdict::pass_if(true, "has the form"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verifier::judged;

    fn of(names: &[&str], text_outside: bool) -> Result<Format, BadSetting> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Format::new(&names, text_outside)
    }

    #[test]
    fn sections_in_order_once_and_filled() {
        let format = of(&["think", "answer"], false).unwrap();
        assert!(judged(&format, "<think>1+1</think>\n<answer>2</answer>\n").passes());
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
            let verdict = judged(&format, response);
            assert_eq!((verdict.score, &verdict.detail[..]), (0.0, problem));
        }
        // A section inside another is not after it
        assert!(!judged(&format, "<think>1<answer>2</answer></think>").passes());
    }

    #[test]
    fn text_may_stand_outside_where_that_is_allowed() {
        let format = of(&["think", "answer"], true).unwrap();
        assert!(judged(&format, "Well. <think>1</think> So <answer>2</answer>. Done.").passes());
        assert!(!judged(&format, "Well. <answer>2</answer> So <think>1</think>").passes());
        assert!(!judged(&format, "<think>1<answer>2</answer></think>").passes());
    }

    #[test]
    fn names_of_sections_are_checked() {
        for names in [&[][..], &["a", "a"], &[""], &["a>"]] {
            assert!(of(names, false).is_err(), "{names:?}");
        }
    }
}
