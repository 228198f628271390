//! Values of JSON as messages show them.

use serde_json::Value;

/// A value in at most so many characters, and what kind it is where it would be long.
pub(crate) fn shown(value: &Value, most: usize) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(items) => format!("a list of {}", items.len()),
        other => {
            let text = other.to_string();
            match text.char_indices().nth(most) {
                Some((end, _)) => format!("{}...", &text[..end]),
                None => text,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn long_values_are_cut_between_characters() {
        assert_eq!(shown(&json!({"a": 1}), 4), "an object");
        assert_eq!(shown(&json!([1, 2]), 4), "a list of 2");
        assert_eq!(shown(&json!(1234), 4), "1234");
        assert_eq!(shown(&json!("äöü"), 3), "\"äö...");
    }
}
