//! Lines that a running stage adds to its files, each told once.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

/// Bytes that are read at a time, so that a long file does not stand in memory.
const CHUNK: u64 = 1 << 20;

/// A file of lines that grows, and that may be cut back and grow again with the same lines, as a resumed run's files do.
pub(crate) struct Follow {
    path: PathBuf,
    /// Bytes read, all of whole lines.
    offset: u64,
    /// Lines in them.
    lines: u64,
    /// Lines that were told.
    told: u64,
}

impl Follow {
    /// A file of which so many lines were told before.
    pub fn new(path: PathBuf, told: u64) -> Self {
        Self {
            path,
            offset: 0,
            lines: 0,
            told,
        }
    }

    /// A file of which nothing that is in it now is told.
    pub fn from_its_end(path: PathBuf) -> Self {
        let mut follow = Self::new(path, 0);
        follow.offset = follow.path.metadata().map_or(0, |found| found.len());
        follow
    }

    /// What came since the last time, in whole lines. A file that is not there has none.
    pub fn news(&mut self) -> Vec<String> {
        let mut news = Vec::new();
        let Ok(mut file) = File::open(&self.path) else {
            return news;
        };
        if file.metadata().is_ok_and(|found| found.len() < self.offset) {
            (self.offset, self.lines) = (0, 0);
        }
        loop {
            let mut bytes = Vec::new();
            let read = file
                .seek(SeekFrom::Start(self.offset))
                .and_then(|_| (&mut file).take(CHUNK).read_to_end(&mut bytes));
            let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
            if read.is_err() || whole == 0 {
                return news;
            }
            for line in bytes[..whole - 1].split(|&byte| byte == b'\n') {
                self.lines += 1;
                if self.lines > self.told {
                    self.told = self.lines;
                    news.push(String::from_utf8_lossy(line).into_owned());
                }
            }
            self.offset += whole as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_line_is_told_once_also_where_a_file_is_cut_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let mut follow = Follow::new(path.clone(), 1);
        assert!(follow.news().is_empty());
        fs::write(&path, "one\ntwo\nthr").unwrap();
        assert_eq!(follow.news(), ["two"]);
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(follow.news(), ["three"]);
        fs::write(&path, "one\n").unwrap();
        assert!(follow.news().is_empty());
        fs::write(&path, "one\ntwo\nthree\nfour\n").unwrap();
        assert_eq!(follow.news(), ["four"]);
        let mut end = Follow::from_its_end(path.clone());
        assert!(end.news().is_empty());
        fs::write(&path, "one\ntwo\nthree\nfour\nfive\n").unwrap();
        assert_eq!(end.news(), ["five"]);
    }
}
