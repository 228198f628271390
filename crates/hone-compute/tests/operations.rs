//! Every operation of the tape against naive f64: results, and gradients by central differences, on every instruction
//! set of this machine and in both precisions.
//!
//! Inputs are rows of tables, taken by the embedding, so that their gradients are those of the tables.

mod common;

use std::sync::Arc;

use common::{engines, ids, normal};
use hone_compute::rope::{RopeScaling, RopeTable, inverse_frequencies};
use hone_compute::{
    Activation, AttentionInputs, AttentionShape, Gradients, Layout, LinearWeight, Mask, ParameterId, Parameters,
    Precision, Tape, TokenTargets, Var,
};
use hone_testing as naive;
use hone_testing::{AttentionSizes, Differences, Matrix, Rounding, assert_near, differences};

/// A table: as a parameter, and as an input.
struct Leaf {
    id: ParameterId,
    x: Var,
}

type Run<'a> = &'a dyn Fn(&mut Tape<'_>, &[Leaf]) -> Vec<Var>;
type Oracle<'a> = &'a dyn Fn(&[Matrix], Rounding) -> Vec<Matrix>;

struct Case<'a> {
    name: &'a str,
    tables: Vec<Matrix>,
    run: Run<'a>,
    oracle: Oracle<'a>,
    /// Relative to the largest number: of results in f32 and bf16 (there against rounded operands), of gradients in f32
    /// and bf16 (there against the derivative without rounding).
    tolerances: [f64; 4],
}

/// Most elements of a table whose derivative is taken.
const SAMPLED: usize = 150;

fn seeds(outputs: &[Matrix]) -> Vec<Matrix> {
    outputs
        .iter()
        .enumerate()
        .map(|(i, o)| normal(900 + i as u64, o.rows, o.cols, 1.0))
        .collect()
}

impl Case<'_> {
    fn check(&self) {
        let expected = [Rounding::None, Rounding::Bf16].map(|rounding| (self.oracle)(&self.tables, rounding));
        let seeds = seeds(&expected[0]);
        let derivatives: Vec<Differences> = (0..self.tables.len()).map(|i| self.derivatives(i, &seeds)).collect();
        for engine in engines() {
            let what = format!("{} on {} in {:?}", self.name, engine.isa(), engine.precision());
            let bf16 = engine.precision() == Precision::Bf16;
            let mut parameters = Parameters::new();
            for (i, t) in self.tables.iter().enumerate() {
                parameters.add(format!("table {i}"), engine.tensor(t.rows, t.cols, &t.to_f32()));
            }
            let mut tape = Tape::training(&engine, &parameters);
            let leaves: Vec<Leaf> = parameters
                .iter()
                .map(|(id, p)| Leaf {
                    id,
                    x: tape.embedding(id, &(0..p.value().rows() as u32).collect()),
                })
                .collect();
            let outputs = (self.run)(&mut tape, &leaves);
            assert_eq!(outputs.len(), seeds.len(), "{what}: how many results");
            for (i, (out, expected)) in outputs.iter().zip(&expected[usize::from(bf16)]).enumerate() {
                assert_eq!(out.shape(), (expected.rows, expected.cols), "{what}: result {i}");
                let got = engine.read(out.value());
                assert_near(
                    &format!("{what}: result {i}"),
                    &got,
                    &expected.data,
                    self.tolerances[usize::from(bf16)],
                );
            }
            let mut gradients = Gradients::zeros(&engine, &parameters);
            let upstream = outputs
                .iter()
                .zip(&seeds)
                .map(|(o, s)| (o, engine.tensor(s.rows, s.cols, &s.to_f32())));
            tape.backward(upstream.collect(), &mut gradients);
            for (i, (leaf, expected)) in leaves.iter().zip(&derivatives).enumerate() {
                let got = engine.read(gradients.get(leaf.id).expect("every table is trained"));
                let tolerance = self.tolerances[2 + usize::from(bf16)];
                let what = format!("{what}: gradient of table {i}");
                assert_near(&what, &expected.of(&got), &expected.values, tolerance);
            }
        }
    }

    /// Of the sum of results times `seeds`, with respect to table `i`.
    fn derivatives(&self, i: usize, seeds: &[Matrix]) -> Differences {
        let mut tables = self.tables.clone();
        let mut numbers = tables[i].data.clone();
        differences(&mut numbers, SAMPLED, |numbers| {
            tables[i].data.copy_from_slice(numbers);
            let outputs = (self.oracle)(&tables, Rounding::None);
            outputs
                .iter()
                .zip(seeds)
                .flat_map(|(o, s)| o.data.iter().zip(&s.data))
                .map(|(o, s)| o * s)
                .sum()
        })
    }
}

/// Where nothing is rounded to bf16.
const F32: [f64; 4] = [2e-6, 2e-6, 5e-6, 5e-6];
/// Where operands are.
const PRODUCT: [f64; 4] = [2e-6, 4e-6, 5e-6, 2e-2];

#[test]
fn embedding_and_select_rows() {
    let chosen: Arc<[u32]> = [3, 0, 3, 3, 6, 1].into();
    Case {
        name: "embedding",
        tables: vec![normal(1, 7, 33, 1.0)],
        run: &|tape, l| vec![tape.embedding(l[0].id, &chosen)],
        oracle: &|t, _| vec![t[0].select(&chosen)],
        tolerances: F32,
    }
    .check();
    Case {
        name: "select_rows",
        tables: vec![normal(2, 7, 20, 1.0)],
        // The input is used twice, so that its gradient is a sum.
        run: &|tape, l| {
            vec![
                tape.select_rows(&l[0].x, &chosen),
                tape.activate(Activation::Silu, &l[0].x),
            ]
        },
        oracle: &|t, _| vec![t[0].select(&chosen), naive::map(&t[0], naive::silu)],
        tolerances: F32,
    }
    .check();
}

#[test]
fn linear_layers() {
    Case {
        name: "linear",
        tables: vec![normal(3, 9, 40, 1.0), normal(4, 23, 40, 0.3)],
        run: &|tape, l| vec![tape.linear(&l[0].x, l[1].id)],
        oracle: &|t, r| vec![naive::linear(&t[0], &t[1], r)],
        tolerances: PRODUCT,
    }
    .check();
    Case {
        name: "linears, with and without bias, one unused",
        tables: vec![
            normal(5, 70, 36, 1.0),
            normal(6, 16, 36, 0.3),
            normal(7, 1, 16, 1.0),
            normal(8, 8, 36, 0.3),
            normal(9, 33, 36, 0.3),
            normal(10, 1, 33, 1.0),
        ],
        // Not in the order of the parameters
        run: &|tape, l| {
            let biased = |w: usize, b: usize| LinearWeight {
                weight: l[w].id,
                bias: Some(l[b].id),
            };
            let mut all = tape.linears(&l[0].x, &[biased(4, 5), l[3].id.into(), biased(1, 2)]);
            all.swap_remove(1);
            all
        },
        oracle: &|t, r| {
            let biased = |w: usize, b: usize| naive::add_bias(&naive::linear(&t[0], &t[w], r), &t[b]);
            vec![biased(4, 5), biased(1, 2)]
        },
        tolerances: PRODUCT,
    }
    .check();
}

#[test]
fn norms() {
    Case {
        name: "rms_norm",
        tables: vec![normal(11, 5, 40, 2.0), normal(12, 1, 40, 1.0)],
        run: &|tape, l| vec![tape.rms_norm(&l[0].x, l[1].id, 1e-5)],
        oracle: &|t, _| vec![naive::rms_norm(&t[0], &t[1], f64::from(1e-5_f32))],
        tolerances: F32,
    }
    .check();
    Case {
        name: "rms_norm_heads",
        tables: vec![normal(13, 5, 24, 0.1), normal(14, 1, 8, 1.0)],
        // A large eps, which shows where it stands; the input is used twice.
        run: &|tape, l| {
            vec![
                tape.rms_norm_heads(&l[0].x, l[1].id, 0.01),
                tape.activate(Activation::Silu, &l[0].x),
            ]
        },
        oracle: &|t, _| {
            vec![
                naive::rms_norm(&t[0], &t[1], f64::from(0.01_f32)),
                naive::map(&t[0], naive::silu),
            ]
        },
        tolerances: F32,
    }
    .check();
    Case {
        name: "layer_norm",
        tables: vec![normal(15, 66, 17, 0.2), normal(16, 1, 17, 1.0), normal(17, 1, 17, 1.0)],
        run: &|tape, l| vec![tape.layer_norm(&l[0].x, l[1].id, l[2].id, 0.01)],
        oracle: &|t, _| vec![naive::layer_norm(&t[0], &t[1], &t[2], f64::from(0.01_f32))],
        tolerances: F32,
    }
    .check();
}

#[test]
fn rotation() {
    let layout = Layout::whole(&[3, 1, 7]);
    for (head_dim, scaling) in [(8, RopeScaling::Default), (80, RopeScaling::Linear { factor: 3.0 })] {
        let (frequencies, factor) = inverse_frequencies(head_dim, 100.0, &scaling).expect("valid");
        // Plain angles by hand, 100^(-2 i / head_dim), divided by the linear factor
        let divisor = if head_dim == 80 { 3.0 } else { 1.0 };
        for (i, f) in frequencies.iter().enumerate() {
            let expected = 100_f64.powf(-2.0 * i as f64 / head_dim as f64) / divisor;
            assert!((f - expected).abs() < 1e-12 && factor == 1.0);
        }
        for (used, factor) in [(head_dim / 2, 1.0), (head_dim / 4, 1.25)] {
            let table = Arc::new(RopeTable::new(&frequencies[..used], factor, 16));
            Case {
                name: "rotate",
                tables: vec![normal(18, 11, 2 * head_dim, 1.0)],
                run: &|tape, l| vec![tape.rotate(l[0].x.clone(), head_dim, &layout, &table)],
                oracle: &|t, _| {
                    vec![naive::rotate(
                        &t[0],
                        head_dim,
                        layout.positions(),
                        &frequencies[..used],
                        factor,
                    )]
                },
                tolerances: F32,
            }
            .check();
        }
    }
}

#[test]
fn attention() {
    type Sizes = (usize, usize, usize, &'static [usize], Mask);
    let cases: [Sizes; 5] = [
        (4, 2, 8, &[3, 1, 9], Mask::Causal),
        (4, 1, 16, &[5, 12], Mask::Causal),
        (2, 2, 80, &[1, 6], Mask::Causal),
        (2, 1, 12, &[70], Mask::Causal),
        (3, 3, 8, &[4, 2], Mask::Full),
    ];
    for (heads, kv_heads, head_dim, lengths, mask) in cases {
        let layout = Layout::whole(lengths);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale,
            mask,
        };
        let causal = mask == Mask::Causal;
        let sizes = AttentionSizes {
            heads,
            kv_heads,
            head_dim,
            scale: f64::from(scale),
            causal,
        };
        let n = layout.rows();
        Case {
            name: "attention",
            tables: vec![
                normal(19, n, heads * head_dim, 1.5),
                normal(20, n, kv_heads * head_dim, 1.5),
                normal(21, n, kv_heads * head_dim, 1.0),
            ],
            run: &|tape, l| {
                let inputs = AttentionInputs {
                    q: l[0].x.clone(),
                    k: l[1].x.clone(),
                    v: l[2].x.clone(),
                };
                vec![tape.attention(inputs, &shape, &layout)]
            },
            oracle: &|t, r| vec![naive::attention((&t[0], &t[1], &t[2]), sizes, lengths, r)],
            tolerances: [4e-6, 4e-6, 1e-5, 3e-2],
        }
        .check();
    }
}

#[test]
fn activations() {
    Case {
        name: "swiglu",
        tables: vec![normal(22, 5, 37, 2.0), normal(23, 5, 37, 1.0)],
        run: &|tape, l| vec![tape.swiglu(&l[0].x, &l[1].x)],
        oracle: &|t, _| {
            vec![Matrix::from_fn(5, 37, |r, c| {
                naive::silu(t[0].at(r, c)) * t[1].at(r, c)
            })]
        },
        tolerances: F32,
    }
    .check();
    type Function = fn(f64) -> f64;
    let kinds: [(Activation, Function); 4] = [
        (Activation::Silu, naive::silu),
        (Activation::GeluTanh, naive::gelu_tanh),
        (Activation::GeluErf, naive::gelu_erf),
        (Activation::Relu, naive::relu),
    ];
    for (kind, f) in kinds {
        Case {
            name: &format!("{kind:?}"),
            tables: vec![normal(24, 5, 37, 1.5)],
            run: &|tape, l| vec![tape.activate(kind, &l[0].x)],
            oracle: &|t, _| vec![naive::map(&t[0], f)],
            tolerances: F32,
        }
        .check();
    }
}

#[test]
fn sums() {
    Case {
        name: "add and add_scaled",
        tables: vec![normal(25, 6, 19, 1.0), normal(26, 6, 19, 1.0)],
        run: &|tape, l| {
            let sum = tape.add(l[0].x.clone(), l[1].x.clone());
            let scaled = tape.add_scaled(sum.clone(), l[1].x.clone(), -2.5);
            let twice = tape.add_scaled(l[0].x.clone(), l[0].x.clone(), 0.5);
            vec![sum, scaled, twice]
        },
        oracle: &|t, _| {
            let sum = t[0].plus(&t[1], 1.0);
            let scaled = sum.plus(&t[1], -2.5);
            vec![sum, scaled, t[0].plus(&t[0], 0.5)]
        },
        tolerances: F32,
    }
    .check();
}

#[test]
fn scalar_heads() {
    Case {
        name: "scalar_head",
        tables: vec![normal(27, 67, 30, 1.0), normal(28, 1, 30, 1.0), normal(29, 1, 1, 1.0)],
        run: &|tape, l| {
            vec![
                tape.scalar_head(&l[0].x, l[1].id, Some(l[2].id)),
                tape.scalar_head(&l[0].x, l[1].id, None),
            ]
        },
        oracle: &|t, _| {
            let bare = naive::linear(&t[0], &t[1], Rounding::None);
            vec![naive::add_bias(&bare, &t[2]), bare]
        },
        tolerances: F32,
    }
    .check();
}

#[test]
fn token_logprobs() {
    // Two chunks of 2048 and a part; logits far apart; a temperature; either seed alone in the two results of others
    for (n, d, v, temperature, deviation) in [
        (6, 20, 37, 1.0, 1.0),
        (3, 8, 4500, 0.7, 0.7),
        (70, 8, 65, 1.6, 2.0),
        (5, 16, 50, 1.0, 3.0),
    ] {
        let targets: Arc<[u32]> = ids(30, n, v).into();
        let tables = vec![normal(31, n, d, 1.0), normal(32, v, d, deviation)];
        let asked = |output| TokenTargets {
            output,
            targets: Arc::clone(&targets),
            temperature,
        };
        let numbers = |t: &[Matrix], r| {
            let logits = naive::linear(&t[0], &t[1], r);
            let numbers = naive::token_numbers(&logits, &targets, f64::from(temperature));
            let column = |data| Matrix { rows: n, cols: 1, data };
            [column(numbers.logprobs), column(numbers.entropies)]
        };
        let oracle = |which: Option<usize>| {
            move |t: &[Matrix], r: Rounding| match which {
                Some(i) => vec![numbers(t, r)[i].clone()],
                None => numbers(t, r).to_vec(),
            }
        };
        for which in [None, Some(0), Some(1)] {
            if v > 1000 && which.is_some() {
                continue;
            }
            Case {
                name: &format!("token_logprobs {which:?} of {v}"),
                tables: tables.clone(),
                run: &|tape, l| {
                    let found = tape.token_logprobs(&l[0].x, &asked(l[1].id));
                    match which {
                        None => vec![found.logprob, found.entropy],
                        Some(0) => vec![found.logprob],
                        Some(_) => vec![found.entropy],
                    }
                },
                oracle: &oracle(which),
                tolerances: [5e-6, 2e-5, 5e-5, 5e-2],
            }
            .check();
        }
    }
}
