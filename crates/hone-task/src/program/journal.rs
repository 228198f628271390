//! The journal of a program's rewards, so that a resumed run takes the numbers it had.
//!
//! One JSON object a line: `{"run":"ppo","update":3,"index":17,"sample":"9f...","reward":0.5}`. `sample` is a digest of what the program
//! was asked, so that a number is never taken for another sample than it was given for. A line is written in one write before its
//! reward is used. Unlike metrics, the journal is not cut back to the last checkpoint: what stands behind it are exactly the answers that
//! the resumed run asks for again. A checkpoint records [`Journal::bytes_before`] the first update that it does not hold, and opening
//! from there reads no more than is needed.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Place;
use crate::{Error, Sample};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    run: String,
    update: u64,
    index: u64,
    sample: String,
    reward: f64,
}

/// A growing file of rewards, with those that a resumed run has ahead of it.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    run: String,
    bytes: u64,
    ahead: HashMap<Place, (String, f64)>,
    /// Where the lines of each update begin, as far as they were read or written.
    begins: BTreeMap<u64, u64>,
}

impl Journal {
    /// Opens or creates a journal for a run's name. `from` is what a checkpoint recorded as [`Journal::bytes_before`], 0 for a start from
    /// nothing; what stands behind it is replayed. The part of a line that a killed process left at the end is cut off.
    ///
    /// # Errors
    /// When the system refuses; a journal that is shorter than `from`, damaged, or another run's.
    pub fn open(path: &Path, run: &str, from: u64) -> Result<Self, Error> {
        let io = |doing, source| Error::Io {
            path: path.to_path_buf(),
            doing,
            source,
        };
        let refuse = |what: String| {
            Err(Error::Journal {
                path: path.to_path_buf(),
                what,
            })
        };
        let file = File::options().create(true).read(true).append(true).open(path);
        let mut file = file.map_err(|e| io("open the journal", e))?;
        let length = file.metadata().map_err(|e| io("read its length", e))?.len();
        if length < from {
            return refuse(format!(
                "the journal has {length} bytes, but the checkpoint counted {from}; put it back, or start a run of another --name"
            ));
        }
        if from > 0 {
            file.seek(SeekFrom::Start(from - 1)).map_err(|e| io("read it", e))?;
            let mut before = [0];
            file.read_exact(&mut before).map_err(|e| io("read it", e))?;
            if before != *b"\n" {
                return refuse(format!(
                    "byte {from}, where the checkpoint stands, is no end of a line; the file was changed"
                ));
            }
        }
        let mut journal = Self {
            path: path.to_path_buf(),
            run: run.to_owned(),
            bytes: from,
            ahead: HashMap::new(),
            begins: BTreeMap::new(),
            file: file.try_clone().map_err(|e| io("open it twice", e))?,
        };
        let mut reader = BufReader::new(file);
        let mut text = Vec::new();
        while reader.read_until(b'\n', &mut text).map_err(|e| io("read it", e))? > 0 {
            if text.last() != Some(&b'\n') {
                journal
                    .file
                    .set_len(journal.bytes)
                    .map_err(|e| io("cut off half a line", e))?;
                break;
            }
            let line: Line = match serde_json::from_slice(&text) {
                Ok(line) => line,
                Err(error) => {
                    return refuse(format!(
                        "the line at byte {} is no reward: {error}; put the journal back, or start a run of another --name",
                        journal.bytes
                    ));
                }
            };
            if line.run != run {
                return refuse(format!(
                    "belongs to the run {:?}, not to {run:?}; start a run of another --name",
                    line.run
                ));
            }
            let place = Place {
                update: line.update,
                index: line.index,
            };
            if journal.ahead.insert(place, (line.sample, line.reward)).is_some() {
                return refuse(format!("has two rewards for {place}; the file was changed"));
            }
            journal.begins.entry(place.update).or_insert(journal.bytes);
            journal.bytes += text.len() as u64;
            text.clear();
        }
        Ok(journal)
    }

    /// Its length in bytes, all of whole lines.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its length before the first reward of this update or a later one. A run whose updates before this one are done goes on from
    /// here: it asks again for what stands behind, and for nothing that stands before.
    pub fn bytes_before(&self, update: u64) -> u64 {
        let first = self.begins.range(update..).map(|(_, &begin)| begin).min();
        first.unwrap_or(self.bytes)
    }

    /// Rewards that were read and not yet asked for.
    pub fn ahead(&self) -> usize {
        self.ahead.len()
    }

    /// The reward that was given at this place before, which is forgotten by this.
    ///
    /// # Errors
    /// A place whose reward was given for another sample.
    pub(super) fn replay(&mut self, place: Place, digest: &str) -> Result<Option<f64>, Error> {
        match self.ahead.remove(&place) {
            Some((sample, reward)) if sample == digest => Ok(Some(reward)),
            Some(_) => Err(Error::Journal {
                path: self.path.clone(),
                what: format!(
                    "the reward of {place} was given for another sample; the run did not come back as it was, or the file belongs elsewhere"
                ),
            }),
            None => Ok(None),
        }
    }

    /// Appends a reward in one write. Should the disk fill inside it, the part that was written is cut off again.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn record(&mut self, place: Place, digest: String, reward: f64) -> Result<(), Error> {
        let line = Line {
            run: self.run.clone(),
            update: place.update,
            index: place.index,
            sample: digest,
            reward,
        };
        let written = serde_json::to_vec(&line)
            .map_err(std::io::Error::other)
            .and_then(|mut bytes| {
                bytes.push(b'\n');
                self.file.write_all(&bytes).map(|()| bytes.len() as u64)
            });
        match written {
            Ok(bytes) => {
                self.begins.entry(place.update).or_insert(self.bytes);
                self.bytes += bytes;
                Ok(())
            }
            Err(source) => {
                // If this fails too, the next opening cuts the file back
                let _ = self.file.set_len(self.bytes);
                Err(Error::Io {
                    path: self.path.clone(),
                    doing: "write a reward into the journal",
                    source,
                })
            }
        }
    }

    /// Makes all rewards durable, for a checkpoint that counts on them.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(|source| Error::Io {
            path: self.path.clone(),
            doing: "make the journal durable",
            source,
        })
    }
}

/// A digest of all that a program is told of a sample.
pub(super) fn digest(sample: &Sample<'_>) -> String {
    let columns = serde_json::Value::Object(sample.row.columns.clone()).to_string();
    let mut hasher = blake3::Hasher::new();
    for part in [&sample.row.prompt, sample.response, &columns] {
        // With its length before it, no part can lend letters to the next
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(update: u64, index: u64) -> Place {
        Place { update, index }
    }

    #[test]
    fn what_was_recorded_comes_back_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("judge.jsonl");
        let rewards = [1.0 / 3.0, -0.0, 5e-324, 1.797_693_134_862_315_7e308, 0.1 + 0.2];
        let mut journal = Journal::open(&path, "ppo", 0).unwrap();
        for (i, reward) in rewards.into_iter().enumerate() {
            journal.record(place(7, i as u64), format!("d{i}"), reward).unwrap();
        }
        let whole = journal.bytes();
        journal.sync().unwrap();
        assert_eq!(whole, std::fs::metadata(&path).unwrap().len());
        let mut again = Journal::open(&path, "ppo", 0).unwrap();
        assert_eq!((again.bytes(), again.ahead()), (whole, 5));
        for (i, reward) in rewards.into_iter().enumerate() {
            let got = again.replay(place(7, i as u64), &format!("d{i}")).unwrap().unwrap();
            assert_eq!(got.to_bits(), reward.to_bits());
        }
        assert_eq!(again.replay(place(7, 0), "d0").unwrap(), None);
        assert_eq!(again.ahead(), 0);
    }

    #[test]
    fn half_a_line_is_cut_off_and_reading_starts_at_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("judge.jsonl");
        let mut journal = Journal::open(&path, "ppo", 0).unwrap();
        journal.record(place(0, 0), "a".to_owned(), 1.0).unwrap();
        let checkpoint = journal.bytes();
        journal.record(place(1, 0), "b".to_owned(), 2.0).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in checkpoint as usize..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut journal = Journal::open(&path, "ppo", checkpoint).unwrap();
            assert_eq!((journal.bytes(), journal.ahead()), (checkpoint, 0), "cut at {cut}");
            journal.record(place(1, 0), "b".to_owned(), 2.0).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole, "cut at {cut}");
        }
        let journal = Journal::open(&path, "ppo", checkpoint).unwrap();
        assert_eq!((journal.bytes(), journal.ahead()), (whole.len() as u64, 1));
    }

    /// A run that is stopped inside an update, or that replays what an earlier one answered, goes on from that update's start.
    #[test]
    fn an_update_that_is_not_done_is_read_again_from_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("judge.jsonl");
        let mut journal = Journal::open(&path, "ppo", 0).unwrap();
        let mut begins = vec![0];
        for update in 1..4 {
            for index in 0..2 {
                journal
                    .record(place(update, index), format!("{update}{index}"), update as f64)
                    .unwrap();
            }
            begins.push(journal.bytes());
        }
        let before = |journal: &Journal| -> Vec<u64> { (1..=4).map(|update| journal.bytes_before(update)).collect() };
        assert_eq!(before(&journal), begins);
        // Read again, and before anything is asked for
        let again = Journal::open(&path, "ppo", begins[1]).unwrap();
        assert_eq!((before(&again)[1..].to_vec(), again.ahead()), (begins[1..].to_vec(), 4));
        // From the start of update 3 on, both of its rewards are there, and no other
        let mut third = Journal::open(&path, "ppo", again.bytes_before(3)).unwrap();
        assert_eq!(third.ahead(), 2);
        assert_eq!(third.replay(place(3, 1), "31").unwrap(), Some(3.0));
        assert_eq!(third.bytes_before(3), begins[2]);
        assert_eq!(third.bytes_before(9), third.bytes());
    }

    #[test]
    fn a_journal_that_does_not_belong_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("judge.jsonl");
        let mut journal = Journal::open(&path, "ppo", 0).unwrap();
        journal.record(place(2, 3), "a".to_owned(), 1.0).unwrap();
        let bytes = journal.bytes();
        let refused = |run: &str, from: u64| Journal::open(&path, run, from).unwrap_err().to_string();
        assert!(refused("other", 0).contains("belongs to the run \"ppo\", not to \"other\""));
        assert!(
            refused("ppo", bytes + 1).contains(&format!("has {bytes} bytes, but the checkpoint counted {}", bytes + 1))
        );
        assert!(refused("ppo", bytes - 1).contains("is no end of a line"));
        let message = Journal::open(&path, "ppo", 0)
            .unwrap()
            .replay(place(2, 3), "b")
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("the reward of update 2, sample 3 was given for another sample"),
            "{message}"
        );
        let line = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, line.repeat(2)).unwrap();
        assert!(refused("ppo", 0).contains("has two rewards for update 2, sample 3"));
        std::fs::write(&path, format!("{line}{{}}\n")).unwrap();
        assert!(refused("ppo", 0).contains(&format!("the line at byte {bytes} is no reward: missing field")));
    }

    #[test]
    fn every_part_of_a_sample_counts_in_its_digest() {
        let row = |prompt: &str, answer: &str| crate::PromptRow::new(prompt).with("answer", answer);
        let of = |row: &crate::PromptRow, response: &str| digest(&Sample::new(row, response));
        let all = [
            of(&row("p", "a"), "r"),
            of(&row("pr", "a"), ""),
            of(&row("p", "b"), "r"),
            of(&row("p", "a"), "s"),
            of(&row("", "a"), "pr"),
        ];
        for (i, digest) in all.iter().enumerate() {
            assert_eq!(digest.len(), 32);
            assert!(!all[..i].contains(digest), "{i}");
        }
    }
}
