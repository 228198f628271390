//! Operations on every element, sums over rows, and the products of rows with one vector (heads).
//!
//! # Soundness
//! Slices have one length, which is asserted; vectors end within it, and what is left goes by way of arrays. Arithmetic
//! is sound as said in [`simd`](super::simd).

use std::ops::Range;

use super::Cpu;
use super::math::dot;
use super::simd::{Simd, dispatch};
use crate::isa::Level;
use crate::pool::Parts;
use crate::rows_left::RowChunks;

/// Elements a task takes: 64 KiB of f32.
pub(crate) const GRAIN: usize = 16_384;

/// Rows of width `d` a task takes.
pub(crate) fn row_grain(d: usize) -> usize {
    (GRAIN / d.max(1)).max(1)
}

/// A function of `N` numbers read and `M` numbers written, applied to every element of slices of one length.
pub(crate) trait Map<const N: usize, const M: usize>: Sync {
    /// The new values of the outputs, given the inputs `x` and the outputs' old values `y`.
    ///
    /// # Safety
    /// As for [`Simd`].
    unsafe fn apply<S: Simd>(&self, x: [S::V; N], y: [S::V; M]) -> [S::V; M];
}

#[inline(always)]
unsafe fn map_kernel<S: Simd, const N: usize, const M: usize, F: Map<N, M>>(
    function: &F,
    x: [&[f32]; N],
    y: [*mut f32; M],
    length: usize,
) {
    unsafe {
        let mut i = 0;
        while i + S::LANES <= length {
            let inputs = std::array::from_fn(|k| S::load(x[k].as_ptr().add(i)));
            let old = std::array::from_fn(|k| S::load(y[k].add(i)));
            let new = function.apply::<S>(inputs, old);
            for k in 0..M {
                S::store(y[k].add(i), new[k]);
            }
            i += S::LANES;
        }
        let rest = length - i;
        if rest > 0 {
            let mut inputs = [[0.0; 16]; N];
            let mut outputs = [[0.0; 16]; M];
            for k in 0..N {
                inputs[k][..rest].copy_from_slice(&x[k][i..]);
            }
            for k in 0..M {
                std::ptr::copy_nonoverlapping(y[k].add(i), outputs[k].as_mut_ptr(), rest);
            }
            let new = function.apply::<S>(
                std::array::from_fn(|k| S::load(inputs[k].as_ptr())),
                std::array::from_fn(|k| S::load(outputs[k].as_ptr())),
            );
            for k in 0..M {
                S::store(outputs[k].as_mut_ptr(), new[k]);
                std::ptr::copy_nonoverlapping(outputs[k].as_ptr(), y[k].add(i), rest);
            }
        }
    }
}

/// Applies `function` in the calling thread. All slices must have one length.
pub(crate) fn map_here<const N: usize, const M: usize, F: Map<N, M>>(
    level: Level,
    function: &F,
    x: [&[f32]; N],
    y: [&mut [f32]; M],
) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn avx512<const N: usize, const M: usize, F: Map<N, M>>(
        function: &F,
        x: [&[f32]; N],
        y: [*mut f32; M],
        length: usize,
    ) {
        unsafe { map_kernel::<super::simd::Avx512, N, M, F>(function, x, y, length) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const N: usize, const M: usize, F: Map<N, M>>(
        function: &F,
        x: [&[f32]; N],
        y: [*mut f32; M],
        length: usize,
    ) {
        unsafe { map_kernel::<super::simd::Avx2, N, M, F>(function, x, y, length) }
    }
    let length = y.first().map_or(0, |y| y.len());
    for x in x {
        assert_eq!(x.len(), length, "slices of two lengths");
    }
    for y in &y {
        assert_eq!(y.len(), length, "slices of two lengths");
    }
    let y = y.map(<[f32]>::as_mut_ptr);
    // SAFETY: every slice has `length` elements; a level is a witness that the machine has its features.
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(_) => unsafe { avx512(function, x, y, length) },
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) => unsafe { avx2(function, x, y, length) },
        _ => unsafe {
            map_kernel::<super::simd::Portable, N, M, F>(function, x, y, length);
        },
    }
}

/// Applies `function` in parallel. All slices must have one length.
pub(crate) fn map<const N: usize, const M: usize, F: Map<N, M>>(
    cpu: &Cpu,
    function: &F,
    x: [&[f32]; N],
    y: [&mut [f32]; M],
) {
    let length = y.first().map_or(0, |y| y.len());
    for x in x {
        assert_eq!(x.len(), length, "slices of two lengths");
    }
    let parts = y.map(|y| {
        assert_eq!(y.len(), length, "slices of two lengths");
        Parts::new(y)
    });
    cpu.pool.ranges(length, GRAIN, &|range| {
        // SAFETY: the ranges of two tasks do not overlap.
        let y = std::array::from_fn(|k| unsafe { parts[k].get(range.clone()) });
        map_here(cpu.level, function, x.map(|x| &x[range.clone()]), y);
    });
}

/// `y += a x`.
pub(crate) struct ScaleAdd(pub f32);

impl Map<1, 1> for ScaleAdd {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [x]: [S::V; 1], [y]: [S::V; 1]) -> [S::V; 1] {
        unsafe { [S::fma(S::splat(self.0), x, y)] }
    }
}

/// `y += x`.
pub(crate) struct Add;

impl Map<1, 1> for Add {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [x]: [S::V; 1], [y]: [S::V; 1]) -> [S::V; 1] {
        unsafe { [S::add(y, x)] }
    }
}

struct Scale(f32);

impl Map<0, 1> for Scale {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, _: [S::V; 0], [y]: [S::V; 1]) -> [S::V; 1] {
        unsafe { [S::mul(y, S::splat(self.0))] }
    }
}

/// `y += x`.
pub(crate) fn add_assign(cpu: &Cpu, y: &mut [f32], x: &[f32]) {
    map(cpu, &Add, [x], [y]);
}

/// `y += a x`.
pub(crate) fn scale_add(cpu: &Cpu, y: &mut [f32], x: &[f32], a: f32) {
    map(cpu, &ScaleAdd(a), [x], [y]);
}

/// `y *= a`.
pub(crate) fn scale(cpu: &Cpu, y: &mut [f32], a: f32) {
    map(cpu, &Scale(a), [], [y]);
}

/// How many rows of width `d` there are in `length` numbers.
#[track_caller]
pub(crate) fn rows(length: usize, d: usize) -> usize {
    assert!(
        d > 0 && length.is_multiple_of(d),
        "{length} numbers are no rows of width {d}"
    );
    length / d
}

/// `y += bias` in every row; `y` is `[n, d]`, `bias` `[d]`.
pub(crate) fn add_bias(cpu: &Cpu, y: &mut [f32], bias: &[f32], d: usize) {
    assert_eq!(bias.len(), d, "length of the bias");
    let n = rows(y.len(), d);
    let y = Parts::new(y);
    cpu.pool.ranges(n, row_grain(d), &|range| {
        // SAFETY: the rows of two tasks do not overlap.
        let y = unsafe { y.get(range.start * d..range.end * d) };
        for y in y.chunks_exact_mut(d) {
            map_here(cpu.level, &Add, [bias], [y]);
        }
    });
}

/// `dbias += sum over rows of dy`; `dy` is `[n, d]`.
pub(crate) fn bias_backward(cpu: &Cpu, dy: &[f32], d: usize, chunks: &RowChunks, dbias: &mut [f32]) {
    let n = rows(dy.len(), d);
    sum_over_rows(cpu, &chunks.ranges(n), dbias, &|row, sum| {
        map_here(cpu.level, &Add, [&dy[row * d..][..d]], [sum]);
    });
}

/// `out += sum over rows`, where `add(row, sum)` adds a row's contribution to `sum`: chunks of rows are summed from 0 each,
/// then added to `out` one after another.
pub(crate) fn sum_over_rows(
    cpu: &Cpu,
    chunks: &[Range<usize>],
    out: &mut [f32],
    add: &(dyn Fn(usize, &mut [f32]) + Sync),
) {
    let d = out.len();
    let mut partials = vec![0.0; chunks.len() * d];
    let parts = Parts::new(&mut partials);
    cpu.pool.run(chunks.len(), &|chunk| {
        // SAFETY: each task has its own chunk.
        let sum = unsafe { parts.get(chunk * d..(chunk + 1) * d) };
        for row in chunks[chunk].clone() {
            add(row, sum);
        }
    });
    merge_chunks(cpu, &partials, out);
}

/// `out += partials[0]`, then `partials[1]`, and so on; `partials` is `[chunks, d]`, `out` `[d]`.
pub(crate) fn merge_chunks(cpu: &Cpu, partials: &[f32], out: &mut [f32]) {
    let d = out.len();
    let out = Parts::new(out);
    cpu.pool.ranges(d, 1024, &|range| {
        // SAFETY: the ranges of two tasks do not overlap.
        let out = unsafe { out.get(range.clone()) };
        for partial in partials.chunks_exact(d) {
            map_here(cpu.level, &Add, [&partial[range.clone()]], [&mut *out]);
        }
    });
}

dispatch! {
    /// `y[i]` = the product of row `i` of `x` with `w`.
    fn row_dot_here(x: &[f32], w: &[f32], y: &mut [f32]) = row_dot_kernel;
}

#[inline(always)]
unsafe fn row_dot_kernel<S: Simd>(x: &[f32], w: &[f32], y: &mut [f32]) {
    for (x, y) in x.chunks_exact(w.len()).zip(y) {
        *y = unsafe { dot::<S>(x, w) };
    }
}

/// `y = x w`, a number a row (scores and values), in f32; `x` is `[n, d]`, `w` `[d]`, `y` `[n]`.
pub(crate) fn row_dot(cpu: &Cpu, x: &[f32], w: &[f32], d: usize, y: &mut [f32]) {
    assert_eq!(w.len(), d, "length of the vector");
    let n = rows(x.len(), d);
    assert_eq!(y.len(), n, "numbers for rows");
    let y = Parts::new(y);
    cpu.pool.ranges(n, row_grain(d), &|range| {
        // SAFETY: the rows of two tasks do not overlap.
        let y = unsafe { y.get(range.clone()) };
        row_dot_here(cpu.level, &x[range.start * d..range.end * d], w, y);
    });
}

/// What [`row_dot_backward`] reads.
#[derive(Clone, Copy)]
pub(crate) struct RowDotBackward<'a> {
    /// `[n, d]`
    pub x: &'a [f32],
    /// `[d]`
    pub w: &'a [f32],
    /// `[n]`
    pub dy: &'a [f32],
}

/// `dx += dy w` and `dw += sum over rows of dy x`, each if wanted.
pub(crate) fn row_dot_backward(
    cpu: &Cpu,
    RowDotBackward { x, w, dy }: RowDotBackward<'_>,
    dx: Option<&mut [f32]>,
    dw: Option<&mut [f32]>,
) {
    let d = w.len();
    let n = rows(x.len(), d);
    assert_eq!(dy.len(), n, "gradients for rows");
    if let Some(dx) = dx {
        assert_eq!(dx.len(), x.len(), "gradient of the rows");
        let dx = Parts::new(dx);
        cpu.pool.ranges(n, row_grain(d), &|range| {
            for row in range {
                // SAFETY: each row is in one task.
                let dx = unsafe { dx.get(row * d..(row + 1) * d) };
                map_here(cpu.level, &ScaleAdd(dy[row]), [w], [dx]);
            }
        });
    }
    if let Some(dw) = dw {
        assert_eq!(dw.len(), d, "gradient of the vector");
        sum_over_rows(cpu, &RowChunks::default().ranges(n), dw, &|row, sum| {
            map_here(cpu.level, &ScaleAdd(dy[row]), [&x[row * d..][..d]], [sum]);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{WIDTHS, assert_close, bits, cpus, f64s, normal};
    use crate::rows_left::ROW_CHUNK;

    #[test]
    fn sums_and_multiples() {
        for cpu in cpus() {
            for n in [0, 1, 7, 16, 172, 2 * GRAIN + 5] {
                let (x, y) = (normal(1, n), normal(2, n));
                let zip = |f: fn(f64, f64) -> f64| -> Vec<f64> {
                    x.iter().zip(&y).map(|(&x, &y)| f(x.into(), y.into())).collect()
                };
                let mut got = y.clone();
                add_assign(&cpu, &mut got, &x);
                assert_close(&got, &zip(|x, y| y + x), 1e-7);
                let mut got = y.clone();
                scale_add(&cpu, &mut got, &x, -0.75);
                assert_close(&got, &zip(|x, y| y - 0.75 * x), 2e-7);
                let mut got = y.clone();
                scale(&cpu, &mut got, 3.0);
                assert_close(&got, &zip(|_, y| 3.0 * y), 1e-7);
            }
        }
    }

    #[test]
    fn bias_and_its_gradient() {
        for d in WIDTHS {
            let n = 3 * ROW_CHUNK + 5;
            let (x, bias, dy) = (normal(1, n * d), normal(2, d), normal(3, n * d));
            let mut first = None;
            for cpu in cpus() {
                let mut y = x.clone();
                add_bias(&cpu, &mut y, &bias, d);
                for (i, &y) in y.iter().enumerate() {
                    assert_eq!(y, x[i] + bias[i % d]);
                }
                let mut dbias = vec![1.0; d];
                bias_backward(&cpu, &dy, d, &RowChunks::default(), &mut dbias);
                let expected: Vec<f64> = (0..d)
                    .map(|j| 1.0 + dy.iter().skip(j).step_by(d).map(|&g| f64::from(g)).sum::<f64>())
                    .collect();
                assert_close(&dbias, &expected, 1e-5);
                // Sums only: the same bits for every instruction set and number of threads.
                assert_eq!(bits(&dbias), *first.get_or_insert_with(|| bits(&dbias)));
            }
        }
    }

    #[test]
    fn products_of_rows() {
        for d in WIDTHS {
            let n = ROW_CHUNK + 9;
            let (x, w, dy) = (normal(1, n * d), normal(2, d), normal(3, n));
            let (x64, w64, dy64) = (f64s(&x), f64s(&w), f64s(&dy));
            for cpu in cpus() {
                let mut y = vec![0.0; n];
                row_dot(&cpu, &x, &w, d, &mut y);
                let expected: Vec<f64> = x64.chunks(d).map(|x| crate::cpu::testing::dot(x, &w64)).collect();
                assert_close(&y, &expected, 5e-6);
                let mut alone = [0.0];
                row_dot(&cpu, &x[5 * d..6 * d], &w, d, &mut alone);
                assert_eq!(alone[0].to_bits(), y[5].to_bits());

                let (mut dx, mut dw) = (vec![1.0; n * d], vec![1.0; d]);
                let backward = RowDotBackward { x: &x, w: &w, dy: &dy };
                row_dot_backward(&cpu, backward, Some(&mut dx), Some(&mut dw));
                let expected: Vec<f64> = (0..n * d).map(|i| 1.0 + dy64[i / d] * w64[i % d]).collect();
                assert_close(&dx, &expected, 1e-6);
                let expected: Vec<f64> = (0..d)
                    .map(|j| 1.0 + (0..n).map(|i| dy64[i] * x64[i * d + j]).sum::<f64>())
                    .collect();
                assert_close(&dw, &expected, 1e-5);
            }
        }
    }
}
