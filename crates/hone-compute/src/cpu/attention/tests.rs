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

/// The gradients by the formulas, in f64.
fn oracle_gradient(shape: &AttentionShape, [q, k, v]: [&[f64]; 3], dout: &[f64]) -> [Vec<f64>; 3] {
    let (dim, group) = (shape.head_dim, shape.group());
    let rows = q.len() / (shape.heads * dim);
    let scale = f64::from(shape.scale);
    let (out, log_sum) = oracle(shape, q, k, v);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    for i in 0..rows {
        for h in 0..shape.heads {
            let row = (i * shape.heads + h) * dim;
            let dot: f64 = (row..row + dim).map(|x| out[x] * dout[x]).sum();
            for j in 0..shape.limit(i, rows) {
                let at = (j * shape.kv_heads + h / group) * dim;
                let s: f64 = (0..dim).map(|d| q[row + d] * k[at + d]).sum();
                let p = (s * scale - log_sum[i * shape.heads + h]).exp();
                let dp: f64 = (0..dim).map(|d| dout[row + d] * v[at + d]).sum();
                let ds = p * (dp - dot) * scale;
                for d in 0..dim {
                    dv[at + d] += p * dout[row + d];
                    dq[row + d] += ds * k[at + d];
                    dk[at + d] += ds * q[row + d];
                }
            }
        }
    }
    [dq, dk, dv]
}

fn widened(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
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
        ]
        .into_iter()
        .enumerate()
        {
            let s = Sequence::new(i as u64, shape(heads, kv_heads, dim, mask), length);
            let (out, log_sum) = s.whole(&cpu);
            let (k, v) = (rounded(cpu.precision, &s.k), rounded(cpu.precision, &s.v));
            let (expected, expected_sum) = oracle(&s.shape, &widened(&s.q), &widened(&k), &widened(&v));
            let what = format!("{} {heads} {kv_heads} {dim} {length}", name(&cpu));
            assert_close(&out, &expected, 4e-6, &what);
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
        // ones, are then rounded to -0 in the sum.
        s.q.fill(1.0);
        s.k[..40 * 16].fill(0.0);
        s.k[..16].fill(4.0);
        s.v[..40 * 16].fill(-f32::from_bits(1 << 16));
        s.v[..16].fill(0.0);
        for (i, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
            s.k[(90 + i) * 16 + 3] = bad;
            s.v[(90 + i) * 16 + 5] = bad;
        }
        let whole = bits(&s.whole(&cpu).0[..90 * s.row()]);
        // Without fused arithmetic, the product is rounded first and 0 + -0 is 0.
        let zero = if cpu.level == Level::Portable { 0 } else { 1 << 31 };
        let zeros = &whole[2 * s.row()..40 * s.row()];
        assert!(zeros.iter().all(|&x| x == zero), "{}", name(&cpu));
        let single = bits(&s.chunks(&cpu, || 1)[..90 * s.row()]);
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
    for (cpu1, (cpu2, cpu3)) in cpus(1).iter().zip(cpus(2).iter().zip(&cpus(3))) {
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

#[test]
fn the_gradient_oracle_agrees_with_finite_differences() {
    for mask in [Mask::Causal, Mask::Full] {
        let s = Sequence::new(7, shape(4, 2, 3, mask), 6);
        let dout = widened(&normals(70, s.q.len(), 1.0));
        let inputs = [widened(&s.q), widened(&s.k), widened(&s.v)];
        let [q, k, v] = &inputs;
        let gradients = oracle_gradient(&s.shape, [q, k, v], &dout);
        let loss = |x: &[Vec<f64>; 3]| -> f64 {
            let (out, _) = oracle(&s.shape, &x[0], &x[1], &x[2]);
            out.iter().zip(&dout).map(|(a, b)| a * b).sum()
        };
        for (input, gradient) in gradients.iter().enumerate() {
            for i in 0..gradient.len() {
                let moved = |by: f64| {
                    let mut x = inputs.clone();
                    x[input][i] += by;
                    loss(&x)
                };
                let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((slope - gradient[i]).abs() < 1e-8, "{input} {i}: {slope}");
            }
        }
    }
}

/// Packs the sequences one after another and computes their gradients.
fn gradients(cpu: &Cpu, sequences: &[&Sequence], dout: &[f32]) -> [Vec<f32>; 3] {
    let shape = sequences[0].shape;
    let pages: Vec<_> = sequences.iter().map(|s| s.pages(cpu.precision)).collect();
    let mut spans = Vec::new();
    let mut row = 0;
    for (s, kv) in sequences.iter().zip(&pages) {
        spans.push(Span {
            row,
            length: s.length,
            start: 0,
            kv,
        });
        row += s.length;
    }
    let q: Vec<f32> = sequences.iter().flat_map(|s| s.q.clone()).collect();
    let mut out = vec![f32::NAN; q.len()];
    let mut log_sum = vec![f32::NAN; row * shape.heads];
    forward(cpu, &shape, &q, &spans, &mut out, Some(&mut log_sum));
    let narrow = row * shape.kv_heads * shape.head_dim;
    let (mut dq, mut dk, mut dv) = (vec![f32::NAN; q.len()], vec![f32::NAN; narrow], vec![f32::NAN; narrow]);
    let b = Backward {
        shape: &shape,
        q: &q,
        out: &out,
        dout,
        log_sum: &log_sum,
        spans: &spans,
    };
    backward(cpu, &b, &mut dq, &mut dk, &mut dv);
    [dq, dk, dv]
}

#[test]
fn gradients_agree_with_the_oracle() {
    for cpu in cpus(2) {
        for (i, (heads, kv_heads, dim, length, mask)) in [
            (1, 1, 8, 1, Mask::Causal),
            (4, 2, 16, 67, Mask::Causal),
            (2, 2, 80, 130, Mask::Causal),
            (6, 2, 64, 129, Mask::Full),
            (3, 1, 20, 65, Mask::Full),
            (2, 1, 8, 600, Mask::Causal),
            (1, 1, 128, 190, Mask::Causal),
        ]
        .into_iter()
        .enumerate()
        {
            let s = Sequence::new(i as u64, shape(heads, kv_heads, dim, mask), length);
            let dout = normals(99, s.q.len(), 1.0);
            let got = gradients(&cpu, &[&s], &dout);
            let (k, v) = (rounded(cpu.precision, &s.k), rounded(cpu.precision, &s.v));
            let inputs = [&s.q, &k, &v].map(|x| widened(x));
            let expected = oracle_gradient(&s.shape, [&inputs[0], &inputs[1], &inputs[2]], &widened(&dout));
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let what = format!("{} {heads} {kv_heads} {dim} {length}: {i}", name(&cpu));
                assert_close(got, expected, 2e-5, &what);
            }
        }
    }
}

#[test]
fn packing_and_threads_do_not_change_gradients() {
    let shape = shape(4, 2, 16, Mask::Causal);
    let sequences: Vec<_> = [65, 1, 130, 64]
        .into_iter()
        .enumerate()
        .map(|(i, length)| Sequence::new(60 + i as u64, shape, length))
        .collect();
    let douts: Vec<_> = sequences
        .iter()
        .zip(80..)
        .map(|(s, seed)| normals(seed, s.q.len(), 1.0))
        .collect();
    let cpu1 = cpus(1);
    for threads in [1, 2, 3] {
        for (cpu, cpu1) in cpus(threads).iter().zip(&cpu1) {
            for order in [[0, 1, 2, 3], [3, 1, 0, 2]] {
                let picked: Vec<_> = order.iter().map(|&i| &sequences[i]).collect();
                let dout: Vec<f32> = order.iter().flat_map(|&i| douts[i].clone()).collect();
                let mut got = gradients(cpu, &picked, &dout);
                for i in order {
                    let alone = gradients(cpu1, &[&sequences[i]], &douts[i]);
                    for (got, alone) in got.iter_mut().zip(&alone) {
                        let rest = got.split_off(alone.len());
                        assert_eq!(bits(got), bits(alone), "{} {threads}", name(cpu));
                        *got = rest;
                    }
                }
            }
        }
    }
}
