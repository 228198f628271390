//! The log-probability of a token, and the entropy of the distribution it was drawn from, over chunks of vocabulary.
//!
//! This is the one definition of both, used for sampling, training and evaluation. For a row of logits:
//!
//! 1. `z = logit * (1 / temperature)`, the reciprocal rounded once to f32; so temperature 1 changes nothing.
//! 2. The vocabulary is cut into chunks of [`VOCAB_CHUNK`] columns, the first at column 0. In each: the maximum `m`,
//!    `sum e^(z - m)` and `sum e^(z - m) (z - m)` in f32, in the order of [`math`](super::math).
//! 3. Chunks merge from left to right, in f64.
//! 4. `normaliser = m + ln sum`, `logprob = (z_target - m) - ln sum`, `entropy = ln sum - weighted / sum`, in f64,
//!    rounded once.
//!
//! Nothing depends on other rows, on the number of chunks given at a time, or on the threads.
//!
//! # Soundness
//! As in [`norm`](super::norm).

use std::ops::Range;

use super::Cpu;
use super::math::{Lanes, REDUCTION_LANES, max_row};
use super::simd::{Simd, dispatch};
use crate::pool::Parts;

/// Columns of the vocabulary that are reduced at once. A constant of the format: it is part of every log-probability.
pub const VOCAB_CHUNK: usize = 2048;

/// What stands for `z - m` below it, so that a probability of 0 times minus infinity is 0: `e^-104` is 0 in f32.
const LOWEST: f32 = -104.0;

/// A row's sums over the chunks so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogprobState {
    /// The largest `z`.
    max: f32,
    /// `sum e^(z - max)`
    sum: f64,
    /// `sum e^(z - max) (z - max)`
    weighted: f64,
    /// `z` of the target, NaN until its chunk has come.
    target: f32,
}

/// The numbers of one token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct TokenLogprob {
    /// Log-probability of the target; NaN if the target is in no chunk.
    pub logprob: f32,
    /// Entropy of the distribution, in nats.
    pub entropy: f32,
    /// `ln sum e^z`.
    pub log_normaliser: f32,
}

impl LogprobState {
    /// Before the first chunk.
    pub(crate) const EMPTY: Self = Self {
        max: f32::NEG_INFINITY,
        sum: 0.0,
        weighted: 0.0,
        target: f32::NAN,
    };

    fn merge(&mut self, chunk: Chunk) {
        let (sum, weighted) = (f64::from(chunk.sum), f64::from(chunk.weighted));
        if chunk.max == f32::NEG_INFINITY || self.max == f32::NEG_INFINITY {
            // One side has no finite logit: its sums are 0, or NaN if it met one.
            if chunk.max > self.max {
                self.max = chunk.max;
            }
            self.sum += sum;
            self.weighted += weighted;
        } else if chunk.max > self.max {
            let shift = f64::from(self.max) - f64::from(chunk.max);
            let factor = hone_math::exp(shift);
            self.weighted = factor * (self.weighted + self.sum * shift) + weighted;
            self.sum = factor * self.sum + sum;
            self.max = chunk.max;
        } else {
            let shift = f64::from(chunk.max) - f64::from(self.max);
            let factor = hone_math::exp(shift);
            self.weighted += factor * (weighted + sum * shift);
            self.sum += factor * sum;
        }
    }

    /// The numbers of the row for a target of this logit, after the last chunk.
    pub(crate) fn finish_with(mut self, logit: f32, temperature: f32) -> TokenLogprob {
        self.target = logit * inverse_temperature(temperature);
        self.finish()
    }

    /// Whether all logits were finite or -infinity, and one was finite.
    pub(crate) fn is_sound(&self) -> bool {
        self.finish().log_normaliser.is_finite()
    }

    /// The numbers of the row, after the last chunk. NaN if a logit was NaN or infinity, or none was finite.
    fn finish(&self) -> TokenLogprob {
        let ln_sum = hone_math::ln(self.sum);
        let max = f64::from(self.max);
        let entropy = ln_sum - self.weighted / self.sum;
        TokenLogprob {
            logprob: ((f64::from(self.target) - max) - ln_sum) as f32,
            entropy: if entropy < 0.0 { 0.0 } else { entropy as f32 },
            log_normaliser: (max + ln_sum) as f32,
        }
    }
}

/// What logits are multiplied by.
fn inverse_temperature(temperature: f32) -> f32 {
    assert!(
        temperature.is_normal() && temperature > 0.0,
        "temperature {temperature} of a log-probability"
    );
    1.0 / temperature
}

/// The sums of one chunk of one row.
#[derive(Clone, Copy, Default)]
pub(crate) struct Chunk {
    /// The largest `z`.
    pub max: f32,
    /// `sum e^(z - max)`
    pub sum: f32,
    weighted: f32,
}

dispatch! {
    fn reduce_chunk(logits: &[f32], inverse: f32) -> Chunk = reduce_chunk_kernel;
}

#[inline(always)]
unsafe fn reduce_chunk_kernel<S: Simd>(logits: &[f32], inverse: f32) -> Chunk {
    unsafe {
        let max = max_row::<S>(logits) * inverse;
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let (shift, factor) = (Lanes::<S>::splat(shift), Lanes::<S>::splat(inverse));
        let lowest = Lanes::<S>::splat(LOWEST);
        let mut sum = Lanes::<S>::splat(0.0);
        let mut weighted = sum;
        for block in logits.chunks(REDUCTION_LANES) {
            let u = Lanes::load_part(block, f32::NEG_INFINITY).mul(factor).sub(shift);
            let e = u.exp();
            sum = sum.add(e);
            weighted = e.fma(lowest.max(u), weighted);
        }
        Chunk {
            max,
            sum: sum.total(),
            weighted: weighted.total(),
        }
    }
}

/// The sums of a block of rows, chunk by chunk, to be merged when all are there.
pub(crate) struct ChunkSums {
    /// `[rows, chunks]`
    sums: Vec<Chunk>,
    /// Chunks of a row.
    chunks: usize,
}

impl ChunkSums {
    /// None yet, for `rows` rows over a vocabulary of `size`.
    pub(crate) fn new(rows: usize, size: usize) -> Self {
        let chunks = size.div_ceil(VOCAB_CHUNK);
        Self {
            sums: vec![Chunk::default(); rows * chunks],
            chunks,
        }
    }

    /// To be filled by tasks.
    pub(crate) fn parts(&mut self) -> ChunkParts<'_> {
        ChunkParts {
            chunks: self.chunks,
            sums: Parts::new(&mut self.sums),
        }
    }

    /// The chunks of a row, from left to right.
    pub(crate) fn row(&self, row: usize) -> &[Chunk] {
        &self.sums[row * self.chunks..(row + 1) * self.chunks]
    }

    /// A row's chunks merged, without a target.
    pub(crate) fn merged(&self, row: usize) -> LogprobState {
        let mut state = LogprobState::EMPTY;
        self.row(row).iter().for_each(|&chunk| state.merge(chunk));
        state
    }
}

/// [`ChunkSums`] of which each task has its own.
pub(crate) struct ChunkParts<'a> {
    chunks: usize,
    sums: Parts<'a, Chunk>,
}

impl ChunkParts<'_> {
    /// Reduces a row's logits of some chunks, the first of which starts at column `column`.
    ///
    /// # Safety
    /// No other task has these chunks of this row.
    pub(crate) unsafe fn reduce(&self, cpu: &Cpu, (row, column): (usize, usize), logits: &[f32], temperature: f32) {
        assert!(
            column.is_multiple_of(VOCAB_CHUNK),
            "column {column} does not start a chunk of {VOCAB_CHUNK}"
        );
        let inverse = inverse_temperature(temperature);
        let first = row * self.chunks + column / VOCAB_CHUNK;
        let count = logits.len().div_ceil(VOCAB_CHUNK);
        // SAFETY: as promised.
        let sums = unsafe { self.sums.get(first..first + count) };
        for (sum, logits) in sums.iter_mut().zip(logits.chunks(VOCAB_CHUNK)) {
            *sum = reduce_chunk(cpu.level, logits, inverse);
        }
    }
}

/// What the way back reads besides the logits; the slices have one element a row.
#[derive(Clone, Debug)]
pub(crate) struct LogprobBackward<'a> {
    /// The tokens whose log-probabilities were taken.
    pub targets: &'a [u32],
    /// The temperature of the forward pass.
    pub temperature: f32,
    /// From the forward pass.
    pub log_normaliser: &'a [f32],
    /// From the forward pass.
    pub entropy: &'a [f32],
    /// Gradient of the loss with respect to the log-probabilities.
    pub dlogprob: &'a [f32],
    /// Gradient of the loss with respect to the entropies.
    pub dentropy: &'a [f32],
}

/// A row's constants of the backward pass.
#[derive(Clone, Copy)]
pub(crate) struct RowGradient {
    inverse: f32,
    normaliser: f32,
    entropy: f32,
    dlogprob: f32,
    dentropy: f32,
}

dispatch! {
    fn backward_row(logits: &mut [f32], row: RowGradient) = backward_row_kernel;
}

#[inline(always)]
unsafe fn backward_row_kernel<S: Simd>(logits: &mut [f32], row: RowGradient) {
    unsafe {
        let inverse = Lanes::<S>::splat(row.inverse);
        let normaliser = Lanes::<S>::splat(row.normaliser);
        let lowest = Lanes::<S>::splat(LOWEST);
        let entropy = Lanes::<S>::splat(row.entropy);
        let dlogprob = Lanes::<S>::splat(row.dlogprob);
        let dentropy = Lanes::<S>::splat(row.dentropy);
        let scale = Lanes::<S>::splat(-row.inverse);
        for block in logits.chunks_mut(REDUCTION_LANES) {
            let logprob = Lanes::load_part(block, 0.0).mul(inverse).sub(normaliser);
            let surprise = lowest.max(logprob).add(entropy);
            let slope = dentropy.fma(surprise, dlogprob);
            logprob.exp().mul(slope).mul(scale).store_part(block);
        }
    }
}

impl LogprobBackward<'_> {
    /// Replaces a row's logits of the columns `columns` by the gradient of the loss with respect to them:
    /// `dlogit_j = (dlogprob ([j = target] - p_j) - dentropy p_j (ln p_j + entropy)) / temperature`.
    ///
    /// A row whose two gradients are 0 becomes 0, whatever its logits.
    pub(crate) fn row(&self, cpu: &Cpu, row: usize, columns: Range<usize>, logits: &mut [f32]) {
        let (dlogprob, dentropy) = (self.dlogprob[row], self.dentropy[row]);
        if dlogprob == 0.0 && dentropy == 0.0 {
            logits.fill(0.0);
            return;
        }
        let inverse = inverse_temperature(self.temperature);
        let constants = RowGradient {
            inverse,
            normaliser: self.log_normaliser[row],
            entropy: self.entropy[row],
            dlogprob,
            dentropy,
        };
        backward_row(cpu.level, logits, constants);
        let target = self.targets[row] as usize;
        if columns.contains(&target) {
            logits[target - columns.start] += dlogprob * inverse;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{assert_close, bits, cpus, differences, f64s, ids, normal};
    use std::collections::HashMap;

    /// Log-probability of `target` and entropy of a row.
    fn oracle(logits: &[f64], target: usize, temperature: f64) -> (f64, f64) {
        let z: Vec<f64> = logits.iter().map(|x| x / temperature).collect();
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = z.iter().map(|z| (z - max).exp()).sum();
        let normaliser = max + sum.ln();
        let entropy = z
            .iter()
            .filter(|z| z.is_finite())
            .map(|z| -(z - normaliser).exp() * (z - normaliser))
            .sum();
        (z[target] - normaliser, entropy)
    }

    /// Logits of a spread like a model's, with garbage in the padding.
    fn block(n: usize, v: usize, stride: usize) -> Vec<f32> {
        let mut x = normal(1, n * stride);
        for (i, x) in x.iter_mut().enumerate() {
            *x = if i % stride < v { 4.0 * *x + 10.0 } else { f32::NAN };
        }
        x
    }

    /// Forward in pieces of so many chunks.
    fn forward(
        cpu: &Cpu,
        logits: &[f32],
        (stride, v): (usize, usize),
        targets: &[u32],
        temperature: f32,
        chunks: usize,
    ) -> Vec<TokenLogprob> {
        let mut sums = ChunkSums::new(targets.len(), v);
        let parts = sums.parts();
        for start in (0..v).step_by(chunks * VOCAB_CHUNK) {
            let end = v.min(start + chunks * VOCAB_CHUNK);
            cpu.pool.run(targets.len(), &|row| {
                let logits = &logits[row * stride + start..row * stride + end];
                // SAFETY: each task has a row of its own.
                unsafe { parts.reduce(cpu, (row, start), logits, temperature) };
            });
        }
        let logit = |row: usize| logits[row * stride + targets[row] as usize];
        (0..targets.len())
            .map(|row| sums.merged(row).finish_with(logit(row), temperature))
            .collect()
    }

    #[test]
    fn uniform_and_certain_by_hand() {
        for cpu in cpus() {
            let got = forward(&cpu, &[3.0; 8], (8, 8), &[5], 1.0, 1)[0];
            assert_close(&[got.logprob, got.entropy], &[-(8.0_f64.ln()), 8.0_f64.ln()], 1e-7);
            assert_close(&[got.log_normaliser], &[3.0 + 8.0_f64.ln()], 1e-7);
            // Two tokens at odds of 3 to 1, the others masked
            let mut logits = [f32::NEG_INFINITY; 6];
            (logits[1], logits[4]) = (3.0_f32.ln(), 0.0);
            let got = forward(&cpu, &logits, (6, 6), &[4], 1.0, 1)[0];
            let entropy = 4.0_f64.ln() - 0.75 * 3.0_f64.ln();
            assert_close(&[got.logprob, got.entropy], &[-(4.0_f64.ln()), entropy], 2e-7);
            let mut certain = [f32::NEG_INFINITY; 5];
            certain[2] = -7.0;
            let got = forward(&cpu, &certain, (5, 5), &[2], 1.0, 1)[0];
            assert_eq!((got.logprob, got.entropy, got.log_normaliser), (0.0, 0.0, -7.0));
        }
    }

    #[test]
    fn agrees_with_the_oracle_whatever_the_pieces_rows_and_threads() {
        let n = 5;
        let mut seen: HashMap<String, Vec<[u32; 3]>> = HashMap::new();
        for v in [1, 7, 172, VOCAB_CHUNK, 3 * VOCAB_CHUNK + 77] {
            let stride = v + 3;
            let (logits, targets) = (block(n, v, stride), ids(2, n, v));
            for temperature in [1.0, 0.7] {
                let expected: Vec<_> = (0..n)
                    .map(|i| {
                        let row = f64s(&logits[i * stride..][..v]);
                        oracle(&row, targets[i] as usize, temperature.into())
                    })
                    .collect();
                for cpu in cpus() {
                    for chunks in [1, 2, 9] {
                        let got = forward(&cpu, &logits, (stride, v), &targets, temperature, chunks);
                        for (got, expected) in got.iter().zip(&expected) {
                            assert_close(&[got.logprob, got.entropy], &[expected.0, expected.1], 1e-6);
                        }
                        let to_bits = |x: &TokenLogprob| [x.logprob, x.entropy, x.log_normaliser].map(f32::to_bits);
                        let all: Vec<_> = got.iter().map(to_bits).collect();
                        let key = format!("{} {v} {temperature}", cpu.isa);
                        assert_eq!(*seen.entry(key).or_insert_with(|| all.clone()), all);
                        let row = &logits[3 * stride..];
                        let alone = forward(&cpu, row, (stride, v), &targets[3..4], temperature, chunks);
                        assert_eq!(to_bits(&alone[0]), all[3]);
                    }
                }
            }
        }
    }

    #[test]
    fn masked_chunks_take_no_part_and_nan_is_not_lost() {
        let v = 3 * VOCAB_CHUNK;
        for cpu in cpus() {
            for only in 0..3 {
                let mut logits = vec![f32::NEG_INFINITY; v];
                let at = only * VOCAB_CHUNK + 17;
                (logits[at], logits[at + 1]) = (1.5, 1.5);
                let got = forward(&cpu, &logits, (v, v), &[at as u32], 1.0, 1)[0];
                assert_close(&[got.logprob, got.entropy], &[-(2.0_f64.ln()), 2.0_f64.ln()], 1e-7);
                for bad in [f32::NAN, f32::INFINITY] {
                    for place in [3, VOCAB_CHUNK + 5, v - 1] {
                        let mut logits = logits.clone();
                        logits[place] = bad;
                        let got = forward(&cpu, &logits, (v, v), &[at as u32], 1.0, 2)[0];
                        assert!(got.logprob.is_nan() && got.entropy.is_nan(), "{bad} at {place}");
                    }
                }
            }
        }
    }

    #[test]
    fn gradients_agree_with_differences() {
        for v in [7, 80] {
            let (n, stride, temperature) = (4, v + 2, 0.8);
            let (logits, targets) = (block(n, v, stride), ids(2, n, v));
            let (dlogprob, dentropy) = (normal(3, n), vec![0.0, 0.5, -1.0, 0.3]);
            let expected: Vec<f64> = (0..n)
                .flat_map(|i| {
                    let row = f64s(&logits[i * stride..][..v]);
                    differences(&row, |row| {
                        let (l, h) = oracle(row, targets[i] as usize, temperature.into());
                        l * f64::from(dlogprob[i]) + h * f64::from(dentropy[i])
                    })
                })
                .collect();
            for cpu in cpus() {
                let numbers = forward(&cpu, &logits, (stride, v), &targets, temperature, 1);
                let normaliser: Vec<f32> = numbers.iter().map(|x| x.log_normaliser).collect();
                let entropy: Vec<f32> = numbers.iter().map(|x| x.entropy).collect();
                let from = LogprobBackward {
                    targets: &targets,
                    temperature,
                    log_normaliser: &normaliser,
                    entropy: &entropy,
                    dlogprob: &dlogprob,
                    dentropy: &dentropy,
                };
                let back = |logits: &mut [f32], columns: Range<usize>| {
                    for (row, logits) in logits.chunks_mut(stride).enumerate() {
                        from.row(&cpu, row, columns.clone(), &mut logits[columns.clone()]);
                    }
                };
                let mut whole = logits.clone();
                back(&mut whole, 0..v);
                for i in 0..n {
                    let row = &whole[i * stride..(i + 1) * stride];
                    assert_close(&row[..v], &expected[i * v..(i + 1) * v], 5e-6);
                    assert!(row[v..].iter().all(|x| x.is_nan()), "padding was written");
                }
                // The same in two pieces, to the bit
                let mut pieces = logits.clone();
                back(&mut pieces, 0..5);
                back(&mut pieces, 5..v);
                assert_eq!(bits(&pieces), bits(&whole));
            }
        }
    }

    #[test]
    fn gradients_of_masked_columns_and_rows_are_zero() {
        for cpu in cpus() {
            let mut logits = vec![f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0, f32::NAN, 1.0, 2.0, 3.0];
            let from = LogprobBackward {
                targets: &[1, u32::MAX],
                temperature: 1.0,
                log_normaliser: &[2.0_f32.ln(), f32::NAN],
                entropy: &[2.0_f32.ln(), f32::NAN],
                dlogprob: &[1.0, 0.0],
                dentropy: &[1.0, 0.0],
            };
            for (row, logits) in logits.chunks_mut(4).enumerate() {
                from.row(&cpu, row, 0..4, logits);
            }
            assert_close(&logits, &[0.0, 0.5, 0.0, -0.5, 0.0, 0.0, 0.0, 0.0], 1e-6);
        }
    }
}
