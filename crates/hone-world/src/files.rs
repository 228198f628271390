//! The world as files: JSONL in the shapes that every stage reads.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Demonstration, Error, Group, Kind, Labeler, Question, Ranking, Source, Split, Style, World};

/// A document of the pre-training text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextRow {
    /// The document.
    pub text: String,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    fn new(role: &str, content: &str) -> Self {
        Self {
            role: role.to_owned(),
            content: content.to_owned(),
        }
    }
}

/// A demonstration: a conversation, with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemonstrationRow {
    /// The question and the expert's reply.
    pub messages: Vec<Message>,
    /// The kind of question.
    pub kind: Kind,
    /// How the reply is written.
    pub style: Style,
    /// Whether it is right.
    pub right: bool,
}

impl From<&Demonstration> for DemonstrationRow {
    fn from(demonstration: &Demonstration) -> Self {
        let question = Message::new("user", &demonstration.question.text);
        let messages = vec![question, Message::new("assistant", &demonstration.reply)];
        let Demonstration {
            question, style, right, ..
        } = demonstration;
        Self {
            messages,
            kind: question.kind,
            style: *style,
            right: *right,
        }
    }
}

/// A prompt, with what a verifier or the labeler needs to judge a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptRow {
    /// The question, as the user's turn.
    pub prompt: Vec<Message>,
    /// The right answer.
    pub answer: String,
    /// The kind of question.
    pub kind: Kind,
    /// How far it is from the training prompts.
    pub group: Group,
}

impl From<&Question> for PromptRow {
    fn from(question: &Question) -> Self {
        let prompt = vec![Message::new("user", &question.text)];
        Self {
            prompt,
            answer: question.answer.clone(),
            kind: question.kind,
            group: question.group,
        }
    }
}

impl From<&PromptRow> for Question {
    fn from(row: &PromptRow) -> Self {
        let text = row
            .prompt
            .last()
            .map_or_else(String::new, |message| message.content.clone());
        Self {
            kind: row.kind,
            text,
            answer: row.answer.clone(),
            group: row.group,
        }
    }
}

/// A ranking of several replies to one prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankingRow {
    /// The question, as the user's turn.
    pub prompt: Vec<Message>,
    /// The replies.
    pub responses: Vec<String>,
    /// Indices of the replies in groups of equals, the best first.
    pub ranking: Ranking,
}

impl RankingRow {
    /// The labeler's ranking of these replies; `index` as in [`Labeler::rank`].
    pub fn new(labeler: &Labeler, question: &Question, responses: Vec<String>, index: u64) -> Self {
        let ranking = labeler.rank(question, &responses, index);
        Self {
            prompt: vec![Message::new("user", &question.text)],
            responses,
            ranking,
        }
    }
}

/// What was written of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorpusFile {
    /// The source.
    pub source: Source,
    /// Its file.
    pub path: PathBuf,
    /// How many documents.
    pub documents: usize,
    /// Bytes of text, the JSON around it not counted.
    pub bytes: usize,
}

impl World {
    /// Writes about `bytes` of pre-training text to `dir`, `SOURCE.jsonl` for each source in proportion to its
    /// weight, one `{"text"}` a line.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be written.
    pub fn write_corpus(&self, dir: &Path, bytes: usize) -> Result<Vec<CorpusFile>, Error> {
        fs::create_dir_all(dir).map_err(|source| Error::Io {
            path: dir.to_owned(),
            source,
        })?;
        let mut files = Vec::new();
        for source in Source::ALL {
            let path = dir.join(format!("{}.jsonl", source.name()));
            let share = (bytes as f64 * source.weight()) as usize;
            let (mut documents, mut written) = (0, 0);
            let rows = self.documents(source, share).map(|text| {
                documents += 1;
                written += text.len();
                TextRow { text }
            });
            write_rows(&path, rows)?;
            files.push(CorpusFile {
                source,
                path,
                documents,
                bytes: written,
            });
        }
        Ok(files)
    }

    /// Writes `n` demonstrations.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when there are not so many questions, [`Error::Io`] when the file cannot be written.
    pub fn write_demonstrations(&self, path: &Path, n: usize) -> Result<(), Error> {
        let demonstrations = self.demonstrations(n)?;
        write_rows(path, demonstrations.iter().map(DemonstrationRow::from))
    }

    /// Writes `n` prompts of a split.
    ///
    /// # Errors
    /// As [`World::write_demonstrations`].
    pub fn write_prompts(&self, path: &Path, n: usize, split: Split) -> Result<(), Error> {
        let questions = self.questions(n, split)?;
        write_rows(path, questions.iter().map(PromptRow::from))
    }

    /// Writes `n` rankings of `k` replies such as experts write.
    ///
    /// # Errors
    /// As [`World::write_demonstrations`].
    pub fn write_rankings(&self, path: &Path, n: usize, k: usize, labeler: &Labeler) -> Result<(), Error> {
        let questions = self.questions(n, Split::Training)?;
        let rows = questions
            .iter()
            .zip(0..)
            .map(|(question, index)| self.telling_row(labeler, question, (k, index, n as u64)));
        write_rows(path, rows)
    }
}

impl World {
    /// The ranking of a question's replies; other replies are drawn where all of them tie, since such a row tells nothing.
    fn telling_row(&self, labeler: &Labeler, question: &Question, (k, index, stride): (usize, u64, u64)) -> RankingRow {
        let row = |attempt: u64| {
            let index = index + attempt * stride;
            RankingRow::new(labeler, question, self.replies(question, k, index), index)
        };
        let drawn = (0..8).map(row).find(|row| row.ranking.groups().len() > 1);
        drawn.unwrap_or_else(|| row(0))
    }
}

/// Writes one JSON object a line. The file appears complete or not at all.
///
/// # Errors
/// [`Error::Io`] when it cannot be written.
pub fn write_rows<T: Serialize>(path: &Path, rows: impl IntoIterator<Item = T>) -> Result<(), Error> {
    write_whole(path, |writer| {
        for row in rows {
            serde_json::to_writer(&mut *writer, &row)?;
            writer.write_all(b"\n")?;
        }
        Ok(())
    })
}

/// Writes a file that appears complete or not at all.
pub(crate) fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<(), Error> {
    let refuse = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let mut writer = BufWriter::new(File::create(&temporary).map_err(refuse)?);
    write(&mut writer).map_err(refuse)?;
    let file = writer.into_inner().map_err(|error| refuse(error.into_error()))?;
    file.sync_all().map_err(refuse)?;
    fs::rename(&temporary, path).map_err(refuse)
}

/// Longest line that is read, in bytes.
const LONGEST_LINE: u64 = 16 << 20;

fn read_rows<T: DeserializeOwned>(
    path: &Path,
    expected: &'static str,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<Vec<T>, Error> {
    let refuse = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let mut reader = BufReader::new(File::open(path).map_err(refuse)?);
    let mut rows = Vec::new();
    let mut buffer = Vec::new();
    for line in 1.. {
        let bad = |problem: String| Error::Row {
            path: path.to_owned(),
            line,
            expected,
            problem,
        };
        buffer.clear();
        let length = reader
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut buffer)
            .map_err(refuse)?;
        if length == 0 {
            break;
        }
        if length as u64 == LONGEST_LINE {
            return Err(bad(format!("longer than {LONGEST_LINE} bytes")));
        }
        let row = serde_json::from_slice(&buffer).map_err(|error| bad(error.to_string()))?;
        check(&row).map_err(bad)?;
        rows.push(row);
    }
    Ok(rows)
}

/// Reads documents.
///
/// # Errors
/// [`Error::Io`], or [`Error::Row`] with the line that is not `{"text"}`.
pub fn read_texts(path: &Path) -> Result<Vec<TextRow>, Error> {
    read_rows(path, "{\"text\"}", |_| Ok(()))
}

/// Reads demonstrations.
///
/// # Errors
/// [`Error::Io`], or [`Error::Row`] with the line that is not a demonstration.
pub fn read_demonstrations(path: &Path) -> Result<Vec<DemonstrationRow>, Error> {
    let expected = "{\"messages\":[user, assistant],\"kind\",\"style\",\"right\"}";
    read_rows(path, expected, |row: &DemonstrationRow| {
        let roles: Vec<&str> = row.messages.iter().map(|message| message.role.as_str()).collect();
        if roles == ["user", "assistant"] {
            Ok(())
        } else {
            Err(format!("turns of {roles:?}"))
        }
    })
}

/// Reads prompts.
///
/// # Errors
/// [`Error::Io`], or [`Error::Row`] with the line that is not a prompt.
pub fn read_prompts(path: &Path) -> Result<Vec<PromptRow>, Error> {
    let expected = "{\"prompt\":[user],\"answer\",\"kind\",\"group\"}";
    read_rows(path, expected, |row: &PromptRow| {
        if row.prompt.is_empty() {
            Err("the prompt has no turn".to_owned())
        } else {
            Ok(())
        }
    })
}

/// Reads rankings.
///
/// # Errors
/// [`Error::Io`], or [`Error::Row`] with the line that is not a ranking of its responses.
pub fn read_rankings(path: &Path) -> Result<Vec<RankingRow>, Error> {
    let expected = "{\"prompt\":[user],\"responses\":[...],\"ranking\":[[best...],...]}";
    read_rows(path, expected, |row: &RankingRow| {
        row.ranking
            .check(row.responses.len())
            .map_err(|error| error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preferences;

    #[test]
    fn what_is_written_is_read_back() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let world = World::new(1);
        let files = world.write_corpus(dir.path(), 50_000)?;
        assert_eq!(files.len(), Source::ALL.len());
        let total: usize = files.iter().map(|file| file.bytes).sum();
        assert!((50_000..56_000).contains(&total), "{total}");
        for file in &files {
            let rows = read_texts(&file.path)?;
            assert_eq!(rows.len(), file.documents);
            assert_eq!(rows[0].text, world.document(file.source, 0));
        }
        let path = dir.path().join("demonstrations.jsonl");
        world.write_demonstrations(&path, 20)?;
        let expected: Vec<_> = world.demonstrations(20)?.iter().map(DemonstrationRow::from).collect();
        assert_eq!(read_demonstrations(&path)?, expected);

        let path = dir.path().join("prompts.jsonl");
        world.write_prompts(&path, 20, Split::HeldOut)?;
        let questions: Vec<_> = read_prompts(&path)?.iter().map(Question::from).collect();
        assert_eq!(questions, world.questions(20, Split::HeldOut)?);

        let path = dir.path().join("rankings.jsonl");
        world.write_rankings(&path, 20, 4, &Labeler::new(Preferences::standard(), 1))?;
        let rows = read_rankings(&path)?;
        assert!(rows.len() == 20 && rows.iter().all(|row| row.responses.len() == 4));
        Ok(())
    }

    #[test]
    fn bad_lines_are_named() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("bad.jsonl");
        let good = r#"{"prompt":[{"role":"user","content":"?"}],"responses":["a","b"],"ranking":[[0,1]]}"#;
        fs::write(&path, format!("{good}\n{}\n", good.replace("[0,1]", "[0,7]")))?;
        let error = read_rankings(&path).err().ok_or("accepted")?.to_string();
        assert!(error.contains("line 2") && error.contains("index 7"), "{error}");
        fs::write(&path, "{\"text\": 3}\n")?;
        assert!(matches!(read_texts(&path), Err(Error::Row { line: 1, .. })));
        let absent = read_prompts(&dir.path().join("absent.jsonl"));
        assert!(matches!(absent, Err(Error::Io { .. })));
        Ok(())
    }
}
