//! Splitting a source into what is trained on and what is held out.
//!
//! No hashing and no chance: always the end of the source, so that anyone can tell which part it is.

use std::collections::HashMap;

use crate::error::DataError;
use crate::items::{Document, Opening};

/// A source in two parts.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldOut<T> {
    /// To train on.
    pub train: Vec<T>,
    /// Never trained on.
    pub held_out: Vec<T>,
}

/// Refuses a share of which nothing, or less than nothing, would be left.
///
/// # Errors
/// A share outside `0..1`.
pub fn check_share(share: f64) -> Result<(), DataError> {
    if (0.0..1.0).contains(&share) {
        return Ok(());
    }
    Err(DataError::Option {
        option: "held_out",
        got: share.to_string(),
        expected: "a share of at least 0 and below 1".into(),
    })
}

/// Holds out the last `share` of a source's bytes.
///
/// The document on the boundary is held out whole if that at most doubles the share; otherwise (a single text, say) it
/// is cut at the next line end, else the next space, else the next character.
///
/// # Errors
/// A share outside `0..1`.
pub fn hold_out_documents(documents: Vec<Document>, share: f64) -> Result<HeldOut<Document>, DataError> {
    check_share(share)?;
    let total: usize = documents.iter().map(|d| d.text.len()).sum();
    let wanted = (total as f64 * share).ceil() as usize;
    let mut train = documents;
    let mut held_out = Vec::new();
    let mut have = 0;
    while have < wanted {
        let Some(mut last) = train.pop() else { break };
        let size = last.text.len();
        let fits = have + size <= wanted || have + size <= 2 * wanted && !train.is_empty();
        if !fits {
            let cut = boundary(&last.text, size - (wanted - have));
            let tail = last.text.split_off(cut);
            train.push(last);
            if !tail.is_empty() {
                held_out.push(Document { text: tail });
            }
            break;
        }
        have += size;
        held_out.push(last);
    }
    held_out.reverse();
    Ok(HeldOut { train, held_out })
}

/// A place at or after `from` to cut, within 4 KiB.
fn boundary(text: &str, from: usize) -> usize {
    let start = (from..=text.len())
        .find(|&i| text.is_char_boundary(i))
        .unwrap_or(text.len());
    let end = (start + 4096).min(text.len());
    let window = &text.as_bytes()[start..end];
    let after = |found: Option<usize>| found.map(|i| start + i + 1).filter(|&i| i < text.len());
    after(window.iter().position(|&b| b == b'\n'))
        .or_else(|| after(window.iter().position(|&b| b == b' ')))
        .unwrap_or(start)
}

/// Holds out the last `share` of a source's rows, those that share an opening together.
///
/// Items with the same conversation up to the first reply form a group, which stands where its first item stands. Groups
/// are taken from the end until they hold at least the share; the first group is always trained on.
///
/// # Errors
/// A share outside `0..1`.
pub fn hold_out<T: Opening>(items: Vec<T>, share: f64) -> Result<HeldOut<T>, DataError> {
    check_share(share)?;
    let wanted = (items.len() as f64 * share).ceil() as usize;
    let mut group_of: HashMap<String, usize> = HashMap::new();
    let mut sizes: Vec<usize> = Vec::new();
    let groups: Vec<usize> = items
        .iter()
        .map(|item| {
            let group = *group_of.entry(item.opening()).or_insert(sizes.len());
            if group == sizes.len() {
                sizes.push(0);
            }
            sizes[group] += 1;
            group
        })
        .collect();
    let (mut first_held, mut have) = (sizes.len(), 0);
    while have < wanted && first_held > 1 {
        first_held -= 1;
        have += sizes[first_held];
    }
    let mut split = HeldOut {
        train: Vec::new(),
        held_out: Vec::new(),
    };
    for (item, group) in items.into_iter().zip(groups) {
        match group >= first_held {
            true => split.held_out.push(item),
            false => split.train.push(item),
        }
    }
    Ok(split)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::items::{Message, Prompt, PromptInput, Ranking};

    fn document(text: &str) -> Document {
        Document { text: text.into() }
    }

    #[test]
    fn one_text_is_cut_near_its_end() {
        let text: String = (0..1000).map(|i| format!("line {i}\n")).collect();
        let split = hold_out_documents(vec![document(&text)], 0.05).unwrap();
        let (train, held) = (&split.train[0].text, &split.held_out[0].text);
        assert_eq!(format!("{train}{held}"), text);
        assert!(train.ends_with('\n') && held.starts_with("line "));
        let share = held.len() as f64 / text.len() as f64;
        assert!((0.048..=0.05).contains(&share), "{share}");
        // characters of several bytes are not torn
        let split = hold_out_documents(vec![document(&"é".repeat(101))], 0.05).unwrap();
        assert_eq!(split.held_out[0].text.chars().count(), 5);
    }

    #[test]
    fn short_documents_are_held_out_whole() {
        let documents: Vec<Document> = (0..100).map(|i| document(&format!("document {i:02}"))).collect();
        let split = hold_out_documents(documents.clone(), 0.05).unwrap();
        assert_eq!(split.train, documents[..95]);
        assert_eq!(split.held_out, documents[95..]);
        let split = hold_out_documents(documents.clone(), 0.0).unwrap();
        assert_eq!((split.train.len(), split.held_out.len()), (100, 0));
        assert!(hold_out_documents(documents, 1.0).is_err());
    }

    #[test]
    fn a_long_document_on_the_boundary_is_cut() {
        let documents = vec![document("short"), document(&"x ".repeat(500))];
        let split = hold_out_documents(documents, 0.1).unwrap();
        assert_eq!((split.train.len(), split.held_out.len()), (2, 1));
        assert!(split.held_out[0].text.len() <= 101);
    }

    #[test]
    fn rows_that_share_a_prompt_stay_together() {
        let ranking = |q: usize, i: usize| Ranking::pair(vec![Message::user(format!("q{q}"))], format!("a{i}"), "b");
        // 100 rows of 25 prompts, the four rows of a prompt far apart
        let rows: Vec<Ranking> = (0..100).map(|i| ranking(i % 25, i)).collect();
        let split = hold_out(rows.clone(), 0.05).unwrap();
        assert_eq!(split.held_out.len(), 8, "two groups of four");
        let prompts = |side: &[Ranking]| {
            side.iter()
                .map(|r| r.prompt[0].content.clone())
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert!(prompts(&split.train).is_disjoint(&prompts(&split.held_out)));
        assert_eq!(prompts(&split.held_out).into_iter().collect::<Vec<_>>(), ["q23", "q24"]);
        assert_eq!(split, hold_out(rows, 0.05).unwrap());
    }

    #[test]
    fn the_first_group_is_always_trained_on() {
        let prompt = |text: &str| Prompt {
            input: PromptInput::Text(text.into()),
            extra: Default::default(),
        };
        let split = hold_out(vec![prompt("same"), prompt("same")], 0.5).unwrap();
        assert_eq!((split.train.len(), split.held_out.len()), (2, 0));
        let split = hold_out(vec![prompt("a"), prompt("b"), prompt("c")], 0.05).unwrap();
        assert_eq!(split.held_out, [prompt("c")]);
    }
}
