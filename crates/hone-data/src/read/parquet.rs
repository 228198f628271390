//! Parquet through its row interface.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::data_type::AsBytes;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row as ParquetRow};
use serde_json::{Map, Value};

use super::{Limits, Place, Row, Rows};
use crate::error::DataError;

/// The rows of a Parquet file; `line` counts rows.
pub(super) fn rows(file: File, place: &Place, limits: &Limits) -> Result<Rows, DataError> {
    let path = place.path.clone();
    let corrupt = move |line: u64, detail: String| DataError::Corrupt {
        path: path.clone(),
        line,
        what: "Parquet file",
        detail,
    };
    let size = file.metadata().map_or(0, |m| m.len());
    let reader = contained(|| SerializedFileReader::new(file).map_err(|e| e.to_string())).map_err(|e| corrupt(1, e))?;
    for group in reader.metadata().row_groups() {
        let claimed = u64::try_from(group.total_byte_size()).unwrap_or(u64::MAX);
        if claimed > limits.expansion_floor.max(size.saturating_mul(limits.expansion)) {
            return Err(DataError::ExpandsTooFar {
                path: place.path.clone(),
                size,
                produced: claimed,
                ratio: limits.expansion,
            });
        }
    }
    let (row_cap, total_cap, path) = (limits.row_bytes, limits.total_bytes, place.path.clone());
    let mut total = 0;
    let mut rows = reader.into_iter();
    let mut line = 0;
    Ok(Rows::new(std::iter::from_fn(move || {
        line += 1;
        let next = contained(|| rows.next().transpose().map_err(|e| e.to_string()));
        match next {
            Err(detail) => Some(Err(corrupt(line, detail))),
            Ok(None) => None,
            Ok(Some(row)) => {
                let mut bytes = 0;
                let fields = object(&row, &mut bytes);
                if bytes > row_cap {
                    let path = path.clone();
                    return Some(Err(DataError::RowTooLong {
                        path,
                        line,
                        cap: row_cap,
                    }));
                }
                total += bytes;
                if total > total_cap {
                    let path = path.clone();
                    return Some(Err(DataError::TooLarge { path, cap: total_cap }));
                }
                Some(Ok(Row::good(line, fields)))
            }
        }
    })))
}

/// The decoder panics on some crafted files; here that is an error like any other.
fn contained<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the decoder failed on it".into()))
}

fn object(row: &ParquetRow, bytes: &mut u64) -> Map<String, Value> {
    row.get_column_iter()
        .map(|(name, field)| (name.clone(), value(field, bytes)))
        .collect()
}

fn value(field: &Field, bytes: &mut u64) -> Value {
    *bytes += 8;
    match field {
        Field::Null => Value::Null,
        Field::Bool(b) => (*b).into(),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) | Field::Date(n) | Field::TimeMillis(n) => (*n).into(),
        Field::Long(n) | Field::TimeMicros(n) | Field::TimestampMillis(n) | Field::TimestampMicros(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        Field::Float16(n) => f64::from(n.to_f32()).into(),
        Field::Float(n) => f64::from(*n).into(),
        Field::Double(n) => (*n).into(),
        Field::Str(text) => {
            *bytes += text.len() as u64;
            text.as_str().into()
        }
        // older writers leave text without the annotation that it is text
        Field::Bytes(raw) => {
            *bytes += raw.len() as u64;
            match std::str::from_utf8(raw.as_bytes()) {
                Ok(text) => text.into(),
                Err(_) => Value::Null,
            }
        }
        Field::Group(row) => Value::Object(object(row, bytes)),
        Field::ListInternal(list) => list.elements().iter().map(|f| value(f, bytes)).collect(),
        Field::MapInternal(map) => map
            .entries()
            .iter()
            .map(|(k, v)| (key(k), value(v, bytes)))
            .collect::<Map<_, _>>()
            .into(),
        other => other.to_string().into(),
    }
}

fn key(field: &Field) -> String {
    match field {
        Field::Str(text) => text.clone(),
        other => other.to_string(),
    }
}
