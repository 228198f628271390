//! The processor as a device: whole-tensor operations in terms of the kernels.

use std::sync::{Arc, Mutex, PoisonError};

use super::attention::{self, KvPages};
use super::buffer::{Store as Memory, best_fit};
use super::gemm::{self, Forms, LeftMatrix, Product, RightMatrix, elements_of_a_step, panel_width};
use super::memory::Regions;
use super::{Cpu, activation, elementwise, embedding, norm, optimizer, rope, vocabulary};
use crate::backend::{
    Activation, AttentionForward, AttentionGradients, Backend, KeptLogits, NormGradients, NormStatistics, Packed,
    Rotation, TokenStatistics, Turn, Vocabulary, VocabularyGradients, VocabularyUpstream,
};
use crate::cpu::optimizer::AdamW as AdamWStep;
use crate::isa::{Isa, Precision};
use crate::layout::{AttentionShape, Layout, SequenceCache};
use crate::rows_left::RowChunks;
use crate::sampling::{Adjustment, BestRow, Choice, SampleRow, SamplingError};
use crate::tensor::Tensor;

pub(crate) struct CpuBackend {
    pub(super) cpu: Cpu,
    memory: Arc<Memory>,
    /// Where packed weights are.
    weights: Arc<Regions>,
    lefts: Spare<LeftMatrix>,
    rights: Spare<RightMatrix>,
}

/// Operands in packed form that wait to be used again.
struct Spare<T>(Arc<Mutex<Vec<T>>>);

/// One of them, which goes back when dropped.
pub(super) struct Lent<T> {
    item: Option<T>,
    home: Arc<Mutex<Vec<T>>>,
}

impl<T> Spare<T> {
    /// The one that fits `cells` best, so that not all of them grow to the size of the largest; or a new one.
    fn take(&self, cells: usize, capacity: impl Fn(&T) -> usize, make: impl FnOnce() -> T) -> Lent<T> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = best_fit(waiting.iter().map(capacity), cells).map(|index| waiting.swap_remove(index));
        Lent {
            item: Some(found.unwrap_or_else(make)),
            home: Arc::clone(&self.0),
        }
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        if let Some(item) = self.item.take() {
            self.home.lock().unwrap_or_else(PoisonError::into_inner).push(item);
        }
    }
}

impl<T> Lent<T> {
    pub(super) fn get(&self) -> &T {
        self.item.as_ref().expect("an operand is there until it is dropped")
    }

    pub(super) fn get_mut(&mut self) -> &mut T {
        self.item.as_mut().expect("an operand is there until it is dropped")
    }
}

impl CpuBackend {
    pub fn new(isa: Isa, precision: Precision, threads: usize) -> Self {
        Self {
            cpu: Cpu::new(isa, precision, threads),
            memory: Arc::default(),
            weights: Arc::default(),
            lefts: Spare(Arc::default()),
            rights: Spare(Arc::default()),
        }
    }

    /// Memory for a left operand `[m, k]`.
    pub(super) fn left(&self, m: usize, k: usize) -> Lent<LeftMatrix> {
        let cells = LeftMatrix::cells_of(Forms::of(&self.cpu).left, m, k);
        self.lefts.take(cells, LeftMatrix::capacity, LeftMatrix::new)
    }

    /// Memory for a right operand `[k, n]`.
    pub(super) fn right(&self, k: usize, n: usize) -> Lent<RightMatrix> {
        let cells = RightMatrix::cells_of(Forms::of(&self.cpu).right, panel_width(self.cpu.level), k, n);
        self.rights.take(cells, RightMatrix::capacity, RightMatrix::new)
    }

    /// The lengths that waiting tensors of each capacity were used to, and the cells of waiting left and right operands.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> (std::collections::BTreeMap<usize, Vec<usize>>, [Vec<usize>; 2]) {
        let lefts = self.lefts.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rights = self.rights.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cells = [
            lefts.iter().map(LeftMatrix::capacity).collect(),
            rights.iter().map(RightMatrix::capacity).collect(),
        ];
        (self.memory.waiting(), cells)
    }

    /// Bytes of pages of keys and values that wait.
    #[cfg(test)]
    pub(crate) fn waiting_pages(&self) -> usize {
        self.cpu.pages.idle_bytes()
    }

    pub(super) fn scratch(&self, length: usize) -> super::buffer::Buffer {
        self.memory.take(length)
    }
}

/// A right operand: a weight's own, or one that is there for a while.
pub(crate) fn right_matrix(packed: &Packed) -> &RightMatrix {
    match packed.0.downcast_ref::<Lent<RightMatrix>>() {
        Some(lent) => lent.get(),
        None => packed.0.downcast_ref().expect("a right operand packed by this backend"),
    }
}

impl Backend for CpuBackend {
    fn isa(&self) -> Isa {
        self.cpu.isa
    }

    fn precision(&self) -> Precision {
        self.cpu.precision
    }

    fn threads(&self) -> usize {
        self.cpu.pool.threads()
    }

    fn rows_of_a_step(&self) -> usize {
        elements_of_a_step(self.cpu.isa, self.cpu.precision)
    }

    fn empty(&self, rows: usize, cols: usize) -> Tensor {
        Tensor::on_cpu(rows, cols, self.memory.take(rows * cols))
    }

    fn read(&self, tensor: &Tensor) -> Vec<f32> {
        tensor.cpu().to_vec()
    }

    fn write(&self, tensor: &mut Tensor, values: &[f32]) {
        tensor.cpu_mut().copy_from_slice(values);
    }

    fn duplicate(&self, tensor: &Tensor) -> Tensor {
        let mut copy = self.empty(tensor.rows(), tensor.cols());
        copy.cpu_mut().copy_from_slice(tensor.cpu());
        copy
    }

    fn idle_bytes(&self) -> usize {
        self.memory.idle_bytes() + self.cpu.pages.idle_bytes()
    }

    fn release_idle_memory(&self) {
        self.memory.clear();
        self.cpu.pages.clear();
        self.lefts.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.rights.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn fill(&self, tensor: &mut Tensor, value: f32) {
        tensor.cpu_mut().fill(value);
    }

    fn add_assign(&self, y: &mut Tensor, x: &Tensor) {
        elementwise::add_assign(&self.cpu, y.cpu_mut(), x.cpu());
    }

    fn scale_add(&self, y: &mut Tensor, x: &Tensor, factor: f32) {
        elementwise::scale_add(&self.cpu, y.cpu_mut(), x.cpu(), factor);
    }

    fn scale(&self, y: &mut Tensor, factor: f32) {
        elementwise::scale(&self.cpu, y.cpu_mut(), factor);
    }

    fn sum_of_squares(&self, x: &Tensor) -> f64 {
        optimizer::sum_of_squares(&self.cpu, x.cpu())
    }

    fn exponential_average(&self, average: &mut Tensor, value: &Tensor, decay: f64) {
        optimizer::exponential_average(&self.cpu, average.cpu_mut(), value.cpu(), decay);
    }

    fn adamw_step(
        &self,
        step: &AdamWStep,
        parameter: &mut Tensor,
        gradient: &Tensor,
        moments: (&mut Tensor, &mut Tensor),
    ) {
        let (m, v) = moments;
        optimizer::adamw_step(
            &self.cpu,
            *step,
            parameter.cpu_mut(),
            gradient.cpu(),
            m.cpu_mut(),
            v.cpu_mut(),
        );
    }

    fn pack_forward(&self, weight: &Tensor, reuse: Option<Packed>) -> Packed {
        let mut right = reuse
            .and_then(|p| p.0.downcast::<RightMatrix>().ok())
            .unwrap_or_else(|| Box::new(RightMatrix::within(Arc::clone(&self.weights))));
        right.pack_transposed(&self.cpu, weight.cpu(), weight.cols(), weight.rows());
        Packed(right)
    }

    fn pack_forward_for_a_while(&self, weight: &Tensor) -> Packed {
        let (k, n) = (weight.cols(), weight.rows());
        let mut right = self.right(k, n);
        right.get_mut().pack_transposed(&self.cpu, weight.cpu(), k, n);
        Packed(Box::new(right))
    }

    fn pack_right(&self, x: &Tensor) -> Packed {
        let mut right = self.right(x.rows(), x.cols());
        right.get_mut().pack(&self.cpu, x.cpu(), x.rows(), x.cols());
        Packed(Box::new(right))
    }

    fn pack_left(&self, x: &Tensor) -> Packed {
        let mut left = self.left(x.rows(), x.cols());
        left.get_mut().pack(&self.cpu, x.cpu(), x.rows(), x.cols());
        Packed(Box::new(left))
    }

    fn pack_transposed(&self, x: &Tensor) -> Packed {
        let mut left = self.left(x.cols(), x.rows());
        left.get_mut().pack_transposed(&self.cpu, x.cpu(), x.cols(), x.rows());
        Packed(Box::new(left))
    }

    fn pack_both(&self, x: &mut Tensor) -> (Packed, Packed) {
        let shape = (x.rows(), x.cols());
        let (mut left, mut transposed) = (self.left(shape.0, shape.1), self.left(shape.1, shape.0));
        let operands = (left.get_mut(), transposed.get_mut());
        let columns = gemm::SomeColumns::of(x.cpu_mut(), shape, 0..shape.1);
        gemm::pack_both(&self.cpu, columns, operands, &|_, _, _| {});
        (Packed(Box::new(left)), Packed(Box::new(transposed)))
    }

    fn product(&self, left: &Packed, right: &Packed, out: &mut Tensor, accumulate: bool) {
        let left: &Lent<LeftMatrix> = left.0.downcast_ref().expect("a left operand packed by this backend");
        let product = Product::of(left.get(), right_matrix(right)).added_if(accumulate);
        let cols = out.cols();
        gemm::multiply(&self.cpu, &product, out.cpu_mut(), cols);
    }

    fn products(&self, left: &Packed, rights: &[&Packed], outs: &mut [Tensor]) {
        assert_eq!(rights.len(), outs.len(), "an output for each weight");
        let left: &Lent<LeftMatrix> = left.0.downcast_ref().expect("a left operand packed by this backend");
        let products: Vec<_> = rights
            .iter()
            .map(|right| Product::of(left.get(), right_matrix(right)))
            .collect();
        let outs = products.iter().zip(outs).map(|(product, out)| {
            let cols = out.cols();
            (product, out.cpu_mut(), cols)
        });
        gemm::multiply_all(&self.cpu, outs.collect());
    }

    fn weight_gradient(&self, left: &Packed, right: &Packed, gradient: &mut Tensor, accumulate: bool) {
        self.product(left, right, gradient, accumulate);
    }

    fn add_bias(&self, y: &mut Tensor, bias: &Tensor) {
        let d = y.cols();
        elementwise::add_bias(&self.cpu, y.cpu_mut(), bias.cpu(), d);
    }

    fn bias_gradient(&self, dy: &Tensor, chunks: &RowChunks, dbias: &mut Tensor) {
        elementwise::bias_backward(&self.cpu, dy.cpu(), dy.cols(), chunks, dbias.cpu_mut());
    }

    fn row_dot(&self, x: &Tensor, w: &Tensor) -> Tensor {
        let mut y = self.empty(x.rows(), 1);
        elementwise::row_dot(&self.cpu, x.cpu(), w.cpu(), x.cols(), y.cpu_mut());
        y
    }

    fn row_dot_backward(&self, x: &Tensor, w: &Tensor, dy: &Tensor, into: (Option<&mut Tensor>, Option<&mut Tensor>)) {
        let (dx, dw) = into;
        let inputs = elementwise::RowDotBackward {
            x: x.cpu(),
            w: w.cpu(),
            dy: dy.cpu(),
        };
        elementwise::row_dot_backward(&self.cpu, inputs, dx.map(Tensor::cpu_mut), dw.map(Tensor::cpu_mut));
    }

    fn gather(&self, table: &Tensor, rows: &[u32]) -> Tensor {
        let mut y = self.empty(rows.len(), table.cols());
        embedding::gather(&self.cpu, table.cpu(), rows, table.cols(), y.cpu_mut());
        y
    }

    fn scatter_add(&self, x: &Tensor, rows: &[u32], table: &mut Tensor) {
        embedding::scatter_add(&self.cpu, rows, x.cpu(), x.cols(), table.cpu_mut());
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> (Tensor, NormStatistics) {
        let mut y = self.empty(x.rows(), x.cols());
        let mut inverse = self.empty(x.len() / weight.len(), 1);
        norm::rms_norm_forward(&self.cpu, x.cpu(), weight.cpu(), eps, y.cpu_mut(), inverse.cpu_mut());
        (y, NormStatistics { mean: None, inverse })
    }

    fn layer_norm(&self, x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> (Tensor, NormStatistics) {
        let mut y = self.empty(x.rows(), x.cols());
        let (mut mean, mut inverse) = (self.empty(x.rows(), 1), self.empty(x.rows(), 1));
        let statistics = (mean.cpu_mut(), inverse.cpu_mut());
        norm::layer_norm_forward(
            &self.cpu,
            x.cpu(),
            weight.cpu(),
            bias.cpu(),
            eps,
            y.cpu_mut(),
            statistics.0,
            statistics.1,
        );
        (
            y,
            NormStatistics {
                mean: Some(mean),
                inverse,
            },
        )
    }

    fn norm_backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        statistics: &NormStatistics,
        dy: &Tensor,
        into: NormGradients<'_>,
    ) {
        let (dx, dweight) = (into.dx.cpu_mut(), into.dweight.map(Tensor::cpu_mut));
        let (x, weight, dy, inverse) = (x.cpu(), weight.cpu(), dy.cpu(), statistics.inverse.cpu());
        match &statistics.mean {
            None => {
                let inputs = norm::RmsBackward { x, weight, inverse, dy };
                norm::rms_norm_backward(&self.cpu, inputs, into.chunks, dx, dweight);
            }
            Some(mean) => {
                let inputs = norm::LayerBackward {
                    x,
                    weight,
                    mean: mean.cpu(),
                    inverse,
                    dy,
                };
                let dbias = into.dbias.map(Tensor::cpu_mut);
                norm::layer_norm_backward(&self.cpu, inputs, into.chunks, dx, dweight, dbias);
            }
        }
    }

    fn rotate(&self, x: &mut Tensor, rotation: &Rotation<'_>) {
        let (heads, head_dim) = (x.cols() / rotation.head_dim, rotation.head_dim);
        let direction = match rotation.turn {
            Turn::Forward => rope::Direction::Forward,
            Turn::Backward => rope::Direction::Backward,
        };
        rope::rotate(
            &self.cpu,
            x.cpu_mut(),
            heads,
            head_dim,
            rotation.positions,
            rotation.table,
            direction,
        );
    }

    fn activate(&self, kind: Activation, x: &Tensor) -> Tensor {
        let mut y = self.empty(x.rows(), x.cols());
        let (x, y_numbers) = (x.cpu(), y.cpu_mut());
        match kind {
            Activation::Silu => activation::silu_forward(&self.cpu, x, y_numbers),
            Activation::GeluTanh => activation::gelu_tanh_forward(&self.cpu, x, y_numbers),
            Activation::GeluErf => activation::gelu_erf_forward(&self.cpu, x, y_numbers),
            Activation::Relu => activation::relu_forward(&self.cpu, x, y_numbers),
        }
        y
    }

    fn activate_backward(&self, kind: Activation, x: &mut Tensor, dy: &Tensor) {
        let (x, dy) = (x.cpu_mut(), dy.cpu());
        match kind {
            Activation::Silu => activation::silu_backward(&self.cpu, x, dy),
            Activation::GeluTanh => activation::gelu_tanh_backward(&self.cpu, x, dy),
            Activation::GeluErf => activation::gelu_erf_backward(&self.cpu, x, dy),
            Activation::Relu => activation::relu_backward(&self.cpu, x, dy),
        }
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Tensor {
        let mut y = self.empty(gate.rows(), gate.cols());
        activation::swiglu_forward(&self.cpu, gate.cpu(), up.cpu(), y.cpu_mut());
        y
    }

    fn swiglu_backward(&self, gate: &mut Tensor, up: &mut Tensor, dy: &Tensor) {
        activation::swiglu_backward(&self.cpu, gate.cpu_mut(), up.cpu_mut(), dy.cpu());
    }

    fn append(&self, caches: &mut [&mut SequenceCache], layer: usize, layout: &Layout, kv: (&Tensor, &Tensor)) {
        let mut pages: Vec<&mut KvPages> = caches.iter_mut().map(|cache| &mut cache.layers[layer]).collect();
        for (page, span) in pages.iter().zip(layout.spans()) {
            assert_eq!(page.len(), span.start, "a cache ends where its span starts");
        }
        let rows: Vec<_> = layout
            .spans()
            .iter()
            .map(|span| span.row..span.row + span.length)
            .collect();
        attention::append_all(&self.cpu, &mut pages, kv.0.cpu(), kv.1.cpu(), &rows);
    }

    fn attention(
        &self,
        shape: &AttentionShape,
        layout: &Layout,
        q: &Tensor,
        caches: (&[&SequenceCache], usize),
        for_backward: bool,
    ) -> (Tensor, Option<Tensor>) {
        let spans = spans(layout, caches.0.iter().copied(), caches.1);
        let mut out = self.empty(q.rows(), q.cols());
        let mut log_sum = for_backward.then(|| self.empty(q.rows(), shape.heads));
        let wanted = log_sum.as_mut().map(Tensor::cpu_mut);
        attention::forward(&self.cpu, shape, q.cpu(), &spans, out.cpu_mut(), wanted);
        (out, log_sum)
    }

    fn attention_backward(&self, forward: &AttentionForward<'_>, dout: &Tensor) -> AttentionGradients {
        let spans = spans(forward.layout, forward.caches.iter(), 0);
        let (rows, width) = (forward.q.rows(), forward.shape.kv_heads * forward.shape.head_dim);
        let mut dq = self.empty(rows, forward.q.cols());
        let (mut dk, mut dv) = (self.empty(rows, width), self.empty(rows, width));
        let inputs = attention::Backward {
            shape: forward.shape,
            q: forward.q.cpu(),
            out: forward.out.cpu(),
            dout: dout.cpu(),
            log_sum: forward.log_sum.cpu(),
            spans: &spans,
        };
        attention::backward(&self.cpu, &inputs, dq.cpu_mut(), dk.cpu_mut(), dv.cpu_mut());
        AttentionGradients { dq, dk, dv }
    }

    fn token_statistics(&self, vocabulary: &Vocabulary<'_>) -> TokenStatistics {
        vocabulary::token_statistics(self, vocabulary)
    }

    fn token_statistics_keeping(&self, vocabulary: &Vocabulary<'_>) -> (TokenStatistics, KeptLogits) {
        vocabulary::token_statistics_keeping(self, vocabulary)
    }

    fn token_statistics_backward(
        &self,
        vocabulary: &Vocabulary<'_>,
        upstream: VocabularyUpstream<'_>,
        into: VocabularyGradients<'_>,
    ) {
        vocabulary::token_statistics_backward(self, vocabulary, upstream, into);
    }

    fn weighted_logprobs(
        &self,
        vocabulary: &Vocabulary<'_>,
        weights: &[f32],
        into: VocabularyGradients<'_>,
    ) -> TokenStatistics {
        vocabulary::weighted_logprobs(self, vocabulary, weights, into)
    }

    fn sample(
        &self,
        hidden: &Tensor,
        forward: &Packed,
        size: usize,
        rows: (&[SampleRow], &[Vec<Adjustment>]),
    ) -> Result<Vec<Choice>, (usize, SamplingError)> {
        vocabulary::sample(self, hidden, right_matrix(forward), size, rows)
    }

    fn best(
        &self,
        hidden: &Tensor,
        forward: &Packed,
        size: usize,
        rows: &[BestRow],
    ) -> Result<Vec<Vec<Choice>>, (usize, SamplingError)> {
        vocabulary::best(self, hidden, right_matrix(forward), size, rows)
    }
}

fn spans<'a>(
    layout: &Layout,
    caches: impl Iterator<Item = &'a SequenceCache>,
    layer: usize,
) -> Vec<attention::Span<'a>> {
    let spans = layout.spans().iter().zip(caches);
    spans
        .map(|(s, cache)| attention::Span {
            row: s.row,
            length: s.length,
            start: s.start,
            kv: &cache.layers[layer],
            after: s.after,
        })
        .collect()
}
