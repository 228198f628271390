//! Rows of an input: whether they can be judged, and which of their columns are carried through to the output.

use hone_data::PromptInput;
use hone_task::{PromptRow, RewardEntry, Rewards};
use hone_world::Question;
use serde_json::{Map, Value, json};

use crate::error::{PipelineError, Result};

/// Refuses rows, each with its number from 0, to which a rule among these rewards cannot be applied, whatever the response.
///
/// # Errors
/// The first such row; rewards that make no sense.
pub(crate) fn check_rows(entries: &[RewardEntry], rows: &mut dyn Iterator<Item = (u64, PromptRow)>) -> Result<()> {
    match unreadable(entries, rows, 1)?.pop() {
        Some((row, reason)) => Err(PipelineError::Unscorable { row: row + 1, reason }),
        None => Ok(()),
    }
}

/// The first `most` rows, each with its number from 0, to which a rule among these rewards cannot be applied, whatever the response; and why.
///
/// # Errors
/// Rewards that make no sense.
pub(crate) fn unreadable(
    entries: &[RewardEntry],
    rows: &mut dyn Iterator<Item = (u64, PromptRow)>,
    most: usize,
) -> Result<Vec<(u64, String)>> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let rules = Rewards::rules_at("rewards", entries)?;
    let reason = |(number, row): (u64, PromptRow)| {
        let (entry, problem) = rules.unreadable(&row)?;
        Some((number, format!("{entry} cannot judge answers to it: {problem}")))
    };
    Ok(rows.filter_map(reason).take(most).collect())
}

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

/// What the small world's labeler reads beside a reply: the prompt's last turn and the columns `answer`, `kind` and `group`.
///
/// # Errors
/// The column that is missing or no such thing.
pub(crate) fn labeler_question(input: &PromptInput, columns: &Map<String, Value>) -> Result<Question, String> {
    let turns = input.to_messages().into_iter();
    let prompt: Vec<Value> = turns.map(|m| json!({ "role": m.role, "content": m.content })).collect();
    let of = |name: &str| columns.get(name).cloned().unwrap_or_default();
    let row = json!({ "prompt": prompt, "answer": of("answer"), "kind": of("kind"), "group": of("group") });
    let row: hone_world::PromptRow = serde_json::from_value(row).map_err(|e| e.to_string())?;
    Ok(Question::from(&row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_refused_by_the_place_of_the_rule_among_all_rewards() {
        let entries = serde_json::json!([
            { "kind": "model", "path": "m" }, { "kind": "program", "command": ["judge"] }, { "kind": "exact", "column": "gold" }
        ]);
        let entries: Vec<RewardEntry> = serde_json::from_value(entries).unwrap();
        let rows = [
            PromptRow::new("?").with("gold", "a"),
            PromptRow::new("?"),
            PromptRow::new("?"),
        ];
        let rows = || (0..).zip(rows.clone());
        let error = check_rows(&entries, &mut rows()).unwrap_err().to_string();
        assert!(
            error.contains("row 2: rewards[2] (exact) cannot judge answers to it"),
            "{error}"
        );
        let places = |most| {
            unreadable(&entries, &mut rows(), most)
                .unwrap()
                .into_iter()
                .map(|(place, _)| place)
        };
        assert!(places(9).eq([1, 2]) && places(1).eq([1]));
        // Of what nothing is asked by rules, nothing is refused
        assert!(unreadable(&[], &mut rows(), 9).unwrap().is_empty());
    }

    #[test]
    fn nothing_is_lost_to_a_name() {
        let row = json!({"completion": 1, "answer": 2, "input_completion": 3, "prompt": 4});
        let found = carried(row.as_object().unwrap(), &["prompt", "completion"]);
        let expected = json!({"input_input_completion": 1, "answer": 2, "input_completion": 3, "input_prompt": 4});
        assert_eq!(Value::Object(found), expected);
    }
}
