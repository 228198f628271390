//! The vocabulary operation: logits in chunks, merged left to right; no `[n, v]` array outlives a block of rows.

use std::ops::Range;
use std::sync::Mutex;

use super::backend::{CpuBackend, right_matrix};
use super::gemm::{self, LeftMatrix, Product, RightMatrix};
use super::logprob::{self, LogprobBackward, LogprobState, VOCAB_CHUNK};
use crate::backend::{Backend, TokenStatistics, Vocabulary, VocabularyGradients, VocabularyUpstream};
use crate::pool::Parts;
use crate::sampling::{Choice, SampleRow, SamplingError};
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

fn chunks(size: usize) -> impl Iterator<Item = Range<usize>> {
    blocks(size, VOCAB_CHUNK)
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

fn finish(states: &[LogprobState], rows: Range<usize>, into: &mut TokenStatistics) {
    for (row, state) in rows.zip(states) {
        let numbers = state.finish();
        into.logprob.cpu_mut()[row] = numbers.logprob;
        into.entropy.cpu_mut()[row] = numbers.entropy;
        into.normaliser.cpu_mut()[row] = numbers.log_normaliser;
    }
}

pub(super) fn token_statistics(backend: &CpuBackend, v: &Vocabulary<'_>) -> TokenStatistics {
    let cpu = &backend.cpu;
    let rows = v.hidden.rows();
    let mut left = backend.left();
    left.get_mut().pack(cpu, v.hidden.cpu(), rows, v.hidden.cols());
    let mut statistics = backend.empty_statistics(rows);
    let stride = VOCAB_CHUNK.min(v.size);
    let mut logits = backend.scratch(ROWS.min(rows) * stride);
    for block in blocks(rows, ROWS) {
        let mut states = vec![LogprobState::EMPTY; block.len()];
        for columns in chunks(v.size) {
            let product = Product::of(left.get(), right_matrix(v.forward))
                .rows(block.clone())
                .cols(columns.clone());
            gemm::multiply(cpu, &product, &mut logits, stride);
            let targets = &v.targets[block.clone()];
            logprob::accumulate(cpu, &logits, stride, columns, targets, v.temperature, &mut states);
        }
        finish(&states, block, &mut statistics);
    }
    statistics
}

pub(super) fn token_statistics_backward(
    backend: &CpuBackend,
    v: &Vocabulary<'_>,
    upstream: &VocabularyUpstream<'_>,
    mut into: VocabularyGradients<'_>,
) {
    let rows = v.hidden.rows();
    let zeros = vec![0.0; rows];
    let dlogprob = upstream.dlogprob.map_or(zeros.as_slice(), Tensor::cpu);
    let dentropy = upstream.dentropy.map_or(zeros.as_slice(), Tensor::cpu);
    let mut left = backend.left();
    left.get_mut().pack(&backend.cpu, v.hidden.cpu(), rows, v.hidden.cols());
    let mut logits = backend.scratch(whole_rows(v.size).min(rows) * v.size);
    for block in blocks(rows, whole_rows(v.size)) {
        whole_logits(backend, v, left.get(), &block, &mut logits);
        let gradient = LogprobBackward {
            columns: 0..v.size,
            targets: &v.targets[block.clone()],
            temperature: v.temperature,
            log_normaliser: &upstream.statistics.normaliser.cpu()[block.clone()],
            entropy: &upstream.statistics.entropy.cpu()[block.clone()],
            dlogprob: &dlogprob[block.clone()],
            dentropy: &dentropy[block.clone()],
        };
        back_through_logits(backend, v, &gradient, &block, &mut logits, &mut into);
    }
}

pub(super) fn weighted_logprobs(
    backend: &CpuBackend,
    v: &Vocabulary<'_>,
    weights: &[f32],
    mut into: VocabularyGradients<'_>,
) -> TokenStatistics {
    let cpu = &backend.cpu;
    let rows = v.hidden.rows();
    let zeros = vec![0.0; rows];
    let mut left = backend.left();
    left.get_mut().pack(cpu, v.hidden.cpu(), rows, v.hidden.cols());
    let mut statistics = backend.empty_statistics(rows);
    let mut logits = backend.scratch(whole_rows(v.size).min(rows) * v.size);
    for block in blocks(rows, whole_rows(v.size)) {
        whole_logits(backend, v, left.get(), &block, &mut logits);
        let mut states = vec![LogprobState::EMPTY; block.len()];
        let targets = &v.targets[block.clone()];
        logprob::accumulate(cpu, &logits, v.size, 0..v.size, targets, v.temperature, &mut states);
        finish(&states, block.clone(), &mut statistics);
        let gradient = LogprobBackward {
            columns: 0..v.size,
            targets,
            temperature: v.temperature,
            log_normaliser: &statistics.normaliser.cpu()[block.clone()],
            entropy: &statistics.entropy.cpu()[block.clone()],
            dlogprob: &weights[block.clone()],
            dentropy: &zeros[block.clone()],
        };
        back_through_logits(backend, v, &gradient, &block, &mut logits, &mut into);
    }
    statistics
}

/// `logits[rows of the block, v]`.
fn whole_logits(backend: &CpuBackend, v: &Vocabulary<'_>, left: &LeftMatrix, block: &Range<usize>, logits: &mut [f32]) {
    let product = Product::of(left, right_matrix(v.forward)).rows(block.clone());
    gemm::multiply(&backend.cpu, &product, logits, v.size);
}

/// Turns logits into their gradient, and that into the gradients of the hidden states and the output matrix.
fn back_through_logits(
    backend: &CpuBackend,
    v: &Vocabulary<'_>,
    gradient: &LogprobBackward<'_>,
    block: &Range<usize>,
    logits: &mut [f32],
    into: &mut VocabularyGradients<'_>,
) {
    let cpu = &backend.cpu;
    let d = v.hidden.cols();
    logprob::backward_chunk(cpu, logits, v.size, gradient);
    let dlogits = &logits[..block.len() * v.size];
    if let Some(dhidden) = &mut into.dhidden {
        let mut left = backend.left();
        left.get_mut().pack(cpu, dlogits, block.len(), v.size);
        let rows = &mut dhidden.cpu_mut()[block.start * d..block.end * d];
        gemm::multiply(cpu, &Product::of(left.get(), right_matrix(into.backward)), rows, d);
    }
    if let Some(dweight) = &mut into.dweight {
        let mut left = backend.left();
        left.get_mut().pack_transposed(cpu, dlogits, v.size, block.len());
        let mut right = backend.right();
        right
            .get_mut()
            .pack(cpu, &v.hidden.cpu()[block.start * d..block.end * d], block.len(), d);
        gemm::multiply(
            cpu,
            &Product::of(left.get(), right.get()).accumulate(),
            dweight.cpu_mut(),
            d,
        );
    }
}

pub(super) fn sample(
    backend: &CpuBackend,
    hidden: &Tensor,
    right: &RightMatrix,
    size: usize,
    rows: &[SampleRow],
) -> Result<Vec<Choice>, (usize, SamplingError)> {
    let cpu = &backend.cpu;
    let mut left = backend.left();
    left.get_mut().pack(cpu, hidden.cpu(), rows.len(), hidden.cols());
    let mut logits = backend.scratch(whole_rows(size).min(rows.len()) * size);
    let failed = Mutex::new(None);
    let mut choices = vec![Choice::default(); rows.len()];
    for block in blocks(rows.len(), whole_rows(size)) {
        let product = Product::of(left.get(), right).rows(block.clone());
        gemm::multiply(cpu, &product, &mut logits, size);
        let parts = Parts::new(&mut choices[block.clone()]);
        cpu.pool.run(block.len(), &|i| {
            let row = &logits[i * size..(i + 1) * size];
            match sample_row(backend, row, &rows[block.start + i]) {
                Ok(choice) => {
                    // SAFETY: each task has its own row.
                    let own = unsafe { parts.get(i..i + 1) };
                    own[0] = choice;
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
        None => Ok(choices),
    }
}

fn sample_row(backend: &CpuBackend, logits: &[f32], asked: &SampleRow) -> Result<Choice, SamplingError> {
    let token = super::sampling::choose(logits, &asked.parameters, asked.uniform)?;
    let mut state = [LogprobState::EMPTY];
    let temperature = asked.logprob_temperature();
    logprob::accumulate(
        &backend.cpu,
        logits,
        logits.len(),
        0..logits.len(),
        &[token],
        temperature,
        &mut state,
    );
    Ok(Choice {
        token,
        logprob: state[0].finish().logprob,
    })
}
