mod bf16;
mod gradient;

use super::arithmetic::Way;
use super::*;
use crate::cpu::Cpu;
use crate::cpu::gemm::to_bf16_bits;
use crate::isa::{Isa, Level};
use hone_math::Key;

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

fn normals(seed: u64, n: usize, scale: f32) -> Vec<f32> {
    let key = Key::new(seed, "attention", 0);
    (0..n as u64).map(|i| key.normal(i) as f32 * scale).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn from_bf16(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

fn rounded(precision: Precision, x: &[f32]) -> Vec<f32> {
    x.iter()
        .map(|&x| match precision {
            Precision::F32 => x,
            Precision::Bf16 => from_bf16(to_bf16_bits(x)),
        })
        .collect()
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, mask: Mask) -> AttentionShape {
    AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        mask,
    }
}

/// The queries, keys and values of one sequence.
struct Sequence {
    shape: AttentionShape,
    length: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Sequence {
    fn new(seed: u64, shape: AttentionShape, length: usize) -> Self {
        let (wide, narrow) = (
            length * shape.heads * shape.head_dim,
            length * shape.kv_heads * shape.head_dim,
        );
        Self {
            shape,
            length,
            q: normals(3 * seed, wide, 2.0),
            k: normals(3 * seed + 1, narrow, 1.0),
            v: normals(3 * seed + 2, narrow, 1.0),
        }
    }

    fn pages(&self, precision: Precision) -> KvPages {
        let mut pages = KvPages::new(precision, self.shape.kv_heads, self.shape.head_dim);
        pages.append(&self.k, &self.v, self.length);
        pages
    }

    fn row(&self) -> usize {
        self.shape.heads * self.shape.head_dim
    }

    fn kv_row(&self) -> usize {
        self.shape.kv_heads * self.shape.head_dim
    }

    /// The output and the logarithms of the sums, all at once.
    fn whole(&self, cpu: &Cpu) -> (Vec<f32>, Vec<f32>) {
        let kv = self.pages(cpu.precision);
        let mut out = vec![f32::NAN; self.q.len()];
        let mut log_sum = vec![f32::NAN; self.length * self.shape.heads];
        let span = Span {
            row: 0,
            length: self.length,
            start: 0,
            kv: &kv,
        };
        let shape = &self.shape;
        forward(cpu, shape, &self.q, &[span], &mut out, Some(&mut log_sum));
        (out, log_sum)
    }

    /// What the products are taken of: the queries scaled, and all rounded as the kernels do it.
    fn operands(&self, precision: Precision) -> (AttentionShape, [Vec<f64>; 3]) {
        let (k, v) = (rounded(precision, &self.k), rounded(precision, &self.v));
        let (scale, q) = match precision {
            Precision::F32 => (self.shape.scale, self.q.clone()),
            Precision::Bf16 => {
                let scaled: Vec<f32> = self.q.iter().map(|x| x * self.shape.scale).collect();
                (1.0, rounded(precision, &scaled))
            }
        };
        (AttentionShape { scale, ..self.shape }, [q, k, v].map(|x| widened(&x)))
    }

    /// The output in chunks of these lengths, over a cache that grows.
    fn chunks(&self, cpu: &Cpu, mut next: impl FnMut() -> usize) -> Vec<f32> {
        let mut kv = KvPages::new(cpu.precision, self.shape.kv_heads, self.shape.head_dim);
        let mut out = Vec::new();
        let mut start = 0;
        while start < self.length {
            let length = next().clamp(1, self.length - start);
            let part = start * self.kv_row()..(start + length) * self.kv_row();
            kv.append(&self.k[part.clone()], &self.v[part], length);
            let span = Span {
                row: 0,
                length,
                start,
                kv: &kv,
            };
            let q = &self.q[start * self.row()..(start + length) * self.row()];
            let mut part = vec![f32::NAN; q.len()];
            forward(cpu, &self.shape, q, &[span], &mut part, None);
            out.extend(part);
            start += length;
        }
        out
    }
}

/// Attention of one sequence by its definition in f64: the output and the logarithms of the sums.
fn oracle(shape: &AttentionShape, q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (dim, group) = (shape.head_dim, shape.group());
    let rows = q.len() / (shape.heads * dim);
    let keys = k.len() / (shape.kv_heads * dim);
    let mut out = vec![0.0; q.len()];
    let mut log_sum = vec![0.0; rows * shape.heads];
    for i in 0..rows {
        for h in 0..shape.heads {
            let q = &q[(i * shape.heads + h) * dim..][..dim];
            let at = |j: usize| (j * shape.kv_heads + h / group) * dim;
            let seen = shape.limit(i, keys);
            let scores: Vec<f64> = (0..seen)
                .map(|j| (0..dim).map(|d| q[d] * k[at(j) + d]).sum::<f64>())
                .map(|s| s * f64::from(shape.scale))
                .collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            log_sum[i * shape.heads + h] = top + sum.ln();
            for (j, s) in scores.iter().enumerate() {
                let weight = (s - top).exp() / sum;
                for d in 0..dim {
                    out[(i * shape.heads + h) * dim + d] += weight * v[at(j) + d];
                }
            }
        }
    }
    (out, log_sum)
}

fn widened(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// The largest relative error of a number rounded to bf16.
const BF16: f64 = 1.0 / 256.0;

/// Each number within its own bound.
fn assert_bounded(got: &[f32], expected: &[f64], bounds: &[f64], what: &str) {
    assert!(got.len() == expected.len() && got.len() == bounds.len());
    for (i, ((&got, &expected), &bound)) in got.iter().zip(expected).zip(bounds).enumerate() {
        let error = (f64::from(got) - expected).abs();
        assert!(
            error <= bound,
            "{what}, element {i}: got {got}, expected {expected} within {bound}"
        );
    }
}

fn assert_close(got: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len());
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs();
        assert!(
            error <= tolerance * (1.0 + expected.abs()),
            "{what}, element {i}: got {got}, expected {expected}"
        );
    }
}

/// Instruction sets and precisions of different code.
fn cpus(threads: usize) -> Vec<Cpu> {
    let mut ways: Vec<Way> = Vec::new();
    let mut cpus = Vec::new();
    for isa in Isa::all_here() {
        for precision in PRECISIONS {
            let cpu = Cpu::new(isa, precision, threads);
            if !ways.contains(&Way::of(&cpu)) {
                ways.push(Way::of(&cpu));
                cpus.push(cpu);
            }
        }
    }
    cpus
}

fn name(cpu: &Cpu) -> String {
    format!("{} {:?}", cpu.isa, cpu.precision)
}

#[test]
fn output_agrees_with_the_definition() {
    for cpu in cpus(2) {
        for (i, (heads, kv_heads, dim, length, mask)) in [
            (1, 1, 8, 1, Mask::Causal),
            (4, 2, 16, 67, Mask::Causal),
            (2, 2, 80, 130, Mask::Causal),
            (6, 2, 64, 129, Mask::Full),
            (3, 1, 20, 65, Mask::Full),
            (2, 1, 7, 1100, Mask::Causal),
            (1, 1, 128, 600, Mask::Causal),
            (2, 1, 8, 1030, Mask::Full),
            (7, 1, 33, 77, Mask::Full),
        ]
        .into_iter()
        .enumerate()
        {
            let s = Sequence::new(i as u64, shape(heads, kv_heads, dim, mask), length);
            let (out, log_sum) = s.whole(&cpu);
            let (shape, [q, k, v]) = s.operands(cpu.precision);
            let (expected, expected_sum) = oracle(&shape, &q, &k, &v);
            let what = format!("{} {heads} {kv_heads} {dim} {length}", name(&cpu));
            match cpu.precision {
                Precision::F32 => assert_close(&out, &expected, 4e-6, &what),
                Precision::Bf16 => {
                    // Each weight is rounded.
                    let sizes: Vec<f64> = v.iter().map(|v| v.abs()).collect();
                    let (sizes, _) = oracle(&shape, &q, &k, &sizes);
                    let bounds: Vec<f64> = sizes.iter().map(|size| 4e-6 + 1.01 * BF16 * size).collect();
                    assert_bounded(&out, &expected, &bounds, &what);
                }
            }
            assert_close(&log_sum, &expected_sum, 1e-6, &what);
        }
    }
}

#[test]
fn one_position_gives_its_value() {
    for cpu in cpus(1) {
        let s = Sequence::new(9, shape(4, 2, 16, Mask::Causal), 1);
        let v = rounded(cpu.precision, &s.v);
        let expected: Vec<f32> = [0, 0, 1, 1]
            .into_iter()
            .flat_map(|h| v[h * 16..(h + 1) * 16].to_vec())
            .collect();
        assert_eq!(s.whole(&cpu).0, expected);
    }
}

#[test]
fn chunks_and_single_queries_give_the_bits_of_the_whole() {
    for cpu in cpus(2) {
        for (i, (heads, kv_heads, dim, length)) in [
            (4, 2, 64, 200),
            (2, 1, 8, 1100),
            (3, 1, 80, 140),
            (2, 2, 16, 520),
            (14, 2, 20, 66),
            (1, 1, 128, 65),
            (7, 1, 33, 131),
        ]
        .into_iter()
        .enumerate()
        {
            let seed = i as u64;
            let s = Sequence::new(seed, shape(heads, kv_heads, dim, Mask::Causal), length);
            let whole = bits(&s.whole(&cpu).0);
            let what = format!("{} {heads} {kv_heads} {dim} {length}", name(&cpu));
            assert_eq!(bits(&s.chunks(&cpu, || 1)), whole, "{what}, one at a time");
            for most in [9, 100, 600] {
                let mut stream = Key::new(seed, "chunks", most as u64).stream();
                let chunks = s.chunks(&cpu, || 1 + stream.below(most));
                assert_eq!(bits(&chunks), whole, "{what}, chunks up to {most}");
            }
        }
    }
}

#[test]
fn later_keys_leave_no_trace() {
    // Running outputs that are -0, and infinities and NaNs that a query must not see.
    for cpu in cpus(1) {
        let mut s = Sequence::new(5, shape(2, 1, 16, Mask::Causal), 100);
        // The first key gets nearly all the weight and its value is 0; the others' values, the smallest negative
        // ones, are then rounded to -0 in the sum. Products of pairs take denormal numbers as 0.
        let pairs = matches!(Way::of(&cpu), Way::Dot(_));
        let smallest = if pairs {
            f32::MIN_POSITIVE
        } else {
            f32::from_bits(1 << 16)
        };
        s.q.fill(1.0);
        s.k[..40 * 16].fill(0.0);
        s.k[..16].fill(4.0);
        s.v[..40 * 16].fill(-smallest);
        s.v[..16].fill(0.0);
        for (i, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
            // The first is the second of a pair of keys.
            s.k[(91 + i) * 16 + 3] = bad;
            s.v[(91 + i) * 16 + 5] = bad;
        }
        let whole = bits(&s.whole(&cpu).0[..91 * s.row()]);
        // Without fused arithmetic, the product is rounded first and 0 + -0 is 0.
        let zero = if cpu.level == Level::Portable { 0 } else { 1 << 31 };
        let zeros = &whole[2 * s.row()..40 * s.row()];
        assert!(zeros.iter().all(|&x| x == zero), "{}", name(&cpu));
        assert!(whole.iter().all(|&x| f32::from_bits(x).is_finite()), "{}", name(&cpu));
        let single = bits(&s.chunks(&cpu, || 1)[..91 * s.row()]);
        assert_eq!(whole, single, "{}", name(&cpu));
    }
}

#[test]
fn batches_and_threads_do_not_change_bits() {
    let shape = shape(4, 2, 16, Mask::Causal);
    let lengths = [1, 64, 65, 30, 513, 7, 128, 200];
    let sequences: Vec<_> = (0..8)
        .map(|i| Sequence::new(20 + i, shape, lengths[i as usize]))
        .collect();
    for (cpu1, (cpu2, cpu3)) in cpus(1).iter().zip(cpus(2).iter().zip(&cpus(5))) {
        let expected: Vec<_> = sequences.iter().map(|s| bits(&s.whole(cpu1).0)).collect();
        let pages: Vec<_> = sequences.iter().map(|s| s.pages(cpu1.precision)).collect();
        for (seed, cpu) in [cpu1, cpu2, cpu3, cpu2, cpu3].into_iter().enumerate() {
            let key = Key::new(seed as u64, "batch", 0);
            let mut order = key.permutation(8);
            order.truncate(3 + key.below(100, 6) as usize);
            // Each sequence's last queries, with a gap of one row between sequences.
            let (mut q, mut spans) = (Vec::new(), Vec::new());
            for &i in &order {
                let s = &sequences[i];
                let start = key.below(200 + i as u64, s.length as u64) as usize;
                let row = q.len() / s.row();
                spans.push(Span {
                    row,
                    length: s.length - start,
                    start,
                    kv: &pages[i],
                });
                q.extend(&s.q[start * s.row()..]);
                q.extend(vec![0.0; s.row()]);
            }
            let mut out = vec![7.0; q.len()];
            spans.reverse();
            forward(cpu, &shape, &q, &spans, &mut out, None);
            for (span, &i) in spans.iter().rev().zip(&order) {
                let row = sequences[i].row();
                let got = &out[span.row * row..(span.row + span.length + 1) * row];
                let (got, gap) = got.split_at(span.length * row);
                assert_eq!(bits(got), expected[i][span.start * row..], "{}", name(cpu));
                assert!(gap.iter().all(|&x| x == 7.0));
            }
        }
    }
}

#[test]
fn clones_share_pages_until_they_differ() {
    for cpu in cpus(2) {
        let shape = shape(2, 1, 16, Mask::Causal);
        let prompt = Sequence::new(1, shape, 100);
        let kv = prompt.pages(cpu.precision);
        let mut clones = [kv.clone(), kv.clone(), kv.clone()];
        let tails: Vec<_> = (0..3).map(|i| Sequence::new(40 + i, shape, 60)).collect();
        let (k, v): (Vec<_>, Vec<_>) = (
            tails.iter().flat_map(|t| t.k.clone()).collect(),
            tails.iter().flat_map(|t| t.v.clone()).collect(),
        );
        let mut all: Vec<_> = clones.iter_mut().collect();
        append_all(&cpu, &mut all, &k, &v, &[0..60, 60..120, 120..180]);
        for (clone, tail) in clones.iter().zip(&tails) {
            let mut alone = KvPages::new(cpu.precision, 1, 16);
            alone.append(&prompt.k, &prompt.v, 100);
            alone.append(&tail.k, &tail.v, 60);
            let outs = [clone, &alone].map(|kv| {
                let span = Span {
                    row: 0,
                    length: 60,
                    start: 100,
                    kv,
                };
                let mut out = vec![0.0; tail.q.len()];
                forward(&cpu, &shape, &tail.q, &[span], &mut out, None);
                bits(&out)
            });
            assert_eq!(outs[0], outs[1], "{}", name(&cpu));
        }
        assert_eq!((kv.len(), clones[0].len()), (100, 160));
        assert_eq!(kv.bytes() * 3, clones[0].bytes() * 2);
        let span = Span {
            row: 0,
            length: 100,
            start: 0,
            kv: &kv,
        };
        let mut out = vec![0.0; prompt.q.len()];
        forward(&cpu, &shape, &prompt.q, &[span], &mut out, None);
        assert_eq!(bits(&out), bits(&prompt.whole(&cpu).0));
    }
}

#[test]
fn truncating_and_appending_again_leaves_no_trace() {
    for cpu in cpus(1) {
        let shape = shape(2, 2, 20, Mask::Full);
        let s = Sequence::new(3, shape, 200);
        let other = Sequence::new(4, shape, 200);
        for keep in [0, 1, 63, 64, 65, 128, 199, 200, 500] {
            let mut kv = s.pages(cpu.precision);
            let kept = keep.min(200);
            kv.truncate(keep);
            assert_eq!(kv.len(), kept);
            // Nothing of what was dropped is left behind, either.
            let mut fresh = KvPages::new(cpu.precision, 2, 20);
            fresh.append(&s.k[..kept * 40], &s.v[..kept * 40], kept);
            let same = |a: &KvPages, b: &KvPages| (0..kept.div_ceil(BLOCK)).all(|i| a.block(i, 1) == b.block(i, 1));
            assert!(same(&kv, &fresh) && kv.bytes() == fresh.bytes());
            kv.append(&other.k[..400], &other.v[..400], 10);
            fresh.append(&other.k[..400], &other.v[..400], 10);
            assert!(same(&kv, &fresh) && kv.len() == kept + 10);
        }
    }
}

#[test]
fn pages_that_are_used_again_hold_nothing_of_before() {
    for cpu in cpus(1) {
        // With padding behind the head's numbers, and without
        for dim in [20, 32] {
            let width = 2 * dim;
            let empty = || KvPages::new(cpu.precision, 2, dim);
            let mut before = empty();
            let ones = vec![1.0; 128 * width];
            append_all(&cpu, &mut [&mut before], &ones, &ones, std::slice::from_ref(&(0..128)));
            drop(before);
            let waiting = cpu.pages.idle_bytes();
            let s = Sequence::new(5, shape(2, 2, dim, Mask::Causal), 67);
            let (mut kv, mut fresh) = (empty(), empty());
            append_all(&cpu, &mut [&mut kv], &s.k, &s.v, std::slice::from_ref(&(0..67)));
            assert!(waiting > 0 && cpu.pages.idle_bytes() == 0, "{}", name(&cpu));
            fresh.append(&s.k, &s.v, 67);
            let same = |block| (0..2).all(|head| kv.block(block, head) == fresh.block(block, head));
            assert!(same(0) && same(1), "{} {dim}", name(&cpu));
            drop(kv);
            cpu.pages.clear();
            assert_eq!(cpu.pages.idle_bytes(), 0);
        }
    }
}

#[test]
fn an_empty_cache_gives_zeros() {
    let cpu = Cpu::new(Isa::Portable, Precision::F32, 1);
    let shape = shape(2, 1, 8, Mask::Full);
    let kv = KvPages::new(Precision::F32, 1, 8);
    let span = Span {
        row: 0,
        length: 2,
        start: 0,
        kv: &kv,
    };
    let (mut out, mut log_sum) = (vec![1.0; 32], vec![1.0; 4]);
    forward(&cpu, &shape, &[1.0; 32], &[span], &mut out, Some(&mut log_sum));
    assert_eq!((out, log_sum), (vec![0.0; 32], vec![f32::NEG_INFINITY; 4]));
}

#[test]
#[should_panic(expected = "overlap")]
fn overlapping_spans_are_refused() {
    let cpu = Cpu::new(Isa::Portable, Precision::F32, 1);
    let s = Sequence::new(0, shape(1, 1, 8, Mask::Causal), 4);
    let kv = s.pages(Precision::F32);
    let span = |row| Span {
        row,
        length: 2,
        start: 0,
        kv: &kv,
    };
    let mut out = vec![0.0; s.q.len()];
    forward(&cpu, &s.shape, &s.q, &[span(0), span(1)], &mut out, None);
}
