//! The growing files of a run: one JSON object a line, cut back on resume to what a checkpoint acknowledged.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::{Error, Result};

/// A prompt, what was answered, and how it was judged: a line of `samples.jsonl`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sample {
    /// The step whose weights answered.
    pub step: u64,
    /// The prompt's text, after the template.
    pub prompt: String,
    /// The answer's text.
    pub response: String,
    /// The reward model's or verifier's score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Summed log-probability under the policy minus that under the reference, nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Further fields, by name.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// A file that grows by whole lines.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl JsonLines {
    /// Opens or creates the file; lines are appended.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || {
            let file = File::options().create(true).append(true).open(path)?;
            let bytes = file.metadata()?.len();
            Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(|source| Error::io("open it for appending", path, 0, source))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            bytes,
        })
    }

    /// Length in bytes, all of whole lines.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends one line in one write. Should the disk fill inside it, the part that was written is cut off again.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn append(&mut self, line: &str) -> Result<()> {
        let mut bytes = Vec::with_capacity(line.len() + 1);
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        if let Err(source) = durable::write_all(&mut self.file, &bytes) {
            // If this fails too, the next resume cuts the file back.
            let _ = self.file.set_len(self.bytes);
            return Err(Error::io("append a line", &self.path, bytes.len() as u64, source));
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Cuts the file back to `bytes` and makes that durable; false when the file is shorter than that.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn truncate(&mut self, bytes: u64) -> Result<bool> {
        let whole = self.bytes >= bytes;
        if self.bytes > bytes {
            durable::fault::operation()
                .and_then(|()| self.file.set_len(bytes))
                .map_err(|source| Error::io("cut it back", &self.path, 0, source))?;
            self.bytes = bytes;
        }
        self.sync()?;
        Ok(whole)
    }

    /// Makes all lines durable.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn sync(&mut self) -> Result<()> {
        durable::sync_file(&self.file).map_err(|source| Error::io("make it durable", &self.path, 0, source))
    }
}

/// A line of `metrics.jsonl`: the step, then the metrics by name in alphabetical order. Numbers are printed in the
/// fewest digits that read back to the same bits; what is not finite is `null`, and `non_finite` counts those.
#[must_use]
pub fn metric_line(step: u64, metrics: &[(&str, f64)]) -> String {
    let sorted: BTreeMap<&str, f64> = metrics.iter().filter(|(name, _)| *name != "step").copied().collect();
    let mut object = serde_json::Map::new();
    object.insert("step".to_owned(), step.into());
    let mut non_finite = 0_u64;
    for (name, value) in sorted {
        non_finite += u64::from(!value.is_finite());
        object.insert(
            name.to_owned(),
            serde_json::Number::from_f64(value).map_or(serde_json::Value::Null, Into::into),
        );
    }
    if non_finite > 0 {
        object.insert("non_finite".to_owned(), non_finite.into());
    }
    serde_json::Value::Object(object).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::fault::{self, Fault};

    #[test]
    fn metrics_are_sorted_exact_and_never_invalid_json() {
        let line = metric_line(
            7,
            &[
                ("loss", 0.1),
                ("grad_norm", f64::NAN),
                ("a/b", 1.0 / 3.0),
                ("kl", -f64::INFINITY),
            ],
        );
        assert_eq!(
            line,
            r#"{"step":7,"a/b":0.3333333333333333,"grad_norm":null,"kl":null,"loss":0.1,"non_finite":2}"#
        );
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["a/b"].as_f64().unwrap().to_bits(), (1.0_f64 / 3.0).to_bits());
    }

    #[test]
    fn a_full_disk_leaves_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut lines = JsonLines::open(&path).unwrap();
        lines.append("{\"step\":1}").unwrap();
        fault::after(0, Fault::DiskFull);
        let error = lines.append("{\"step\":2}").unwrap_err();
        assert!(fault::clear());
        assert!(error.is_no_space(), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n");
        assert_eq!(lines.bytes(), 11);
    }

    #[test]
    fn truncation_says_when_the_file_was_shorter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut lines = JsonLines::open(&path).unwrap();
        lines.append("abc").unwrap();
        lines.append("def").unwrap();
        assert!(lines.truncate(4).unwrap());
        lines.append("ghi").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "abc\nghi\n");
        assert!(!lines.truncate(100).unwrap());
    }

    #[test]
    fn samples_keep_extra_fields() {
        let text = r#"{"step":3,"prompt":"p","response":"r","score":0.5,"judge":"won"}"#;
        let sample: Sample = serde_json::from_str(text).unwrap();
        assert_eq!(sample.extra["judge"], "won");
        assert_eq!(serde_json::to_string(&sample).unwrap(), text);
    }
}
