//! Columns of an input that are carried through to the output.

use serde_json::{Map, Value};

/// The columns of a row beside those that the output has for itself: one that bears such a name is called `input_NAME`, with
/// another `input_` before it should that be taken, too.
pub fn carried(columns: &Map<String, Value>, own: &[&str]) -> Map<String, Value> {
    let mut carried = Map::new();
    for (name, value) in columns {
        let mut free = name.clone();
        while own.contains(&free.as_str()) || free != *name && columns.contains_key(&free) {
            free.insert_str(0, "input_");
        }
        carried.insert(free, value.clone());
    }
    carried
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_is_lost_to_a_name() {
        let row = json!({"completion": 1, "answer": 2, "input_completion": 3, "prompt": 4});
        let found = carried(row.as_object().unwrap(), &["prompt", "completion"]);
        let expected = json!({"input_input_completion": 1, "answer": 2, "input_completion": 3, "input_prompt": 4});
        assert_eq!(Value::Object(found), expected);
    }
}
