//! Safetensors files, read a tensor at a time and written as a stream.
//!
//! Written here rather than by the `safetensors` crate, since that needs a whole file in memory or mapped: a header is
//! checked before anything is allocated, a tensor is read when it is asked for, and files are written in a fixed
//! order, so that equal weights give equal bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, json};

use crate::error::Error;

/// The longest header that is read.
const MAX_HEADER: u64 = 16 << 20;

/// A type of number in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Brain float.
    Bf16,
}

impl Dtype {
    fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }
}

/// An open file whose header was checked.
pub struct TensorFile {
    path: PathBuf,
    file: File,
    data_start: u64,
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    dtype: String,
    shape: Vec<usize>,
    offsets: (u64, u64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The tensors of a header. A name that stands twice is an error: which one is meant cannot be known.
struct Header(BTreeMap<String, HeaderEntry>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Header, M::Error> {
                let mut entries = BTreeMap::new();
                let mut metadata = false;
                while let Some(name) = map.next_key::<String>()? {
                    let again = if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        std::mem::replace(&mut metadata, true)
                    } else {
                        let entry = map.next_value::<HeaderEntry>();
                        let entry = entry.map_err(|e| M::Error::custom(format!("`{name}`: {e}")))?;
                        entries.insert(name.clone(), entry).is_some()
                    };
                    if again {
                        return Err(M::Error::custom(format!("`{name}` stands twice")));
                    }
                }
                Ok(Header(entries))
            }
        }

        deserializer.deserialize_map(Names)
    }
}

impl TensorFile {
    /// Opens a file and checks its header: size, shapes, and that the tensors fill the rest without gap or overlap.
    ///
    /// # Errors
    /// If it cannot be read, or its header lies.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |reason: String| Error::Safetensors {
            path: path.into(),
            reason,
        };
        let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
        let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
        if length < 8 {
            return Err(fail(format!("{length} bytes are too short for a safetensors file")));
        }
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix).map_err(|e| Error::io(path, e))?;
        if prefix.starts_with(b"version ") {
            return Err(fail(
                "a Git LFS pointer where weights should be; run `git lfs pull`".into(),
            ));
        }
        let header_length = u64::from_le_bytes(prefix);
        if header_length > MAX_HEADER || header_length > length - 8 {
            return Err(fail(format!(
                "the header claims {header_length} bytes; the file has {} after it, and {MAX_HEADER} is the most that is read",
                length - 8
            )));
        }
        let mut header = vec![0; header_length as usize];
        file.read_exact(&mut header).map_err(|e| Error::io(path, e))?;
        let Header(header) = serde_json::from_slice(&header).map_err(|e| {
            fail(format!(
                "the header is not a JSON object that names each tensor once: {e}"
            ))
        })?;
        let data_start = 8 + header_length;
        let entries = check_entries(header, length - data_start).map_err(fail)?;
        Ok(Self {
            path: path.into(),
            file,
            data_start,
            entries,
        })
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape of one; none if it is not there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The numbers of a tensor as f32.
    ///
    /// # Errors
    /// If it is not there, is no float, cannot be read, or holds a number that is not finite.
    pub fn read(&mut self, name: &str) -> Result<Vec<f32>, Error> {
        let Some(entry) = self.entries.get(name) else {
            return Err(Error::MissingTensors {
                path: self.path.clone(),
                count: 1,
                example: name.into(),
            });
        };
        let dtype = match entry.dtype.as_str() {
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            "BF16" => Dtype::Bf16,
            other => {
                return Err(Error::Dtype {
                    path: self.path.clone(),
                    name: name.into(),
                    got: other.into(),
                });
            }
        };
        self.file
            .seek(SeekFrom::Start(self.data_start + entry.offsets.0))
            .map_err(|e| Error::io(&self.path, e))?;
        let mut bytes = vec![0; (entry.offsets.1 - entry.offsets.0) as usize];
        self.file.read_exact(&mut bytes).map_err(|e| Error::io(&self.path, e))?;
        let numbers: Vec<f32> = match dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| half::f16::from_le_bytes(*b).to_f32())
                .collect(),
            Dtype::Bf16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| half::bf16::from_le_bytes(*b).to_f32())
                .collect(),
        };
        if numbers.iter().any(|x| !x.is_finite()) {
            return Err(Error::NotFinite {
                path: self.path.clone(),
                name: name.into(),
            });
        }
        Ok(numbers)
    }
}

fn dtype_size(name: &str) -> Option<u64> {
    Some(match name {
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => 1,
        "I16" | "U16" | "F16" | "BF16" => 2,
        "I32" | "U32" | "F32" => 4,
        "I64" | "U64" | "F64" | "C64" => 8,
        _ => return None,
    })
}

fn check_entries(header: BTreeMap<String, HeaderEntry>, data_length: u64) -> Result<BTreeMap<String, Entry>, String> {
    let mut entries = BTreeMap::new();
    let mut extents = Vec::new();
    for (name, entry) in header {
        let (start, end) = entry.data_offsets;
        if start > end || end > data_length {
            return Err(format!("`{name}` claims bytes {start}..{end} of {data_length}"));
        }
        let Some(size) = dtype_size(&entry.dtype) else {
            return Err(format!("`{name}` has the unknown type {}", entry.dtype));
        };
        let bytes = entry.shape.iter().try_fold(size, |product, &n| product.checked_mul(n));
        if bytes != Some(end - start) {
            return Err(format!(
                "`{name}` of type {} and shape {:?} does not fill its {} bytes",
                entry.dtype,
                entry.shape,
                end - start
            ));
        }
        extents.push((start, end, name.clone()));
        let shape = entry.shape.iter().map(|&n| n as usize).collect();
        entries.insert(
            name,
            Entry {
                dtype: entry.dtype,
                shape,
                offsets: (start, end),
            },
        );
    }
    extents.sort();
    let mut reached = 0;
    for (start, end, name) in extents {
        if start != reached {
            return Err(format!(
                "`{name}` starts at byte {start} of the data, where {reached} was expected: tensors overlap or leave a gap"
            ));
        }
        reached = end;
    }
    if reached != data_length {
        return Err(format!("the tensors end at byte {reached} of {data_length}"));
    }
    Ok(entries)
}

/// A tensor to be written: its numbers are asked for when their turn comes.
pub struct TensorToWrite<'a> {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Gives its numbers, as many as the shape says.
    pub numbers: Box<dyn FnOnce() -> Vec<f32> + 'a>,
}

/// Writes tensors in the order given.
///
/// # Errors
/// If `out` does.
pub fn write_tensors(out: &mut dyn Write, dtype: Dtype, tensors: Vec<TensorToWrite<'_>>) -> io::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut offset = 0;
    for tensor in &tensors {
        let end = offset + tensor.shape.iter().product::<usize>() * dtype.size();
        let entry = json!({ "dtype": dtype.name(), "shape": tensor.shape, "data_offsets": [offset, end] });
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for tensor in tensors {
        let expected: usize = tensor.shape.iter().product();
        let numbers = (tensor.numbers)();
        if numbers.len() != expected {
            return Err(io::Error::other(format!(
                "`{}` has {} numbers; its shape needs {expected}",
                tensor.name,
                numbers.len()
            )));
        }
        for block in numbers.chunks(1 << 16) {
            let bytes: Vec<u8> = match dtype {
                Dtype::F32 => block.iter().flat_map(|x| x.to_le_bytes()).collect(),
                Dtype::F16 => block
                    .iter()
                    .flat_map(|x| half::f16::from_f32(*x).to_le_bytes())
                    .collect(),
                Dtype::Bf16 => block
                    .iter()
                    .flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())
                    .collect(),
            };
            out.write_all(&bytes)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    fn with_header(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(vec![0; data]);
        bytes
    }

    #[test]
    fn round_trip_in_every_type() {
        for (dtype, tolerance) in [(Dtype::F32, 0.0), (Dtype::F16, 1e-3), (Dtype::Bf16, 8e-3)] {
            let values = vec![1.0, -0.5, 3.25, 0.1, 7.0, -2.0];
            let tensor = TensorToWrite {
                name: "a".into(),
                shape: vec![2, 3],
                numbers: Box::new(|| values.clone()),
            };
            let mut bytes = Vec::new();
            write_tensors(&mut bytes, dtype, vec![tensor]).unwrap();
            let (_dir, path) = file(&bytes);
            let mut opened = TensorFile::open(&path).unwrap();
            assert_eq!(opened.shape("a"), Some(&[2, 3][..]));
            for (got, expected) in opened.read("a").unwrap().iter().zip(&values) {
                assert!(
                    (got - expected).abs() <= tolerance * expected.abs(),
                    "{dtype:?} {got} {expected}"
                );
            }
        }
    }

    #[test]
    fn lying_headers_are_refused() {
        let cases = [
            (u64::MAX.to_le_bytes().to_vec(), "claims"),
            (vec![1, 2, 3], "too short"),
            (b"version https://git-lfs".to_vec(), "git lfs pull"),
            (with_header("[]", 0), "not a JSON object"),
            (
                with_header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,99]}}"#, 8),
                "claims bytes",
            ),
            (
                with_header(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8),
                "does not fill",
            ),
            (
                with_header(
                    r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,8]}}"#,
                    8,
                ),
                "does not fill",
            ),
            (
                with_header(
                    r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#,
                    8,
                ),
                "overlap",
            ),
            (
                with_header(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 8),
                "end at byte",
            ),
            (
                with_header(
                    r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
                    8,
                ),
                "`a` stands twice",
            ),
            (
                with_header(r#"{"__metadata__":{},"__metadata__":{}}"#, 0),
                "`__metadata__` stands twice",
            ),
            (with_header(r#"{"a":{"dtype":"F32"}}"#, 8), "`a`: missing field"),
            (
                with_header(r#"{"a":{"dtype":"Q9","shape":[2],"data_offsets":[0,8]}}"#, 8),
                "unknown type",
            ),
        ];
        for (bytes, expected) in cases {
            let (_dir, path) = file(&bytes);
            let error = TensorFile::open(&path).err().expect(expected).to_string();
            assert!(error.contains(expected), "{error} should contain {expected}");
        }
    }

    #[test]
    fn infinities_are_refused() {
        let mut bytes = with_header(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 0);
        bytes.extend(f32::NAN.to_le_bytes());
        let (_dir, path) = file(&bytes);
        assert!(matches!(
            TensorFile::open(&path).unwrap().read("a"),
            Err(Error::NotFinite { .. })
        ));
    }
}
