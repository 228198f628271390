//! A rehearsal: the same calls as a computation, on shapes alone.
//!
//! Its tensors hold no numbers. Every operation takes and gives back memory as [`CpuBackend`](crate::cpu::backend) does,
//! in the same order, on a ledger; so what a run will need follows from the very code that will run, and a test compares
//! both. Operations and bytes are counted too, for an estimate of time.

mod ledger;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::backend::{
    Activation, AttentionForward, AttentionGradients, Backend, KeptLogits, NormGradients, NormStatistics, Packed,
    Rotation, TokenStatistics, Vocabulary, VocabularyGradients, VocabularyUpstream,
};
use crate::cpu::gemm::{Forms, LeftMatrix, RightMatrix, elements_of_a_step, panel_width};
use crate::cpu::logprob::VOCAB_CHUNK;
use crate::cpu::optimizer::AdamW as AdamWStep;
use crate::cpu::vocabulary::{ROWS, blocks, in_slices, slices, whole_rows};
use crate::isa::{Isa, Precision};
use crate::layout::{AttentionShape, Layout, SequenceCache};
use crate::rows_left::RowChunks;
use crate::sampling::{Adjustment, BestRow, Choice, SampleRow, SamplingError};
use crate::tensor::Tensor;

pub use ledger::{Account, MemoryUse, Speeds};
pub(crate) use ledger::{Buffer, Held};
use ledger::{Kind, Ledger, Operand, Side};

/// The device of a rehearsal.
pub(crate) struct Rehearsal {
    isa: Isa,
    precision: Precision,
    threads: usize,
    forms: Forms,
    panel: usize,
    ledger: Arc<Ledger>,
}

/// A weight in packed form: only its size.
struct Weight {
    /// Rows: the length of the sums.
    k: usize,
    /// Columns.
    n: usize,
    _held: Held,
}

/// A left operand in packed form: only its size.
struct Left {
    m: usize,
    k: usize,
    _memory: Operand,
}

/// A right operand in packed form that is there for a while: only its size.
struct Temporary {
    k: usize,
    n: usize,
    _memory: Operand,
}

/// The output matrix as it is packed for a call; none: slice by slice, when its turn comes.
struct Output {
    forward: Option<Operand>,
    /// Its slices.
    backward: Option<Vec<Operand>>,
}

/// `k` and `n` of a right operand.
fn right_operand(packed: &Packed) -> (usize, usize) {
    match packed.0.downcast_ref::<Temporary>() {
        Some(right) => (right.k, right.n),
        None => {
            let weight: &Weight = packed
                .0
                .downcast_ref()
                .expect("a right operand packed by this rehearsal");
            (weight.k, weight.n)
        }
    }
}

/// Bytes of `numbers` in f32.
fn f32s(numbers: usize) -> f64 {
    (numbers * size_of::<f32>()) as f64
}

impl Rehearsal {
    pub fn new(isa: Isa, precision: Precision, threads: usize) -> Self {
        Self {
            isa,
            precision,
            threads,
            forms: Forms::under(isa, precision),
            panel: panel_width(isa.level()),
            ledger: Arc::default(),
        }
    }

    fn pack(&self, (k, n): (usize, usize), reuse: Option<Packed>) -> Packed {
        let bytes = RightMatrix::cells_of(self.forms.right, self.panel, k, n) * size_of::<u32>();
        self.ledger.moves(f32s(k * n) + bytes as f64);
        reuse.unwrap_or_else(|| {
            let _held = self.ledger.hold(Kind::Packed, bytes);
            Packed(Box::new(Weight { k, n, _held }))
        })
    }

    fn left(&self, m: usize, k: usize) -> Left {
        let cells = LeftMatrix::cells_of(self.forms.left, m, k);
        self.ledger.moves(f32s(m * k + cells));
        let _memory = self.ledger.operand(Side::Left, cells);
        Left { m, k, _memory }
    }

    fn temporary(&self, k: usize, n: usize) -> Temporary {
        let _memory = self.right(k, n);
        Temporary { k, n, _memory }
    }

    fn right(&self, k: usize, n: usize) -> Operand {
        let cells = RightMatrix::cells_of(self.forms.right, self.panel, k, n);
        self.ledger.moves(f32s(k * n + cells));
        self.ledger.operand(Side::Right, cells)
    }

    /// `[m, k]` times `[k, n]`: every operand is read at least once.
    fn multiplies(&self, m: usize, k: usize, n: usize) {
        let operands = self.forms.left.cells(k) * m + self.forms.right.cells(k) * n;
        self.ledger
            .products(2.0 * m as f64 * k as f64 * n as f64, f32s(operands + m * n));
    }

    /// Reads and writes `reads + writes` arrays as large as `x`.
    fn passes(&self, x: &Tensor, arrays: usize) {
        self.ledger.moves(f32s(x.len() * arrays));
    }

    /// Attention of all spans: `per_pair` operations for each query, key it sees, dimension and head.
    fn attends(&self, shape: &AttentionShape, layout: &Layout, per_pair: f64) {
        let spans = layout.spans().iter();
        let pairs: f64 = spans
            .map(|s| s.length as f64 * (s.start as f64 + (s.length as f64 + 1.0) / 2.0))
            .sum();
        let width = match self.precision {
            Precision::Bf16 => 2,
            Precision::F32 => 4,
        };
        let keys: usize = layout.spans().iter().map(|s| s.start + s.length).sum();
        let bytes = (keys * 2 * shape.kv_heads * shape.head_dim * width) as f64;
        let operations = per_pair * pairs * (shape.heads * shape.head_dim) as f64;
        self.ledger.attends(operations, bytes);
    }

    fn empty_statistics(&self, rows: usize) -> TokenStatistics {
        TokenStatistics {
            logprob: self.empty(rows, 1),
            entropy: self.empty(rows, 1),
            normaliser: self.empty(rows, 1),
        }
    }

    /// The output matrix in the forms that it has for a whole call on blocks of rows, forward and back.
    fn output(&self, v: &Vocabulary<'_>) -> Output {
        let (d, size) = (v.hidden.cols(), v.size());
        let whole = !in_slices(v);
        let forward = (whole && v.forward.is_none()).then(|| self.right(d, size));
        let backward = whole.then(|| slices(size).map(|tokens| self.right(tokens.len(), d)).collect());
        Output { forward, backward }
    }

    /// Packs the output matrix for the way forward slice by slice.
    fn slices_forward(&self, v: &Vocabulary<'_>) {
        slices(v.size()).for_each(|columns| drop(self.right(v.hidden.cols(), columns.len())));
    }

    /// The logits of a block of rows.
    fn block_logits(&self, v: &Vocabulary<'_>, rows: usize, output: &Output) {
        if v.forward.is_none() && output.forward.is_none() {
            self.slices_forward(v);
        }
        self.multiplies(rows, v.hidden.cols(), v.size());
    }

    /// The way forward, the whole logits of the first `kept` rows being kept.
    fn statistics(&self, v: &Vocabulary<'_>, kept: usize) -> TokenStatistics {
        let (rows, d) = (v.hidden.rows(), v.hidden.cols());
        let _left = self.left(rows, d);
        let statistics = self.empty_statistics(rows);
        let _logits = self.ledger.tensor(ROWS.min(rows - kept) * VOCAB_CHUNK.min(v.size()));
        if v.forward.is_none() {
            self.slices_forward(v);
        }
        self.multiplies(rows, d, v.size());
        self.ledger.moves(f32s(rows * v.size()));
        statistics
    }

    /// The way back from the whole logits of a block of rows.
    fn back_through_logits(&self, v: &Vocabulary<'_>, rows: usize, output: &Output, into: &VocabularyGradients<'_>) {
        let (d, size) = (v.hidden.cols(), v.size());
        self.ledger.moves(f32s(2 * rows * size));
        let _hidden = into.dweight.as_ref().map(|_| self.right(rows, d));
        for tokens in slices(size) {
            let _left = self.left(rows, tokens.len());
            let _transposed = into.dweight.as_ref().map(|_| self.left(tokens.len(), rows));
            if into.dhidden.is_some() {
                if output.backward.is_none() {
                    drop(self.right(tokens.len(), d));
                }
                self.multiplies(rows, tokens.len(), d);
            }
            if into.dweight.is_some() {
                self.multiplies(tokens.len(), rows, d);
            }
        }
    }
}

impl Backend for Rehearsal {
    fn isa(&self) -> Isa {
        self.isa
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn rows_of_a_step(&self) -> usize {
        elements_of_a_step(self.isa, self.precision)
    }

    fn account(&self) -> Option<Account> {
        Some(self.ledger.account())
    }

    fn count_time(&self, speeds: Speeds) {
        self.ledger.count_time(speeds);
    }

    fn empty(&self, rows: usize, cols: usize) -> Tensor {
        Tensor::counted(rows, cols, self.ledger.tensor(rows * cols))
    }

    fn read(&self, tensor: &Tensor) -> Vec<f32> {
        vec![0.0; tensor.len()]
    }

    fn write(&self, tensor: &mut Tensor, values: &[f32]) {
        assert_eq!(tensor.len(), values.len(), "as many numbers as the tensor holds");
    }

    fn duplicate(&self, tensor: &Tensor) -> Tensor {
        self.passes(tensor, 2);
        self.empty(tensor.rows(), tensor.cols())
    }

    fn idle_bytes(&self) -> usize {
        self.ledger.idle()
    }

    fn release_idle_memory(&self) {
        self.ledger.release_idle();
    }

    fn fill(&self, tensor: &mut Tensor, _: f32) {
        self.passes(tensor, 1);
    }

    fn add_assign(&self, y: &mut Tensor, _: &Tensor) {
        self.passes(y, 3);
    }

    fn scale_add(&self, y: &mut Tensor, _: &Tensor, _: f32) {
        self.passes(y, 3);
    }

    fn scale(&self, y: &mut Tensor, _: f32) {
        self.passes(y, 2);
    }

    fn sum_of_squares(&self, x: &Tensor) -> f64 {
        self.passes(x, 1);
        0.0
    }

    fn exponential_average(&self, average: &mut Tensor, _: &Tensor, _: f64) {
        self.passes(average, 3);
    }

    fn adamw_step(&self, _: &AdamWStep, parameter: &mut Tensor, _: &Tensor, _: (&mut Tensor, &mut Tensor)) {
        self.passes(parameter, 7);
    }

    fn pack_forward(&self, weight: &Tensor, reuse: Option<Packed>) -> Packed {
        self.pack((weight.cols(), weight.rows()), reuse)
    }

    fn pack_forward_for_a_while(&self, weight: &Tensor) -> Packed {
        Packed(Box::new(self.temporary(weight.cols(), weight.rows())))
    }

    fn pack_right(&self, x: &Tensor) -> Packed {
        Packed(Box::new(self.temporary(x.rows(), x.cols())))
    }

    fn pack_left(&self, x: &Tensor) -> Packed {
        Packed(Box::new(self.left(x.rows(), x.cols())))
    }

    fn pack_transposed(&self, x: &Tensor) -> Packed {
        Packed(Box::new(self.left(x.cols(), x.rows())))
    }

    fn pack_both(&self, x: &mut Tensor) -> (Packed, Packed) {
        (self.pack_left(x), self.pack_transposed(x))
    }

    fn product(&self, left: &Packed, right: &Packed, out: &mut Tensor, _: bool) {
        let left: &Left = left.0.downcast_ref().expect("a left operand packed by this rehearsal");
        let right = right_operand(right);
        assert_eq!(
            (left.k, left.m, right.1),
            (right.0, out.rows(), out.cols()),
            "shapes of a product"
        );
        self.multiplies(left.m, left.k, right.1);
    }

    fn weight_gradient(&self, left: &Packed, right: &Packed, gradient: &mut Tensor, accumulate: bool) {
        self.product(left, right, gradient, accumulate);
    }

    fn add_bias(&self, y: &mut Tensor, _: &Tensor) {
        self.passes(y, 2);
    }

    fn bias_gradient(&self, dy: &Tensor, _: &RowChunks, _: &mut Tensor) {
        self.passes(dy, 1);
    }

    fn row_dot(&self, x: &Tensor, _: &Tensor) -> Tensor {
        self.passes(x, 1);
        self.empty(x.rows(), 1)
    }

    fn row_dot_backward(&self, x: &Tensor, _: &Tensor, _: &Tensor, _: (Option<&mut Tensor>, Option<&mut Tensor>)) {
        self.passes(x, 3);
    }

    fn gather(&self, table: &Tensor, rows: &[u32]) -> Tensor {
        let y = self.empty(rows.len(), table.cols());
        self.passes(&y, 2);
        y
    }

    fn scatter_add(&self, x: &Tensor, _: &[u32], _: &mut Tensor) {
        self.passes(x, 3);
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, _: f32) -> (Tensor, NormStatistics) {
        self.passes(x, 2);
        let y = self.empty(x.rows(), x.cols());
        let inverse = self.empty(x.len() / weight.len(), 1);
        (y, NormStatistics { mean: None, inverse })
    }

    fn layer_norm(&self, x: &Tensor, _: &Tensor, _: &Tensor, _: f32) -> (Tensor, NormStatistics) {
        self.passes(x, 2);
        let y = self.empty(x.rows(), x.cols());
        let (mean, inverse) = (self.empty(x.rows(), 1), self.empty(x.rows(), 1));
        let mean = Some(mean);
        (y, NormStatistics { mean, inverse })
    }

    fn norm_backward(&self, x: &Tensor, _: &Tensor, _: &NormStatistics, _: &Tensor, _: NormGradients<'_>) {
        self.passes(x, 4);
    }

    fn rotate(&self, x: &mut Tensor, _: &Rotation<'_>) {
        self.passes(x, 2);
    }

    fn activate(&self, _: Activation, x: &Tensor) -> Tensor {
        self.passes(x, 2);
        self.empty(x.rows(), x.cols())
    }

    fn activate_backward(&self, _: Activation, x: &mut Tensor, _: &Tensor) {
        self.passes(x, 3);
    }

    fn swiglu(&self, gate: &Tensor, _: &Tensor) -> Tensor {
        self.passes(gate, 3);
        self.empty(gate.rows(), gate.cols())
    }

    fn swiglu_backward(&self, gate: &mut Tensor, _: &mut Tensor, _: &Tensor) {
        self.passes(gate, 5);
    }

    fn append(&self, caches: &mut [&mut SequenceCache], layer: usize, layout: &Layout, kv: (&Tensor, &Tensor)) {
        self.passes(kv.0, 4);
        for (cache, span) in caches.iter_mut().zip(layout.spans()) {
            let pages = &mut cache.layers[layer];
            assert_eq!(pages.len(), span.start, "a cache ends where its span starts");
            pages.rehearse(span.length, |bytes| self.ledger.hold(Kind::Pages, bytes));
        }
    }

    fn attention(
        &self,
        shape: &AttentionShape,
        layout: &Layout,
        q: &Tensor,
        _: (&[&SequenceCache], usize),
        for_backward: bool,
    ) -> (Tensor, Option<Tensor>) {
        self.attends(shape, layout, 4.0);
        let out = self.empty(q.rows(), q.cols());
        (out, for_backward.then(|| self.empty(q.rows(), shape.heads)))
    }

    fn attention_backward(&self, forward: &AttentionForward<'_>, _: &Tensor) -> AttentionGradients {
        // Scores and probabilities again, then the gradients of probabilities, queries, keys and values
        self.attends(forward.shape, forward.layout, 10.0);
        let (rows, width) = (forward.q.rows(), forward.shape.kv_heads * forward.shape.head_dim);
        let dq = self.empty(rows, forward.q.cols());
        let (dk, dv) = (self.empty(rows, width), self.empty(rows, width));
        AttentionGradients { dq, dk, dv }
    }

    fn token_statistics(&self, v: &Vocabulary<'_>) -> TokenStatistics {
        self.statistics(v, 0)
    }

    fn token_statistics_keeping(&self, v: &Vocabulary<'_>) -> (TokenStatistics, KeptLogits) {
        let rows = whole_rows(v.size()).min(v.hidden.rows());
        let logits = self.empty(rows, v.size());
        (self.statistics(v, rows), KeptLogits { logits, rows })
    }

    fn token_statistics_backward(
        &self,
        v: &Vocabulary<'_>,
        upstream: VocabularyUpstream<'_>,
        into: VocabularyGradients<'_>,
    ) {
        let (rows, d, kept) = (v.hidden.rows(), v.hidden.cols(), upstream.kept);
        let _left = (rows > kept.rows).then(|| self.left(rows, d));
        let output = self.output(v);
        for block in blocks(rows, whole_rows(v.size())) {
            if block.end > kept.rows {
                self.block_logits(v, block.len(), &output);
            }
            self.back_through_logits(v, block.len(), &output, &into);
        }
    }

    fn weighted_logprobs(&self, v: &Vocabulary<'_>, _: &[f32], into: VocabularyGradients<'_>) -> TokenStatistics {
        let (rows, d) = (v.hidden.rows(), v.hidden.cols());
        let _left = self.left(rows, d);
        let statistics = self.empty_statistics(rows);
        let output = self.output(v);
        let _logits = self.ledger.tensor(whole_rows(v.size()).min(rows) * v.size());
        for block in blocks(rows, whole_rows(v.size())) {
            self.block_logits(v, block.len(), &output);
            self.ledger.moves(f32s(block.len() * v.size()));
            self.back_through_logits(v, block.len(), &output, &into);
        }
        statistics
    }

    fn sample(
        &self,
        hidden: &Tensor,
        _: &Packed,
        size: usize,
        (rows, _): (&[SampleRow], &[Vec<Adjustment>]),
    ) -> Result<Vec<Choice>, (usize, SamplingError)> {
        let _left = self.left(rows.len(), hidden.cols());
        let _logits = self.ledger.tensor(whole_rows(size).min(rows.len()) * size);
        self.multiplies(rows.len(), hidden.cols(), size);
        self.ledger.moves(f32s(2 * rows.len() * size));
        Ok(vec![Choice::default(); rows.len()])
    }

    fn best(
        &self,
        hidden: &Tensor,
        _: &Packed,
        size: usize,
        rows: &[BestRow],
    ) -> Result<Vec<Vec<Choice>>, (usize, SamplingError)> {
        let _left = self.left(rows.len(), hidden.cols());
        let _logits = self.ledger.tensor(whole_rows(size).min(rows.len()) * size);
        self.multiplies(rows.len(), hidden.cols(), size);
        self.ledger.moves(f32s(2 * rows.len() * size));
        let best = rows.iter().map(|row| vec![Choice::default(); row.count.min(size)]);
        Ok(best.collect())
    }
}
