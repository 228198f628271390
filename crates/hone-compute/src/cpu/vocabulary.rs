//! The vocabulary operation: logits in chunks, merged left to right; no `[n, v]` array outlives a block of rows.

use std::ops::Range;
use std::sync::Mutex;

use super::backend::{CpuBackend, right_matrix};
use super::gemm::{self, LeftMatrix, Product, RightMatrix, Store};
use super::logprob::{self, LogprobState, VOCAB_CHUNK};
use crate::backend::{Backend, TokenStatistics, Vocabulary, VocabularyGradients, VocabularyUpstream};
use crate::pool::Parts;
use crate::sampling::{Choice, SampleRow, SamplingError};
use crate::tensor::Tensor;

/// Rows whose logits of one chunk are made at once.
const ROWS: usize = 256;
/// Logits that are alive at once where a whole row of them is needed.
const LOGITS: usize = 1 << 23;

/// Rows whose whole logits are made at once, for a vocabulary of `size`. A constant of the format: sums over rows are
/// cut here.
fn whole_rows(size: usize) -> usize {
    (LOGITS / size / 64 * 64).clamp(64, 4096)
}

fn blocks(rows: usize, block: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows.div_ceil(block)).map(move |i| i * block..rows.min((i + 1) * block))
}

fn chunks(size: usize) -> impl Iterator<Item = Range<usize>> {
    blocks(size, VOCAB_CHUNK)
}

impl CpuBackend {
    fn empty_statistics(&self, rows: usize) -> TokenStatistics {
        TokenStatistics { logprob: self.empty(rows, 1), entropy: self.empty(rows, 1), normaliser: self.empty(rows, 1) }
    }
}

fn finish(states: &[LogprobState], rows: Range<usize>, into: &mut TokenStatistics) {
    for (row, state) in rows.zip(states) {
        let (logprob, entropy, normaliser) = logprob::finish(state);
        into.logprob.cpu_mut()[row] = logprob;
        into.entropy.cpu_mut()[row] = entropy;
        into.normaliser.cpu_mut()[row] = normaliser;
    }
}

pub(super) fn token_statistics(backend: &CpuBackend, v: &Vocabulary<'_>) -> TokenStatistics {
    let cpu = &backend.cpu;
    let rows = v.hidden.rows();
    let mut left = backend.left();
    left.get_mut().pack(cpu, v.hidden.cpu(), rows, v.hidden.cols());
    let mut statistics = backend.empty_statistics(rows);
    let mut logits = backend.scratch(ROWS.min(rows) * VOCAB_CHUNK);
    for block in blocks(rows, ROWS) {
        let mut states = vec![LogprobState::new(); block.len()];
        for columns in chunks(v.size) {
            let product = Product { left: left.get(), right: right_matrix(v.forward), rows: block.clone(), cols: columns.clone() };
            gemm::multiply(cpu, &product, &mut logits, VOCAB_CHUNK, Store::Overwrite);
            let chunk = logprob::Chunk { stride: VOCAB_CHUNK, columns, targets: &v.targets[block.clone()], temperature: v.temperature };
            logprob::accumulate(cpu, &logits, &chunk, &mut states);
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
    let mut left = backend.left();
    left.get_mut().pack(&backend.cpu, v.hidden.cpu(), rows, v.hidden.cols());
    let mut logits = backend.scratch(whole_rows(v.size).min(rows) * v.size);
    for block in blocks(rows, whole_rows(v.size)) {
        whole_logits(backend, v, left.get(), &block, &mut logits);
        let part = |tensor: Option<&'_ Tensor>| tensor.map_or(&zeros[block.clone()], |t| &t.cpu()[block.clone()]).to_vec();
        let gradient = logprob::Gradient {
            normaliser: &upstream.statistics.normaliser.cpu()[block.clone()],
            entropy: &upstream.statistics.entropy.cpu()[block.clone()],
            dlogprob: &part(upstream.dlogprob),
            dentropy: &part(upstream.dentropy),
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
        let mut states = vec![LogprobState::new(); block.len()];
        for columns in chunks(v.size) {
            let chunk = logprob::Chunk {
                stride: v.size,
                columns: columns.clone(),
                targets: &v.targets[block.clone()],
                temperature: v.temperature,
            };
            logprob::accumulate(cpu, &logits[columns.start..], &chunk, &mut states);
        }
        finish(&states, block.clone(), &mut statistics);
        let gradient = logprob::Gradient {
            normaliser: &statistics.normaliser.cpu()[block.clone()],
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
    let product = Product { left, right: right_matrix(v.forward), rows: block.clone(), cols: 0..v.size };
    gemm::multiply(&backend.cpu, &product, logits, v.size, Store::Overwrite);
}

/// Turns logits into their gradient, and that into the gradients of the hidden states and the output matrix.
fn back_through_logits(
    backend: &CpuBackend,
    v: &Vocabulary<'_>,
    gradient: &logprob::Gradient<'_>,
    block: &Range<usize>,
    logits: &mut [f32],
    into: &mut VocabularyGradients<'_>,
) {
    let cpu = &backend.cpu;
    let d = v.hidden.cols();
    let chunk =
        logprob::Chunk { stride: v.size, columns: 0..v.size, targets: &v.targets[block.clone()], temperature: v.temperature };
    logprob::backward_chunk(cpu, logits, &chunk, gradient);
    let dlogits = &logits[..block.len() * v.size];
    if let Some(dhidden) = &mut into.dhidden {
        let mut left = backend.left();
        left.get_mut().pack(cpu, dlogits, block.len(), v.size);
        let rows = &mut dhidden.cpu_mut()[block.start * d..block.end * d];
        gemm::multiply(cpu, &Product::whole(left.get(), right_matrix(into.backward)), rows, d, Store::Overwrite);
    }
    if let Some(dweight) = &mut into.dweight {
        let mut left = backend.left();
        left.get_mut().pack_transposed(cpu, dlogits, v.size, block.len());
        let mut right = backend.right();
        right.get_mut().pack(cpu, &v.hidden.cpu()[block.start * d..block.end * d], block.len(), d);
        gemm::multiply(cpu, &Product::whole(left.get(), right.get()), dweight.cpu_mut(), d, Store::Accumulate);
    }
}

pub(super) fn sample(
    backend: &CpuBackend,
    hidden: &Tensor,
    right: &RightMatrix,
    size: usize,
    rows: &[SampleRow],
) -> Result<Vec<Choice>, SamplingError> {
    let cpu = &backend.cpu;
    let mut left = backend.left();
    left.get_mut().pack(cpu, hidden.cpu(), rows.len(), hidden.cols());
    let mut logits = backend.scratch(whole_rows(size).min(rows.len()) * size);
    let failed = Mutex::new(None);
    let mut choices = vec![Choice::default(); rows.len()];
    for block in blocks(rows.len(), whole_rows(size)) {
        let product = Product { left: left.get(), right, rows: block.clone(), cols: 0..size };
        gemm::multiply(cpu, &product, &mut logits, size, Store::Overwrite);
        let parts = Parts::new(&mut choices[block.clone()]);
        cpu.pool.run(block.len(), &|i| {
            let row = &logits[i * size..(i + 1) * size];
            match sample_row(backend, row, &rows[block.start + i]) {
                // SAFETY: each task has its own row.
                Ok(choice) => unsafe { parts.get(i..i + 1) }[0] = choice,
                Err(error) => *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error),
            }
        });
    }
    match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(choices),
    }
}

fn sample_row(backend: &CpuBackend, logits: &[f32], asked: &SampleRow) -> Result<Choice, SamplingError> {
    let token = crate::sampling::choose(logits, &asked.parameters, asked.uniform)?;
    let mut state = [LogprobState::new()];
    for columns in chunks(logits.len()) {
        let temperature = asked.parameters.logprob_temperature();
        let chunk = logprob::Chunk { stride: logits.len(), columns: columns.clone(), targets: &[token], temperature };
        logprob::accumulate(&backend.cpu, &logits[columns.start..], &chunk, &mut state);
    }
    let (logprob, ..) = logprob::finish(&state[0]);
    Ok(Choice { token, logprob })
}
