//! Golden files, and what counts as agreement with them.

use serde_json::Value;

pub fn golden(name: &str) -> Value {
    let path = format!(
        "{}/../../parity/golden/objectives/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    serde_json::from_str(&std::fs::read_to_string(&path).expect(&path)).expect(&path)
}

pub fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

pub fn wide(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(number).collect()
}

pub fn single(value: &Value) -> Vec<f32> {
    wide(value).into_iter().map(|x| x as f32).collect()
}

pub fn flags(value: &Value) -> Vec<bool> {
    value
        .as_array()
        .expect("an array")
        .iter()
        .map(|x| x.as_bool().expect("true or false"))
        .collect()
}

pub fn sizes(value: &Value) -> Vec<usize> {
    wide(value).into_iter().map(|x| x as usize).collect()
}

pub fn count(mask: &[bool]) -> u64 {
    mask.iter().filter(|&&counts| counts).count() as u64
}

/// Sums are `f64` on both sides.
pub fn close(what: &str, got: f64, expected: &Value) {
    let expected = number(expected);
    assert!(
        (got - expected).abs() <= 1e-12 * (1.0 + expected.abs()),
        "{what}: {got} {expected}"
    );
}

/// Gradients are rounded to `f32` once; advantages once more on the way.
pub fn all_close(what: &str, got: &[f32], expected: &Value) {
    let expected = wide(expected);
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(
            (f64::from(got) - expected).abs() <= 2.5e-7 * (1e-3 + expected.abs()),
            "{what}[{i}]: {got} {expected}"
        );
    }
}
