//! TensorBoard event files: length, checksum, protocol-buffer message, checksum, over and over.
//!
//! Format: `tensorflow/core/lib/io/record_writer.cc` and the messages `Event`, `Summary` and `TensorProto` of
//! TensorFlow's `core/util/event.proto` and `core/framework`. Only the handful of fields used here is encoded.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::durable;
use crate::error::{Error, Result};

/// An event file being written.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates `events.out.tfevents.*` in `dir`. Every start of a run makes a new one; TensorBoard shows them as one.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn create(dir: &Path) -> Result<Self> {
        let seconds = wall_time() as u64;
        let process = std::process::id();
        let mut number = 0;
        let (path, file) = loop {
            let path = dir.join(format!("events.out.tfevents.{seconds:010}.hone.{process}.{number}"));
            match File::options().append(true).create_new(true).open(&path) {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(Error::io("create it", &path, 0, error)),
            }
        };
        let mut events = Self { path, file };
        let version = Message::new().bytes(3, b"brain.Event:2");
        events.append(&event(0, version))?;
        Ok(events)
    }

    /// Says that the run goes on from `step`: TensorBoard drops what older files hold beyond it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn restart(&mut self, step: u64) -> Result<()> {
        const START: u64 = 1;
        self.append(&event(
            step,
            Message::new().message(7, &Message::new().varint(1, START)),
        ))
    }

    /// Adds figures of one step.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut summary = Message::new();
        for (tag, value) in values {
            let value = Message::new().bytes(1, tag.as_bytes()).float(2, *value as f32);
            summary = summary.message(1, &value);
        }
        self.append(&event(step, Message::new().message(5, &summary)))
    }

    /// Adds a text (Markdown) of one step.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn text(&mut self, step: u64, tag: &str, text: &str) -> Result<()> {
        const STRING: u64 = 7;
        const TENSOR: u64 = 2;
        let plugin = Message::new().bytes(1, b"text");
        let metadata = Message::new().message(1, &plugin).varint(4, TENSOR);
        let shape = Message::new().message(2, &Message::new().varint(1, 1));
        let tensor = Message::new()
            .varint(1, STRING)
            .message(2, &shape)
            .bytes(8, text.as_bytes());
        let value = Message::new()
            .bytes(1, tag.as_bytes())
            .message(8, &tensor)
            .message(9, &metadata);
        self.append(&event(
            step,
            Message::new().message(5, &Message::new().message(1, &value)),
        ))
    }

    fn append(&mut self, event: &Message) -> Result<()> {
        let record = record(&event.0);
        durable::write_all(&mut self.file, &record)
            .map_err(|source| Error::io("append an event", &self.path, record.len() as u64, source))
    }
}

fn event(step: u64, payload: Message) -> Message {
    let mut event = Message::new().double(1, wall_time()).varint(2, step);
    event.0.extend(payload.0);
    event
}

fn wall_time() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}

/// `length: u64, masked crc of it: u32, data, masked crc of it: u32`, little-endian.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// CRC-32C, rotated and offset so that a checksum of data with checksums inside stays meaningful.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protocol-buffer message under construction.
struct Message(Vec<u8>);

impl Message {
    const fn new() -> Self {
        Self(Vec::new())
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.raw_varint(field << 3 | wire_type);
    }

    fn varint(mut self, field: u64, value: u64) -> Self {
        self.key(field, 0);
        self.raw_varint(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Self {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.key(field, 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Field {
        Varint(u64),
        Fixed64(u64),
        Fixed32(u32),
        Bytes(Vec<u8>),
    }

    /// Reads a message's fields in order, by the wire format's definition.
    fn fields(mut data: &[u8]) -> Vec<(u64, Field)> {
        fn varint(data: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..64).step_by(7) {
                let byte = data[0];
                *data = &data[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    return value;
                }
            }
            panic!("varint too long");
        }
        fn take<'a>(data: &mut &'a [u8], count: usize) -> &'a [u8] {
            let (head, tail) = data.split_at(count);
            *data = tail;
            head
        }
        let mut found = Vec::new();
        while !data.is_empty() {
            let key = varint(&mut data);
            let field = match key & 7 {
                0 => Field::Varint(varint(&mut data)),
                1 => Field::Fixed64(u64::from_le_bytes(take(&mut data, 8).try_into().unwrap())),
                2 => {
                    let length = varint(&mut data) as usize;
                    Field::Bytes(take(&mut data, length).to_vec())
                }
                5 => Field::Fixed32(u32::from_le_bytes(take(&mut data, 4).try_into().unwrap())),
                other => panic!("wire type {other}"),
            };
            found.push((key >> 3, field));
        }
        found
    }

    fn sub(field: &Field) -> Vec<(u64, Field)> {
        match field {
            Field::Bytes(bytes) => fields(bytes),
            other => panic!("not a message: {other:?}"),
        }
    }

    /// CRC-32C bit by bit, reflected polynomial 0x82f63b78.
    fn slow_masked_crc(data: &[u8]) -> u32 {
        let mut crc = !0_u32;
        for byte in data {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
            }
        }
        let crc = !crc;
        crc.rotate_right(15).wrapping_add(0xa282_ead8)
    }

    fn records(mut data: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !data.is_empty() {
            let length = u64::from_le_bytes(data[..8].try_into().unwrap()) as usize;
            assert_eq!(
                u32::from_le_bytes(data[8..12].try_into().unwrap()),
                slow_masked_crc(&data[..8])
            );
            let payload = &data[12..12 + length];
            let crc = u32::from_le_bytes(data[12 + length..16 + length].try_into().unwrap());
            assert_eq!(crc, slow_masked_crc(payload));
            found.push(payload.to_vec());
            data = &data[16 + length..];
        }
        found
    }

    #[test]
    fn the_reference_checksum_is_the_published_one() {
        // RFC 3720, B.4: CRC-32C of 32 zero bytes.
        let masked = 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(slow_masked_crc(&[0; 32]), masked);
    }

    #[test]
    fn event_files_parse_and_their_checksums_hold() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(dir.path()).unwrap();
        events.restart(300).unwrap();
        events.scalars(301, &[("loss", 1.5), ("objective/kl", -0.25)]).unwrap();
        events.text(301, "samples", "caf\u{e9}").unwrap();
        let records = records(&std::fs::read(&events.path).unwrap());
        assert_eq!(records.len(), 4);

        let version = fields(&records[0]);
        assert_eq!(
            (&version[0].0, &version[2]),
            (&1, &(3, Field::Bytes(b"brain.Event:2".to_vec())))
        );
        let Field::Fixed64(time) = version[0].1 else {
            panic!("wall time")
        };
        assert!(f64::from_bits(time) > 1.7e9);

        let restart = fields(&records[1]);
        assert_eq!(restart[1], (2, Field::Varint(300)));
        assert_eq!((restart[2].0, sub(&restart[2].1)), (7, vec![(1, Field::Varint(1))]));

        let scalars = fields(&records[2]);
        assert_eq!(scalars[1], (2, Field::Varint(301)));
        assert_eq!(scalars[2].0, 5);
        let values = sub(&scalars[2].1);
        assert_eq!(
            sub(&values[0].1),
            [
                (1, Field::Bytes(b"loss".to_vec())),
                (2, Field::Fixed32(1.5_f32.to_bits()))
            ]
        );
        assert_eq!(
            sub(&values[1].1),
            [
                (1, Field::Bytes(b"objective/kl".to_vec())),
                (2, Field::Fixed32((-0.25_f32).to_bits()))
            ]
        );

        let text = sub(&sub(&fields(&records[3])[2].1)[0].1);
        let tensor = sub(&text[1].1);
        assert_eq!(tensor[0], (1, Field::Varint(7)));
        assert_eq!(tensor[2], (8, Field::Bytes("caf\u{e9}".as_bytes().to_vec())));
        assert_eq!(sub(&sub(&text[2].1)[0].1), [(1, Field::Bytes(b"text".to_vec()))]);
    }

    #[test]
    fn two_starts_in_one_second_do_not_share_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (
            EventFile::create(dir.path()).unwrap(),
            EventFile::create(dir.path()).unwrap(),
        );
        assert_ne!(first.path, second.path);
    }
}
