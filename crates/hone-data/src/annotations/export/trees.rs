//! OpenAssistant's message trees.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Exported;
use crate::annotations::record::Record;

/// One tree an item: its prompt's turns in a chain, the answers below with their ranks, and what annotators wrote without a rank.
pub(super) fn trees<'a>(records: impl Iterator<Item = &'a Record>, out: &mut Exported) {
    let mut items: BTreeMap<i64, Vec<&Record>> = BTreeMap::new();
    for record in records {
        items.entry(record.item).or_default().push(record);
    }
    for records in items.values() {
        let first = records[0];
        let turns = first.prompt.iter().map(|message| match message.role.as_str() {
            "user" => Some(("prompter", message.content.as_str())),
            "assistant" => Some(("assistant", message.content.as_str())),
            _ => None,
        });
        let Some(turns) = turns.collect::<Option<Vec<_>>>() else {
            out.left_out += records.len() as u64;
            continue;
        };
        let says = |record: &&Record| {
            let judgement = record.judgement.as_ref();
            judgement.is_some_and(|judgement| judgement.ranking.is_some() || judgement.rewrite.is_some())
        };
        out.left_out += records.iter().filter(|record| !says(record)).count() as u64;
        let id = |part: &str| format!("{}-{part}", first.task_digest);
        let ranks = ranks(records, first.responses.len());
        let mut replies: Vec<Value> = first
            .responses
            .iter()
            .enumerate()
            .map(|(i, response)| {
                let rank = ranks.as_ref().map(|ranks| ranks[i]);
                json!({
                    "message_id": id(&format!("answer-{i}")),
                    "text": response.text,
                    "role": "assistant",
                    "synthetic": true,
                    "model_name": response.model,
                    "rank": rank,
                    "deleted": false,
                    "replies": []
                })
            })
            .collect();
        for record in records {
            let Some(written) = record
                .judgement
                .as_ref()
                .and_then(|judgement| judgement.rewrite.as_ref())
            else {
                continue;
            };
            replies.push(json!({
                "message_id": id(&format!("written-{}", record.event)),
                "text": written.text,
                "role": "assistant",
                "synthetic": false,
                "model_name": null,
                "rank": null,
                "deleted": false,
                "replies": []
            }));
        }
        if replies.is_empty() {
            continue;
        }
        // From the last turn of the prompt up to its first
        for (depth, (role, text)) in turns.iter().enumerate().rev() {
            replies = vec![json!({
                "message_id": id(&format!("turn-{depth}")),
                "text": text,
                "role": role,
                "review_count": records.len(),
                "deleted": false,
                "replies": replies
            })];
        }
        out.rows.push(json!({
            "message_tree_id": id("turn-0"),
            "tree_state": "ready_for_export",
            "prompt": replies[0]
        }));
    }
}

/// Ranks from 0 by the mean place of each answer over the annotators who ranked; answers with equal means share one.
fn ranks(records: &[&Record], responses: usize) -> Option<Vec<usize>> {
    // Twice the middle place of a group, so that sums are whole numbers
    let mut sums = vec![0_usize; responses];
    let mut ranked = false;
    for record in records {
        let Some(groups) = record
            .judgement
            .as_ref()
            .and_then(|judgement| judgement.ranking.as_ref())
        else {
            continue;
        };
        ranked = true;
        let mut before = 0;
        for group in groups {
            group
                .iter()
                .for_each(|&index| sums[index] += 2 * before + group.len() - 1);
            before += group.len();
        }
    }
    let mut distinct = sums.clone();
    distinct.sort_unstable();
    distinct.dedup();
    ranked.then(|| sums.iter().map(|sum| distinct.partition_point(|d| d < sum)).collect())
}
