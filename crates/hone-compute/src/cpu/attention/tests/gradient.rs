//! The gradient: against the formulas in f64, and its bits.

use super::*;

/// The gradients by the formulas, in f64.
pub(super) fn oracle_gradient(shape: &AttentionShape, [q, k, v]: [&[f64]; 3], dout: &[f64]) -> [Vec<f64>; 3] {
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

/// How far rounding the weights, the gradients of the scores, and the output may move the gradients.
fn rounding_bounds(shape: &AttentionShape, [q, k, v]: [&[f64]; 3], dout: &[f64]) -> [Vec<f64>; 3] {
    let (dim, group) = (shape.head_dim, shape.group());
    let rows = q.len() / (shape.heads * dim);
    let scale = f64::from(shape.scale);
    let sizes = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| x.abs()).collect() };
    let (out, log_sum) = oracle(shape, q, k, v);
    let (out_sizes, _) = oracle(shape, q, k, &sizes(v));
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    for i in 0..rows {
        for h in 0..shape.heads {
            let row = (i * shape.heads + h) * dim;
            let dot: f64 = (row..row + dim).map(|x| out[x] * dout[x]).sum();
            let dot_error: f64 = (row..row + dim).map(|x| BF16 * out_sizes[x] * dout[x].abs()).sum();
            for j in 0..shape.limit(i, rows) {
                let at = (j * shape.kv_heads + h / group) * dim;
                let s: f64 = (0..dim).map(|d| q[row + d] * k[at + d]).sum();
                let p = (s * scale - log_sum[i * shape.heads + h]).exp();
                let dp: f64 = (0..dim).map(|d| dout[row + d] * v[at + d]).sum();
                let ds = p * (BF16 * (dp - dot).abs() + dot_error) * scale;
                for d in 0..dim {
                    dv[at + d] += BF16 * p * dout[row + d].abs();
                    dq[row + d] += ds * k[at + d].abs();
                    dk[at + d] += ds * q[row + d].abs();
                }
            }
        }
    }
    [dq, dk, dv]
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
pub(super) fn gradients(cpu: &Cpu, sequences: &[&Sequence], dout: &[f32]) -> [Vec<f32>; 3] {
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
            after: None,
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
            (7, 1, 33, 77, Mask::Full),
        ]
        .into_iter()
        .enumerate()
        {
            let s = Sequence::new(i as u64, shape(heads, kv_heads, dim, mask), length);
            let dout = normals(99, s.q.len(), 1.0);
            let got = gradients(&cpu, &[&s], &dout);
            let (shape, [q, k, v]) = s.operands(cpu.precision);
            let dout = widened(&rounded(cpu.precision, &dout));
            let mut expected = oracle_gradient(&shape, [&q, &k, &v], &dout);
            let mut bounds = rounding_bounds(&shape, [&q, &k, &v], &dout);
            if cpu.precision == Precision::Bf16 {
                // That of the queries before they were scaled.
                for x in expected[0].iter_mut().chain(&mut bounds[0]) {
                    *x *= f64::from(s.shape.scale);
                }
            }
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let what = format!("{} {heads} {kv_heads} {dim} {length}: {i}", name(&cpu));
                match cpu.precision {
                    Precision::F32 => assert_close(got, expected, 2e-5, &what),
                    Precision::Bf16 => {
                        let slack = |(bound, x): (&f64, &f64)| 1.02 * bound + 2e-5 * (1.0 + x.abs());
                        let bounds: Vec<f64> = bounds[i].iter().zip(expected).map(slack).collect();
                        assert_bounded(got, expected, &bounds, &what);
                    }
                }
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
    for threads in [1, 2, 5] {
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

/// Sequences whose first `shared` positions are those of the first one.
fn family(shape: AttentionShape, shared: usize, lengths: &[usize]) -> Vec<Sequence> {
    let first = Sequence::new(40, shape, shared);
    let lengths = lengths.iter().enumerate();
    lengths
        .map(|(i, &length)| {
            let mut s = Sequence::new(41 + i as u64, shape, shared + length);
            for (own, beginning) in [(&mut s.q, &first.q), (&mut s.k, &first.k), (&mut s.v, &first.v)] {
                own[..beginning.len()].copy_from_slice(beginning);
            }
            s
        })
        .collect()
}

/// The arrays of a family with its beginning once, and the gradients that go with them. `douts` are those of the whole
/// sequences.
fn shared_gradients(cpu: &Cpu, family: &[Sequence], shared: usize, douts: &[Vec<f32>]) -> [Vec<f32>; 3] {
    let shape = family[0].shape;
    let (wide, narrow) = (family[0].row(), family[0].kv_row());
    let mut beginning = KvPages::new(cpu.precision, shape.kv_heads, shape.head_dim);
    beginning.append(&family[0].k[..shared * narrow], &family[0].v[..shared * narrow], shared);
    let pages: Vec<_> = family
        .iter()
        .map(|s| {
            let mut pages = beginning.clone();
            let own = shared * narrow..;
            pages.append(&s.k[own.clone()], &s.v[own], s.length - shared);
            pages
        })
        .collect();
    let mut spans = vec![Span {
        row: 0,
        length: shared,
        start: 0,
        kv: &beginning,
        after: None,
    }];
    let (mut q, mut dout) = (family[0].q[..shared * wide].to_vec(), vec![0.0; shared * wide]);
    for ((s, kv), own) in family.iter().zip(&pages).zip(douts) {
        spans.push(Span {
            row: q.len() / wide,
            length: s.length - shared,
            start: shared,
            kv,
            after: Some(0),
        });
        q.extend_from_slice(&s.q[shared * wide..]);
        for (sum, x) in dout.iter_mut().zip(&own[..shared * wide]) {
            *sum += x;
        }
        dout.extend_from_slice(&own[shared * wide..]);
    }
    let rows = q.len() / wide;
    let (mut out, mut log_sum) = (vec![f32::NAN; q.len()], vec![f32::NAN; rows * shape.heads]);
    forward(cpu, &shape, &q, &spans, &mut out, Some(&mut log_sum));
    let mut gradients = [q.len(), rows * narrow, rows * narrow].map(|size| vec![f32::NAN; size]);
    let b = Backward {
        shape: &shape,
        q: &q,
        out: &out,
        dout: &dout,
        log_sum: &log_sum,
        spans: &spans,
    };
    let [dq, dk, dv] = &mut gradients;
    backward(cpu, &b, dq, dk, dv);
    gradients
}

#[test]
fn a_shared_beginning_gets_the_gradients_of_all_that_follow_it() {
    let cases = [
        (shape(4, 2, 16, Mask::Causal), 37, vec![30, 1, 100]),
        (shape(2, 1, 8, Mask::Causal), 64, vec![64, 5]),
        (shape(3, 3, 20, Mask::Causal), 130, vec![1, 63, 62, 600]),
    ];
    for (shape, shared, lengths) in cases {
        let family = family(shape, shared, &lengths);
        let (wide, narrow) = (family[0].row(), family[0].kv_row());
        // The gradient of the beginning's own outputs comes with the first sequence, that of the others with each.
        let douts: Vec<Vec<f32>> = family
            .iter()
            .enumerate()
            .map(|(i, s)| {
                let mut dout = normals(90 + i as u64, s.q.len(), 1.0);
                if i > 0 {
                    dout[..shared * wide].fill(0.0);
                }
                dout
            })
            .collect();
        for threads in [1, 3] {
            for cpu in cpus(threads) {
                let what = format!("{} {} after {shared}", name(&cpu), shape.head_dim);
                let got = shared_gradients(&cpu, &family, shared, &douts);
                let apart: Vec<_> = family
                    .iter()
                    .zip(&douts)
                    .map(|(s, dout)| gradients(&cpu, &[s], dout))
                    .collect();
                for (which, width) in [wide, narrow, narrow].into_iter().enumerate() {
                    let (beginning, mut rest) = got[which].split_at(shared * width);
                    let mut sum = vec![0.0_f64; shared * width];
                    for apart in &apart {
                        let (first, own) = apart[which].split_at(shared * width);
                        sum.iter_mut().zip(first).for_each(|(sum, &x)| *sum += f64::from(x));
                        let (mine, after) = rest.split_at(own.len());
                        rest = after;
                        if which == 0 {
                            assert_eq!(bits(mine), bits(own), "{what}: queries");
                        }
                        assert_close(mine, &widened(own), 2e-5, &what);
                    }
                    assert!(rest.is_empty());
                    assert_close(beginning, &sum, 2e-5, &what);
                }
            }
        }
    }
}
