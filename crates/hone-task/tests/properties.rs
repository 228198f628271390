//! What holds for any response: rules judge whatever a model writes, without a panic and twice the same.

use hone_math::Key;
use hone_task::verifier::{Exact, Expression, Format, JsonSchemaRule, Length, Numeric, Pattern, Unit};
use hone_task::{Normalization, PromptRow, Sample, Verifier};

/// Pieces that mean something to one rule or another, and some that mean nothing.
const PIECES: &[&str] = &[
    "####",
    "42",
    "-",
    ".",
    ",",
    "1,000",
    "e",
    "e9",
    "$",
    " ",
    "\n",
    "<think>",
    "</think>",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "a\":",
    ":",
    "\\",
    "null",
    "é",
    "漢",
    "\u{202e}",
    "\0",
    "(",
    ")",
    "+",
    "*",
    "/",
    "if(",
    "words(response)",
    "'",
    "and",
    "not",
    "contains(",
    "Paris",
    "the",
];

fn text(key: Key) -> String {
    let count = key.below(1000, 30);
    (0..count)
        .map(|i| PIECES[key.below(i, PIECES.len() as u64) as usize])
        .collect()
}

fn rules() -> Vec<(&'static str, Box<dyn Verifier>)> {
    let answer = || "answer".to_owned();
    let schema =
        serde_json::json!({"type": ["object", "array", "number"], "maxProperties": 3, "items": {"not": {"const": 42}}});
    vec![
        (
            "exact",
            Box::new(Exact {
                column: answer(),
                normalization: Normalization::Squad,
            }),
        ),
        (
            "numeric",
            Box::new(Numeric {
                column: answer(),
                marker: "####".to_owned(),
                fallback: true,
            }),
        ),
        (
            "regex",
            Box::new(Pattern::new(r"(?P<answer>\d+)", "answer", Normalization::Verbatim).unwrap()),
        ),
        ("format", Box::new(Format::new(&["think".to_owned()], true).unwrap())),
        (
            "length",
            Box::new(Length::new(Unit::Words, 2, 4).unwrap().with_slope(3)),
        ),
        ("json-schema", Box::new(JsonSchemaRule::new(&schema).unwrap())),
    ]
}

#[test]
fn any_response_gets_a_score_from_0_to_1_and_the_same_twice() {
    let row = PromptRow::new("?").with("answer", "42");
    let rules = rules();
    let mut seen = std::collections::BTreeMap::new();
    for i in 0..20_000 {
        let response = text(Key::new(1, "response", i));
        for (name, rule) in &rules {
            let verdict = rule
                .verify(&Sample::new(&row, &response))
                .unwrap_or_else(|e| panic!("{name}: {response:?}: {e}"));
            assert!((0.0..=1.0).contains(&verdict.score), "{name}: {response:?}");
            assert_eq!(rule.verify(&Sample::new(&row, &response)).unwrap(), verdict);
            let (right, wrong): &mut (u32, u32) = seen.entry(*name).or_default();
            *(if verdict.passes() { right } else { wrong }) += 1;
        }
    }
    for (name, (right, wrong)) in seen {
        assert!(right > 0 && wrong > 0, "{name}: {right} right, {wrong} wrong");
    }
}

#[test]
fn no_text_makes_an_expression_panic() {
    let row = PromptRow::new("?").with("answer", "42");
    let (mut read, mut scored) = (0, 0);
    for i in 0..200_000 {
        let source = text(Key::new(2, "source", i));
        if let Ok(expression) = Expression::new(&source) {
            read += 1;
            if let Ok(verdict) = expression.verify(&Sample::new(&row, "two words").with_tokens(2)) {
                assert!(verdict.score.is_finite(), "{source}");
                scored += 1;
            }
        }
    }
    assert!(read > 100 && scored > 100, "{read} {scored}");
}

#[test]
fn a_number_is_read_back_from_any_sentence_around_it() {
    let words = ["costs", "about", "in all,", "(so)", "$", "=", "x"];
    for i in 0..5000 {
        let key = Key::new(3, "number", i);
        let (whole, cents) = (key.below(0, 2_000_000) as i64 - 1_000_000, key.below(1, 100));
        let digits = whole.unsigned_abs().to_string();
        let mut grouped = String::new();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i) % 3 == 0 {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        let sign = if whole < 0 { "-" } else { "" };
        let spelled = format!(
            "{sign}{}.{cents:02}",
            if key.below(2, 2) == 0 { &grouped } else { &digits }
        );
        let before = words[key.below(3, 7) as usize];
        let row = PromptRow::new("?").with("answer", format!("{sign}{digits}.{cents:02}0"));
        let numeric = Numeric {
            column: "answer".to_owned(),
            marker: "####".to_owned(),
            fallback: true,
        };
        for response in [format!("It {before} {spelled}."), format!("7 #### {spelled} and 8")] {
            assert!(
                numeric.verify(&Sample::new(&row, &response)).unwrap().passes(),
                "{response}"
            );
        }
    }
}
