//! Root-mean-square and layer normalisation.
//!
//! Statistics are f32 sums in the order of [`math`](super::math); square root and division are IEEE's. The sums over
//! rows for the weights' gradients go by chunks, so they don't depend on the threads.
//!
//! # Soundness
//! Kernels touch memory through slices of at most sixteen numbers, cut with bounds checked; their arithmetic is sound as
//! said in [`simd`](super::simd). Why parts of an output do not overlap stands where they are taken.

use std::ops::Range;

use super::Cpu;
use super::elementwise::{merge_chunks, row_grain, rows};
use super::math::{Lanes, REDUCTION_LANES, dot, sum_row};
use super::simd::{Simd, dispatch};
use crate::pool::Parts;
use crate::rows_left::RowChunks;

/// Runs the body for `range` = each block of sixteen of the `d` numbers of a row; the last may be shorter.
macro_rules! blocks {
    ($d:expr, $range:ident => $body:block) => {
        let mut start = 0;
        while start < $d {
            let $range = start..(start + REDUCTION_LANES).min($d);
            $body
            start += REDUCTION_LANES;
        }
    };
}

#[inline(always)]
unsafe fn zero_padded<S: Simd>(x: &[f32]) -> Lanes<S> {
    unsafe { Lanes::load_part(x, 0.0) }
}

dispatch! {
    fn rms_forward(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32], inverse: &mut f32) = rms_forward_kernel;
}

#[inline(always)]
unsafe fn rms_forward_kernel<S: Simd>(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32], inverse: &mut f32) {
    unsafe {
        let d = weight.len();
        *inverse = 1.0 / (dot::<S>(x, x) / d as f32 + eps).sqrt();
        let r = Lanes::<S>::splat(*inverse);
        blocks!(d, range => {
            let normal = zero_padded::<S>(&x[range.clone()]).mul(r);
            normal.mul(zero_padded(&weight[range.clone()])).store_part(&mut y[range]);
        });
    }
}

/// `y = x inverse weight` with `inverse = 1 / sqrt(mean(x^2) + eps)` of a row; `x` and `y` are `[n, d]`, `weight`
/// `[d]`, `inverse` `[n]`. (Zhang and Sennrich 2019.)
pub(crate) fn rms_norm_forward(cpu: &Cpu, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32], inverse: &mut [f32]) {
    let d = weight.len();
    let n = rows(x.len(), d);
    assert_eq!((y.len(), inverse.len()), (n * d, n), "outputs of {n} rows of width {d}");
    let (y, inverse) = (Parts::new(y), Parts::new(inverse));
    cpu.pool.ranges(n, row_grain(d), &|range| {
        for row in range {
            let at = row * d..(row + 1) * d;
            // SAFETY: each row is in one task.
            let (y, inverse) = unsafe { (y.get(at.clone()), inverse.get(row..row + 1)) };
            rms_forward(cpu.level, &x[at], weight, eps, y, &mut inverse[0]);
        }
    });
}

/// What [`rms_norm_backward`] reads.
#[derive(Clone, Copy)]
pub(crate) struct RmsBackward<'a> {
    /// `[n, d]`
    pub x: &'a [f32],
    /// `[d]`
    pub weight: &'a [f32],
    /// `[n]`
    pub inverse: &'a [f32],
    /// `[n, d]`
    pub dy: &'a [f32],
}

dispatch! {
    fn rms_backward(
        x: &[f32],
        weight: &[f32],
        inverse: f32,
        dy: &[f32],
        dx: &mut [f32],
        dweight: &mut [f32],
    ) = rms_backward_kernel;
}

#[inline(always)]
unsafe fn rms_backward_kernel<S: Simd>(
    x: &[f32],
    weight: &[f32],
    inverse: f32,
    dy: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
) {
    unsafe {
        let d = weight.len();
        let r = Lanes::<S>::splat(inverse);
        // The mean of g n, for the normal form n = x r and its gradient g = dy weight
        let mut sum = Lanes::<S>::splat(0.0);
        blocks!(d, range => {
            let normal = zero_padded::<S>(&x[range.clone()]).mul(r);
            let gradient = zero_padded::<S>(&dy[range.clone()]).mul(zero_padded(&weight[range]));
            sum = gradient.fma(normal, sum);
        });
        let mean = Lanes::<S>::splat(-(sum.total() / d as f32));
        blocks!(d, range => {
            let upstream = zero_padded::<S>(&dy[range.clone()]);
            let normal = zero_padded::<S>(&x[range.clone()]).mul(r);
            let gradient = upstream.mul(zero_padded(&weight[range.clone()]));
            let dx = &mut dx[range.clone()];
            normal.fma(mean, gradient).fma(r, zero_padded(dx)).store_part(dx);
            if !dweight.is_empty() {
                let dweight = &mut dweight[range];
                upstream.fma(normal, zero_padded(dweight)).store_part(dweight);
            }
        });
    }
}

/// `dx += r (g - n mean(g n))` with `r = inverse`, `n = x r`, `g = dy weight`, and `dweight += sum over rows of dy n`.
pub(crate) fn rms_norm_backward(
    cpu: &Cpu,
    from: RmsBackward<'_>,
    chunks: &RowChunks,
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
) {
    let d = from.weight.len();
    let n = rows(from.x.len(), d);
    assert_eq!(
        (from.inverse.len(), from.dy.len(), dx.len()),
        (n, n * d, n * d),
        "{n} rows of width {d}"
    );
    by_chunks(cpu, &chunks.ranges(n), (dx, d), [dweight], &|row, dx, [dweight]| {
        let at = row * d..(row + 1) * d;
        rms_backward(
            cpu.level,
            &from.x[at.clone()],
            from.weight,
            from.inverse[row],
            &from.dy[at],
            dx,
            dweight,
        );
    });
}

/// The backward pass of one row, given its number, its gradient and the sums it adds to.
type RowBackward<'a, const N: usize> = dyn Fn(usize, &mut [f32], [&mut [f32]; N]) + Sync + 'a;

/// Calls `backward(row, its dx, sums)` for every row of `dx` `[n, d]`, where `sums` are, for each gradient wanted, the sum over the
/// rows of the chunk so far (empty if it is not wanted), and adds the sums of the chunks in order.
fn by_chunks<const N: usize>(
    cpu: &Cpu,
    chunks: &[Range<usize>],
    (dx, d): (&mut [f32], usize),
    gradients: [Option<&mut [f32]>; N],
    backward: &RowBackward<'_, N>,
) {
    let mut partials = [const { Vec::new() }; N];
    for (partials, gradient) in partials.iter_mut().zip(&gradients) {
        if let Some(gradient) = gradient {
            assert_eq!(gradient.len(), d, "length of a weight's gradient");
            *partials = vec![0.0; chunks.len() * d];
        }
    }
    let (dx, parts) = (Parts::new(dx), partials.each_mut().map(|p| Parts::new(p)));
    let wanted = gradients.each_ref().map(Option::is_some);
    cpu.pool.run(chunks.len(), &|chunk| {
        for row in chunks[chunk].clone() {
            // SAFETY: each row is in one task, and each task has its own chunk.
            let (dx, sums) = unsafe {
                let sums =
                    std::array::from_fn(|k| parts[k].get(if wanted[k] { chunk * d..(chunk + 1) * d } else { 0..0 }));
                (dx.get(row * d..(row + 1) * d), sums)
            };
            backward(row, dx, sums);
        }
    });
    for (partials, gradient) in partials.iter().zip(gradients) {
        if let Some(gradient) = gradient {
            merge_chunks(cpu, partials, gradient);
        }
    }
}

dispatch! {
    fn layer_forward(
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        eps: f32,
        y: &mut [f32],
        mean: &mut f32,
        inverse: &mut f32,
    ) = layer_forward_kernel;
}

#[inline(always)]
unsafe fn layer_forward_kernel<S: Simd>(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    y: &mut [f32],
    mean: &mut f32,
    inverse: &mut f32,
) {
    unsafe {
        let d = weight.len();
        *mean = sum_row::<S>(x) / d as f32;
        // A last block's missing lanes hold the mean, so that they add nothing to the variance.
        let m = Lanes::<S>::splat(*mean);
        let mut sum = Lanes::<S>::splat(0.0);
        blocks!(d, range => {
            let x = &x[range];
            let centred = Lanes::load_part(x, *mean).sub(m);
            sum = centred.fma(centred, sum);
        });
        *inverse = 1.0 / (sum.total() / d as f32 + eps).sqrt();
        let r = Lanes::<S>::splat(*inverse);
        blocks!(d, range => {
            let normal = zero_padded::<S>(&x[range.clone()]).sub(m).mul(r);
            let (weight, bias) = (&weight[range.clone()], &bias[range.clone()]);
            normal.fma(zero_padded(weight), zero_padded(bias)).store_part(&mut y[range]);
        });
    }
}

/// `y = (x - mean) inverse weight + bias` with `inverse = 1 / sqrt(variance + eps)` of a row; `x` and `y` are
/// `[n, d]`, `weight` and `bias` `[d]`, `mean` and `inverse` `[n]`. (Ba, Kiros and Hinton 2016.)
#[allow(clippy::too_many_arguments)]
pub(crate) fn layer_norm_forward(
    cpu: &Cpu,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    y: &mut [f32],
    mean: &mut [f32],
    inverse: &mut [f32],
) {
    let d = weight.len();
    let n = rows(x.len(), d);
    assert_eq!(bias.len(), d, "length of the bias");
    assert_eq!(
        (y.len(), mean.len(), inverse.len()),
        (n * d, n, n),
        "outputs of {n} rows of width {d}"
    );
    let (y, mean, inverse) = (Parts::new(y), Parts::new(mean), Parts::new(inverse));
    cpu.pool.ranges(n, row_grain(d), &|range| {
        for row in range {
            let at = row * d..(row + 1) * d;
            // SAFETY: each row is in one task.
            let (y, mean, inverse) = unsafe {
                (
                    y.get(at.clone()),
                    &mut mean.get(row..row + 1)[0],
                    &mut inverse.get(row..row + 1)[0],
                )
            };
            layer_forward(cpu.level, &x[at], weight, bias, eps, y, mean, inverse);
        }
    });
}

/// What [`layer_norm_backward`] reads.
#[derive(Clone, Copy)]
pub(crate) struct LayerBackward<'a> {
    /// `[n, d]`
    pub x: &'a [f32],
    /// `[d]`
    pub weight: &'a [f32],
    /// `[n]`
    pub mean: &'a [f32],
    /// `[n]`
    pub inverse: &'a [f32],
    /// `[n, d]`
    pub dy: &'a [f32],
}

dispatch! {
    fn layer_backward(
        x: &[f32],
        weight: &[f32],
        mean: f32,
        inverse: f32,
        dy: &[f32],
        dx: &mut [f32],
        dweight: &mut [f32],
        dbias: &mut [f32],
    ) = layer_backward_kernel;
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn layer_backward_kernel<S: Simd>(
    x: &[f32],
    weight: &[f32],
    mean: f32,
    inverse: f32,
    dy: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    unsafe {
        let d = weight.len();
        let (m, r) = (Lanes::<S>::splat(mean), Lanes::<S>::splat(inverse));
        let mut gradients = Lanes::<S>::splat(0.0);
        let mut products = Lanes::<S>::splat(0.0);
        blocks!(d, range => {
            let normal = zero_padded::<S>(&x[range.clone()]).sub(m).mul(r);
            let gradient = zero_padded::<S>(&dy[range.clone()]).mul(zero_padded(&weight[range]));
            gradients = gradients.add(gradient);
            products = gradient.fma(normal, products);
        });
        let gradients = Lanes::<S>::splat(gradients.total() / d as f32);
        let products = Lanes::<S>::splat(-(products.total() / d as f32));
        blocks!(d, range => {
            let upstream = zero_padded::<S>(&dy[range.clone()]);
            let normal = zero_padded::<S>(&x[range.clone()]).sub(m).mul(r);
            let gradient = upstream.mul(zero_padded(&weight[range.clone()])).sub(gradients);
            let dx = &mut dx[range.clone()];
            normal.fma(products, gradient).fma(r, zero_padded(dx)).store_part(dx);
            if !dweight.is_empty() {
                let dweight = &mut dweight[range.clone()];
                upstream.fma(normal, zero_padded(dweight)).store_part(dweight);
            }
            if !dbias.is_empty() {
                let dbias = &mut dbias[range];
                zero_padded(dbias).add(upstream).store_part(dbias);
            }
        });
    }
}

/// `dx += r (g - mean(g) - n mean(g n))` with `r = inverse`, `n = (x - mean) r`, `g = dy weight`; and
/// `dweight += sum over rows of dy n`, `dbias += sum over rows of dy`, each if wanted.
pub(crate) fn layer_norm_backward(
    cpu: &Cpu,
    from: LayerBackward<'_>,
    chunks: &RowChunks,
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
    dbias: Option<&mut [f32]>,
) {
    let d = from.weight.len();
    let n = rows(from.x.len(), d);
    assert_eq!(
        (from.mean.len(), from.inverse.len(), from.dy.len(), dx.len()),
        (n, n, n * d, n * d),
        "{n} rows of width {d}"
    );
    by_chunks(cpu, &chunks.ranges(n), (dx, d), [dweight, dbias], &|row,
                                                                   dx,
                                                                   [
        dweight,
        dbias,
    ]| {
        let at = row * d..(row + 1) * d;
        layer_backward(
            cpu.level,
            &from.x[at.clone()],
            from.weight,
            from.mean[row],
            from.inverse[row],
            &from.dy[at],
            dx,
            dweight,
            dbias,
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{self, WIDTHS, assert_close, bits, cpus, differences, f64s, normal};
    use crate::rows_left::ROW_CHUNK;
    use std::collections::HashMap;

    const EPS: f32 = 1e-5;

    fn rms_oracle(x: &[f64], weight: &[f64]) -> Vec<f64> {
        let d = weight.len();
        x.chunks(d)
            .flat_map(|x| {
                let r = 1.0 / (testing::dot(x, x) / d as f64 + f64::from(EPS)).sqrt();
                x.iter().zip(weight).map(move |(x, w)| x * r * w)
            })
            .collect()
    }

    fn layer_oracle(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let d = weight.len();
        x.chunks(d)
            .flat_map(|x| {
                let mean = x.iter().sum::<f64>() / d as f64;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
                let r = 1.0 / (variance + f64::from(EPS)).sqrt();
                (0..d).map(move |j| (x[j] - mean) * r * weight[j] + bias[j])
            })
            .collect()
    }

    #[test]
    fn rms_norm_by_hand() {
        // mean(x^2) = (9 + 16 + 0 + 0) / 4 = 6.25, so inverse = 1 / 2.5
        for cpu in cpus() {
            let (mut y, mut inverse) = ([0.0; 4], [0.0]);
            rms_norm_forward(
                &cpu,
                &[3.0, -4.0, 0.0, 0.0],
                &[1.0, 2.0, 3.0, 4.0],
                0.0,
                &mut y,
                &mut inverse,
            );
            assert_eq!(inverse, [1.0 / 2.5]);
            assert_close(&y, &[1.2, -3.2, 0.0, 0.0], 1e-7);
        }
    }

    #[test]
    fn forward_agrees_with_the_oracle_and_rows_are_alone() {
        for d in WIDTHS {
            let n = 37;
            let (x, weight, bias) = (normal(1, n * d), normal(2, d), normal(3, d));
            let (x64, weight64, bias64) = (f64s(&x), f64s(&weight), f64s(&bias));
            for cpu in cpus() {
                let (mut y, mut mean, mut inverse) = (vec![0.0; n * d], vec![0.0; n], vec![0.0; n]);
                rms_norm_forward(&cpu, &x, &weight, EPS, &mut y, &mut inverse);
                assert_close(&y, &rms_oracle(&x64, &weight64), 2e-6);
                let (mut alone, mut one) = (vec![0.0; d], [0.0]);
                rms_norm_forward(&cpu, &x[9 * d..10 * d], &weight, EPS, &mut alone, &mut one);
                assert_eq!(bits(&alone), bits(&y[9 * d..10 * d]));
                assert_eq!(one[0], inverse[9]);

                layer_norm_forward(&cpu, &x, &weight, &bias, EPS, &mut y, &mut mean, &mut inverse);
                assert_close(&y, &layer_oracle(&x64, &weight64, &bias64), 4e-6);
                let (mut m, x) = ([0.0], &x[9 * d..10 * d]);
                layer_norm_forward(&cpu, x, &weight, &bias, EPS, &mut alone, &mut m, &mut one);
                assert_eq!(bits(&alone), bits(&y[9 * d..10 * d]));
            }
        }
    }

    #[test]
    fn gradients_agree_with_differences() {
        for d in [7, 20] {
            let n = 3;
            let (x, weight, bias) = (normal(1, n * d), normal(2, d), normal(3, d));
            let dy = normal(4, n * d);
            let [x64, weight64, bias64, dy64] = [&x, &weight, &bias, &dy].map(|x| f64s(x));
            let rms = |x: &[f64], w: &[f64]| testing::dot(&rms_oracle(x, w), &dy64);
            let layer = |x: &[f64], w: &[f64], b: &[f64]| testing::dot(&layer_oracle(x, w, b), &dy64);
            let expected = [
                differences(&x64, |x| rms(x, &weight64)),
                differences(&weight64, |w| rms(&x64, w)),
                differences(&x64, |x| layer(x, &weight64, &bias64)),
                differences(&weight64, |w| layer(&x64, w, &bias64)),
                differences(&bias64, |b| layer(&x64, &weight64, b)),
            ];
            // Gradients are added to what is there.
            let plus_one = |x: &[f64]| x.iter().map(|x| x + 1.0).collect::<Vec<_>>();
            for cpu in cpus() {
                let (mut y, mut mean, mut inverse) = (vec![0.0; n * d], vec![0.0; n], vec![0.0; n]);
                let (mut dx, mut dweight, mut dbias) = (vec![1.0; n * d], vec![1.0; d], vec![1.0; d]);
                rms_norm_forward(&cpu, &x, &weight, EPS, &mut y, &mut inverse);
                let from = RmsBackward {
                    x: &x,
                    weight: &weight,
                    inverse: &inverse,
                    dy: &dy,
                };
                rms_norm_backward(&cpu, from, &RowChunks::default(), &mut dx, Some(&mut dweight));
                assert_close(&dx, &plus_one(&expected[0]), 1e-5);
                assert_close(&dweight, &plus_one(&expected[1]), 1e-5);

                dx.fill(1.0);
                dweight.fill(1.0);
                layer_norm_forward(&cpu, &x, &weight, &bias, EPS, &mut y, &mut mean, &mut inverse);
                let from = LayerBackward {
                    x: &x,
                    weight: &weight,
                    mean: &mean,
                    inverse: &inverse,
                    dy: &dy,
                };
                layer_norm_backward(
                    &cpu,
                    from,
                    &RowChunks::default(),
                    &mut dx,
                    Some(&mut dweight),
                    Some(&mut dbias),
                );
                assert_close(&dx, &plus_one(&expected[2]), 1e-5);
                assert_close(&dweight, &plus_one(&expected[3]), 1e-5);
                assert_close(&dbias, &plus_one(&expected[4]), 1e-5);
            }
        }
    }

    #[test]
    fn gradients_do_not_depend_on_threads_or_on_what_is_wanted() {
        for d in [7, 172] {
            let n = 3 * ROW_CHUNK + 11;
            let (x, weight, dy) = (normal(1, n * d), normal(2, d), normal(3, n * d));
            let mut seen: HashMap<&str, _> = HashMap::new();
            for cpu in cpus() {
                let (mut y, mut mean, mut inverse) = (vec![0.0; n * d], vec![0.0; n], vec![0.0; n]);
                let bias = vec![0.0; d];
                layer_norm_forward(&cpu, &x, &weight, &bias, EPS, &mut y, &mut mean, &mut inverse);
                let (mut dx, mut dweight, mut dbias) = (vec![0.0; n * d], vec![0.0; d], vec![0.0; d]);
                let from = LayerBackward {
                    x: &x,
                    weight: &weight,
                    mean: &mean,
                    inverse: &inverse,
                    dy: &dy,
                };
                layer_norm_backward(
                    &cpu,
                    from,
                    &RowChunks::default(),
                    &mut dx,
                    Some(&mut dweight),
                    Some(&mut dbias),
                );
                let mut frozen = vec![0.0; n * d];
                layer_norm_backward(&cpu, from, &RowChunks::default(), &mut frozen, None, None);
                assert_eq!(bits(&frozen), bits(&dx));

                rms_norm_forward(&cpu, &x, &weight, EPS, &mut y, &mut inverse);
                let from = RmsBackward {
                    x: &x,
                    weight: &weight,
                    inverse: &inverse,
                    dy: &dy,
                };
                let (mut rms_dx, mut rms_dweight) = (vec![0.0; n * d], vec![0.0; d]);
                rms_norm_backward(&cpu, from, &RowChunks::default(), &mut rms_dx, Some(&mut rms_dweight));
                let mut frozen = vec![0.0; n * d];
                rms_norm_backward(&cpu, from, &RowChunks::default(), &mut frozen, None);
                assert_eq!(bits(&frozen), bits(&rms_dx));

                let all = [&dx, &dweight, &dbias, &rms_dx, &rms_dweight].map(|x| bits(x));
                assert_eq!(*seen.entry(cpu.isa.name()).or_insert_with(|| all.clone()), all);
            }
        }
    }
}
