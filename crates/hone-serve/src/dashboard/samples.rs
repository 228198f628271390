//! Where the samples of a run stand in their file, which answered the same prompt before, and reading them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use hone_run::Sample;

/// Samples of a run that can be looked at.
const MAX_SAMPLES: usize = 1_000_000;
/// A sample that is not shown: nobody reads it, and it would take the memory of all others.
const MAX_BYTES: u64 = 4 << 20;

/// A sample's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    offset: u64,
    length: u32,
    pub step: u64,
    /// The answer to the same prompt at the step before, by its place in the list.
    pub previous: Option<u32>,
}

/// The samples of a run, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    pub places: Vec<Place>,
    pub bad_lines: u64,
    /// Samples beyond what is kept.
    pub left_out: u64,
    /// Of each prompt and of its how-manieth answer at a step: the newest.
    newest: HashMap<(u64, u32), u32>,
    /// How often each prompt was answered at the current step.
    answered: HashMap<u64, u32>,
    step: Option<u64>,
}

impl Index {
    /// Takes a line of `samples.jsonl`.
    pub fn take(&mut self, offset: u64, line: &[u8]) {
        let sample = serde_json::from_slice::<Sample>(line)
            .ok()
            .filter(|_| line.len() as u64 <= MAX_BYTES);
        let Some(sample) = sample else {
            self.bad_lines += 1;
            return;
        };
        if self.places.len() >= MAX_SAMPLES {
            self.left_out += 1;
            return;
        }
        if self.step != Some(sample.step) {
            self.step = Some(sample.step);
            self.answered.clear();
        }
        let digest = blake3::hash(sample.prompt.as_bytes());
        let prompt = digest
            .as_bytes()
            .iter()
            .take(8)
            .fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
        let turn = self.answered.entry(prompt).or_default();
        let key = (prompt, *turn);
        *turn += 1;
        // Both fit: there are at most a million
        let previous = self.newest.insert(key, self.places.len() as u32);
        self.places.push(Place {
            offset,
            length: line.len() as u32,
            step: sample.step,
            previous: previous.filter(|before| self.places[*before as usize].step < sample.step),
        });
    }
}

/// A file of samples that is open for reading.
pub(super) struct Samples {
    file: File,
}

impl Samples {
    /// Opens it.
    ///
    /// # Errors
    /// What the system refuses; what is no file.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !fs::symlink_metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        Ok(Self {
            file: File::open(path)?,
        })
    }

    /// The sample of a place; none where the file was changed since.
    pub fn read(&mut self, place: &Place) -> Option<Sample> {
        let mut bytes = vec![0; place.length as usize];
        self.file.seek(SeekFrom::Start(place.offset)).ok()?;
        self.file.read_exact(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

/// Whether a sample has all of these words, in lower case, in its prompt or its response.
pub(super) fn matches(sample: &Sample, words: &[String]) -> bool {
    if words.is_empty() {
        return true;
    }
    let (prompt, response) = (sample.prompt.to_lowercase(), sample.response.to_lowercase());
    words
        .iter()
        .all(|word| prompt.contains(word) || response.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64, prompt: &str, response: &str) -> String {
        serde_json::to_string(&Sample {
            step,
            prompt: prompt.into(),
            response: response.into(),
            ..Sample::default()
        })
        .unwrap()
    }

    #[test]
    fn samples_are_found_again_with_the_one_before() {
        let lines = [
            line(1, "a", "a1"),
            line(1, "a", "a1, second"),
            line(1, "b", "b1"),
            "broken".to_owned(),
            line(2, "b", "b2"),
            line(2, "a", "a2"),
            line(3, "a", "a3"),
            line(3, "a", "a3, second"),
            line(3, "c", "c3"),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.jsonl");
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        let (mut index, mut offset) = (Index::default(), 0);
        for line in &lines {
            index.take(offset, line.as_bytes());
            offset += line.len() as u64 + 1;
        }
        assert_eq!(index.bad_lines, 1);
        let mut samples = Samples::open(&path).unwrap();
        let mut shown = |place: &Place| samples.read(place).unwrap().response;
        let pairs: Vec<(String, Option<String>)> = index
            .places
            .iter()
            .map(|place| {
                (
                    shown(place),
                    place.previous.map(|before| shown(&index.places[before as usize])),
                )
            })
            .collect();
        let expected = [
            ("a1", None),
            ("a1, second", None),
            ("b1", None),
            ("b2", Some("b1")),
            ("a2", Some("a1")),
            ("a3", Some("a2")),
            ("a3, second", Some("a1, second")),
            ("c3", None),
        ];
        let expected: Vec<(String, Option<String>)> = expected
            .map(|(new, old)| (new.to_owned(), old.map(str::to_owned)))
            .into();
        assert_eq!(pairs, expected);
        // A file that was cut back meanwhile
        fs::write(&path, "").unwrap();
        assert_eq!(Samples::open(&path).unwrap().read(&index.places[0]), None);
    }

    #[test]
    fn words_are_searched_in_prompt_and_response() {
        let sample = Sample {
            prompt: "What is the SUM?".into(),
            response: "Seven Ärger".into(),
            ..Sample::default()
        };
        let words = |text: &str| -> Vec<String> { text.to_lowercase().split_whitespace().map(str::to_owned).collect() };
        for (text, expected) in [
            ("", true),
            ("sum seven", true),
            ("SEVEN", true),
            ("ärger", true),
            ("sum eight", false),
        ] {
            assert_eq!(matches(&sample, &words(text)), expected, "{text}");
        }
    }
}
