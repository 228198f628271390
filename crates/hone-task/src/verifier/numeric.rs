use super::{Verdict, Verifier};
use crate::sample::shortened;
use crate::{Problem, Sample};

/// The response's final number equals the reference's.
///
/// The final number is the first one after the last marker (`####`, as GSM8K ends its answers). Where there is no marker it is the last
/// number of the text if `fallback` allows it. References are read with the fallback always. Numbers are compared as decimals, digit by
/// digit: `1,000.50` equals `1000.5`, and no rounding decides.
///
/// Source: Cobbe et al., "Training verifiers to solve math word problems", 2021 (GSM8K).
#[derive(Clone, Debug)]
pub struct Numeric {
    /// The column that holds the reference: a number, or a text whose last number it is.
    pub column: String,
    /// What announces the final number; empty: nothing does.
    pub marker: String,
    /// Whether the last number of a response without the marker counts.
    pub fallback: bool,
}

impl Numeric {
    /// The final number of a text in its shortest form.
    pub(crate) fn of(&self, text: &str, fallback: bool) -> Option<String> {
        if !self.marker.is_empty()
            && let Some(at) = text.rfind(&self.marker)
        {
            let text = &text[at + self.marker.len()..];
            let found = found(text).next()?;
            let sign = text[..found.start].trim_matches(|c: char| c.is_whitespace() || CURRENCIES.contains(&c));
            let apart = matches!(sign, "-" | "\u{2013}" | "\u{2212}")
                && found.shortest != "0"
                && !found.shortest.starts_with('-');
            return found
                .alone(text)
                .map(|number| if apart { format!("-{number}") } else { number });
        }
        if fallback {
            found(text).last()?.alone(text)
        } else {
            None
        }
    }
}

const CURRENCIES: [char; 3] = ['$', '€', '£'];

impl Verifier for Numeric {
    fn verify(&self, sample: &Sample<'_>) -> Result<Verdict, Problem> {
        let mut expected = Vec::new();
        for reference in sample.row.references(&self.column)? {
            expected.push(self.of(&reference, true).ok_or_else(|| Problem::BadColumn {
                column: self.column.clone(),
                got: shortened(&format!("{reference:?}")),
                expected: "a number, or a text that ends in one",
            })?);
        }
        let Some(got) = self.of(sample.response, self.fallback) else {
            let marked = sample.response.contains(&self.marker);
            return Ok(Verdict::fail(if !self.fallback && !marked {
                format!("no {:?} in the response", self.marker)
            } else {
                "no number where the answer should stand".to_owned()
            }));
        };
        let detail = format!("{}, expected {}", shortened(&got), shortened(&expected.join(" or ")));
        Ok(Verdict::pass_if(expected.contains(&got), detail))
    }
}

/// The numbers of a text from left to right, each in its shortest form.
///
/// A number is digits with an optional fraction, an optional sign and an optional exponent (`2.5e3`). Commas belong to it where groups of
/// three digits follow. A minus sign after a digit, letter or closing bracket is an operator. Currency and percent signs are passed over.
pub(super) fn numbers(text: &str) -> impl Iterator<Item = String> + '_ {
    found(text).map(|found| found.shortest)
}

/// A number in a text.
struct Found {
    start: usize,
    end: usize,
    shortest: String,
}

impl Found {
    /// The number, unless it is a part of something else that digits are written for: a fraction, a power, a time, `1{,}000`.
    fn alone(self, text: &str) -> Option<String> {
        let before: &str = &text[..self.start];
        let after: &str = &text[self.end..];
        let joined = before.strip_suffix(['/', '^', ':']);
        let joined = joined.or_else(|| before.strip_suffix("{,}").or_else(|| before.strip_suffix("^{")));
        let ends_one = joined.is_some_and(|rest| rest.ends_with(|c: char| c.is_ascii_digit() || c == ')' || c == '}'));
        let joins = after.strip_prefix(['/', ':']).or_else(|| after.strip_prefix("{,}"));
        let begins_one = joins.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        (!ends_one && !begins_one && !after.starts_with('^')).then_some(self.shortest)
    }
}

fn found(text: &str) -> impl Iterator<Item = Found> + '_ {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let leading_point =
                bytes[at] == b'.' && digit(bytes, at + 1) && !(at > 0 && bytes[at - 1].is_ascii_digit());
            if bytes[at].is_ascii_digit() || leading_point {
                let start = at;
                let (whole, fraction, exponent);
                (whole, at) = whole_part(bytes, start);
                (fraction, at) = fraction_part(bytes, at);
                (exponent, at) = exponent_part(bytes, at);
                let shortest = shortest(
                    negative(&text[..start]),
                    whole + &fraction,
                    fraction.len() as i64 - exponent,
                );
                return Some(Found {
                    start,
                    end: at,
                    shortest,
                });
            }
            at += 1;
        }
        None
    })
}

fn digit(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(u8::is_ascii_digit)
}

/// A run of digits from `at`, and where it ends.
fn run(bytes: &[u8], at: usize) -> (String, usize) {
    let digits: String = bytes[at..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .map(|&byte| char::from(byte))
        .collect();
    let end = at + digits.len();
    (digits, end)
}

/// Digits with commas before groups of three.
fn whole_part(bytes: &[u8], at: usize) -> (String, usize) {
    let (mut digits, mut end) = run(bytes, at);
    let grouped = (1..=3).contains(&digits.len());
    while grouped && bytes.get(end) == Some(&b',') {
        let (group, next) = run(bytes, end + 1);
        if group.len() != 3 {
            break;
        }
        digits += &group;
        end = next;
    }
    (digits, end)
}

fn fraction_part(bytes: &[u8], at: usize) -> (String, usize) {
    if bytes.get(at) == Some(&b'.') && digit(bytes, at + 1) {
        run(bytes, at + 1)
    } else {
        (String::new(), at)
    }
}

/// The power of ten, 0 where there is none or where it is too large to write out.
fn exponent_part(bytes: &[u8], at: usize) -> (i64, usize) {
    if !matches!(bytes.get(at), Some(b'e' | b'E')) {
        return (0, at);
    }
    let sign = matches!(bytes.get(at + 1), Some(b'+' | b'-'));
    let (digits, end) = run(bytes, (at + 1 + usize::from(sign)).min(bytes.len()));
    match digits.parse::<i64>() {
        Ok(size) if size <= 400 => (if bytes[at + 1] == b'-' { -size } else { size }, end),
        _ => (0, at),
    }
}

/// Whether the text before a number ends in a minus sign that is no operator.
fn negative(before: &str) -> bool {
    let before = before.trim_end_matches(CURRENCIES);
    let Some(rest) = before.strip_suffix(['-', '\u{2212}']) else {
        return false;
    };
    !rest
        .trim_end_matches(CURRENCIES)
        .ends_with(|c: char| c.is_alphanumeric() || c == ')' || c == ']')
}

/// A decimal without zeros that say nothing: `digits` with the point `places` before their end.
fn shortest(negative: bool, mut digits: String, places: i64) -> String {
    let mut places = places;
    while places < 0 {
        digits.push('0');
        places += 1;
    }
    let places = places as usize;
    if digits.len() <= places {
        digits.insert_str(0, &"0".repeat(places + 1 - digits.len()));
    }
    let (whole, fraction) = digits.split_at(digits.len() - places);
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = if negative && !(whole == "0" && fraction.is_empty()) {
        "-"
    } else {
        ""
    };
    if fraction.is_empty() {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::PromptRow;

    fn numeric(fallback: bool) -> Numeric {
        Numeric {
            column: "answer".to_owned(),
            marker: "####".to_owned(),
            fallback,
        }
    }

    fn all(text: &str) -> Vec<String> {
        numbers(text).collect()
    }

    #[test]
    fn numbers_of_a_text() {
        assert_eq!(
            all("I had 3, then 12.50 and 1,234,567.0 left."),
            ["3", "12.5", "1234567"]
        );
        assert_eq!(all("$1,000 or $-5 or -$7 or \u{2212}8"), ["1000", "-5", "-7", "-8"]);
        assert_eq!(
            all("10-3=7, x-2, (1)-2, 4 - 1, -1"),
            ["10", "3", "7", "2", "1", "2", "4", "1", "-1"]
        );
        // Groups of two or four digits are lists
        assert_eq!(
            all("1,2 and 12,3456 and 1234,567"),
            ["1", "2", "12", "3456", "1234", "567"]
        );
        assert_eq!(all("007 -0 0.0 .5 1. 50%"), ["7", "0", "0", "0.5", "1", "50"]);
        assert_eq!(
            all("2.5e3 1E-2 3e 4e+ 5e999 6e"),
            ["2500", "0.01", "3", "4", "5", "999", "6"]
        );
        assert_eq!(all("3.1.4"), ["3.1", "4"]);
        assert_eq!(all("no number, été"), [""; 0]);
    }

    #[test]
    fn gsm8k_answers() {
        let row = PromptRow::new("How many?").with("answer", "She sells 16 - 3 = 13 eggs, 13 * 2 = $26.\n#### 1,026");
        let verifier = numeric(true);
        for right in [
            "#### 1026",
            "so 5 + 5\n#### $1,026.00 dollars, not 7",
            "The answer is 1026.",
            "1 #### 2 #### 1026",
        ] {
            assert!(verifier.verify(&Sample::new(&row, right)).unwrap().passes(), "{right}");
        }
        for wrong in [
            "#### 26",
            "1026 #### none",
            "",
            "1026 or 5",
            "#### -1026",
            "#### 1026.5",
        ] {
            assert!(!verifier.verify(&Sample::new(&row, wrong)).unwrap().passes(), "{wrong}");
        }
        assert_eq!(
            verifier.verify(&Sample::new(&row, "#### 26")).unwrap().detail,
            "26, expected 1026"
        );
    }

    #[test]
    fn parts_of_a_fraction_are_no_numbers_and_signs_may_stand_apart() {
        let passes = |reference: &str, response: &str| {
            let row = PromptRow::new("?").with("answer", reference);
            numeric(true).verify(&Sample::new(&row, response)).unwrap().passes()
        };
        for response in [
            "#### 3/4",
            "#### 10^6",
            "#### 3:30",
            "#### 1{,}000",
            "it is 1/3",
            "2^{3}",
            "5/3",
        ] {
            for reference in ["3", "4", "10", "6", "30", "1", "1000", "2", "0"] {
                assert!(!passes(reference, response), "{response} is not {reference}");
            }
        }
        for response in [
            "#### 5/hour",
            "\\boxed{5}",
            "#### 5: done",
            "at 3:30 there were 5.",
            "1/2 of 10 is 5",
        ] {
            assert!(passes("5", response), "{response}");
        }
        for response in ["#### - 5", "#### \u{2013}5", "#### \u{2212} $5", "#### -5", "#### $ -5"] {
            assert!(passes("-5", response) && !passes("5", response), "{response}");
        }
        assert!(passes("0", "#### - 0") && passes("-0.5", "#### - 0.5"));
        let row = PromptRow::new("?").with("answer", "#### 3/4");
        assert!(matches!(
            numeric(true).verify(&Sample::new(&row, "#### 3")),
            Err(Problem::BadColumn { .. })
        ));
    }

    #[test]
    fn a_required_marker_and_numbers_as_references() {
        let verifier = numeric(false);
        let row = PromptRow::new("?").with("answer", -0.5);
        assert!(verifier.verify(&Sample::new(&row, "#### -.50")).unwrap().passes());
        let verdict = verifier.verify(&Sample::new(&row, "-0.5")).unwrap();
        assert_eq!(
            (verdict.score, &verdict.detail[..]),
            (0.0, "no \"####\" in the response")
        );
        let bad = PromptRow::new("?").with("answer", "none");
        assert!(matches!(
            verifier.verify(&Sample::new(&bad, "1")),
            Err(Problem::BadColumn { .. })
        ));
        // Digits beyond what a double holds still count
        let row = PromptRow::new("?").with("answer", "9007199254740993");
        assert!(
            !verifier
                .verify(&Sample::new(&row, "#### 9007199254740992"))
                .unwrap()
                .passes()
        );
    }
}
