//! What rounding to bf16 does, and what it must not do.

use super::gradient::{gradients, oracle_gradient};
use super::*;

fn bf16_cpus(threads: usize) -> Vec<Cpu> {
    let mut cpus = cpus(threads);
    cpus.retain(|cpu| cpu.precision == Precision::Bf16);
    cpus
}

/// `|got - expected|` relative to `|expected|`, of the whole arrays.
fn distance(got: &[f32], expected: &[f64]) -> f64 {
    let error: f64 = got.iter().zip(expected).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
    let size: f64 = expected.iter().map(|x| x * x).sum();
    (error / size).sqrt()
}

#[test]
fn the_distance_to_true_attention_is_that_of_bf16() {
    for cpu in bf16_cpus(2) {
        for (seed, (heads, kv_heads, dim, length, mask)) in [
            (4, 2, 64, 200, Mask::Causal),
            (2, 2, 80, 65, Mask::Full),
            (7, 1, 33, 600, Mask::Causal),
        ]
        .into_iter()
        .enumerate()
        {
            let s = Sequence::new(seed as u64, shape(heads, kv_heads, dim, mask), length);
            let dout = normals(97, s.q.len(), 1.0);
            let [q, k, v] = [&s.q, &s.k, &s.v].map(|x| widened(x));
            let (out, log_sum) = oracle(&s.shape, &q, &k, &v);
            let expected = oracle_gradient(&s.shape, [&q, &k, &v], &widened(&dout));
            let (got, got_sum) = s.whole(&cpu);
            let all = gradients(&cpu, &[&s], &dout);
            let found = [
                distance(&got, &out),
                distance(&got_sum, &log_sum),
                distance(&all[0], &expected[0]),
                distance(&all[1], &expected[1]),
                distance(&all[2], &expected[2]),
            ];
            let what = format!("{} {heads} {kv_heads} {dim} {length}: {found:?}", name(&cpu));
            let [out, log_sum, gradients @ ..] = found;
            // Each operand is rounded by at most 2^-8 of its size, and about 2^-9.3 in the root of the mean square; a score
            // has some of these errors, an output that of its scores, weights and values.
            assert!((1.0 / 512.0..1.0 / 180.0).contains(&out), "{what}");
            assert!((1e-5..1.0 / 2048.0).contains(&log_sum), "{what}");
            for gradient in gradients {
                assert!((1.0 / 512.0..1.0 / 150.0).contains(&gradient), "{what}");
            }
        }
    }
}

#[test]
fn equal_weights_give_exact_means() {
    // Scores of 0 make weights of 1, and whole numbers are summed exactly: a key that is lost, doubled, or taken with
    // another's weight shows.
    for cpu in cpus(2) {
        for (heads, kv_heads, dim, length, mask) in [
            (2, 1, 7, 131, Mask::Causal),
            (7, 1, 64, 65, Mask::Full),
            (2, 2, 80, 1029, Mask::Causal),
            (1, 1, 128, 601, Mask::Full),
        ] {
            let mut s = Sequence::new(11, shape(heads, kv_heads, dim, mask), length);
            s.q.fill(0.0);
            for (i, v) in s.v.iter_mut().enumerate() {
                *v = (i * 37 % 255) as f32 - 127.0;
            }
            let (out, _) = s.whole(&cpu);
            for row in 0..length {
                let seen = s.shape.limit(row, length);
                for (at, &got) in out[row * s.row()..(row + 1) * s.row()].iter().enumerate() {
                    let (head, d) = (at / dim, at % dim);
                    let v = |j: usize| s.v[(j * kv_heads + head / s.shape.group()) * dim + d];
                    let sum: f32 = (0..seen).map(v).sum();
                    assert_eq!(got, sum / seen as f32, "{} {dim} {length}: {row} {at}", name(&cpu));
                }
            }
        }
    }
}

#[test]
fn equal_weights_give_exact_gradients_of_values() {
    // 128 keys of weight 2^-7 each, and whole numbers.
    for cpu in cpus(2) {
        for (heads, kv_heads, dim) in [(2, 1, 7), (3, 3, 64), (1, 1, 80)] {
            let mut s = Sequence::new(12, shape(heads, kv_heads, dim, Mask::Full), 128);
            s.q.fill(0.0);
            let dout: Vec<f32> = (0..s.q.len()).map(|i| (i * 41 % 255) as f32 - 127.0).collect();
            let [_, _, dv] = gradients(&cpu, &[&s], &dout);
            for (at, &got) in dv.iter().enumerate() {
                let (kv_head, d) = (at / dim % kv_heads, at % dim);
                let of = |row: usize| -> f32 {
                    let heads = kv_head * s.shape.group()..(kv_head + 1) * s.shape.group();
                    heads.map(|head| dout[row * s.row() + head * dim + d]).sum()
                };
                let sum: f32 = (0..128).map(of).sum();
                // In f32 the weight is e to a logarithm.
                let error = (got - sum / 128.0).abs();
                let bound = if cpu.precision == Precision::Bf16 { 0.0 } else { 1e-4 };
                assert!(error <= bound, "{} {dim}: {at}: {got}, not {}", name(&cpu), sum / 128.0);
            }
        }
    }
}

#[test]
fn the_kernels_that_multiply_in_f32_take_the_same_operands() {
    // Apart from the few weights that f32 puts on the other side of the middle between two bf16 numbers.
    let cpus = bf16_cpus(1);
    let s = Sequence::new(13, shape(4, 2, 40, Mask::Causal), 150);
    let dout = normals(14, s.q.len(), 1.0);
    let (first, first_gradients) = (s.whole(&cpus[0]).0, gradients(&cpus[0], &[&s], &dout));
    for cpu in &cpus[1..] {
        let near = |got: &[f32], expected: &[f32]| distance(got, &widened(expected)) < 1e-4;
        assert!(near(&s.whole(cpu).0, &first), "{}", name(cpu));
        for (got, expected) in gradients(cpu, &[&s], &dout).iter().zip(&first_gradients) {
            assert!(near(got, expected), "{}", name(cpu));
        }
    }
}

#[test]
fn rows_are_appended_as_they_would_be_alone() {
    // One at a time, in runs that start and end anywhere in a page, and all at once: the same cells.
    for cpu in cpus(3) {
        for (kv_heads, dim) in [(1, 7), (2, 8), (3, 33), (1, 64), (2, 80)] {
            let s = Sequence::new(15, shape(kv_heads, kv_heads, dim, Mask::Causal), 200);
            let whole = s.pages(cpu.precision);
            for lengths in [
                vec![1; 200],
                vec![17, 30, 1, 16, 64, 3, 69],
                vec![64, 64, 72],
                vec![199, 1],
            ] {
                let mut pages = KvPages::new(cpu.precision, kv_heads, dim);
                let mut start = 0;
                for length in lengths {
                    let rows = start..start + length;
                    append_all(&cpu, &mut [&mut pages], &s.k, &s.v, std::slice::from_ref(&rows));
                    start += length;
                }
                for (block, head) in (0..4).flat_map(|block| (0..kv_heads).map(move |head| (block, head))) {
                    assert_eq!(pages.block(block, head), whole.block(block, head), "{}", name(&cpu));
                    check_block(&s, cpu.precision, (block, head), whole.block(block, head));
                }
            }
        }
    }
}

/// Compares a block with the layout as it is defined.
fn check_block(s: &Sequence, precision: Precision, (block, head): (usize, usize), (keys, values): (&[u32], &[u32])) {
    let (dim, padded) = (s.shape.head_dim, s.shape.padded());
    let number = |x: &[f32], position: usize, d: usize| -> u32 {
        if position >= s.length || d >= dim {
            return 0;
        }
        let x = x[position * s.kv_row() + head * dim + d];
        match precision {
            Precision::F32 => x.to_bits(),
            Precision::Bf16 => u32::from(to_bf16_bits(x)),
        }
    };
    for place in 0..BLOCK {
        let position = block * BLOCK + place;
        for d in 0..padded {
            match precision {
                Precision::F32 => {
                    if d < dim {
                        assert_eq!(keys[d * BLOCK + place], number(&s.k, position, d));
                    }
                    assert_eq!(values[place * padded + d], number(&s.v, position, d));
                }
                Precision::Bf16 => {
                    if d < dim {
                        let cell = keys[d / 2 * BLOCK + place];
                        assert_eq!(cell >> (16 * (d % 2)) & 0xffff, number(&s.k, position, d));
                    }
                    let cell = values[place / 2 * padded + d];
                    assert_eq!(cell >> (16 * (place % 2)) & 0xffff, number(&s.v, position, d));
                }
            }
        }
    }
}
