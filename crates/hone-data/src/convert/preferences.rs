//! Preferences: pairs, transcripts, rankings, trees, unpaired judgements.

use serde_json::Value;

use super::{Fields, annotations, messages, not_empty, prompt_messages, reply_text, sharegpt_messages};
use super::{take, take_needed, take_optional_text, take_text};
use super::{text, transcript, trees};
use crate::format::Format;
use crate::items::{Message, Ranking, Unpaired};
use crate::read::describe;

/// The rankings of a row: one, or for a message tree any number, or for a record of annotations none where it holds no order.
///
/// # Errors
/// The reason why the row cannot be used.
pub(crate) fn rankings(format: Format, mut fields: Fields) -> Result<Vec<Ranking>, String> {
    if format == Format::Annotations {
        let found = annotations::ranking(fields)?;
        return found
            .map(|ranking| check(&ranking).map(|()| ranking))
            .into_iter()
            .collect();
    }
    let fields = &mut fields;
    let ranking = match format {
        Format::OpenAssistant => return trees::rankings(fields),
        Format::Rankings => ranking(fields)?,
        Format::Pairs => pair(fields)?,
        Format::HhTranscripts => transcript_pair(fields)?,
        Format::SharegptPreference => sharegpt_pair(fields)?,
        other => return Err(format!("format `{other}` holds no comparisons")),
    };
    check(&ranking)?;
    Ok(vec![ranking])
}

fn check(ranking: &Ranking) -> Result<(), String> {
    match ranking.prompt.last() {
        None => return Err("a prompt without messages".into()),
        Some(last) if last.role == "assistant" => {
            return Err("the prompt ends with the assistant's turn".into());
        }
        Some(_) => {}
    }
    match ranking.responses.len() {
        0 => return Err("a ranking without responses".into()),
        1 => return Err("a ranking of one".into()),
        _ => {}
    }
    if ranking.groups.len() < 2 {
        return Err("all responses are tied".into());
    }
    for (better, worse) in ranking.pairs() {
        if ranking.responses[better] == ranking.responses[worse] {
            return Err(match ranking.responses.len() {
                2 => "the two sides are equal".into(),
                _ => format!("responses {better} and {worse} are equal but ranked apart"),
            });
        }
    }
    Ok(())
}

/// Where one side is a whole conversation, the shared messages before the last are the prompt.
fn pair(fields: &mut Fields) -> Result<Ranking, String> {
    let margin = margin(fields)?;
    let prompt = take(fields, "prompt");
    let (chosen, rejected) = (take_needed(fields, "chosen")?, take_needed(fields, "rejected")?);
    let is_long = |side: &Value| side.as_array().is_some_and(|turns| turns.len() > 1);
    let mut found = if is_long(&chosen) || is_long(&rejected) || prompt.is_none() {
        conversation_pair(prompt, messages(chosen, "chosen")?, messages(rejected, "rejected")?)?
    } else {
        let prompt = prompt_messages(prompt.unwrap_or_default(), "prompt")?;
        Ranking::pair(prompt, reply_text(chosen, "chosen")?, reply_text(rejected, "rejected")?)
    };
    found.margins = margin.map(|m| vec![m]);
    Ok(found)
}

fn conversation_pair(
    prompt: Option<Value>,
    mut chosen: Vec<Message>,
    mut rejected: Vec<Message>,
) -> Result<Ranking, String> {
    let (Some(good), Some(bad)) = (chosen.pop(), rejected.pop()) else {
        return Err("a side without messages".into());
    };
    for (side, last) in [("chosen", &good), ("rejected", &bad)] {
        if last.role != "assistant" {
            return Err(format!("`{side}` ends with the {}, expected a reply", last.role));
        }
    }
    if chosen != rejected {
        return Err("the two sides share no prompt: they differ before their last reply".into());
    }
    let before = match prompt {
        // messages that come before those of the sides
        Some(prompt @ Value::Array(_)) => {
            let mut before = messages(prompt, "prompt")?;
            if !chosen.starts_with(&before) {
                before.append(&mut chosen);
                chosen = before;
            }
            chosen
        }
        // text that repeats what the sides begin with
        _ => chosen,
    };
    Ok(Ranking::pair(before, good.content, bad.content))
}

fn margin(fields: &mut Fields) -> Result<Option<f64>, String> {
    let margin = match take(fields, "margin") {
        None => return Ok(None),
        Some(Value::String(cell)) if cell.trim().is_empty() => return Ok(None),
        Some(Value::String(cell)) => cell.trim().parse().ok(),
        Some(value) => value.as_f64(),
    };
    match margin {
        Some(margin) if margin.is_finite() => Ok(Some(margin)),
        _ => Err("`margin` is not a number".into()),
    }
}

fn transcript_pair(fields: &mut Fields) -> Result<Ranking, String> {
    let (chosen, rejected) = (take_text(fields, "chosen")?, take_text(fields, "rejected")?);
    let (before, good) = transcript::split(&chosen).map_err(|e| format!("`chosen`: {e}"))?;
    let (other, bad) = transcript::split(&rejected).map_err(|e| format!("`rejected`: {e}"))?;
    if before != other {
        return Err("the two sides share no prompt: they differ before their last reply".into());
    }
    Ok(Ranking::pair(transcript::messages(before)?, good.trim(), bad.trim()))
}

fn sharegpt_pair(fields: &mut Fields) -> Result<Ranking, String> {
    let mut prompt: Vec<Message> = take_optional_text(fields, "system")?
        .map(|system| Message::new("system", system))
        .into_iter()
        .collect();
    prompt.extend(sharegpt_messages(
        take_needed(fields, "conversations")?,
        "conversations",
    )?);
    let mut reply = |side: &str| -> Result<String, String> {
        match take_needed(fields, side)? {
            Value::String(text) => Ok(text),
            turn @ Value::Object(_) => {
                let mut turns = sharegpt_messages(Value::Array(vec![turn]), side)?;
                match turns.pop() {
                    Some(turn) if turn.role == "assistant" => Ok(turn.content),
                    _ => Err(format!("`{side}` is not a reply of the assistant")),
                }
            }
            other => Err(format!("`{side}` is {}, expected a message", describe(&other))),
        }
    };
    let (chosen, rejected) = (reply("chosen")?, reply("rejected")?);
    Ok(Ranking::pair(prompt, chosen, rejected))
}

fn ranking(fields: &mut Fields) -> Result<Ranking, String> {
    let prompt = prompt_messages(take_needed(fields, "prompt")?, "prompt")?;
    let responses = match take_needed(fields, "responses")? {
        Value::Array(list) => list
            .into_iter()
            .enumerate()
            .map(|(i, r)| text(r, &format!("responses[{i}]")))
            .collect::<Result<Vec<_>, _>>()?,
        other => {
            return Err(format!("`responses` is {}, expected an array", describe(&other)));
        }
    };
    let Value::Array(list) = take_needed(fields, "ranking")? else {
        return Err("`ranking` is not an array".into());
    };
    let groups: Vec<Vec<usize>> = list
        .iter()
        .map(|group| match group {
            Value::Array(group) => group.iter().map(index).collect(),
            single => Ok(vec![index(single)?]),
        })
        .collect::<Result<_, String>>()?;
    let mut seen = vec![false; responses.len()];
    for &i in groups.iter().flatten() {
        match seen.get_mut(i) {
            None => {
                return Err(format!("`ranking` names response {i}, there are {}", responses.len()));
            }
            Some(true) => return Err(format!("`ranking` names response {i} twice")),
            Some(free) => *free = true,
        }
    }
    if let Some(missing) = seen.iter().position(|s| !s) {
        return Err(format!("`ranking` leaves out response {missing}"));
    }
    if groups.iter().any(Vec::is_empty) {
        return Err("`ranking` has an empty group".into());
    }
    let margins = match take(fields, "margins") {
        None => None,
        Some(value) => {
            let margins: Vec<f64> =
                serde_json::from_value(value).map_err(|e| format!("`margins`, expected numbers: {e}"))?;
            if margins.len() + 1 != groups.len() {
                return Err(format!(
                    "{} `margins` for {} groups, expected one fewer",
                    margins.len(),
                    groups.len()
                ));
            }
            Some(margins)
        }
    };
    Ok(Ranking {
        prompt,
        responses,
        groups,
        margins,
    })
}

fn index(value: &Value) -> Result<usize, String> {
    value
        .as_u64()
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| format!("`ranking` holds {value}, expected an index into `responses`"))
}

/// The unpaired judgements of a row: one, or of a record of annotations any number.
///
/// # Errors
/// The reason why the row cannot be used.
pub(crate) fn unpaired_of(format: Format, fields: Fields) -> Result<Vec<Unpaired>, String> {
    match format {
        Format::Annotations => annotations::unpaired(fields),
        _ => unpaired(fields).map(|found| vec![found]),
    }
}

/// The unpaired judgement of a row.
///
/// # Errors
/// The reason why the row cannot be used.
pub(crate) fn unpaired(mut fields: Fields) -> Result<Unpaired, String> {
    let prompt = prompt_messages(take_needed(&mut fields, "prompt")?, "prompt")?;
    let completion = reply_text(take_needed(&mut fields, "completion")?, "completion")?;
    not_empty(&completion, "`completion`")?;
    let label = take_needed(&mut fields, "label")?;
    let truth = match &label {
        Value::Bool(b) => Some(*b),
        Value::Number(n) => match n.as_f64() {
            Some(1.0) => Some(true),
            Some(0.0) => Some(false),
            _ => None,
        },
        Value::String(s) => match s.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    };
    let label = truth.ok_or_else(|| format!("`label` is {label}, expected true or false"))?;
    Ok(Unpaired {
        prompt,
        completion,
        label,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::fields;
    use serde_json::json;

    fn one(format: Format, row: Value) -> Result<Ranking, String> {
        let mut found = rankings(format, fields(row))?;
        assert_eq!(found.len(), 1);
        Ok(found.remove(0))
    }

    #[test]
    fn every_format_of_pairs() {
        let pair = Ranking::pair(vec![Message::user("q")], "good", "bad");
        let user = json!({"role": "user", "content": "q"});
        let turn = |text: &str| json!({"role": "assistant", "content": text});
        let rows = [
            (
                Format::Pairs,
                json!({"prompt": "q", "chosen": "good", "rejected": "bad"}),
            ),
            (
                Format::Pairs,
                json!({"prompt": [user], "chosen": [turn("good")], "rejected": [turn("bad")]}),
            ),
            (
                Format::Pairs,
                json!({"chosen": [user, turn("good")], "rejected": [user, turn("bad")]}),
            ),
            (
                Format::Pairs,
                json!({"prompt": "q", "chosen": [user, turn("good")], "rejected": [user, turn("bad")]}),
            ),
            (
                Format::Pairs,
                json!({"prompt": [user], "chosen": [user, turn("good")], "rejected": [user, turn("bad")]}),
            ),
            (
                Format::HhTranscripts,
                json!({"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"}),
            ),
            (
                Format::SharegptPreference,
                json!({"conversations": [{"from": "human", "value": "q"}],
                    "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}}),
            ),
            (
                Format::Rankings,
                json!({"prompt": "q", "responses": ["good", "bad"], "ranking": [[0], [1]]}),
            ),
        ];
        for (format, row) in rows {
            assert_eq!(one(format, row.clone()).unwrap(), pair, "{row}");
        }
    }

    #[test]
    fn margins_and_ties() {
        let row = json!({"prompt": "q", "chosen": "a", "rejected": "b", "margin": 2});
        assert_eq!(one(Format::Pairs, row).unwrap().margins, Some(vec![2.0]));
        let row = json!({"prompt": "q", "responses": ["a", "b", "c"], "ranking": [[2], [0, 1]], "margins": [1.5]});
        let found = one(Format::Rankings, row).unwrap();
        assert_eq!(
            (found.groups, found.margins),
            (vec![vec![2], vec![0, 1]], Some(vec![1.5]))
        );
        let row = json!({"prompt": "q", "responses": ["a", "b", "c"], "ranking": [1, 0, 2]});
        assert_eq!(one(Format::Rankings, row).unwrap().groups, [[1], [0], [2]]);
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let ranking =
            |responses: Value, ranking: Value| json!({"prompt": "q", "responses": responses, "ranking": ranking});
        let cases = [
            (
                Format::Pairs,
                json!({"prompt": "q", "chosen": "a", "rejected": "a"}),
                "the two sides are equal",
            ),
            (
                Format::Pairs,
                json!({"prompt": "q", "chosen": "a", "rejected": "b", "margin": "x"}),
                "`margin`",
            ),
            (
                Format::Pairs,
                json!({"prompt": " ", "chosen": "a", "rejected": "b"}),
                "`prompt` is empty",
            ),
            (
                Format::HhTranscripts,
                json!({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: r\n\nAssistant: b"}),
                "share no prompt",
            ),
            (
                Format::HhTranscripts,
                json!({"chosen": "\n\nHuman: q", "rejected": "\n\nHuman: q"}),
                "`chosen`: a transcript without",
            ),
            (
                Format::Rankings,
                ranking(json!(["a"]), json!([[0]])),
                "a ranking of one",
            ),
            (
                Format::Rankings,
                ranking(json!(["a", "b"]), json!([[0, 1]])),
                "all responses are tied",
            ),
            (
                Format::Rankings,
                ranking(json!(["a", "b"]), json!([[0]])),
                "leaves out response 1",
            ),
            (
                Format::Rankings,
                ranking(json!(["a", "b"]), json!([[0], [0]])),
                "names response 0 twice",
            ),
            (
                Format::Rankings,
                ranking(json!(["a", "b"]), json!([[0], [2]])),
                "names response 2",
            ),
            (
                Format::Rankings,
                ranking(json!(["a", "b"]), json!([[0], [1], []])),
                "an empty group",
            ),
            (
                Format::Rankings,
                ranking(json!(["a", "b", "a"]), json!([[0], [1], [2]])),
                "equal but ranked apart",
            ),
            (
                Format::Rankings,
                ranking(json!(["a", "b"]), json!([[0], [-1]])),
                "expected an index",
            ),
        ];
        for (format, row, reason) in cases {
            let got = one(format, row.clone()).unwrap_err();
            assert!(got.contains(reason), "{row}: {got} / {reason}");
        }
    }

    #[test]
    fn labels_of_unpaired_rows() {
        for (label, truth) in [
            (json!(true), true),
            (json!(0), false),
            (json!("True"), true),
            (json!("0"), false),
        ] {
            let row = json!({"prompt": "p", "completion": "c", "label": label});
            let found = unpaired(fields(row)).unwrap();
            assert_eq!((found.completion.as_str(), found.label), ("c", truth));
        }
        let row = json!({"prompt": "p", "completion": "c", "label": 0.5});
        assert_eq!(
            unpaired(fields(row)).unwrap_err(),
            "`label` is 0.5, expected true or false"
        );
    }
}
