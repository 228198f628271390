//! Following a file that grows by whole lines, from where it was left.
//!
//! A run's files are written by another process meanwhile: the last line may be half there, a resumed run cuts its files
//! back to the last checkpoint, and a run may be deleted or begun anew. So a line is given once it has its end, and before
//! going on the bytes before the place are compared with what was read there.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Longer lines are passed over.
const MAX_LINE: u64 = 16 << 20;
/// Bytes before the place that are compared with what was read.
const REMEMBERED: usize = 64;

/// What following a file brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// What was read before stands there no more: the file was cut back, or is another one. All of it comes again.
    Restart,
    /// A whole line.
    Line {
        /// Where it begins.
        offset: u64,
        /// What it says, without its end.
        bytes: &'a [u8],
    },
    /// A line longer than 16 MiB, which is passed over.
    TooLong,
}

/// A place in a file that grows.
#[derive(Debug, Clone)]
pub struct Tail {
    path: PathBuf,
    offset: u64,
    length: u64,
    /// The last bytes before the place.
    before: Vec<u8>,
    /// Inside a line that is passed over.
    skipping: bool,
    /// Length and time of the file when all of it had been read.
    seen: Option<(u64, SystemTime)>,
    modified: Option<SystemTime>,
}

impl Tail {
    /// At the beginning of a file, which need not be there yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            offset: 0,
            length: 0,
            before: Vec::new(),
            skipping: false,
            seen: None,
            modified: None,
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are not read yet, as far as the last look told; a line without its end counts among them.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.length.saturating_sub(self.offset)
    }

    /// When the file was last written, as of the last look; none where there is no file.
    #[must_use]
    pub fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// Goes back to the beginning.
    pub fn rewind(&mut self) {
        self.offset = 0;
        self.before.clear();
        self.skipping = false;
        self.seen = None;
    }

    /// Gives what came since the last time, up to about `budget` bytes, and how many bytes that were. A file that is not
    /// there (or is a link, a pipe or a folder) has no lines.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn read(&mut self, budget: u64, each: &mut dyn FnMut(Piece<'_>)) -> io::Result<u64> {
        let Some(modified) = self.look()? else {
            if self.offset > 0 {
                self.rewind();
                each(Piece::Restart);
            }
            return Ok(0);
        };
        let length = self.length;
        if self.seen == Some((length, modified)) {
            return Ok(0);
        }
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            // It went away meanwhile; the next look tells
            Err(error) if is_absent(&error) => return Ok(0),
            Err(error) => return Err(error),
        };
        if self.offset > 0 && !self.stands(&mut file)? {
            self.rewind();
            each(Piece::Restart);
        }
        let read = self.lines(file, budget, each)?;
        if read < budget {
            self.seen = Some((length, modified));
        }
        Ok(read)
    }

    /// Notes length and time of the file; gives the time, if it is one.
    fn look(&mut self) -> io::Result<Option<SystemTime>> {
        (self.length, self.modified) = (0, None);
        match fs::symlink_metadata(&self.path) {
            Ok(metadata) if metadata.is_file() => {
                (self.length, self.modified) = (metadata.len(), Some(metadata.modified()?));
            }
            Ok(_) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(self.modified)
    }

    /// Whether what was read last still stands before the place.
    fn stands(&self, file: &mut File) -> io::Result<bool> {
        if self.length < self.offset {
            return Ok(false);
        }
        let mut now = vec![0; self.before.len()];
        file.seek(SeekFrom::Start(self.offset - self.before.len() as u64))?;
        match file.read_exact(&mut now) {
            Ok(()) => Ok(now == self.before),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn lines(&mut self, mut file: File, budget: u64, each: &mut dyn FnMut(Piece<'_>)) -> io::Result<u64> {
        file.seek(SeekFrom::Start(self.offset))?;
        let mut reader = BufReader::with_capacity(1 << 16, file.take(self.unread()));
        let (mut read, mut line) = (0, Vec::new());
        while read < budget {
            line.clear();
            let count = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? as u64;
            let whole = line.last() == Some(&b'\n');
            if count == 0 || !(whole || self.skipping || count == MAX_LINE) {
                break;
            }
            match (self.skipping, whole) {
                (false, true) => each(Piece::Line {
                    offset: self.offset,
                    bytes: &line[..line.len() - 1],
                }),
                (false, false) => each(Piece::TooLong),
                (true, _) => {}
            }
            self.skipping = !whole;
            self.offset += count;
            self.remember(&line);
            read += count;
        }
        Ok(read)
    }

    fn remember(&mut self, line: &[u8]) {
        self.before
            .extend_from_slice(&line[line.len().saturating_sub(REMEMBERED)..]);
        let surplus = self.before.len().saturating_sub(REMEMBERED);
        self.before.drain(..surplus);
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn all(tail: &mut Tail, budget: u64) -> Vec<String> {
        let mut found = Vec::new();
        let mut each = |piece: Piece<'_>| {
            found.push(match piece {
                Piece::Restart => "restart".to_owned(),
                Piece::TooLong => "too long".to_owned(),
                Piece::Line { offset, bytes } => format!("{offset} {}", String::from_utf8_lossy(bytes)),
            });
        };
        tail.read(budget, &mut each).unwrap();
        found
    }

    fn append(path: &Path, text: &str) {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn lines_come_once_and_only_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut tail = Tail::new(path.clone());
        assert!(all(&mut tail, 1 << 20).is_empty() && tail.modified().is_none());
        append(&path, "one\ntwo\nthr");
        assert_eq!(all(&mut tail, 1 << 20), ["0 one", "4 two"]);
        assert_eq!(tail.unread(), 3);
        assert!(all(&mut tail, 1 << 20).is_empty());
        append(&path, "ee\n\nfive\n");
        assert_eq!(all(&mut tail, 1 << 20), ["8 three", "14 ", "15 five"]);
        // Little by little
        append(&path, "six\nseven\n");
        assert_eq!(all(&mut tail, 1), ["20 six"]);
        assert_eq!(all(&mut tail, 1), ["24 seven"]);
        assert!(all(&mut tail, 1).is_empty());
    }

    #[test]
    fn what_was_cut_back_replaced_or_removed_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut tail = Tail::new(path.clone());
        append(&path, "one\ntwo\nthree\n");
        all(&mut tail, 1 << 20);
        fs::write(&path, "one\n").unwrap();
        assert_eq!(all(&mut tail, 1 << 20), ["restart", "0 one"]);
        // Cut back and written on with the same lines between two looks: nothing is lost or doubled
        fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(all(&mut tail, 1 << 20), ["4 two"]);
        // As long, but another file
        fs::write(&path, "uno\ndos\ntres\n").unwrap();
        assert_eq!(all(&mut tail, 1 << 20), ["restart", "0 uno", "4 dos", "8 tres"]);
        fs::remove_file(&path).unwrap();
        assert_eq!(all(&mut tail, 1 << 20), ["restart"]);
        assert!(all(&mut tail, 1 << 20).is_empty());
    }

    #[test]
    fn endless_lines_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut tail = Tail::new(path.clone());
        append(&path, &"x".repeat(MAX_LINE as usize + 10));
        assert_eq!(all(&mut tail, u64::MAX), ["too long"]);
        append(&path, "xx\nshort\n");
        assert_eq!(all(&mut tail, u64::MAX), [format!("{} short", MAX_LINE + 13)]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, secret) = (dir.path().join("metrics.jsonl"), dir.path().join("secret"));
        fs::write(&secret, "secret\n").unwrap();
        std::os::unix::fs::symlink(&secret, &path).unwrap();
        assert!(all(&mut Tail::new(path), 1 << 20).is_empty());
    }
}
