//! Formats of pairs.

use serde_json::{Value, json};

use crate::annotations::record::Record;
use crate::items::{Message, Ranking};

/// TRL's conversational preferences.
pub(super) fn trl(record: &Record, rows: &mut Vec<Value>) {
    let Some(ranking) = record.ranking() else {
        return;
    };
    let reply = |index: usize| [Message::assistant(ranking.responses[index].as_str())];
    for (better, worse) in distinct(&ranking) {
        let mut row = json!({
            "prompt": ranking.prompt,
            "chosen": reply(better),
            "rejected": reply(worse)
        });
        if let Some(margin) = ranking.margins.as_ref().and_then(|margins| margins.first()) {
            row["margin"] = json!(margin);
        }
        rows.push(row);
    }
}

/// Pairs of answers that do not say the same.
fn distinct(ranking: &Ranking) -> impl Iterator<Item = (usize, usize)> + '_ {
    let differ = move |&(better, worse): &(usize, usize)| ranking.responses[better] != ranking.responses[worse];
    ranking.pairs().into_iter().filter(differ)
}

/// HH transcripts, which have no other roles and no way to quote their own marks.
pub(super) fn hh(record: &Record, rows: &mut Vec<Value>) {
    let Some(ranking) = record.ranking() else {
        return;
    };
    let marked = |text: &str| ["\n\nHuman:", "\n\nAssistant:"].iter().any(|mark| text.contains(mark));
    let mut before = String::new();
    for message in &ranking.prompt {
        let mark = match message.role.as_str() {
            "user" => "Human",
            "assistant" => "Assistant",
            _ => return,
        };
        before.push_str(&format!("\n\n{mark}: {}", message.content.trim()));
    }
    if ranking.responses.iter().any(|text| marked(text)) || ranking.prompt.iter().any(|m| marked(&m.content)) {
        return;
    }
    let whole = |index: usize| format!("{before}\n\nAssistant: {}", ranking.responses[index].trim());
    for (better, worse) in distinct(&ranking) {
        rows.push(json!({ "chosen": whole(better), "rejected": whole(worse) }));
    }
}

/// AlpacaEval's annotations: every pair of answers in their stored order, also tied ones. Its instructions are one turn of the user.
pub(super) fn alpaca_eval(record: &Record, rows: &mut Vec<Value>) {
    let Some(groups) = record
        .judgement
        .as_ref()
        .and_then(|judgement| judgement.ranking.as_ref())
    else {
        return;
    };
    let [Message { role, content }] = record.prompt.as_slice() else {
        return;
    };
    if role != "user" {
        return;
    }
    let mut place = vec![0; record.responses.len()];
    for (p, group) in groups.iter().enumerate() {
        group.iter().for_each(|&index| place[index] = p);
    }
    let generator = |index: usize| -> Value { record.responses[index].model.as_deref().unwrap_or("unknown").into() };
    for i in 0..place.len() {
        for j in i + 1..place.len() {
            let preference = match place[i].cmp(&place[j]) {
                std::cmp::Ordering::Less => 1.0,
                std::cmp::Ordering::Equal => 1.5,
                std::cmp::Ordering::Greater => 2.0,
            };
            rows.push(json!({
                "instruction": content,
                "output_1": record.responses[i].text,
                "generator_1": generator(i),
                "output_2": record.responses[j].text,
                "generator_2": generator(j),
                "annotator": record.annotator,
                "preference": preference
            }));
        }
    }
}
