//! The vocabulary operation: logits in chunks, merged left to right; no `[n, v]` array outlives a block of rows.

use std::ops::Range;
use std::sync::Mutex;

use super::backend::{CpuBackend, Lent, right_matrix};
use super::gemm::{self, Epilogue, Finished, LeftMatrix, Product, RightMatrix, SomeColumns};
use super::logprob::{ChunkParts, ChunkSums, LogprobBackward, TokenLogprob, VOCAB_CHUNK};
use super::{Cpu, sampling};
use crate::backend::{Backend, KeptLogits, TokenStatistics, Vocabulary, VocabularyGradients, VocabularyUpstream};
use crate::pool::Parts;
use crate::sampling::{Adjustment, BestRow, Choice, SampleRow, SamplingError};
use crate::tensor::Tensor;

/// Rows whose logits of one chunk are made at once.
pub(crate) const ROWS: usize = 256;
/// Logits that are alive at once where a whole row of them is needed.
const LOGITS: usize = 1 << 23;

/// Rows whose whole logits are made at once, for a vocabulary of `size`. A constant of the format: sums over rows are
/// cut here.
pub(crate) fn whole_rows(size: usize) -> usize {
    (LOGITS / size / 64 * 64).clamp(64, 4096)
}

/// Bytes of the logits that training has at once for `rows` predictions over a vocabulary of `size`.
pub fn logits_bytes(rows: usize, size: usize) -> usize {
    whole_rows(size).min(rows) * size * size_of::<f32>()
}

pub(crate) fn blocks(rows: usize, block: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows.div_ceil(block)).map(move |i| i * block..rows.min((i + 1) * block))
}

/// Columns of the vocabulary whose part of the output matrix is packed at once, where no packed form is kept, and whose logits
/// turn into packed gradients at once: whole chunks and panels, and on the way back, where they are a part of the sums, whole
/// steps of every kernel.
const SLICE: usize = VOCAB_CHUNK;
const _: () = assert!(SLICE.is_multiple_of(gemm::DEPTH_UNIT));

pub(crate) fn slices(size: usize) -> impl Iterator<Item = Range<usize>> {
    blocks(size, SLICE)
}

/// Whether a call that needs whole logits packs the output matrix slice by slice, and so anew for each block of rows: for one
/// block, or for two where no form is kept. Otherwise it is packed for the call: whole forward, and in all its slices
/// back.
pub(crate) fn in_slices(v: &Vocabulary<'_>) -> bool {
    let most = if v.forward.is_none() { 2 } else { 1 };
    v.hidden.rows() <= most * whole_rows(v.size())
}

impl CpuBackend {
    fn empty_statistics(&self, rows: usize) -> TokenStatistics {
        TokenStatistics {
            logprob: self.empty(rows, 1),
            entropy: self.empty(rows, 1),
            normaliser: self.empty(rows, 1),
        }
    }
}

/// The output matrix in packed form: whole for as long as this lives, or slice by slice.
struct Output<'a> {
    backend: &'a CpuBackend,
    v: &'a Vocabulary<'a>,
    /// For `logits = hidden W^T`.
    forward: Option<Whole<'a>>,
    /// Its slices for `dhidden = dlogits W`.
    backward: Option<Vec<Lent<RightMatrix>>>,
}

/// All of the output matrix.
enum Whole<'a> {
    Kept(&'a RightMatrix),
    ForTheCall(Lent<RightMatrix>),
}

/// A product with a part of the output matrix, given the part and its tokens.
type WithPart<'a> = dyn FnMut(&RightMatrix, Range<usize>) + 'a;

impl<'a> Output<'a> {
    /// For a call that goes forward over all rows once.
    fn forward(backend: &'a CpuBackend, v: &'a Vocabulary<'a>) -> Self {
        Self {
            backend,
            v,
            forward: v.forward.as_deref().map(|packed| Whole::Kept(right_matrix(packed))),
            backward: None,
        }
    }

    /// For a call that goes forward and back over one block of rows after another.
    fn both_ways(backend: &'a CpuBackend, v: &'a Vocabulary<'a>) -> Self {
        let mut output = Self::forward(backend, v);
        if !in_slices(v) {
            if output.forward.is_none() {
                output.forward = Some(Whole::ForTheCall(output.packed_forward(0..v.size())));
            }
            output.backward = Some(slices(v.size()).map(|tokens| output.packed_backward(tokens)).collect());
        }
        output
    }

    /// The rows of the matrix that belong to some tokens.
    fn rows(&self, tokens: Range<usize>) -> &'a [f32] {
        let d = self.v.hidden.cols();
        &self.v.output.cpu()[tokens.start * d..tokens.end * d]
    }

    fn packed_forward(&self, tokens: Range<usize>) -> Lent<RightMatrix> {
        let (k, n) = (self.v.hidden.cols(), tokens.len());
        let mut right = self.backend.right(k, n);
        right
            .get_mut()
            .pack_transposed(&self.backend.cpu, self.rows(tokens), k, n);
        right
    }

    fn packed_backward(&self, tokens: Range<usize>) -> Lent<RightMatrix> {
        let (k, n) = (tokens.len(), self.v.hidden.cols());
        let mut right = self.backend.right(k, n);
        right.get_mut().pack(&self.backend.cpu, self.rows(tokens), k, n);
        right
    }

    /// Multiplies hidden states with each part.
    fn each_forward(&self, run: &mut WithPart<'_>) {
        match &self.forward {
            Some(Whole::Kept(right)) => run(right, 0..self.v.size()),
            Some(Whole::ForTheCall(right)) => run(right.get(), 0..self.v.size()),
            None => {
                slices(self.v.size()).for_each(|tokens| run(self.packed_forward(tokens.clone()).get(), tokens));
            }
        }
    }

    /// The product of the gradients of a slice's logits with the slice, added to that of the slices before: parts of the same
    /// sums.
    fn multiply_backward(&self, dlogits: &LeftMatrix, tokens: Range<usize>, dhidden: &mut [f32]) {
        let packed;
        let right = match &self.backward {
            Some(slices) => &slices[tokens.start / SLICE],
            None => {
                packed = self.packed_backward(tokens.clone());
                &packed
            }
        };
        let product = Product::of(dlogits, right.get()).added_if(tokens.start > 0);
        gemm::multiply(&self.backend.cpu, &product, dhidden, self.v.hidden.cols());
    }
}

/// Rows of a block whose logits are reduced as soon as they are made: with [`VOCAB_CHUNK`] columns they stay near.
const REDUCED_ROWS: usize = 64;

/// Makes the logits `[rows, columns]` of a part of the vocabulary and adds them to the sums of their chunks. `first` is the
/// row of the sums and the token that the first logit belongs to.
fn reduced_logits(
    backend: &CpuBackend,
    product: &Product<'_>,
    (logits, stride): (&mut [f32], usize),
    (sums, first): (&ChunkParts<'_>, (usize, usize)),
    temperature: &(dyn Fn(usize) -> f32 + Sync),
) {
    let reduce = |block: &Finished<'_>| {
        for row in block.rows.clone() {
            let place = (first.0 + row, first.1 + block.columns.start);
            // SAFETY: blocks do not overlap, and each is one task's.
            unsafe { sums.reduce(&backend.cpu, place, block.row(row), temperature(row)) };
        }
    };
    let epilogue = Epilogue {
        rows: REDUCED_ROWS,
        columns: VOCAB_CHUNK,
        run: &reduce,
    };
    gemm::multiply_then(&backend.cpu, product, logits, stride, &epilogue);
}

fn finish(numbers: &[TokenLogprob], rows: Range<usize>, into: &mut TokenStatistics) {
    for (row, numbers) in rows.zip(numbers) {
        into.logprob.cpu_mut()[row] = numbers.logprob;
        into.entropy.cpu_mut()[row] = numbers.entropy;
        into.normaliser.cpu_mut()[row] = numbers.log_normaliser;
    }
}

/// The numbers of a block of rows, once their chunks are reduced and the logits of their targets known.
fn numbers(cpu: &Cpu, sums: &ChunkSums, targets: &[f32], temperature: f32) -> Vec<TokenLogprob> {
    let mut numbers = vec![TokenLogprob::default(); targets.len()];
    let parts = Parts::new(&mut numbers);
    cpu.pool.ranges(targets.len(), 64, &|rows| {
        // SAFETY: the rows of two tasks do not overlap.
        let numbers = unsafe { parts.get(rows.clone()) };
        for (numbers, row) in numbers.iter_mut().zip(rows) {
            *numbers = sums.merged(row).finish_with(targets[row], temperature);
        }
    });
    numbers
}

/// The logits of rows' targets among whole rows of logits.
fn logits_of(targets: &[u32], logits: &[f32], size: usize) -> Vec<f32> {
    let rows = targets.iter().zip(logits.chunks_exact(size));
    rows.map(|(&id, row)| row[id as usize]).collect()
}

pub(super) fn token_statistics(backend: &CpuBackend, v: &Vocabulary<'_>) -> TokenStatistics {
    statistics(backend, v, (&mut [], 0))
}

pub(super) fn token_statistics_keeping(backend: &CpuBackend, v: &Vocabulary<'_>) -> (TokenStatistics, KeptLogits) {
    let rows = whole_rows(v.size()).min(v.hidden.rows());
    let mut logits = backend.empty(rows, v.size());
    let statistics = statistics(backend, v, (logits.cpu_mut(), rows));
    (statistics, KeptLogits { logits, rows })
}

/// The hidden states as a left operand.
fn packed_hidden(backend: &CpuBackend, v: &Vocabulary<'_>) -> Lent<LeftMatrix> {
    let (rows, d) = (v.hidden.rows(), v.hidden.cols());
    let mut left = backend.left(rows, d);
    left.get_mut().pack(&backend.cpu, v.hidden.cpu(), rows, d);
    left
}

/// Statistics of all rows. The first `kept_rows` leave their whole logits in `kept`, the others no more than a chunk.
fn statistics(backend: &CpuBackend, v: &Vocabulary<'_>, (kept, kept_rows): (&mut [f32], usize)) -> TokenStatistics {
    let (rows, size) = (v.hidden.rows(), v.size());
    let left = packed_hidden(backend, v);
    let mut statistics = backend.empty_statistics(rows);
    let stride = VOCAB_CHUNK.min(size);
    let mut logits = backend.scratch(ROWS.min(rows - kept_rows) * stride);
    let mut sums = ChunkSums::new(rows, size);
    let mut targets = vec![f32::NAN; rows];
    let temperature = |_: usize| v.temperature;
    Output::forward(backend, v).each_forward(&mut |right, tokens| {
        let product = |rows: Range<usize>| Product::of(left.get(), right).rows(rows);
        if kept_rows > 0 {
            let (product, kept) = (product(0..kept_rows), &mut kept[tokens.start..]);
            let sums = (&sums.parts(), (0, tokens.start));
            reduced_logits(backend, &product, (kept, size), sums, &temperature);
        }
        for block in blocks(rows - kept_rows, ROWS) {
            let block = kept_rows + block.start..kept_rows + block.end;
            for columns in blocks(tokens.len(), VOCAB_CHUNK) {
                let chunk = tokens.start + columns.start..tokens.start + columns.end;
                let product = product(block.clone()).cols(columns);
                let sums = (&sums.parts(), (block.start, chunk.start));
                reduced_logits(backend, &product, (&mut logits, stride), sums, &temperature);
                for (row, target) in targets[block.clone()].iter_mut().enumerate() {
                    let id = v.targets[block.start + row] as usize;
                    if chunk.contains(&id) {
                        *target = logits[row * stride + id - chunk.start];
                    }
                }
            }
        }
    });
    targets[..kept_rows].copy_from_slice(&logits_of(&v.targets[..kept_rows], kept, size));
    let numbers = numbers(&backend.cpu, &sums, &targets, v.temperature);
    finish(&numbers, 0..rows, &mut statistics);
    statistics
}

pub(super) fn token_statistics_backward(
    backend: &CpuBackend,
    v: &Vocabulary<'_>,
    upstream: VocabularyUpstream<'_>,
    mut into: VocabularyGradients<'_>,
) {
    let (rows, size) = (v.hidden.rows(), v.size());
    let zeros = vec![0.0; rows];
    let dlogprob = upstream.dlogprob.map_or(zeros.as_slice(), Tensor::cpu);
    let dentropy = upstream.dentropy.map_or(zeros.as_slice(), Tensor::cpu);
    let mut kept = upstream.kept;
    let left = (rows > kept.rows).then(|| packed_hidden(backend, v));
    let output = Output::both_ways(backend, v);
    let logits = kept.logits.cpu_mut();
    for block in blocks(rows, whole_rows(size)) {
        if let Some(left) = left.as_ref().filter(|_| block.end > kept.rows) {
            output.each_forward(&mut |right, tokens| {
                let product = Product::of(left.get(), right).rows(block.clone());
                gemm::multiply(&backend.cpu, &product, &mut logits[tokens.start..], size);
            });
        }
        let gradient = LogprobBackward {
            targets: &v.targets[block.clone()],
            temperature: v.temperature,
            log_normaliser: &upstream.statistics.normaliser.cpu()[block.clone()],
            entropy: &upstream.statistics.entropy.cpu()[block.clone()],
            dlogprob: &dlogprob[block.clone()],
            dentropy: &dentropy[block.clone()],
        };
        back_through_logits(&output, &gradient, (&block, logits), &mut into);
    }
}

pub(super) fn weighted_logprobs(
    backend: &CpuBackend,
    v: &Vocabulary<'_>,
    weights: &[f32],
    mut into: VocabularyGradients<'_>,
) -> TokenStatistics {
    let (rows, size) = (v.hidden.rows(), v.size());
    let zeros = vec![0.0; rows];
    let left = packed_hidden(backend, v);
    let mut statistics = backend.empty_statistics(rows);
    let output = Output::both_ways(backend, v);
    let mut logits = backend.scratch(whole_rows(size).min(rows) * size);
    for block in blocks(rows, whole_rows(size)) {
        let mut sums = ChunkSums::new(block.len(), size);
        output.each_forward(&mut |right, tokens| {
            let product = Product::of(left.get(), right).rows(block.clone());
            let (logits, sums) = (&mut logits[tokens.start..], (&sums.parts(), (0, tokens.start)));
            reduced_logits(backend, &product, (logits, size), sums, &|_| v.temperature);
        });
        let targets = &v.targets[block.clone()];
        let logits_of_targets = logits_of(targets, &logits, size);
        let numbers = numbers(&backend.cpu, &sums, &logits_of_targets, v.temperature);
        finish(&numbers, block.clone(), &mut statistics);
        let gradient = LogprobBackward {
            targets,
            temperature: v.temperature,
            log_normaliser: &statistics.normaliser.cpu()[block.clone()],
            entropy: &statistics.entropy.cpu()[block.clone()],
            dlogprob: &weights[block.clone()],
            dentropy: &zeros[block.clone()],
        };
        back_through_logits(&output, &gradient, (&block, &mut logits), &mut into);
    }
    statistics
}

/// Turns logits into their gradient, and that into the gradients of the hidden states and the output matrix, slice by slice of
/// the vocabulary.
fn back_through_logits(
    output: &Output<'_>,
    gradient: &LogprobBackward<'_>,
    (block, logits): (&Range<usize>, &mut [f32]),
    into: &mut VocabularyGradients<'_>,
) {
    let Output { backend, v, .. } = *output;
    let (cpu, d, size) = (&backend.cpu, v.hidden.cols(), v.size());
    let logits = &mut logits[..block.len() * size];
    let rows = block.start * d..block.end * d;
    let change = |row: usize, columns: Range<usize>, logits: &mut [f32]| gradient.row(cpu, row, columns, logits);
    let hidden = into.dweight.is_some().then(|| {
        let mut hidden = backend.right(block.len(), d);
        hidden
            .get_mut()
            .pack(cpu, &v.hidden.cpu()[rows.clone()], block.len(), d);
        hidden
    });
    for tokens in slices(size) {
        let mut left = backend.left(block.len(), tokens.len());
        let columns = SomeColumns::of(logits, (block.len(), size), tokens.clone());
        let transposed = if into.dweight.is_some() {
            let mut transposed = backend.left(tokens.len(), block.len());
            gemm::pack_both(cpu, columns, (left.get_mut(), transposed.get_mut()), &change);
            Some(transposed)
        } else {
            left.get_mut().pack_changed(cpu, columns, &change);
            None
        };
        if let Some(dhidden) = &mut into.dhidden {
            output.multiply_backward(left.get(), tokens.clone(), &mut dhidden.cpu_mut()[rows.clone()]);
        }
        if let (Some((dweight, accumulate)), Some(transposed), Some(hidden)) = (&mut into.dweight, transposed, &hidden)
        {
            let product = Product::of(transposed.get(), hidden.get()).added_if(*accumulate);
            let slice = &mut dweight.cpu_mut()[tokens.start * d..tokens.end * d];
            gemm::multiply(cpu, &product, slice, d);
        }
    }
    if let Some((_, accumulate)) = &mut into.dweight {
        *accumulate = true;
    }
}

pub(super) fn sample(
    backend: &CpuBackend,
    hidden: &Tensor,
    right: &RightMatrix,
    size: usize,
    (rows, adjustments): (&[SampleRow], &[Vec<Adjustment>]),
) -> Result<Vec<Choice>, (usize, SamplingError)> {
    for (row, asked) in rows.iter().enumerate() {
        asked.validate().map_err(|error| (row, error))?;
    }
    let asked = Rows {
        hidden,
        right,
        size,
        temperature: &|row| rows[row].logprob_temperature(),
    };
    asked.map(backend, &|row, drawn| {
        let adjustments = adjustments.get(row).map_or(&[][..], Vec::as_slice);
        drawn.choose(&backend.cpu, &rows[row], adjustments)
    })
}

pub(super) fn best(
    backend: &CpuBackend,
    hidden: &Tensor,
    right: &RightMatrix,
    size: usize,
    rows: &[BestRow],
) -> Result<Vec<Vec<Choice>>, (usize, SamplingError)> {
    let asked = Rows {
        hidden,
        right,
        size,
        temperature: &|row| rows[row].temperature,
    };
    asked.map(backend, &|row, drawn| drawn.best(&rows[row]))
}

/// Rows of hidden states whose whole logits are looked at, a block of rows at a time.
struct Rows<'a> {
    hidden: &'a Tensor,
    right: &'a RightMatrix,
    size: usize,
    /// The temperature of a row's log-probabilities.
    temperature: &'a (dyn Fn(usize) -> f32 + Sync),
}

impl Rows<'_> {
    /// What `run(row, its logits)` gives for every row, or the error of the first row that has one.
    fn map<R: Clone + Default + Send>(
        &self,
        backend: &CpuBackend,
        run: &(dyn Fn(usize, &Drawn<'_>) -> Result<R, SamplingError> + Sync),
    ) -> Result<Vec<R>, (usize, SamplingError)> {
        let (cpu, size, rows) = (&backend.cpu, self.size, self.hidden.rows());
        let mut left = backend.left(rows, self.hidden.cols());
        left.get_mut().pack(cpu, self.hidden.cpu(), rows, self.hidden.cols());
        let mut logits = backend.scratch(whole_rows(size).min(rows) * size);
        let failed = Mutex::new(None);
        let mut results = vec![R::default(); rows];
        for block in blocks(rows, whole_rows(size)) {
            let mut sums = ChunkSums::new(block.len(), size);
            let product = Product::of(left.get(), self.right).rows(block.clone());
            let temperature = |row: usize| (self.temperature)(block.start + row);
            reduced_logits(
                backend,
                &product,
                (&mut logits, size),
                (&sums.parts(), (0, 0)),
                &temperature,
            );
            let parts = Parts::new(&mut results[block.clone()]);
            cpu.pool.run(block.len(), &|i| {
                let drawn = Drawn {
                    logits: &logits[i * size..(i + 1) * size],
                    sums: &sums,
                    row: i,
                };
                match run(block.start + i, &drawn) {
                    Ok(result) => {
                        // SAFETY: each task has its own row.
                        let own = unsafe { parts.get(i..i + 1) };
                        own[0] = result;
                    }
                    Err(error) => {
                        let mut first = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        if first.as_ref().is_none_or(|(row, _)| *row > block.start + i) {
                            *first = Some((block.start + i, error));
                        }
                    }
                }
            });
        }
        match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(results),
        }
    }
}

/// A row of logits with the sums of its chunks.
struct Drawn<'a> {
    logits: &'a [f32],
    sums: &'a ChunkSums,
    row: usize,
}

impl Drawn<'_> {
    /// Draws a token from the logits as `adjustments` change them; its log-probability is that of the logits themselves.
    fn choose(&self, cpu: &Cpu, asked: &SampleRow, adjustments: &[Adjustment]) -> Result<Choice, SamplingError> {
        let merged = self.sums.merged(self.row);
        // What is not finite shows in the sums: `choose` finds and names it
        let token = if !adjustments.is_empty() {
            let logits = sampling::adjusted(self.logits, adjustments);
            sampling::choose(&logits, &asked.parameters, asked.uniform)?
        } else if asked.parameters.draws_from_all() && merged.is_sound() {
            sampling::draw_from_chunks(cpu, self.logits, self.sums.row(self.row), asked)
        } else {
            sampling::choose(self.logits, &asked.parameters, asked.uniform)?
        };
        let numbers = merged.finish_with(self.logits[token as usize], asked.logprob_temperature());
        Ok(Choice {
            token,
            logprob: numbers.logprob,
        })
    }

    /// The most probable tokens, the first first, with the log-probabilities that they have wherever they are asked for.
    fn best(&self, asked: &BestRow) -> Result<Vec<Choice>, SamplingError> {
        let merged = self.sums.merged(self.row);
        let ids = sampling::best(self.logits, asked.count)?;
        let choice = |token: u32| Choice {
            token,
            logprob: merged
                .finish_with(self.logits[token as usize], asked.temperature)
                .logprob,
        };
        Ok(ids.into_iter().map(choice).collect())
    }
}

#[cfg(test)]
mod tests;
