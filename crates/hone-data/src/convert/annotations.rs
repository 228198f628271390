//! Records of annotations: rows of a store, or of its export in hone's own form.

use serde_json::Value;

use super::Fields;
use crate::annotations::Record;
use crate::items::{Demonstration, Ranking, Unpaired};

fn record(fields: Fields) -> Result<Record, String> {
    serde_json::from_value(Value::Object(fields)).map_err(|error| format!("no record of an annotation: {error}"))
}

/// The order of the answers, where one was given that counts.
pub(super) fn ranking(fields: Fields) -> Result<Option<Ranking>, String> {
    let record = record(fields)?;
    if let Some(groups) = record.judgement.as_ref().and_then(|judgement| judgement.ranking.as_ref()) {
        let mut named: Vec<usize> = groups.concat();
        named.sort_unstable();
        if !named.iter().copied().eq(0..record.responses.len()) {
            return Err("`judgement.ranking` does not name each answer once".into());
        }
    }
    Ok(record.ranking())
}

/// The answer that somebody wrote, where it counts.
pub(super) fn demonstration(fields: Fields) -> Result<Option<Demonstration>, String> {
    Ok(record(fields)?.demonstration())
}

/// The answers that were found good or bad by themselves.
pub(super) fn unpaired(fields: Fields) -> Result<Vec<Unpaired>, String> {
    Ok(record(fields)?.unpaired())
}
