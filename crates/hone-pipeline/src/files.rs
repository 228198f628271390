//! Small files of a pipeline: JSON objects and lines of them, complete or absent.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{PipelineError, Result};

/// No honest file of these is larger.
const MAX_BYTES: u64 = 256 << 20;

fn read_text(path: &Path) -> Result<String> {
    let size = std::fs::metadata(path)
        .map_err(|e| PipelineError::file(path, format!("cannot be read: {e}")))?
        .len();
    if size > MAX_BYTES {
        return Err(PipelineError::file(
            path,
            format!("has {size} bytes; expected at most {MAX_BYTES}"),
        ));
    }
    std::fs::read_to_string(path).map_err(|e| PipelineError::file(path, format!("cannot be read: {e}")))
}

/// A JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    serde_json::from_str(&read_text(path)?).map_err(|e| PipelineError::file(path, format!("is not JSON: {e}")))
}

/// Writes a JSON file, complete or not at all.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| PipelineError::file(path, e.to_string()))? + "\n";
    Ok(hone_run::write_atomic(path, text.as_bytes())?)
}

/// One value a line.
pub(crate) fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = read_text(path)?;
    let parse =
        |(i, line)| serde_json::from_str(line).map_err(|e| PipelineError::file(path, format!("line {}: {e}", i + 1)));
    text.lines().enumerate().map(parse).collect()
}

/// Writes one value a line, complete or not at all.
pub(crate) fn write_lines<T: Serialize>(path: &Path, values: &[T]) -> Result<()> {
    let mut text = String::new();
    for value in values {
        text += &serde_json::to_string(value).map_err(|e| PipelineError::file(path, e.to_string()))?;
        text.push('\n');
    }
    Ok(hone_run::write_atomic(path, text.as_bytes())?)
}

/// Answers and weights of one folder come from one instruction set, unless the user allows otherwise.
pub(crate) fn record_instruction_set(out: &Path, isa: &str, allow_change: bool) -> Result<()> {
    let path = out.join("environment.json");
    if path.exists() && !allow_change {
        let before = read_json(&path)?;
        let recorded = before["isa"].as_str().unwrap_or_default();
        if recorded == isa {
            return Ok(());
        }
        let (dir, recorded, current) = (out.to_path_buf(), recorded.to_owned(), isa.to_owned());
        return Err(hone_run::Error::IsaChanged { dir, recorded, current }.into());
    }
    write_json(
        &path,
        &serde_json::json!({ "isa": isa, "hone": env!("CARGO_PKG_VERSION") }),
    )
}
