//! Comma and tab separated values with a header (quotes as in RFC 4180).

use super::{Meter, Row, Rows, json::text_fields};
use crate::error::DataError;

/// The rows under the header. Empty cells are empty strings.
pub(super) fn rows(meter: Meter, separator: u8) -> Result<Rows, DataError> {
    let place = meter.place().clone();
    let counters = meter.counters();
    // the reader takes the meter; what is needed to explain its errors stays here
    let explain = move |error: csv::Error, line: u64, cap: u64| match error.into_kind() {
        csv::ErrorKind::Io(e) => super::meter::explain(&place, cap, e, line),
        other => DataError::Corrupt {
            path: place.path.clone(),
            line,
            what: "table",
            detail: format!("{other:?}"),
        },
    };
    let cap = meter.row_cap();
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator)
        .flexible(true)
        .from_reader(meter);
    let header = reader.byte_headers().cloned().map_err(|e| explain(e, 1, cap))?;
    let names: Vec<String> = header
        .iter()
        .map(|name| String::from_utf8_lossy(name).trim().to_string())
        .collect();
    let mut record = csv::ByteRecord::new();
    Ok(Rows::new(std::iter::from_fn(move || {
        counters.begin_row();
        let line = reader.position().line();
        match reader.read_byte_record(&mut record) {
            Err(error) => return Some(Err(explain(error, line, cap))),
            Ok(false) => return None,
            Ok(true) => {}
        }
        let line = record.position().map_or(line, |p| p.line());
        if record.len() != names.len() {
            let reason = format!("{} fields, the header has {}", record.len(), names.len());
            return Some(Ok(Row::bad(line, reason)));
        }
        let cells: Result<Vec<String>, _> = record.iter().map(|c| String::from_utf8(c.to_vec())).collect();
        Some(Ok(match cells {
            Ok(cells) => Row::good(line, text_fields(&names, cells)),
            Err(e) => Row::bad(
                line,
                format!("not UTF-8 at byte {} of a field", e.utf8_error().valid_up_to()),
            ),
        }))
    })))
}
