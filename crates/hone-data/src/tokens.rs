//! A pre-training corpus as one stream of tokens, cut into windows.

use crate::error::DataError;

/// Turns text into token ids, without adding any special token. Any `Fn(&str) -> Vec<u32>` is one.
pub trait Encode {
    /// The ids of a text.
    fn encode(&self, text: &str) -> Vec<u32>;
}

impl<F: Fn(&str) -> Vec<u32>> Encode for F {
    fn encode(&self, text: &str) -> Vec<u32> {
        self(text)
    }
}

/// The most tokens held in memory by default: 2^30, 4 GiB.
pub const DEFAULT_TOKEN_CAP: usize = 1 << 30;

/// Documents joined by a separator: `S d1 S d2 S .. dn S`. A separator is the first context of the document after it and
/// the end of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenStream {
    ids: Vec<u32>,
    /// The positions of the separators that open a document, and of the last one.
    separators: Vec<usize>,
    separator: u32,
    cap: usize,
    text_bytes: u64,
}

impl TokenStream {
    /// A stream without documents. `separator` is the id of `<|endoftext|>`; at most `cap` tokens are taken.
    pub fn new(separator: u32, cap: usize) -> Self {
        Self {
            ids: vec![separator],
            separators: vec![0],
            separator,
            cap,
            text_bytes: 0,
        }
    }

    /// Adds a document. Empty ones are passed over.
    ///
    /// # Errors
    /// [`DataError::TooManyTokens`]; the stream then is as it was.
    pub fn push(&mut self, text: &str, encoder: &impl Encode) -> Result<(), DataError> {
        self.push_ids(&encoder.encode(text), text.len() as u64)
    }

    /// Adds a document of tokens, whose text has `bytes` UTF-8 bytes.
    ///
    /// # Errors
    /// As [`TokenStream::push`].
    pub fn push_ids(&mut self, ids: &[u32], bytes: u64) -> Result<(), DataError> {
        if ids.is_empty() {
            return Ok(());
        }
        if self.ids.len() + ids.len() + 1 > self.cap {
            return Err(DataError::TooManyTokens { cap: self.cap });
        }
        self.ids.extend_from_slice(ids);
        self.separators.push(self.ids.len());
        self.ids.push(self.separator);
        self.text_bytes += bytes;
        Ok(())
    }

    /// All tokens, separators included.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// How many documents it has.
    pub fn documents(&self) -> usize {
        self.separators.len() - 1
    }

    /// The UTF-8 bytes of the documents' texts.
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Cuts the stream into windows of `length` predictions, one after another, the last one perhaps shorter.
    ///
    /// # Errors
    /// A length of 0; a stream without documents.
    pub fn windows(&self, length: usize, boundaries: Boundaries) -> Result<Windows<'_>, DataError> {
        let wrong = |option, got: String, expected: &str| DataError::Option {
            option,
            got,
            expected: expected.into(),
        };
        if length == 0 {
            return Err(wrong("max_length", "0".into(), "at least 1"));
        }
        if self.documents() == 0 {
            return Err(wrong("train", "without a single token".into(), "text"));
        }
        Ok(Windows {
            stream: self,
            length,
            boundaries,
        })
    }

    /// Windows of at most `length` predictions that each lie inside one document and start anew with each: the separator
    /// is the first context of a document and never a target. What bits per byte are measured on.
    ///
    /// # Panics
    /// If `length` is 0.
    pub fn document_windows(&self, length: usize) -> Vec<Window<'_>> {
        assert!(length > 0, "a window predicts at least one token");
        let mut windows = Vec::new();
        for bounds in self.separators.windows(2) {
            let mut start = bounds[0];
            while start + 1 < bounds[1] {
                let end = (start + length).min(bounds[1] - 1);
                windows.push(Window {
                    inputs: &self.ids[start..end],
                    targets: &self.ids[start + 1..end + 1],
                    segments: vec![end - start],
                });
                start = end;
            }
        }
        windows
    }
}

/// What attention may see across the documents of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Boundaries {
    /// Each document is a segment of its own: attention stays inside and positions restart.
    #[default]
    Separate,
    /// The window is one segment (`cross_document = true`).
    Cross,
}

/// A stream cut into windows. Every token but the first is a target exactly once.
#[derive(Clone, Copy, Debug)]
pub struct Windows<'a> {
    stream: &'a TokenStream,
    length: usize,
    boundaries: Boundaries,
}

/// Tokens and what follows each. With targets kept apart from inputs, no prediction is lost between documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window<'a> {
    /// What the model sees, `[t]`.
    pub inputs: &'a [u32],
    /// The token after each input, `[t]`.
    pub targets: &'a [u32],
    /// Lengths of the segments of `inputs`, in order; they sum to `t`.
    pub segments: Vec<usize>,
}

impl<'a> Windows<'a> {
    /// How many windows there are.
    pub fn len(&self) -> usize {
        self.predictions().div_ceil(self.length)
    }

    /// Never true: a stream with a document has a window.
    pub fn is_empty(&self) -> bool {
        self.predictions() == 0
    }

    /// Targets in all windows together.
    pub fn predictions(&self) -> usize {
        self.stream.ids.len() - 1
    }

    /// Window `i`, which must be below [`Windows::len`].
    pub fn get(&self, i: usize) -> Window<'a> {
        let start = i * self.length;
        let end = (start + self.length).min(self.predictions());
        let ids = &self.stream.ids;
        Window {
            inputs: &ids[start..end],
            targets: &ids[start + 1..end + 1],
            segments: match self.boundaries {
                Boundaries::Cross => vec![end - start],
                Boundaries::Separate => self.segments(start, end),
            },
        }
    }

    fn segments(&self, start: usize, end: usize) -> Vec<usize> {
        let separators = &self.stream.separators;
        let first = separators.partition_point(|&s| s <= start);
        let mut segments = Vec::new();
        let mut from = start;
        for &separator in separators[first..].iter().take_while(|&&s| s < end) {
            segments.push(separator - from);
            from = separator;
        }
        segments.push(end - from);
        segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u32 = 99;

    fn stream() -> TokenStream {
        let mut stream = TokenStream::new(S, 100);
        let bytes = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
        stream.push("abc", &bytes).unwrap();
        stream.push("", &bytes).unwrap();
        // a document that holds the separator's id: boundaries come from positions, not from ids
        stream.push_ids(&[1, S, 2], 5).unwrap();
        stream.push("d", &bytes).unwrap();
        stream
    }

    #[test]
    fn documents_are_joined_by_separators() {
        let stream = stream();
        assert_eq!(stream.ids(), [S, 97, 98, 99, S, 1, S, 2, S, 100, S]);
        assert_eq!((stream.documents(), stream.text_bytes()), (3, 9));
    }

    #[test]
    fn windows_predict_every_token_once() {
        let stream = stream();
        for length in 1..12 {
            let windows = stream.windows(length, Boundaries::Separate).unwrap();
            let (mut inputs, mut targets) = (Vec::new(), Vec::new());
            for i in 0..windows.len() {
                let window = windows.get(i);
                assert_eq!(window.segments.iter().sum::<usize>(), window.inputs.len());
                assert!(window.segments.iter().all(|&s| s > 0));
                inputs.extend_from_slice(window.inputs);
                targets.extend_from_slice(window.targets);
            }
            assert_eq!(inputs, stream.ids()[..10]);
            assert_eq!(targets, stream.ids()[1..]);
        }
    }

    #[test]
    fn segments_follow_documents() {
        let stream = stream();
        let windows = stream.windows(10, Boundaries::Separate).unwrap();
        assert_eq!(windows.get(0).segments, [4, 4, 2]);
        let windows = stream.windows(6, Boundaries::Separate).unwrap();
        assert_eq!(windows.get(0).segments, [4, 2]);
        assert_eq!(windows.get(1).segments, [2, 2]);
        let windows = stream.windows(4, Boundaries::Separate).unwrap();
        assert_eq!(windows.get(0).segments, [4]);
        assert_eq!(windows.get(1).segments, [4]);
        let windows = stream.windows(6, Boundaries::Cross).unwrap();
        assert_eq!(windows.get(0).segments, [6]);
        assert_eq!(windows.get(1).segments, [4]);
    }

    #[test]
    fn document_windows_stay_inside_a_document_and_never_predict_its_end() {
        let stream = stream();
        let cut = |length| -> Vec<(Vec<u32>, Vec<u32>)> {
            let windows = stream.document_windows(length).into_iter();
            windows.map(|w| (w.inputs.to_vec(), w.targets.to_vec())).collect()
        };
        let whole = [
            (vec![S, 97, 98], vec![97, 98, 99]),
            (vec![S, 1, S], vec![1, S, 2]),
            (vec![S], vec![100]),
        ];
        assert_eq!(cut(3), whole);
        assert_eq!(cut(100), whole);
        assert_eq!(
            cut(2),
            [
                (vec![S, 97], vec![97, 98]),
                (vec![98], vec![99]),
                (vec![S, 1], vec![1, S]),
                (vec![S], vec![2]),
                (vec![S], vec![100]),
            ]
        );
        assert!(TokenStream::new(S, 4).document_windows(4).is_empty());
    }

    #[test]
    fn limits_are_kept() {
        let mut stream = TokenStream::new(S, 4);
        assert!(stream.windows(4, Boundaries::Separate).is_err());
        stream.push_ids(&[1, 2], 2).unwrap();
        assert!(matches!(
            stream.push_ids(&[3], 1),
            Err(DataError::TooManyTokens { cap: 4 })
        ));
        assert_eq!((stream.ids(), stream.text_bytes()), ([S, 1, 2, S].as_slice(), 2));
        assert!(stream.windows(0, Boundaries::Separate).is_err());
    }
}
