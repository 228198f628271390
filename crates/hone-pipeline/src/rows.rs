//! Rows of an input: whether they can be judged, and which of their columns are carried through to the output.

use std::collections::BTreeMap;
use std::path::Path;

use hone_task::{Error as TaskError, Place, Problem, PromptRow, RewardEntry, RewardRule, RewardSetup, Rewards, Sample};
use serde_json::{Map, Value};

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
    let is_rule = |entry: &&RewardEntry| !matches!(entry.rule, RewardRule::Program { .. } | RewardRule::Model { .. });
    let rules: Vec<RewardEntry> = entries.iter().filter(is_rule).cloned().collect();
    let mut found = Vec::new();
    if rules.is_empty() {
        return Ok(found);
    }
    let setup = RewardSetup {
        run: "check",
        folder: Path::new(""),
        offsets: &BTreeMap::new(),
    };
    let mut rewards = Rewards::open(&rules, setup)?;
    for (number, row) in rows {
        let sample = Sample::new(&row, "").with_tokens(0);
        let place = Place { update: 0, index: 0 };
        // What the empty response makes impossible is no fault of the row
        if let Err(TaskError::Sample {
            entry,
            source: problem @ (Problem::MissingColumn { .. } | Problem::BadColumn { .. }),
            ..
        }) = rewards.score(place, &[sample], &[])
        {
            found.push((number, format!("{entry} cannot judge answers to it: {problem}")));
            if found.len() >= most {
                break;
            }
        }
    }
    Ok(found)
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
