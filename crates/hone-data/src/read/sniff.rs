//! What a file is, told from its first bytes.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Serialize;

use super::meter::{Meter, Tap, explain};
use super::{Contents, Hints, Limits, Opened, Place, Rows, TextFile, delimited, json, parquet};
use crate::annotations;
use crate::error::DataError;
use crate::posts::Posts;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, any number of members.
    Gzip,
    /// zstd, any number of frames.
    Zstd,
}

impl Compression {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Compression::None => "plain",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }

    pub(crate) fn data_name(self) -> &'static str {
        match self {
            Compression::None => "data",
            Compression::Gzip => "gzip data",
            Compression::Zstd => "zstd data",
        }
    }
}

/// How the data of a file are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Container {
    /// Text without structure.
    PlainText,
    /// One JSON object a line.
    JsonLines,
    /// One JSON array of objects.
    JsonArray,
    /// Comma separated values with a header.
    Csv,
    /// Tab separated values with a header.
    Tsv,
    /// Apache Parquet.
    Parquet,
    /// A Stack Exchange `Posts.xml`.
    PostsXml,
    /// A SQLite file: a store of annotations.
    Sqlite,
}

const HEAD: u64 = 64 << 10;
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";
const SQLITE: &[u8] = b"SQLite format 3\0";

pub(super) fn open(path: &Path, limits: &Limits, hints: &Hints) -> Result<Opened, DataError> {
    let refuse = |source| DataError::Open {
        path: path.into(),
        source,
    };
    let mut file = File::open(path).map_err(refuse)?;
    let metadata = file.metadata().map_err(refuse)?;
    if metadata.is_dir() {
        return Err(DataError::Directory { path: path.into() });
    }
    let mut place = Place {
        path: path.into(),
        compression: Compression::None,
        compressed_size: metadata.len(),
    };
    let raw = read_head(&mut file, HEAD).map_err(|e| explain(&place, 0, e, 1))?;
    if raw.is_empty() {
        return Err(DataError::Empty { path: path.into() });
    }
    refuse_unreadable(path, &raw)?;
    place.compression = match raw.as_slice() {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        _ => Compression::None,
    };
    if place.compression == Compression::None && raw.starts_with(b"PAR1") {
        return opened_parquet(file, &place, limits);
    }
    if place.compression == Compression::None && raw.starts_with(SQLITE) {
        return Ok(Opened {
            compression: place.compression,
            container: Container::Sqlite,
            contents: Contents::Rows(Rows::new(annotations::rows(path)?)),
        });
    }
    let whole = Cursor::new(raw).chain(file);
    let mut data: Box<dyn Read> = match place.compression {
        Compression::None => Box::new(Tap::new(whole, &place, limits)),
        Compression::Gzip => {
            let decoder = flate2::read::MultiGzDecoder::new(BufReader::with_capacity(64 << 10, whole));
            Box::new(Tap::new(decoder, &place, limits))
        }
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::new(whole).map_err(|e| explain(&place, 0, e, 1))?;
            Box::new(Tap::new(decoder, &place, limits))
        }
    };
    let mut head = read_head(&mut data, HEAD).map_err(|e| explain(&place, 0, e, 1))?;
    if head.is_empty() {
        return Err(DataError::Empty { path: path.into() });
    }
    refuse_unreadable(path, &head)?;
    if head.starts_with(b"PAR1") {
        let mut unpacked = tempfile::tempfile().map_err(refuse)?;
        io::copy(&mut Cursor::new(head).chain(data), &mut unpacked).map_err(|e| explain(&place, 0, e, 1))?;
        unpacked.seek(SeekFrom::Start(0)).map_err(refuse)?;
        return opened_parquet(unpacked, &place, limits);
    }
    if head.starts_with(SQLITE) {
        return Err(DataError::Unsupported {
            path: path.into(),
            what: "a compressed SQLite file",
            hint: "decompress it",
        });
    }
    if head.starts_with(UTF8_MARK) {
        head.drain(..UTF8_MARK.len());
    }
    let container = if hints.plain_text {
        Container::PlainText
    } else {
        container(&head, hints)
    };
    let data: Box<dyn Read> = Box::new(Cursor::new(head).chain(data));
    let compression = place.compression;
    let metered = |cap| Meter::new(data, place, cap);
    let contents = match container {
        Container::PlainText => Contents::Text(TextFile::new(metered(u64::MAX), limits)),
        Container::JsonLines => Contents::Rows(json::lines(metered(limits.row_bytes))),
        Container::JsonArray => Contents::Rows(json::array(metered(limits.row_bytes))),
        Container::Csv => Contents::Rows(delimited::rows(metered(limits.row_bytes), b',')?),
        Container::Tsv => Contents::Rows(delimited::rows(metered(limits.row_bytes), b'\t')?),
        Container::PostsXml => Contents::Posts(Posts::new(metered(limits.row_bytes))),
        Container::Parquet | Container::Sqlite => unreachable!("both have been opened above"),
    };
    Ok(Opened {
        compression,
        container,
        contents,
    })
}

fn opened_parquet(file: File, place: &Place, limits: &Limits) -> Result<Opened, DataError> {
    Ok(Opened {
        compression: place.compression,
        container: Container::Parquet,
        contents: Contents::Rows(parquet::rows(file, place, limits)?),
    })
}

fn read_head(reader: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(size).read_to_end(&mut head)?;
    Ok(head)
}

fn refuse_unreadable(path: &Path, head: &[u8]) -> Result<(), DataError> {
    if head.starts_with(b"version https://git-lfs") {
        let text = String::from_utf8_lossy(head);
        let size = text
            .lines()
            .find_map(|l| l.strip_prefix("size "))
            .and_then(|s| s.trim().parse().ok());
        return Err(DataError::LfsPointer {
            path: path.into(),
            size,
        });
    }
    let (what, hint) = match head {
        [b'P', b'K', 3, 4, ..] => ("a zip archive", "unpack it and name the file in it"),
        [b'7', b'z', 0xbc, 0xaf, ..] => (
            "a 7z archive",
            "unpack it (`7z x`) and name the file in it, such as Posts.xml",
        ),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => ("bzip2 data", "decompress it, or compress it with zstd"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => ("xz data", "decompress it, or compress it with zstd"),
        [0x80, 2..=5, ..] => (
            "a Python pickle, which can run code and is never read",
            "write JSON lines or Parquet instead",
        ),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => (
            "UTF-16 text",
            "convert it first, for example with `iconv -f UTF-16 -t UTF-8`",
        ),
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] => ("an Arrow file", "write Parquet or JSON lines instead"),
        _ if head.get(257..262) == Some(b"ustar") => ("a tar archive", "unpack it and name the files in it"),
        _ => return Ok(()),
    };
    Err(DataError::Unsupported {
        path: path.into(),
        what,
        hint,
    })
}

fn container(head: &[u8], hints: &Hints) -> Container {
    let trimmed = head.trim_ascii_start();
    let after_first = trimmed.get(1..).unwrap_or_default().trim_ascii_start().first();
    match (trimmed.first(), after_first) {
        (Some(b'{'), Some(b'"' | b'}')) => return Container::JsonLines,
        (Some(b'['), Some(b'{')) => return Container::JsonArray,
        (Some(b'['), Some(b']')) if trimmed.len() < 16 => return Container::JsonArray,
        (Some(b'<'), _) if holds(trimmed, b"<posts") => return Container::PostsXml,
        _ => {}
    }
    let text = String::from_utf8_lossy(head);
    for (separator, container) in [('\t', Container::Tsv), (',', Container::Csv)] {
        if has_header(&text, separator, (head.len() as u64) < HEAD, hints) {
            return container;
        }
    }
    Container::PlainText
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack[..haystack.len().min(4096)]
        .windows(needle.len())
        .any(|w| w == needle)
}

/// A header is a first line of distinct identifiers of which one is a known column; or of two or more identifiers, with
/// at least two records under it that have as many fields. A single column is `text`, `prompt`, or a name that was given.
fn has_header(text: &str, separator: char, complete: bool, hints: &Hints) -> bool {
    let Some(first) = text.lines().next() else {
        return false;
    };
    let names: Vec<&str> = first.split(separator).map(|f| f.trim().trim_matches('"')).collect();
    let expected = |name: &str| hints.columns.iter().any(|c| c == name);
    let identifiers = names.iter().enumerate().all(|(i, n)| {
        let plain = n.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && n.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        (plain && n.len() <= 64 || expected(n)) && !names[..i].contains(n)
    });
    if !identifiers {
        return false;
    }
    let known = |name: &str| crate::format::known_columns().any(|c| c == name) || expected(name);
    if let [name] = names.as_slice() {
        // a table of one column: only where that column is all a format needs
        let enough = matches!(*name, "text" | "prompt") || expected(name);
        return separator == ',' && enough && text.lines().nth(1).is_some();
    }
    if names.iter().any(|n| known(n)) {
        return true;
    }
    let mut records = csv::ReaderBuilder::new()
        .delimiter(separator as u8)
        .flexible(true)
        .from_reader(text.as_bytes())
        .into_records()
        .flatten()
        .map(|r| r.len())
        .take(21)
        .collect::<Vec<_>>();
    if !complete && records.len() < 21 {
        records.pop(); // the head may have cut it
    }
    records.len() >= 2 && records.iter().all(|&n| n == names.len())
}
