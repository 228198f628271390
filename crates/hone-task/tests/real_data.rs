//! Real answers, where `HONE_DATA` names the folder that holds them.

use std::io::{BufRead, BufReader};

use hone_task::verifier::Numeric;
use hone_task::{PromptRow, Sample, Verifier};

#[test]
fn the_answers_of_gsm8k_are_read_and_each_is_right_only_for_itself() {
    let Some(root) = std::env::var_os("HONE_DATA") else {
        return;
    };
    let path = std::path::Path::new(&root).join("instructions/gsm8k-train.jsonl.gz");
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = BufReader::new(flate2::read::GzDecoder::new(file)).lines();
    let numeric = |fallback| Numeric {
        column: "answer".to_owned(),
        marker: "####".to_owned(),
        fallback,
    };
    let mut rows = 0;
    let mut same_as_last = 0;
    let mut last = String::new();
    for line in lines {
        let row: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        let answer = row["answer"].as_str().unwrap().to_owned();
        let question = PromptRow::new(row["question"].as_str().unwrap()).with("answer", answer.clone());
        let judge = |response: &str, fallback| numeric(fallback).verify(&Sample::new(&question, response)).unwrap();
        assert!(judge(&answer, false).passes(), "{answer}");
        // The number alone, in its plain spelling, is right by the fallback and only by it
        let plain: String = answer.rsplit("####").next().unwrap().trim().replace(',', "");
        let sentence = format!("After 3 steps, the answer is ${plain}.00.");
        assert!(judge(&sentence, true).passes(), "{sentence}");
        assert!(!judge(&sentence, false).passes(), "{sentence}");
        // One more is wrong
        let more = format!(
            "#### {}",
            plain.parse::<i64>().unwrap_or_else(|e| panic!("{plain}: {e}")) + 1
        );
        assert!(!judge(&more, true).passes(), "{more}");
        same_as_last += usize::from(!last.is_empty() && judge(&last, false).passes());
        last = answer;
        rows += 1;
    }
    assert_eq!(rows, 7473);
    // Neighbours share their answer by chance only
    assert!(same_as_last < rows / 20, "{same_as_last} of {rows}");
}
