//! How the rows of a batch belong to sequences, and the keys and values that sequences keep.

use std::sync::Arc;

use crate::cpu::attention::KvPages;
use crate::engine::Engine;

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Those at its own position and before.
    Causal,
    /// All of its sequence.
    Full,
}

/// The sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// What scores are multiplied by, as a rule `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Which keys a query sees.
    pub mask: Mask,
}

/// A sequence's part of a batch: rows `row..row + length`, which stand at positions `start..start + length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First row.
    pub row: usize,
    /// Rows.
    pub length: usize,
    /// Position of the first row.
    pub start: usize,
    /// The span that holds the rows before these, if the batch does: one of the layout's, from position 0 to `start`.
    pub after: Option<usize>,
}

/// The sequences of a batch, one after another in its rows. There is no padding.
#[derive(Clone, Debug)]
pub struct Layout {
    spans: Vec<Span>,
    positions: Arc<[u32]>,
}

impl Layout {
    /// Whole sequences of these lengths; positions start at 0 in each.
    pub fn whole(lengths: &[usize]) -> Self {
        Self::continued(lengths.iter().map(|&length| (0, length)))
    }

    /// Parts of sequences: (position of the first row, rows).
    pub fn continued(parts: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut spans = Vec::new();
        let mut positions = Vec::new();
        for (start, length) in parts {
            spans.push(Span {
                row: positions.len(),
                length,
                start,
                after: None,
            });
            positions.extend((start..start + length).map(|p| p as u32));
        }
        Self {
            spans,
            positions: positions.into(),
        }
    }

    /// Sequences that share beginnings: for each beginning its rows, and how many rows go on from it in each sequence that
    /// has it. The rows of a beginning come first, then those of its sequences one after another; a sequence that adds
    /// nothing has no span.
    pub fn branching<'a>(families: impl IntoIterator<Item = (usize, &'a [usize])>) -> Self {
        let mut spans: Vec<Span> = Vec::new();
        let mut positions = Vec::new();
        for (shared, branches) in families {
            let first = spans.len();
            let parts = branches.iter().filter(|&&length| length > 0);
            let parts = parts.map(|&length| (shared, length, Some(first)));
            for (start, length, after) in [(0, shared, None)].into_iter().chain(parts) {
                spans.push(Span {
                    row: positions.len(),
                    length,
                    start,
                    after,
                });
                positions.extend((start..start + length).map(|p| p as u32));
            }
        }
        Self {
            spans,
            positions: positions.into(),
        }
    }

    /// Some of the spans, at the rows where they are.
    pub(crate) fn only(&self, which: impl Fn(&Span) -> bool) -> Self {
        Self {
            spans: self.spans.iter().filter(|span| which(span)).copied().collect(),
            positions: self.shared_positions(),
        }
    }

    /// Whether no span goes on from another.
    pub fn is_plain(&self) -> bool {
        self.spans.iter().all(|span| span.after.is_none())
    }

    /// The sequences.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The position of every row.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The same, shared.
    pub fn shared_positions(&self) -> Arc<[u32]> {
        Arc::clone(&self.positions)
    }

    /// Rows of the batch.
    pub fn rows(&self) -> usize {
        self.positions.len()
    }
}

/// The keys and values of one sequence in all layers. A clone shares the pages that both only read.
#[derive(Clone)]
pub struct SequenceCache {
    pub(crate) layers: Vec<KvPages>,
}

impl SequenceCache {
    /// An empty one for a model of `layers` layers.
    pub fn new(engine: &Engine, layers: usize, shape: &AttentionShape) -> Self {
        let layer = || KvPages::new(engine.precision(), shape.kv_heads, shape.head_dim);
        Self {
            layers: (0..layers).map(|_| layer()).collect(),
        }
    }

    /// Positions that are there in every layer.
    pub fn len(&self) -> usize {
        self.layers.iter().map(KvPages::len).min().unwrap_or(0)
    }

    /// Whether no position is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        for layer in &mut self.layers {
            layer.truncate(len);
        }
    }

    /// Bytes of its pages, shared ones counted in full.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(KvPages::bytes).sum()
    }
}
