//! Drawing a token from a row of logits.
//!
//! A pure function of the logits, the parameters and one uniform number. Where a filter is in force ([`choose`]) it is the
//! same for every instruction set; where none is ([`draw_from_chunks`]) it goes by the sums of the log-probability. The
//! filters come in transformers' order: temperature, `top_k`, `top_p`, `min_p`, each on what the one before left.
//! Differences from transformers:
//!
//! 1. Of equal logits at `top_p`'s edge those with the lowest ids stay; transformers leaves the choice to its sort.
//! 2. The token is the first, in the order of ids, at which the cumulative weight exceeds `uniform` times the total.

use std::cmp::Ordering;

use super::Cpu;
use super::logprob::{Chunk, VOCAB_CHUNK};
use super::math;
use super::simd::{Portable, Simd, dispatch};
use crate::sampling::{Adjustment, SampleRow};

/// Weights summed together before they join the running sum.
const BLOCK: usize = 256;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParameters {
    /// Logits are divided by it; 0 takes the largest, of equal ones the lowest id.
    pub temperature: f32,
    /// Keeps the tokens with the largest logits, and all that equal the last of them.
    pub top_k: Option<usize>,
    /// Keeps the most probable tokens until their probabilities reach this sum; 1 keeps all. (Holtzman et al. 2019.)
    pub top_p: f32,
    /// Keeps tokens at least this probable relative to the most probable; 0 keeps all. (Nguyen et al. 2024.)
    pub min_p: f32,
}

impl Default for SamplingParameters {
    /// The model's own distribution.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
        }
    }
}

/// No token can be drawn.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// A parameter is out of its range.
    #[error("sampling: {field} is {got}; expected {expected}")]
    Parameter {
        /// The parameter.
        field: &'static str,
        /// What it is.
        got: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// A logit is NaN or infinity.
    #[error("sampling: the logit of token {id} is {got}; expected a number (has the model's training diverged?)")]
    NotFinite {
        /// The token.
        id: usize,
        /// Its logit.
        got: f32,
    },
    /// Every token is masked.
    #[error("sampling: none of {count} logits is finite; a mask must leave at least one token")]
    NothingLeft {
        /// How many logits there are.
        count: usize,
    },
}

impl SamplingParameters {
    /// Whether a filter changes the distribution, so that log-probabilities are not those of the draw.
    pub fn truncates(&self) -> bool {
        self.top_k.is_some() || self.top_p < 1.0 || self.min_p > 0.0
    }

    /// Whether any token may be drawn, each with its own probability.
    pub(crate) fn draws_from_all(&self) -> bool {
        self.temperature > 0.0 && !self.truncates()
    }

    /// # Errors
    /// If a parameter is out of its range.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let check = |ok, field, got, expected| {
            if ok {
                return Ok(());
            }
            Err(SamplingError::Parameter { field, got, expected })
        };
        let t = self.temperature;
        check(
            t == 0.0 || (t.is_normal() && t > 0.0),
            "temperature",
            t.into(),
            "0 or a finite number above 0",
        )?;
        check(
            self.top_k != Some(0),
            "top_k",
            0.0,
            "at least 1, or none to keep all tokens",
        )?;
        check(
            self.top_p > 0.0 && self.top_p <= 1.0,
            "top_p",
            self.top_p.into(),
            "above 0 and at most 1",
        )?;
        check((0.0..=1.0).contains(&self.min_p), "min_p", self.min_p.into(), "0 to 1")
    }
}

/// Draws from the whole distribution of a row by the sums of its chunks of [`VOCAB_CHUNK`] logits, so that only those of
/// one chunk are looked at again. All logits are known to be finite or -infinity, and one to be finite.
///
/// The chunk is the first at which the cumulative weight exceeds `uniform` times the total, the token in it likewise.
pub(crate) fn draw_from_chunks(cpu: &Cpu, logits: &[f32], chunks: &[Chunk], asked: &SampleRow) -> u32 {
    let max = chunks.iter().map(|chunk| chunk.max).fold(f32::NEG_INFINITY, f32::max);
    let weights = chunks.iter().map(|chunk| match chunk.max > f32::NEG_INFINITY {
        true => f64::from(chunk.sum) * hone_math::exp(f64::from(chunk.max) - f64::from(max)),
        false => 0.0,
    });
    let target = asked.uniform * weights.clone().sum::<f64>();
    let (mut before, mut chosen) = (0.0, (0, 0.0));
    for (chunk, weight) in weights.enumerate() {
        if weight > 0.0 {
            chosen = (chunk, ((target - before) / weight).clamp(0.0, 1.0));
            if before + weight > target {
                break;
            }
        }
        before += weight;
    }
    let (chunk, uniform) = chosen;
    let first = chunk * VOCAB_CHUNK;
    let mut weights = logits[first..logits.len().min(first + VOCAB_CHUNK)].to_vec();
    let inverse = 1.0 / asked.parameters.temperature;
    relative_weights(cpu.level, &mut weights, inverse, chunks[chunk].max);
    (first + draw(&weights, uniform)) as u32
}

dispatch! {
    /// `x = e^(x inverse - max)`.
    fn relative_weights(x: &mut [f32], inverse: f32, max: f32) = relative_weights_kernel;
}

#[inline(always)]
unsafe fn relative_weights_kernel<S: Simd>(x: &mut [f32], inverse: f32, max: f32) {
    unsafe {
        let (factor, shift) = (math::Lanes::<S>::splat(inverse), math::Lanes::<S>::splat(max));
        for block in x.chunks_mut(math::REDUCTION_LANES) {
            let z = math::Lanes::load_part(block, f32::NEG_INFINITY).mul(factor);
            z.sub(shift).exp().store_part(block);
        }
    }
}

/// Draws a token from one row of logits; -infinity excludes a token. `uniform` is in 0..1.
///
/// # Errors
/// If a parameter or `uniform` is out of its range, a logit is NaN or infinity, or none is finite.
pub fn choose(logits: &[f32], parameters: &SamplingParameters, uniform: f64) -> Result<u32, SamplingError> {
    SampleRow {
        parameters: *parameters,
        uniform,
    }
    .validate()?;
    let max = largest(logits)?;
    if parameters.temperature == 0.0 {
        let id = logits.iter().position(|&x| x == max);
        return Ok(id.unwrap_or(0) as u32);
    }
    let kept = filter(logits, max, parameters);
    Ok(kept.ids[draw(&kept.weights, uniform)])
}

/// A copy of the logits with these changes.
///
/// # Panics
/// If a token is beyond the vocabulary.
pub(crate) fn adjusted(logits: &[f32], adjustments: &[Adjustment]) -> Vec<f32> {
    let mut logits = logits.to_vec();
    for adjustment in adjustments {
        let logit = &mut logits[adjustment.token as usize];
        *logit = adjustment.of(*logit);
    }
    logits
}

/// The tokens with the `k` largest logits, the largest first and of equal ones the lowest id: the first is the one that
/// [`choose`] takes at temperature 0. Excluded tokens are not among them.
///
/// # Errors
/// If a logit is NaN or infinity, or none is finite.
pub(crate) fn best(logits: &[f32], k: usize) -> Result<Vec<u32>, SamplingError> {
    largest(logits)?;
    if k == 0 {
        return Ok(Vec::new());
    }
    let lowest = if k < logits.len() {
        kth_largest(logits, k)
    } else {
        f32::NEG_INFINITY
    };
    let mut ids: Vec<u32> = (0..logits.len() as u32)
        .filter(|&id| {
            let x = logits[id as usize];
            x >= lowest && x > f32::NEG_INFINITY
        })
        .collect();
    // All are numbers; 0 and -0 are equal
    let order = |a: &u32, b: &u32| {
        let (x, y) = (logits[*a as usize], logits[*b as usize]);
        y.partial_cmp(&x).unwrap_or(Ordering::Equal).then(a.cmp(b))
    };
    ids.sort_unstable_by(order);
    ids.truncate(k);
    Ok(ids)
}

/// The largest logit, once all are known to be numbers.
fn largest(logits: &[f32]) -> Result<f32, SamplingError> {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut nan = false;
    let blocks = logits.chunks_exact(16);
    for (lane, &x) in lanes.iter_mut().zip(blocks.remainder()) {
        nan |= x.is_nan();
        *lane = x;
    }
    for block in blocks {
        for j in 0..16 {
            nan |= block[j].is_nan();
            lanes[j] = if block[j] > lanes[j] { block[j] } else { lanes[j] };
        }
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if nan || max == f32::INFINITY {
        let bad = |x: &f32| x.is_nan() || *x == f32::INFINITY;
        let id = logits.iter().position(bad).unwrap_or(0);
        return Err(SamplingError::NotFinite { id, got: logits[id] });
    }
    if max == f32::NEG_INFINITY {
        return Err(SamplingError::NothingLeft { count: logits.len() });
    }
    Ok(max)
}

/// The tokens that may be drawn, in the order of their ids, and their weights relative to the most probable one's.
struct Kept {
    ids: Vec<u32>,
    weights: Vec<f32>,
}

impl Kept {
    fn retain(&mut self, keep: impl Fn(u32, f32) -> bool) {
        let mut n = 0;
        for i in 0..self.ids.len() {
            if keep(self.ids[i], self.weights[i]) {
                (self.ids[n], self.weights[n]) = (self.ids[i], self.weights[i]);
                n += 1;
            }
        }
        self.ids.truncate(n);
        self.weights.truncate(n);
    }
}

fn filter(logits: &[f32], max: f32, parameters: &SamplingParameters) -> Kept {
    // 1. top_k, which temperature does not change
    let lowest = match parameters.top_k {
        Some(k) if k < logits.len() => kth_largest(logits, k),
        _ => f32::NEG_INFINITY,
    };
    let ids: Vec<u32> = (0..logits.len() as u32)
        .filter(|&id| {
            let x = logits[id as usize];
            x >= lowest && x > f32::NEG_INFINITY
        })
        .collect();
    // 2. Weights at the temperature
    let inverse = 1.0 / parameters.temperature;
    let mut weights: Vec<f32> = ids.iter().map(|&id| logits[id as usize]).collect();
    exponentials(&mut weights, max, inverse);
    let mut kept = Kept { ids, weights };
    // 3. top_p
    if parameters.top_p < 1.0 {
        let (edge, last) = nucleus(logits, &kept, max, parameters);
        kept.retain(|id, _| {
            let x = logits[id as usize];
            x > edge || (x == edge && id <= last)
        });
    }
    // 4. min_p; the largest weight is 1
    if parameters.min_p > 0.0 {
        kept.retain(|_, weight| weight >= parameters.min_p);
    }
    kept
}

/// The `k`-th largest of more than `k` logits, in one pass with a buffer of candidates.
fn kth_largest(logits: &[f32], k: usize) -> f32 {
    let capacity = (4 * k).max(512);
    let mut candidates: Vec<f32> = Vec::with_capacity(capacity.min(logits.len()));
    let mut threshold = f32::NEG_INFINITY;
    let cut = |candidates: &mut Vec<f32>| {
        let (_, &mut kth, _) = candidates.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        candidates.truncate(k);
        kth
    };
    for &x in logits {
        if x > threshold || candidates.len() < k {
            candidates.push(x);
            if candidates.len() == capacity {
                threshold = cut(&mut candidates);
            }
        }
    }
    cut(&mut candidates)
}

/// `x = e^((x - max) inverse)`.
fn exponentials(x: &mut [f32], max: f32, inverse: f32) {
    for block in x.chunks_mut(Portable::LANES) {
        let mut lanes = [f32::NEG_INFINITY; Portable::LANES];
        lanes[..block.len()].copy_from_slice(block);
        let u = lanes.map(|x| (x - max) * inverse);
        // SAFETY: the portable width needs no features of the processor.
        let e = unsafe { math::exp::<Portable>(u) };
        block.copy_from_slice(&e[..block.len()]);
    }
}

/// The least probable token that `top_p` keeps: its logit and id. Tokens are kept, the most probable first, while those
/// before them sum to less than `top_p`.
fn nucleus(logits: &[f32], kept: &Kept, max: f32, parameters: &SamplingParameters) -> (f32, u32) {
    let total: f64 = kept.weights.chunks(BLOCK).map(sum).sum();
    let limit = f64::from(parameters.top_p) * total;
    // Only the tokens within a distance of the first are sorted, if they hold enough.
    let mut candidates: Vec<(f32, u32, f32)> = Vec::new();
    for distance in [3.0, 6.0, 12.0, f32::INFINITY] {
        let lowest = max - distance * parameters.temperature;
        candidates.clear();
        let mut mass = 0.0;
        for (&id, &weight) in kept.ids.iter().zip(&kept.weights) {
            let x = logits[id as usize];
            if x >= lowest {
                candidates.push((x, id, weight));
                mass += f64::from(weight);
            }
        }
        if mass >= limit {
            break;
        }
    }
    // The order by which they are kept: 0 and -0 are equal
    candidates.sort_unstable_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1)));
    let (mut before, mut edge) = (0.0, (max, 0));
    for (x, id, weight) in candidates {
        if before >= limit {
            break;
        }
        edge = (x, id);
        before += f64::from(weight);
    }
    edge
}

/// Eight running sums, then those in pairs 4, 2 and 1 apart.
fn sum(weights: &[f32]) -> f64 {
    let mut lanes = [0.0; 8];
    for block in weights.chunks(8) {
        for (lane, &weight) in lanes.iter_mut().zip(block) {
            *lane += f64::from(weight);
        }
    }
    for apart in [4, 2, 1] {
        for j in 0..apart {
            lanes[j] += lanes[j + apart];
        }
    }
    lanes[0]
}

/// The place at which the cumulative weight exceeds `uniform` times the total; where rounding leaves it below, the last
/// place that has a weight.
fn draw(weights: &[f32], uniform: f64) -> usize {
    let sums: Vec<f64> = weights.chunks(BLOCK).map(sum).collect();
    let target = uniform * sums.iter().sum::<f64>();
    let (mut before, mut last) = (0.0, 0);
    for (i, (block, sum)) in weights.chunks(BLOCK).zip(sums).enumerate() {
        if before + sum <= target {
            before += sum;
            if let Some(j) = block.iter().rposition(|&weight| weight > 0.0) {
                last = i * BLOCK + j;
            }
            continue;
        }
        for (j, &weight) in block.iter().enumerate() {
            before += f64::from(weight);
            if weight > 0.0 {
                last = i * BLOCK + j;
                if before > target {
                    break;
                }
            }
        }
        break;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::logprob::ChunkSums;
    use crate::cpu::testing::{cpus, normal};

    const PLAIN: SamplingParameters = SamplingParameters {
        temperature: 1.0,
        top_k: None,
        top_p: 1.0,
        min_p: 0.0,
    };

    /// Logits of these probabilities.
    fn of(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() as f32).collect()
    }

    fn support(logits: &[f32], parameters: SamplingParameters) -> Vec<u32> {
        let max = largest(logits).expect("finite logits");
        filter(logits, max, &parameters).ids
    }

    /// The filters as transformers defines them, by full sorts in f64: what is kept, and the probabilities.
    fn oracle(logits: &[f32], parameters: &SamplingParameters) -> Vec<(u32, f64)> {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        order.retain(|&i| logits[i] > f32::NEG_INFINITY);
        if let Some(k) = parameters.top_k.filter(|&k| k < order.len()) {
            let kth = logits[order[k - 1]];
            order.retain(|&i| logits[i] >= kth);
        }
        let max = f64::from(logits[order[0]]);
        let weight = |i: usize| ((f64::from(logits[i]) - max) / f64::from(parameters.temperature)).exp();
        let total: f64 = order.iter().map(|&i| weight(i)).sum();
        let mut before = 0.0;
        order.retain(|&i| {
            let keep = before < f64::from(parameters.top_p) * total;
            before += weight(i);
            keep
        });
        order.retain(|&i| weight(i) >= f64::from(parameters.min_p));
        order.sort_unstable();
        let total: f64 = order.iter().map(|&i| weight(i)).sum();
        order.into_iter().map(|i| (i as u32, weight(i) / total)).collect()
    }

    /// Draws by chunks are draws by cumulative probability, but where `uniform` is as near to an edge as f32 is exact.
    #[test]
    fn chunks_give_the_token_of_the_cumulative_probability() {
        let size = 2 * VOCAB_CHUNK + 900;
        for (temperature, masked) in [(1.0, 0..0), (0.7, 0..VOCAB_CHUNK), (1.3, VOCAB_CHUNK..size - 3)] {
            let mut logits: Vec<f32> = normal(5, size).iter().map(|x| 2.0 * x).collect();
            logits[masked].fill(f32::NEG_INFINITY);
            let parameters = SamplingParameters { temperature, ..PLAIN };
            let mut cumulative = Vec::new();
            let mut total = 0.0;
            for (id, p) in oracle(&logits, &parameters) {
                total += p;
                cumulative.push((id, total));
            }
            for cpu in cpus() {
                let mut sums = ChunkSums::new(1, size);
                // SAFETY: nothing else has the sums.
                unsafe { sums.parts().reduce(&cpu, (0, 0), &logits, temperature) };
                for i in 0..500 {
                    let uniform = (f64::from(i) + 0.37) / 500.0;
                    let asked = SampleRow { parameters, uniform };
                    let got = draw_from_chunks(&cpu, &logits, sums.row(0), &asked);
                    let low = cumulative.partition_point(|(_, c)| *c <= uniform - 1e-6);
                    let high = cumulative.partition_point(|(_, c)| *c <= uniform + 1e-6);
                    let may_be = &cumulative[low..=high.min(cumulative.len() - 1)];
                    assert!(
                        may_be.iter().any(|(id, _)| *id == got),
                        "{got} at {uniform}, {may_be:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_equals() {
        let parameters = SamplingParameters {
            temperature: 0.0,
            ..PLAIN
        };
        assert_eq!(choose(&[1.0, 7.0, -3.0, 7.0], &parameters, 0.99), Ok(1));
        let mut logits = vec![f32::NEG_INFINITY; 1000];
        logits[997] = -1e30;
        assert_eq!(choose(&logits, &parameters, 0.0), Ok(997));
    }

    #[test]
    fn filters_by_hand() {
        let logits = of(&[0.3, 0.1, 0.08, 0.5, 0.02]);
        let top_k = |k| SamplingParameters {
            top_k: Some(k),
            ..PLAIN
        };
        assert_eq!(support(&logits, top_k(2)), [0, 3]);
        assert_eq!(support(&logits, top_k(9)), [0, 1, 2, 3, 4]);
        // All that equal the last stay
        assert_eq!(support(&[1.0, 2.0, 1.0, 0.0, 1.0], top_k(2)), [0, 1, 2, 4]);
        // 0.5 + 0.3 is less than 0.85, so 0.1 stays too; the first stays whatever the limit
        let top_p = |p| SamplingParameters { top_p: p, ..PLAIN };
        assert_eq!(support(&logits, top_p(0.85)), [0, 1, 3]);
        assert_eq!(support(&logits, top_p(0.79)), [0, 3]);
        assert_eq!(support(&logits, top_p(1e-6)), [3]);
        // Of equals the lowest ids
        assert_eq!(support(&[0.0; 8], top_p(0.3)), [0, 1, 2]);
        // 0 and -0 are equal, whichever stands first
        assert_eq!(support(&[-0.0, 0.0, -0.0, 0.0, -0.0, 0.0], top_p(0.4)), [0, 1, 2]);
        assert_eq!(support(&[0.0, 0.0, -0.0, -0.0, 0.0, 0.0], top_p(0.6)), [0, 1, 2, 3]);
        let two = SamplingParameters {
            top_k: Some(2),
            top_p: 0.5,
            ..PLAIN
        };
        assert_eq!(support(&[-0.0, 0.0, -1.0, -0.0, 0.0], two), [0, 1]);
        // At least a fifth of 0.5
        let min_p = |p| SamplingParameters { min_p: p, ..PLAIN };
        assert_eq!(support(&logits, min_p(0.19)), [0, 1, 3]);
        assert_eq!(support(&logits, min_p(1.0)), [3]);
        // Of the two that top_k leaves, 0.5 is 0.625 of the probability
        let both = SamplingParameters {
            top_k: Some(2),
            top_p: 0.6,
            ..PLAIN
        };
        assert_eq!(support(&logits, both), [3]);
        // Temperature 1/2 squares the probabilities: 0.25, 0.09, 0.01, ... of 0.3568
        let cool = SamplingParameters {
            temperature: 0.5,
            top_p: 0.71,
            ..PLAIN
        };
        assert_eq!(support(&logits, cool), [0, 3]);
        assert_eq!(support(&logits, SamplingParameters { top_p: 0.69, ..cool }), [3]);
    }

    #[test]
    fn draws_invert_the_cumulative_distribution() {
        let logits = of(&[0.25, 0.5, 0.25]);
        let draw = |u| choose(&logits, &PLAIN, u).expect("a token");
        assert_eq!([0.0, 0.24, 0.26, 0.74, 0.76, 0.999_999].map(draw), [0, 0, 1, 1, 2, 2]);
        let masked = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY];
        let draw = |u| choose(&masked, &PLAIN, u).expect("a token");
        assert_eq!([0.0, 0.49, 0.51, 1.0 - f64::EPSILON / 2.0].map(draw), [1, 1, 3, 3]);
    }

    #[test]
    fn agrees_with_the_oracle() {
        let cases = [
            PLAIN,
            SamplingParameters {
                temperature: 0.7,
                ..PLAIN
            },
            SamplingParameters {
                top_k: Some(50),
                ..PLAIN
            },
            SamplingParameters { top_p: 0.9, ..PLAIN },
            SamplingParameters {
                temperature: 2.0,
                top_p: 0.97,
                ..PLAIN
            },
            SamplingParameters { min_p: 0.05, ..PLAIN },
            SamplingParameters {
                temperature: 0.8,
                top_k: Some(200),
                top_p: 0.95,
                min_p: 0.02,
            },
        ];
        for n in [1, 7, 80, 172, 5000] {
            let logits: Vec<f32> = normal(n as u64, n).iter().map(|x| 3.0 * x).collect();
            for parameters in cases {
                let expected = oracle(&logits, &parameters);
                let ids: Vec<u32> = expected.iter().map(|x| x.0).collect();
                assert_eq!(support(&logits, parameters), ids, "{parameters:?}, {n}");
                for i in 0..200 {
                    let uniform = (f64::from(i) + 0.5) / 200.0;
                    let mut cumulative = 0.0;
                    let at = |&&(_, p): &&(u32, f64)| {
                        cumulative += p;
                        cumulative > uniform
                    };
                    let token = expected.iter().find(at).expect("probabilities sum to 1").0;
                    let near = (cumulative - uniform).abs() < 1e-6;
                    let got = choose(&logits, &parameters, uniform).expect("a token");
                    assert!(near || got == token, "{got}, expected {token}");
                }
            }
        }
    }

    #[test]
    fn the_best_tokens_by_hand() {
        let masked = f32::NEG_INFINITY;
        let logits = [0.5, 2.0, masked, 2.0, -1.0, 0.0, -0.0];
        let best = |k| best(&logits, k).expect("finite logits");
        assert!(best(0).is_empty());
        assert_eq!(best(1), [1]);
        assert_eq!(best(3), [1, 3, 0]);
        assert_eq!(best(4), [1, 3, 0, 5]);
        assert_eq!(best(7), [1, 3, 0, 5, 6, 4]);
        assert_eq!(best(99), [1, 3, 0, 5, 6, 4]);
        let greedy = SamplingParameters {
            temperature: 0.0,
            ..PLAIN
        };
        assert_eq!(choose(&logits, &greedy, 0.5), Ok(best(1)[0]));
        assert_eq!(
            super::best(&[masked; 2], 1),
            Err(SamplingError::NothingLeft { count: 2 })
        );
        assert!(super::best(&[f32::NAN, 1.0], 1).is_err());
    }

    #[test]
    fn adjustments_by_hand() {
        let change = |token, penalty, bias| Adjustment { token, penalty, bias };
        let logits = [3.0, -2.0, 1.0, 0.0];
        let changes = [change(0, 2.0, 0.0), change(1, 2.0, 0.5), change(3, 1.0, -7.0)];
        assert_eq!(adjusted(&logits, &changes), [1.5, -3.5, 1.0, -7.0]);
        assert_eq!(adjusted(&logits, &[]), logits);
    }

    #[test]
    fn the_kth_largest_of_many() {
        for n in [2, 600, 20_000] {
            let x = normal(5, n);
            let mut sorted = x.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            for k in [1, 2, 50, 599, 7000].into_iter().filter(|&k| k < n) {
                assert_eq!(kth_largest(&x, k), sorted[k - 1], "{k} of {n}");
                let mut rising = sorted.clone();
                rising.reverse();
                assert_eq!(kth_largest(&rising, k), sorted[k - 1]);
            }
            assert_eq!(kth_largest(&vec![1.0; n], 1), 1.0);
        }
    }

    #[test]
    fn refuses_what_is_no_distribution() {
        let nothing = choose(&[f32::NEG_INFINITY; 3], &PLAIN, 0.5);
        assert_eq!(nothing, Err(SamplingError::NothingLeft { count: 3 }));
        assert_eq!(choose(&[], &PLAIN, 0.5), Err(SamplingError::NothingLeft { count: 0 }));
        for at in [0, 16, 18] {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut logits = [0.5; 19];
                logits[at] = bad;
                let error = choose(&logits, &PLAIN, 0.5);
                assert!(matches!(error, Err(SamplingError::NotFinite { id, .. }) if id == at));
            }
        }
        let refused = |parameters: SamplingParameters| match choose(&[0.0], &parameters, 0.5) {
            Err(SamplingError::Parameter { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        for temperature in [-1.0, f32::NAN, f32::INFINITY, 1e-40] {
            assert_eq!(refused(SamplingParameters { temperature, ..PLAIN }), "temperature");
        }
        assert_eq!(
            refused(SamplingParameters {
                top_k: Some(0),
                ..PLAIN
            }),
            "top_k"
        );
        assert_eq!(refused(SamplingParameters { top_p: 0.0, ..PLAIN }), "top_p");
        assert_eq!(refused(SamplingParameters { min_p: 1.5, ..PLAIN }), "min_p");
        assert!(choose(&[0.0], &PLAIN, 1.0).is_err());
    }

    #[test]
    fn tiny_temperatures_are_greedy_and_large_vocabularies_work() {
        let logits = normal(3, 50_257);
        let greedy = choose(
            &logits,
            &SamplingParameters {
                temperature: 0.0,
                ..PLAIN
            },
            0.5,
        );
        let cold = SamplingParameters {
            temperature: f32::MIN_POSITIVE,
            top_p: 0.9,
            ..PLAIN
        };
        assert_eq!(choose(&logits, &cold, 0.999), greedy);
        assert!(!PLAIN.truncates() && cold.truncates());
    }
}
