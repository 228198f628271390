//! Bodies of the kind `multipart/form-data` (RFC 7578), read while they come: nothing but a delimiter and a part's headers is
//! ever held.

use axum::http::StatusCode;

use crate::openai::ApiError;

/// Bytes of a part's headers.
const HEADER_BYTES: usize = 4096;
/// Bytes of a boundary, as RFC 2046 has it.
const BOUNDARY_BYTES: usize = 70;

/// What comes next of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A part begins.
    Part {
        /// The field's name.
        name: String,
        /// The file's name, where it is a file.
        filename: Option<String>,
    },
    /// Bytes of it.
    Data(&'a [u8]),
}

/// Where a body is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before the first part.
    Start,
    /// After a delimiter: more follows, or the end.
    Delimiter,
    Headers,
    Data,
    End,
}

/// A body that is being read.
pub(crate) struct Multipart {
    /// `\r\n--BOUNDARY`.
    delimiter: Vec<u8>,
    held: Vec<u8>,
    at: At,
}

impl Multipart {
    /// A body of this content type.
    ///
    /// # Errors
    /// 415 for another kind, 400 without a boundary.
    pub fn new(content_type: Option<&str>) -> Result<Self, ApiError> {
        let found = content_type.unwrap_or("missing");
        let (kind, parameters) = found.split_once(';').unwrap_or((found, ""));
        if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
            let message = format!("the content type is {kind}; expected a form with a file, `multipart/form-data`");
            return Err(ApiError::of(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let boundary = parameter(parameters, "boundary").filter(|text| (1..=BOUNDARY_BYTES).contains(&text.len()));
        let Some(boundary) = boundary else {
            return Err(bad("the content type has no usable `boundary`"));
        };
        Ok(Self {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            // So that the first delimiter looks as all do
            held: b"\r\n".to_vec(),
            at: At::Start,
        })
    }

    /// Reads on.
    ///
    /// # Errors
    /// What is no form, and what `take` says.
    pub fn push(
        &mut self,
        bytes: &[u8],
        take: &mut dyn FnMut(Piece<'_>) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        self.held.extend_from_slice(bytes);
        loop {
            match self.at {
                At::Start | At::Data => {
                    let found = find(&self.held, &self.delimiter);
                    // What may be the beginning of a delimiter waits for the rest of it
                    let end = found.unwrap_or_else(|| (self.held.len() + 1).saturating_sub(self.delimiter.len()));
                    if self.at == At::Data && end > 0 {
                        take(Piece::Data(&self.held[..end]))?;
                    }
                    self.held.drain(..end);
                    if found.is_none() {
                        return Ok(());
                    }
                    self.held.drain(..self.delimiter.len());
                    self.at = At::Delimiter;
                }
                At::Delimiter => {
                    self.at = match self.held.get(..2) {
                        None => return Ok(()),
                        Some(b"--") => At::End,
                        Some(b"\r\n") => At::Headers,
                        Some(_) => return Err(bad("a delimiter of the form is followed by something else")),
                    };
                    if self.at == At::End {
                        self.held.drain(..2);
                    }
                }
                At::Headers => {
                    // The line end behind the delimiter is still held, so that a part without headers is found, too
                    let Some(end) = find(&self.held, b"\r\n\r\n") else {
                        return match self.held.len() > HEADER_BYTES {
                            true => Err(bad("a part of the form has headers that do not end")),
                            false => Ok(()),
                        };
                    };
                    let (name, filename) = part(&self.held[..end])?;
                    take(Piece::Part { name, filename })?;
                    self.held.drain(..end + 4);
                    self.at = At::Data;
                }
                At::End => {
                    self.held.clear();
                    return Ok(());
                }
            }
        }
    }

    /// Whether the body was whole.
    pub fn has_ended(&self) -> bool {
        self.at == At::End
    }
}

fn bad(message: &str) -> ApiError {
    ApiError::bad("body", message)
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    let (first, mut from) = (part[0], 0);
    loop {
        from += text[from..].iter().position(|byte| *byte == first)?;
        if text[from..].starts_with(part) {
            return Some(from);
        }
        from += 1;
    }
}

/// The field's name and the file's, of a part's headers.
fn part(headers: &[u8]) -> Result<(String, Option<String>), ApiError> {
    let text = String::from_utf8_lossy(headers);
    let disposition = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    });
    let parameters = disposition
        .and_then(|value| value.split_once(';'))
        .map_or("", |(_, rest)| rest);
    match parameter(parameters, "name") {
        Some(name) => Ok((name, parameter(parameters, "filename").map(|name| plain(&name)))),
        None => Err(bad(
            "a part of the form has no name; expected `Content-Disposition: form-data; name=\"...\"`",
        )),
    }
}

/// A parameter among `; name=value` and `; name="value"`.
fn parameter(text: &str, wanted: &str) -> Option<String> {
    let mut rest = text;
    loop {
        let (name, value) = rest.split_once('=')?;
        let (value, after) = match value.trim_start().strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let end = value.find(';').unwrap_or(value.len());
                (value[..end].trim().to_owned(), &value[end..])
            }
        };
        if name.trim_matches([';', ' ', '\t']).eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
}

/// What stands before the closing quote, and what behind.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((out, &text[at + 1..])),
            // Browsers of old send whole paths with single backslashes
            '\\' => match characters.clone().next() {
                Some((_, next @ ('"' | '\\'))) => {
                    characters.next();
                    out.push(next);
                }
                _ => out.push('\\'),
            },
            other => out.push(other),
        }
    }
    None
}

/// A file's name without folders and control characters.
fn plain(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    last.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "multipart/form-data; boundary=\"xYz\"";

    /// The name of a field, the name of its file, and its bytes.
    type Field = (String, Option<String>, Vec<u8>);

    /// The parts of a body that comes in pieces of this size.
    fn read(body: &[u8], size: usize) -> Result<Vec<Field>, String> {
        let mut form = Multipart::new(Some(KIND)).unwrap();
        let mut parts: Vec<Field> = Vec::new();
        for piece in body.chunks(size) {
            let taken = form.push(piece, &mut |piece| {
                match piece {
                    Piece::Part { name, filename } => parts.push((name, filename, Vec::new())),
                    Piece::Data(bytes) => parts.last_mut().unwrap().2.extend_from_slice(bytes),
                }
                Ok(())
            });
            taken.map_err(|error| error.message)?;
            assert!(form.held.len() < HEADER_BYTES + 2 * size.max(80));
        }
        form.has_ended().then_some(parts).ok_or_else(|| "cut off".to_owned())
    }

    #[test]
    fn parts_are_read_however_they_are_cut() {
        let body = b"preamble\r\n--xYz\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n--xYz\r\n\
            content-type: text/plain\r\nContent-Disposition: form-data; name=\"file\"; filename=\"C:\\\\data\\\\a \\\"b\\\".jsonl\"\r\n\r\n\
            one\r\n--xY\r\n-\r\n\r\ntwo\r\n\r\n--xYz--\r\nepilogue";
        let expected = vec![
            ("purpose".to_owned(), None, b"fine-tune".to_vec()),
            (
                "file".to_owned(),
                Some("a \"b\".jsonl".to_owned()),
                b"one\r\n--xY\r\n-\r\n\r\ntwo\r\n".to_vec(),
            ),
        ];
        for size in 1..body.len() {
            assert_eq!(read(body, size).unwrap(), expected, "{size}");
        }
        let at_once = b"--xYz\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n--xYz--";
        assert_eq!(read(at_once, 1).unwrap(), [("a".to_owned(), None, Vec::new())]);
    }

    #[test]
    fn what_is_no_form_is_refused() {
        for (body, said) in [
            (
                &b"--xYz\r\nContent-Disposition: form-data; name=a\r\n\r\nabc"[..],
                "cut off",
            ),
            (b"", "cut off"),
            (b"--xYz!!", "followed by something else"),
            (b"--xYz\r\nContent-Type: text/plain\r\n\r\n", "has no name"),
        ] {
            let error = read(body, 7).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let endless = [&b"--xYz\r\n"[..], &[b'a'; 5000]].concat();
        assert!(read(&endless, 64).unwrap_err().contains("do not end"));
        for kind in [None, Some("application/json"), Some("multipart/mixed; boundary=a")] {
            assert_eq!(Multipart::new(kind).err().map(|error| error.status.as_u16()), Some(415));
        }
        let long = format!("multipart/form-data; boundary={}", "a".repeat(71));
        for kind in ["multipart/form-data", "multipart/form-data; boundary=", &long] {
            assert_eq!(
                Multipart::new(Some(kind)).err().map(|error| error.status.as_u16()),
                Some(400),
                "{kind}"
            );
        }
    }

    #[test]
    fn names_of_files_are_plain() {
        assert_eq!(plain("../../etc/passwd"), "passwd");
        assert_eq!(plain("C:\\a\\b.jsonl"), "b.jsonl");
        assert_eq!(plain("a\r\nb"), "ab");
    }
}
