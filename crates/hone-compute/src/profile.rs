//! Time by operation: a device that hands every operation on to another and measures it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::{
    Activation, AttentionForward, AttentionGradients, Backend, KeptLogits, NormGradients, NormStatistics, Packed,
    Rotation, TokenStatistics, Vocabulary, VocabularyGradients, VocabularyUpstream,
};
use crate::cpu::optimizer::AdamW as AdamWStep;
use crate::isa::{Isa, Precision};
use crate::layout::{AttentionShape, Layout, SequenceCache};
use crate::rehearsal::{Account, Speeds};
use crate::rows_left::RowChunks;
use crate::sampling::{Adjustment, BestRow, Choice, SampleRow, SamplingError};
use crate::tensor::Tensor;

/// What an operation took, all its calls together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationTime {
    /// How often it ran.
    pub calls: u64,
    /// Wall-clock time in it.
    pub time: Duration,
}

/// A device whose operations are timed.
pub(crate) struct Profiled {
    inner: Arc<dyn Backend>,
    times: Mutex<BTreeMap<&'static str, OperationTime>>,
}

impl Profiled {
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self {
            inner,
            times: Mutex::default(),
        }
    }

    fn time<R>(&self, operation: &'static str, run: impl FnOnce(&dyn Backend) -> R) -> R {
        let start = Instant::now();
        let result = run(&*self.inner);
        let took = start.elapsed();
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = times.entry(operation).or_default();
        entry.calls += 1;
        entry.time += took;
        result
    }
}

/// Methods that hand on to the inner device under a name in the profile.
macro_rules! timed {
    ($($operation:literal => $(fn $name:ident(&self $(, $argument:ident: $type:ty)*) $(-> $result:ty)?;)*)*) => {
        $($(
            fn $name(&self $(, $argument: $type)*) $(-> $result)? {
                self.time($operation, |inner| inner.$name($($argument),*))
            }
        )*)*
    };
}

impl Backend for Profiled {
    fn isa(&self) -> Isa {
        self.inner.isa()
    }

    fn precision(&self) -> Precision {
        self.inner.precision()
    }

    fn threads(&self) -> usize {
        self.inner.threads()
    }

    fn rows_of_a_step(&self) -> usize {
        self.inner.rows_of_a_step()
    }

    fn idle_bytes(&self) -> usize {
        self.inner.idle_bytes()
    }

    fn account(&self) -> Option<Account> {
        self.inner.account()
    }

    fn count_time(&self, speeds: Speeds) {
        self.inner.count_time(speeds);
    }

    fn operation_times(&self) -> Vec<(&'static str, OperationTime)> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.iter().map(|(&operation, &time)| (operation, time)).collect()
    }

    fn clear_operation_times(&self) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    timed! {
        "memory" =>
        fn empty(&self, rows: usize, cols: usize) -> Tensor;
        fn read(&self, tensor: &Tensor) -> Vec<f32>;
        fn write(&self, tensor: &mut Tensor, values: &[f32]);
        fn duplicate(&self, tensor: &Tensor) -> Tensor;
        fn release_idle_memory(&self);
        fn fill(&self, tensor: &mut Tensor, value: f32);

        "element by element" =>
        fn add_assign(&self, y: &mut Tensor, x: &Tensor);
        fn scale_add(&self, y: &mut Tensor, x: &Tensor, factor: f32);
        fn scale(&self, y: &mut Tensor, factor: f32);
        fn add_bias(&self, y: &mut Tensor, bias: &Tensor);
        fn bias_gradient(&self, dy: &Tensor, chunks: &RowChunks, dbias: &mut Tensor);

        "optimiser" =>
        fn sum_of_squares(&self, x: &Tensor) -> f64;
        fn exponential_average(&self, average: &mut Tensor, value: &Tensor, decay: f64);
        fn adamw_step(
            &self, step: &AdamWStep, parameter: &mut Tensor, gradient: &Tensor, moments: (&mut Tensor, &mut Tensor)
        );

        "packing weights" =>
        fn pack_forward(&self, weight: &Tensor, reuse: Option<Packed>) -> Packed;

        "packing, forward" =>
        fn pack_forward_for_a_while(&self, weight: &Tensor) -> Packed;
        fn pack_left(&self, x: &Tensor) -> Packed;

        "packing, backward" =>
        fn pack_right(&self, x: &Tensor) -> Packed;
        fn pack_transposed(&self, x: &Tensor) -> Packed;
        fn pack_both(&self, x: &mut Tensor) -> (Packed, Packed);

        "products with weights" =>
        fn product(&self, left: &Packed, right: &Packed, out: &mut Tensor, accumulate: bool);
        fn products(&self, left: &Packed, rights: &[&Packed], outs: &mut [Tensor]);

        "weight gradients" =>
        fn weight_gradient(&self, left: &Packed, right: &Packed, gradient: &mut Tensor, accumulate: bool);

        "heads" =>
        fn row_dot(&self, x: &Tensor, w: &Tensor) -> Tensor;
        fn row_dot_backward(
            &self, x: &Tensor, w: &Tensor, dy: &Tensor, into: (Option<&mut Tensor>, Option<&mut Tensor>)
        );

        "embedding" =>
        fn gather(&self, table: &Tensor, rows: &[u32]) -> Tensor;
        fn scatter_add(&self, x: &Tensor, rows: &[u32], table: &mut Tensor);

        "norms" =>
        fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> (Tensor, NormStatistics);
        fn layer_norm(&self, x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> (Tensor, NormStatistics);

        "norms, backward" =>
        fn norm_backward(
            &self, x: &Tensor, weight: &Tensor, statistics: &NormStatistics, dy: &Tensor, into: NormGradients<'_>
        );

        "rotation" =>
        fn rotate(&self, x: &mut Tensor, rotation: &Rotation<'_>);

        "activation" =>
        fn activate(&self, kind: Activation, x: &Tensor) -> Tensor;
        fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Tensor;

        "activation, backward" =>
        fn activate_backward(&self, kind: Activation, x: &mut Tensor, dy: &Tensor);
        fn swiglu_backward(&self, gate: &mut Tensor, up: &mut Tensor, dy: &Tensor);

        "cache" =>
        fn append(&self, caches: &mut [&mut SequenceCache], layer: usize, layout: &Layout, kv: (&Tensor, &Tensor));

        "attention" =>
        fn attention(
            &self, shape: &AttentionShape, layout: &Layout, q: &Tensor, caches: (&[&SequenceCache], usize),
            for_backward: bool
        ) -> (Tensor, Option<Tensor>);

        "attention, backward" =>
        fn attention_backward(&self, forward: &AttentionForward<'_>, dout: &Tensor) -> AttentionGradients;

        "log-probabilities" =>
        fn token_statistics(&self, vocabulary: &Vocabulary<'_>) -> TokenStatistics;
        fn token_statistics_keeping(&self, vocabulary: &Vocabulary<'_>) -> (TokenStatistics, KeptLogits);

        "log-probabilities, backward" =>
        fn token_statistics_backward(
            &self, vocabulary: &Vocabulary<'_>, upstream: VocabularyUpstream<'_>, into: VocabularyGradients<'_>
        );

        "log-probabilities and their gradients" =>
        fn weighted_logprobs(
            &self, vocabulary: &Vocabulary<'_>, weights: &[f32], into: VocabularyGradients<'_>
        ) -> TokenStatistics;

        "sampling" =>
        fn sample(
            &self, hidden: &Tensor, forward: &Packed, size: usize, rows: (&[SampleRow], &[Vec<Adjustment>])
        ) -> Result<Vec<Choice>, (usize, SamplingError)>;

        "most probable tokens" =>
        fn best(
            &self, hidden: &Tensor, forward: &Packed, size: usize, rows: &[BestRow]
        ) -> Result<Vec<Vec<Choice>>, (usize, SamplingError)>;
    }
}
