//! What a device must offer: operations on whole tensors. The tape composes them; models and stages see only the tape.

use std::any::Any;
use std::sync::Arc;

use crate::cpu::optimizer::AdamW as AdamWStep;
use crate::isa::{Isa, Precision};
use crate::layout::{AttentionShape, Layout, SequenceCache};
use crate::profile::OperationTime;
use crate::rehearsal::{Account, Speeds};
use crate::rope::RopeTable;
use crate::rows_left::RowChunks;
use crate::sampling::{Adjustment, BestRow, Choice, SampleRow, SamplingError};
use crate::tensor::Tensor;

/// A weight, or a left operand, in the form of the kernels that read it.
pub(crate) struct Packed(pub Box<dyn Any + Send + Sync>);

/// Which way a rotation by position goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Forward,
    Backward,
}

/// Activations of a gated or plain feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GeLU by its tanh approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// GeLU by the error function.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
}

/// The last matrix and what is asked of it: shapes `[n, d]` and `[v, d]`.
pub(crate) struct Vocabulary<'a> {
    pub hidden: &'a Tensor,
    pub output: &'a Tensor,
    /// The output matrix in packed form; none: it is packed while it is multiplied with.
    pub forward: Option<Arc<Packed>>,
    /// The token whose log-probability is asked, a row.
    pub targets: &'a [u32],
    pub temperature: f32,
}

impl Vocabulary<'_> {
    /// Tokens of the vocabulary.
    pub fn size(&self) -> usize {
        self.output.rows()
    }
}

/// Three numbers a token, each `[n, 1]`.
pub(crate) struct TokenStatistics {
    pub logprob: Tensor,
    pub entropy: Tensor,
    /// ln of the sum of exponentials.
    pub normaliser: Tensor,
}

/// What a layer norm's backward needs of its forward.
pub(crate) struct NormStatistics {
    /// `[n, 1]`; none for a norm that takes no mean away.
    pub mean: Option<Tensor>,
    /// `[n, 1]`.
    pub inverse: Tensor,
}

/// Where a norm's gradients go, and how the sums over rows are cut.
pub(crate) struct NormGradients<'a> {
    pub chunks: &'a RowChunks,
    pub dx: &'a mut Tensor,
    pub dweight: Option<&'a mut Tensor>,
    pub dbias: Option<&'a mut Tensor>,
}

/// Rotation by position: which heads, which angles.
pub(crate) struct Rotation<'a> {
    pub head_dim: usize,
    pub positions: &'a [u32],
    pub table: &'a RopeTable,
    pub turn: Turn,
}

/// The forward pass of an attention, for its backward.
pub(crate) struct AttentionForward<'a> {
    pub shape: &'a AttentionShape,
    pub layout: &'a Layout,
    pub q: &'a Tensor,
    pub out: &'a Tensor,
    pub log_sum: &'a Tensor,
    pub caches: &'a [SequenceCache],
}

/// Gradients of an attention's three inputs.
pub(crate) struct AttentionGradients {
    pub dq: Tensor,
    pub dk: Tensor,
    pub dv: Tensor,
}

/// Logits of the first rows, kept for the way back.
pub(crate) struct KeptLogits {
    /// Memory for the logits of the largest block of rows whose whole logits are made at once, `[rows of it, v]`.
    pub logits: Tensor,
    /// How many rows of it hold logits.
    pub rows: usize,
}

/// Gradients of the vocabulary operation, `dlogprob` and `dentropy` `[n, 1]`, and what its way forward left.
pub(crate) struct VocabularyUpstream<'a> {
    pub dlogprob: Option<&'a Tensor>,
    pub dentropy: Option<&'a Tensor>,
    pub statistics: &'a TokenStatistics,
    pub kept: KeptLogits,
}

/// Where the vocabulary operation's gradients go; none: not wanted.
pub(crate) struct VocabularyGradients<'a> {
    pub dhidden: Option<&'a mut Tensor>,
    /// Of the output matrix, and whether it is added to what is there.
    pub dweight: Option<(&'a mut Tensor, bool)>,
}

pub(crate) trait Backend: Send + Sync {
    fn isa(&self) -> Isa;
    fn precision(&self) -> Precision;
    fn threads(&self) -> usize;
    /// How many neighbouring rows one step of a product that sums over rows takes.
    fn rows_of_a_step(&self) -> usize;

    // Memory. The numbers of an `empty` tensor are whatever was there.
    fn empty(&self, rows: usize, cols: usize) -> Tensor;
    fn read(&self, tensor: &Tensor) -> Vec<f32>;
    fn write(&self, tensor: &mut Tensor, values: &[f32]);
    fn duplicate(&self, tensor: &Tensor) -> Tensor;
    fn idle_bytes(&self) -> usize;
    fn release_idle_memory(&self);

    /// What a rehearsal counted; none of a device that computes.
    fn account(&self) -> Option<Account> {
        None
    }
    /// From now on a rehearsal counts time at these speeds.
    fn count_time(&self, _: Speeds) {}
    /// What a profiled device's operations took since they were cleared; none of another.
    fn operation_times(&self) -> Vec<(&'static str, OperationTime)> {
        Vec::new()
    }
    /// Forgets them.
    fn clear_operation_times(&self) {}

    // Element by element.
    fn fill(&self, tensor: &mut Tensor, value: f32);
    fn add_assign(&self, y: &mut Tensor, x: &Tensor);
    fn scale_add(&self, y: &mut Tensor, x: &Tensor, factor: f32);
    fn scale(&self, y: &mut Tensor, factor: f32);
    fn sum_of_squares(&self, x: &Tensor) -> f64;
    fn exponential_average(&self, average: &mut Tensor, value: &Tensor, decay: f64);
    fn adamw_step(
        &self,
        step: &AdamWStep,
        parameter: &mut Tensor,
        gradient: &Tensor,
        moments: (&mut Tensor, &mut Tensor),
    );

    // Products. A weight is [out, in].
    fn pack_forward(&self, weight: &Tensor, reuse: Option<Packed>) -> Packed;
    /// The same for a while.
    fn pack_forward_for_a_while(&self, weight: &Tensor) -> Packed;
    /// The right operand `x`, `[k, n]`, for a while: a weight on the way back, or the inputs of a weight's gradient.
    fn pack_right(&self, x: &Tensor) -> Packed;
    /// The left operand `x`.
    fn pack_left(&self, x: &Tensor) -> Packed;
    /// The left operand `x^T`.
    fn pack_transposed(&self, x: &Tensor) -> Packed;
    /// Both of them, reading `x` once.
    fn pack_both(&self, x: &mut Tensor) -> (Packed, Packed);
    /// `out (+)= left right`.
    fn product(&self, left: &Packed, right: &Packed, out: &mut Tensor, accumulate: bool);
    /// `outs[i] = left rights[i]`: several weights on one input.
    fn products(&self, left: &Packed, rights: &[&Packed], outs: &mut [Tensor]) {
        for (right, out) in rights.iter().zip(outs) {
            self.product(left, right, out, false);
        }
    }
    /// `gradient (+)= left right`, with `dy^T` on the left and `x` on the right.
    fn weight_gradient(&self, left: &Packed, right: &Packed, gradient: &mut Tensor, accumulate: bool);
    fn add_bias(&self, y: &mut Tensor, bias: &Tensor);
    fn bias_gradient(&self, dy: &Tensor, chunks: &RowChunks, dbias: &mut Tensor);
    /// `y[i] = x[i] . w`, in f32.
    fn row_dot(&self, x: &Tensor, w: &Tensor) -> Tensor;
    fn row_dot_backward(&self, x: &Tensor, w: &Tensor, dy: &Tensor, into: (Option<&mut Tensor>, Option<&mut Tensor>));

    // Rows.
    fn gather(&self, table: &Tensor, rows: &[u32]) -> Tensor;
    /// `table[rows[i]] += x[i]`.
    fn scatter_add(&self, x: &Tensor, rows: &[u32], table: &mut Tensor);

    // Layers.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> (Tensor, NormStatistics);
    fn layer_norm(&self, x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> (Tensor, NormStatistics);
    /// Adds to what `into` holds.
    fn norm_backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        statistics: &NormStatistics,
        dy: &Tensor,
        into: NormGradients<'_>,
    );
    fn rotate(&self, x: &mut Tensor, rotation: &Rotation<'_>);
    fn activate(&self, kind: Activation, x: &Tensor) -> Tensor;
    /// Turns `x` into its gradient.
    fn activate_backward(&self, kind: Activation, x: &mut Tensor, dy: &Tensor);
    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Tensor;
    /// Turns `gate` and `up` into their gradients.
    fn swiglu_backward(&self, gate: &mut Tensor, up: &mut Tensor, dy: &Tensor);

    // Attention. `append` rounds keys and values into the caches of one layer, one a span of the layout.
    fn append(&self, caches: &mut [&mut SequenceCache], layer: usize, layout: &Layout, kv: (&Tensor, &Tensor));
    /// The output, and `[n, heads]` for the backward where it is wanted.
    fn attention(
        &self,
        shape: &AttentionShape,
        layout: &Layout,
        q: &Tensor,
        caches: (&[&SequenceCache], usize),
        for_backward: bool,
    ) -> (Tensor, Option<Tensor>);
    fn attention_backward(&self, forward: &AttentionForward<'_>, dout: &Tensor) -> AttentionGradients;

    // The vocabulary, in chunks: no [n, v] array outlives a block of rows.
    fn token_statistics(&self, vocabulary: &Vocabulary<'_>) -> TokenStatistics;
    /// The same, and keeps the logits of the first block of rows for the way back.
    fn token_statistics_keeping(&self, vocabulary: &Vocabulary<'_>) -> (TokenStatistics, KeptLogits);
    /// Makes only logits that are not kept.
    fn token_statistics_backward(
        &self,
        vocabulary: &Vocabulary<'_>,
        upstream: VocabularyUpstream<'_>,
        into: VocabularyGradients<'_>,
    );
    /// Statistics, and the gradients of `sum of weights[i] * logprob[i]`, in one pass.
    fn weighted_logprobs(
        &self,
        vocabulary: &Vocabulary<'_>,
        weights: &[f32],
        into: VocabularyGradients<'_>,
    ) -> TokenStatistics;
    /// One token a row of `hidden`, with its log-probability. Changes of logits are none, or a list for each row.
    fn sample(
        &self,
        hidden: &Tensor,
        forward: &Packed,
        size: usize,
        rows: (&[SampleRow], &[Vec<Adjustment>]),
    ) -> Result<Vec<Choice>, (usize, SamplingError)>;
    /// The most probable tokens of each row of `hidden`, the first first.
    fn best(
        &self,
        hidden: &Tensor,
        forward: &Packed,
        size: usize,
        rows: &[BestRow],
    ) -> Result<Vec<Vec<Choice>>, (usize, SamplingError)>;
}
