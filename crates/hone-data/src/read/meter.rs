//! A buffered reader that counts lines, bounds the bytes of one row, and bounds what decompression may produce.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use super::{Compression, Limits, Place};
use crate::error::DataError;

/// Why the meter itself stopped reading, carried through `io::Error`.
#[derive(Debug)]
enum Stop {
    RowTooLong,
    Expansion(u64),
    Total(u64),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a limit was reached")
    }
}

impl std::error::Error for Stop {}

/// Counts what comes out of the decoder.
pub(super) struct Tap<R> {
    inner: R,
    produced: u64,
    expansion_cap: u64,
    total_cap: u64,
}

impl<R: Read> Tap<R> {
    pub(super) fn new(inner: R, place: &Place, limits: &Limits) -> Self {
        let expansion_cap = match place.compression {
            Compression::None => u64::MAX,
            _ => limits
                .expansion_floor
                .max(place.compressed_size.saturating_mul(limits.expansion)),
        };
        Self {
            inner,
            produced: 0,
            expansion_cap,
            total_cap: limits.total_bytes,
        }
    }
}

impl<R: Read> Read for Tap<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.produced += n as u64;
        if self.produced > self.expansion_cap {
            return Err(io::Error::other(Stop::Expansion(self.expansion_cap)));
        }
        if self.produced > self.total_cap {
            return Err(io::Error::other(Stop::Total(self.total_cap)));
        }
        Ok(n)
    }
}

/// The counters of a [`Meter`], shared with whoever reads through it.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    line: Rc<Cell<u64>>,
    row: Rc<Cell<u64>>,
}

impl Counters {
    /// The line the next byte is on, from 1.
    pub fn line(&self) -> u64 {
        self.line.get()
    }

    /// A new row begins here.
    pub fn begin_row(&self) {
        self.row.set(0);
    }
}

/// See the module.
pub(crate) struct Meter {
    inner: BufReader<Box<dyn Read>>,
    counters: Counters,
    row_cap: u64,
    place: Place,
}

impl Meter {
    pub fn new(inner: Box<dyn Read>, place: Place, row_cap: u64) -> Self {
        Self {
            inner: BufReader::with_capacity(64 << 10, inner),
            counters: Counters {
                line: Rc::new(Cell::new(1)),
                row: Rc::new(Cell::new(0)),
            },
            row_cap,
            place,
        }
    }

    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The most bytes of one row.
    pub fn row_cap(&self) -> u64 {
        self.row_cap
    }

    /// The error an `io::Error` of this reader stands for. `line` is where the row in hand begins.
    pub fn explain(&self, error: io::Error, line: u64) -> DataError {
        explain(&self.place, self.row_cap, error, line)
    }

    /// The bytes up to and without the next line end, or `None` at the end of the data.
    ///
    /// # Errors
    /// As any read; a line longer than the limit for a row.
    pub fn read_line(&mut self, line: &mut Vec<u8>) -> Result<Option<u64>, DataError> {
        self.counters.begin_row();
        line.clear();
        let start = self.counters.line();
        loop {
            let available = match self.fill_buf() {
                Ok(available) => available,
                Err(error) => return Err(self.explain(error, start)),
            };
            if available.is_empty() {
                return Ok((!line.is_empty()).then_some(start));
            }
            let end = available.iter().position(|&b| b == b'\n');
            let taken = end.unwrap_or(available.len());
            line.extend_from_slice(&available[..taken]);
            self.consume(taken + usize::from(end.is_some()));
            if end.is_some() {
                return Ok(Some(start));
            }
        }
    }
}

pub(crate) fn explain(place: &Place, row_cap: u64, error: io::Error, line: u64) -> DataError {
    let path = place.path.clone();
    let compression = place.compression.name();
    match error.get_ref().and_then(|e| e.downcast_ref::<Stop>()) {
        Some(Stop::RowTooLong) => {
            return DataError::RowTooLong {
                path,
                line,
                cap: row_cap,
            };
        }
        Some(Stop::Expansion(cap)) => {
            let size = place.compressed_size;
            return DataError::ExpandsTooFar {
                path,
                size,
                produced: *cap,
                ratio: cap / size.max(1),
            };
        }
        Some(Stop::Total(cap)) => return DataError::TooLarge { path, cap: *cap },
        None => {}
    }
    match (place.compression, error.kind()) {
        (Compression::None, _) => DataError::Read {
            path,
            line,
            source: error,
        },
        (_, io::ErrorKind::UnexpectedEof) => DataError::CutShort {
            path,
            compression,
            line: line.saturating_sub(1),
        },
        _ => DataError::Corrupt {
            path,
            line,
            what: place.compression.data_name(),
            detail: error.to_string(),
        },
    }
}

impl Read for Meter {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buffer.len());
        buffer[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Meter {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.counters.row.get() > self.row_cap {
            return Err(io::Error::other(Stop::RowTooLong));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        let passed = &self.inner.buffer()[..amount];
        let lines = passed.iter().filter(|&&b| b == b'\n').count() as u64;
        self.counters.line.set(self.counters.line.get() + lines);
        self.counters.row.set(self.counters.row.get() + amount as u64);
        self.inner.consume(amount);
    }
}
