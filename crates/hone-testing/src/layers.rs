//! The layers of a transformer, each as its formula says.

use crate::matrix::{Matrix, Rounding};

/// `x W^T`, `x` `[n, in]`, `w` `[out, in]`, both rounded first.
pub fn linear(x: &Matrix, w: &Matrix, rounding: Rounding) -> Matrix {
    assert_eq!(x.cols, w.cols);
    let (x_rounded, w_rounded) = (map(x, |v| rounding.of(v)), map(w, |v| rounding.of(v)));
    Matrix::from_fn(x.rows, w.rows, |r, c| {
        x_rounded.row(r).iter().zip(w_rounded.row(c)).map(|(a, b)| a * b).sum()
    })
}

/// `bias` `[1, d]` added to every row.
pub fn add_bias(x: &Matrix, bias: &Matrix) -> Matrix {
    Matrix::from_fn(x.rows, x.cols, |r, c| x.at(r, c) + bias.data[c])
}

/// `f` of every number.
pub fn map(x: &Matrix, f: impl Fn(f64) -> f64) -> Matrix {
    Matrix {
        rows: x.rows,
        cols: x.cols,
        data: x.data.iter().map(|&v| f(v)).collect(),
    }
}

/// Every group of `weight.data.len()` columns divided by its root mean square, times the weight.
pub fn rms_norm(x: &Matrix, weight: &Matrix, eps: f64) -> Matrix {
    let d = weight.data.len();
    let mut y = x.clone();
    for group in y.data.chunks_mut(d) {
        let mean_square = group.iter().map(|v| v * v).sum::<f64>() / d as f64;
        let root = (mean_square + eps).sqrt();
        for (v, w) in group.iter_mut().zip(&weight.data) {
            *v = *v / root * w;
        }
    }
    y
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` a row.
pub fn layer_norm(x: &Matrix, weight: &Matrix, bias: &Matrix, eps: f64) -> Matrix {
    let d = x.cols as f64;
    let mut y = x.clone();
    for row in y.data.chunks_mut(x.cols) {
        let mean = row.iter().sum::<f64>() / d;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / d;
        for (i, v) in row.iter_mut().enumerate() {
            *v = (*v - mean) / (variance + eps).sqrt() * weight.data[i] + bias.data[i];
        }
    }
    y
}

/// Rotates each head's pairs `(i, i + half)` by `position * frequencies[i]`, times `factor`; `half` is the count of
/// frequencies. Dimensions of a head from `2 half` on stay. Frequencies and angles are rounded to f32, as a model's are.
pub fn rotate(x: &Matrix, head_dim: usize, positions: &[u32], frequencies: &[f64], factor: f64) -> Matrix {
    let half = frequencies.len();
    let mut y = x.clone();
    for r in 0..x.rows {
        for head in 0..x.cols / head_dim {
            for i in 0..half {
                let angle = f64::from(positions[r] as f32 * frequencies[i] as f32);
                let at = r * x.cols + head * head_dim + i;
                let (a, b) = (x.data[at], x.data[at + half]);
                y.data[at] = factor * (a * angle.cos() - b * angle.sin());
                y.data[at + half] = factor * (b * angle.cos() + a * angle.sin());
            }
        }
    }
    y
}

/// The sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSizes {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// What scores are multiplied by.
    pub scale: f64,
    /// Whether a query sees only its own position and those before.
    pub causal: bool,
}

/// Keys over which the weights of a block have one maximum.
const ATTENTION_BLOCK: usize = 64;

/// Attention within each of the packed sequences of these lengths, at most 512. Keys, values and scaled queries are rounded
/// first, and weights, relative to the largest score up to the end of their block, before they meet the values.
pub fn attention(
    (q, k, v): (&Matrix, &Matrix, &Matrix),
    sizes: AttentionSizes,
    lengths: &[usize],
    rounding: Rounding,
) -> Matrix {
    let AttentionSizes {
        heads,
        kv_heads,
        head_dim,
        scale,
        causal,
    } = sizes;
    let mut out = Matrix::from_fn(q.rows, q.cols, |_, _| 0.0);
    let (k, v) = (map(k, |x| rounding.of(x)), map(v, |x| rounding.of(x)));
    let mut start = 0;
    for &length in lengths {
        for head in 0..heads {
            let (from, kv_from) = (head * head_dim, head / (heads / kv_heads) * head_dim);
            for i in 0..length {
                let seen = if causal { i + 1 } else { length };
                let query = q.row(start + i)[from..from + head_dim].iter();
                let query: Vec<f64> = query.map(|x| rounding.of(scale * x)).collect();
                let scores: Vec<f64> = (0..seen)
                    .map(|j| {
                        let key = &k.row(start + j)[kv_from..kv_from + head_dim];
                        query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>()
                    })
                    .collect();
                let largest = |end: usize| scores[..end].iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let max = largest(seen);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                let p: Vec<f64> = (0..seen)
                    .map(|j| {
                        let block_max = largest(seen.min((j / ATTENTION_BLOCK + 1) * ATTENTION_BLOCK));
                        rounding.of((scores[j] - block_max).exp()) * (block_max - max).exp() / sum
                    })
                    .collect();
                for d in 0..head_dim {
                    out.data[(start + i) * q.cols + from + d] =
                        (0..seen).map(|j| p[j] * v.at(start + j, kv_from + d)).sum();
                }
            }
        }
        start += length;
    }
    out
}

fn softmax(z: &[f64]) -> Vec<f64> {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = z.iter().map(|z| (z - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|e| e / sum).collect()
}

/// `x sigmoid(x)`
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// `max(x, 0)`
pub fn relu(x: f64) -> f64 {
    x.max(0.0)
}

/// GeLU by its tanh approximation.
pub fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

/// `x Phi(x)`
pub fn gelu_erf(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// The error function by its Maclaurin series, whose terms stay small enough for |x| up to 5.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut sum, mut term) = (0.0, x);
    for n in 0..200 {
        sum += term / f64::from(2 * n + 1);
        term *= -x * x / f64::from(n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

/// Numbers of each row's target.
#[derive(Clone, Debug)]
pub struct TokenNumbers {
    /// ln p(target).
    pub logprobs: Vec<f64>,
    /// Entropy of the row's distribution, in nats.
    pub entropies: Vec<f64>,
}

/// Of the softmax of `logits / temperature`, `[n, v]`.
pub fn token_numbers(logits: &Matrix, targets: &[u32], temperature: f64) -> TokenNumbers {
    let (mut logprobs, mut entropies) = (Vec::new(), Vec::new());
    for (r, &target) in targets.iter().enumerate() {
        let z: Vec<f64> = logits.row(r).iter().map(|z| z / temperature).collect();
        let p = softmax(&z);
        logprobs.push(p[target as usize].ln());
        entropies.push(-p.iter().filter(|&&p| p > 0.0).map(|p| p * p.ln()).sum::<f64>());
    }
    TokenNumbers { logprobs, entropies }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // sigmoid(1) = 0.7310585786; Phi(1) = 0.8413447461; gelu_tanh(1) = 0.8411919906
        assert!((silu(1.0) - 0.731_058_578_6).abs() < 1e-9);
        assert!((gelu_erf(1.0) - 0.841_344_746_1).abs() < 1e-9);
        assert!((gelu_tanh(1.0) - 0.841_191_990_6).abs() < 1e-9);
        // Two logits ln 3 apart: 3/4 and 1/4
        let numbers = token_numbers(&Matrix::from_fn(1, 2, |_, c| c as f64 * 3_f64.ln()), &[0], 1.0);
        assert!((numbers.logprobs[0] - 0.25_f64.ln()).abs() < 1e-12);
        assert!((numbers.entropies[0] - 0.562_335_144_6).abs() < 1e-9);
        // One query that sees two equal keys averages their values
        let one = Matrix::from_fn(2, 1, |r, _| r as f64 * 4.0);
        let zeros = Matrix::from_fn(2, 1, |_, _| 0.0);
        let sizes = AttentionSizes {
            heads: 1,
            kv_heads: 1,
            head_dim: 1,
            scale: 1.0,
            causal: true,
        };
        assert_eq!(
            attention((&zeros, &zeros, &one), sizes, &[2], Rounding::None).data,
            [0.0, 2.0]
        );
        // A quarter turn takes (1, 0) to (0, 1)
        let turned = rotate(
            &Matrix::from_f32(1, 2, &[1.0, 0.0]),
            2,
            &[1],
            &[std::f64::consts::FRAC_PI_2],
            1.0,
        );
        assert!(turned.data[0].abs() < 1e-7 && (turned.data[1] - 1.0).abs() < 1e-7);
    }
}
