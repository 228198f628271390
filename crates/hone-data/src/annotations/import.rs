//! Items out of files: prompts with their answers, or what `hone sample` wrote.

use std::collections::HashMap;
use std::path::PathBuf;

use super::check::MOST_RESPONSES;
use super::types::{Input, NewItem, Response, TaskKind};
use crate::convert::{Asked, asked};
use crate::error::{BadRow, DataError};
use crate::items::{Message, identity_of};
use crate::read::{Contents, Hints, Limits, open};

/// A file of items, or of one model's answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemFile {
    /// JSON lines, a JSON array, or any other table.
    pub path: PathBuf,
    /// Whose answers these are. Of sampled rows it goes before what they say themselves; answers listed in one row keep their own.
    pub model: Option<String>,
}

/// Items out of files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imported {
    /// In the order in which their prompts first occur.
    pub items: Vec<NewItem>,
    /// Prompts with too few different answers for the kind of task.
    pub left_out: u64,
}

/// Reads items of one kind. A row is a prompt with its `responses`; or a prompt with one `completion`, in which case the rows of all files with
/// the same prompt are one item, its answers taken from the files in turn, equal texts once, up to `most`; or a prompt alone.
///
/// # Errors
/// A file that cannot be read, or that has a row of another form; `most` outside 2 to 9.
pub fn items_of(files: &[ItemFile], kind: TaskKind, most: usize) -> Result<Imported, DataError> {
    if !(2..=MOST_RESPONSES).contains(&most) {
        return Err(DataError::Option {
            option: "answers",
            got: most.to_string(),
            expected: format!("2 to {MOST_RESPONSES}"),
        });
    }
    let mut out = Imported::default();
    // Of sampled prompts: where their item stands, and for each file its answers
    let mut sampled: Vec<(usize, Vec<Vec<Response>>)> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for (number, file) in files.iter().enumerate() {
        for_each(file, &mut |mut asked| {
            for response in &mut asked.responses {
                let own = response.model.take();
                response.model = match asked.is_sample {
                    true => file.model.clone().or(own),
                    false => own.or_else(|| file.model.clone()),
                };
            }
            if !asked.is_sample {
                out.items.push(item(kind, asked.prompt, asked.responses, asked.gold));
                return;
            }
            let at = *known.entry(identity_of(&asked.prompt)).or_insert_with(|| {
                out.items.push(item(kind, asked.prompt, Vec::new(), None));
                sampled.push((out.items.len() - 1, vec![Vec::new(); files.len()]));
                sampled.len() - 1
            });
            sampled[at].1[number].append(&mut asked.responses);
        })?;
    }
    for (at, answers) in sampled {
        out.items[at].input.responses = in_turn(answers, most);
    }
    let least = match kind {
        TaskKind::Rank | TaskKind::Pair => 2,
        TaskKind::Rate => 1,
        TaskKind::Write | TaskKind::Comment => 0,
    };
    let before = out.items.len();
    out.items.retain(|item| item.input.responses.len() >= least);
    out.left_out = (before - out.items.len()) as u64;
    Ok(out)
}

fn item(
    kind: TaskKind,
    prompt: Vec<Message>,
    responses: Vec<Response>,
    gold: Option<super::types::Judgement>,
) -> NewItem {
    NewItem {
        kind,
        input: Input { prompt, responses },
        gold,
    }
}

/// The first answer of each file, then the second of each, and so on; a text that is there already is passed over.
fn in_turn(answers: Vec<Vec<Response>>, most: usize) -> Vec<Response> {
    let mut files: Vec<_> = answers.into_iter().map(Vec::into_iter).collect();
    let mut taken: Vec<Response> = Vec::new();
    loop {
        let mut any = false;
        for file in &mut files {
            // A file's turn ends with an answer that is new
            for response in file.by_ref() {
                if !taken.iter().any(|other| other.text == response.text) {
                    taken.push(response);
                    any = true;
                    break;
                }
            }
            if taken.len() == most {
                return taken;
            }
        }
        if !any {
            return taken;
        }
    }
}

fn for_each(file: &ItemFile, sink: &mut dyn FnMut(Asked)) -> Result<(), DataError> {
    let opened = open(&file.path, &Limits::default(), &Hints::default())?;
    let Contents::Rows(rows) = opened.contents else {
        return Err(DataError::Unsupported {
            path: file.path.clone(),
            what: "plain text",
            hint: "items are rows, such as one JSON object a line with `prompt` and `responses`",
        });
    };
    let mut number = 0;
    for row in rows {
        let row = row?;
        number += 1;
        match row.fields.and_then(asked) {
            Ok(found) => sink(found),
            Err(reason) => {
                return Err(DataError::TooManyBadRows {
                    path: file.path.clone(),
                    bad: 1,
                    rows: number,
                    allowed: 0.0,
                    samples: vec![BadRow { line: row.line, reason }],
                });
            }
        }
    }
    match number {
        0 => Err(DataError::NoRows {
            path: file.path.clone(),
            rows: 0,
            samples: Vec::new(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(folder: &tempfile::TempDir, name: &str, lines: &[&str]) -> ItemFile {
        let path = folder.path().join(name);
        std::fs::File::create(&path)
            .unwrap()
            .write_all(lines.join("\n").as_bytes())
            .unwrap();
        ItemFile {
            path,
            model: Some(name.into()),
        }
    }

    #[test]
    fn answers_of_models_are_taken_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let a = [
            r#"{"prompt": "p", "completion": "a1", "finish_reason": "stop"}"#,
            r#"{"prompt": "q", "completion": "x"}"#,
            r#"{"prompt": "p", "completion": "a2"}"#,
            r#"{"prompt": "p", "completion": "a3"}"#,
        ];
        let b = [
            r#"{"prompt": "p", "completion": "a1"}"#,
            r#"{"prompt": "p", "completion": "b2", "model": "runs/b/model"}"#,
            r#"{"prompt": "q", "completion": "x"}"#,
        ];
        let files = [file(&folder, "a", &a), file(&folder, "b", &b)];
        let found = items_of(&files, TaskKind::Rank, 3).unwrap();
        // To q both say the same, so there is nothing to rank
        assert_eq!((found.items.len(), found.left_out), (1, 1));
        let answers: Vec<(&str, &str)> = found.items[0]
            .input
            .responses
            .iter()
            .map(|r| (r.text.as_str(), r.model.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!(answers, [("a1", "a"), ("b2", "b"), ("a2", "a")]);
        assert_eq!(items_of(&files, TaskKind::Rate, 9).unwrap().items.len(), 2);
        assert!(items_of(&files, TaskKind::Rank, 1).is_err());
    }

    #[test]
    fn prompts_with_answers_with_gold_and_alone() {
        let folder = tempfile::tempdir().unwrap();
        let lines = [
            r#"{"prompt": [{"role": "user", "content": "p"}], "responses": ["x", {"text": "y", "model": "m"}], "gold": {"all_bad": true}}"#,
            r#"{"messages": [{"role": "user", "content": "q"}]}"#,
        ];
        let path = file(&folder, "rows", &lines);
        let found = items_of(std::slice::from_ref(&path), TaskKind::Write, 4).unwrap();
        assert_eq!(found.items.len(), 2);
        assert!(found.items[0].gold.as_ref().is_some_and(|gold| gold.all_bad));
        assert_eq!(found.items[0].input.responses[1].model.as_deref(), Some("m"));
        assert!(found.items[1].input.responses.is_empty());
        let wrong = file(&folder, "wrong", &[r#"{"prompt": "p", "responses": [{"txt": "y"}]}"#]);
        let error = items_of(&[wrong], TaskKind::Rank, 4).unwrap_err().to_string();
        assert!(
            error.contains("line 1") && error.contains("responses[0]") && error.contains("txt"),
            "{error}"
        );
        let prose = file(&folder, "prose", &["Only words.", "No rows."]);
        assert!(
            items_of(&[prose], TaskKind::Rank, 4)
                .unwrap_err()
                .to_string()
                .contains("items are rows")
        );
    }
}
