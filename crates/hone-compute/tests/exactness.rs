//! Which results of the tape, the gradient tree and the optimiser are equal to the bit.

mod common;

use std::sync::Arc;

use common::{engine, engines, ids, normal};
use hone_compute::rope::RopeTable;
use hone_compute::{
    Activation, AdamW, AttentionInputs, AttentionShape, Engine, GradientTree, Gradients, Isa,
    Layout, LinearWeight, Mask, Optimizer, Parameters, Precision, SequenceCache, StepRate, Tape,
    TokenTargets, Var,
};
use hone_testing::{assert_bits, assert_near};

const WIDTH: usize = 48;
const HEADS: usize = 3;
const VOCABULARY: usize = 2100;

/// One block with everything in it, and an output matrix.
fn parameters(engine: &Engine) -> Parameters {
    let mut parameters = Parameters::new();
    let shapes = [
        ("embed", VOCABULARY, WIDTH),
        ("norm", 1, WIDTH),
        ("q", WIDTH, WIDTH),
        ("q bias", 1, WIDTH),
        ("k", 16, WIDTH),
        ("v", 16, WIDTH),
        ("head norm", 1, 16),
        ("o", WIDTH, WIDTH),
        ("layer norm", 1, WIDTH),
        ("layer norm bias", 1, WIDTH),
        ("up", 80, WIDTH),
        ("gate", 80, WIDTH),
        ("down", WIDTH, 80),
        ("score", 1, WIDTH),
    ];
    for (i, (name, rows, cols)) in shapes.into_iter().enumerate() {
        let deviation = if rows == 1 { 1.0 } else { 0.2 };
        parameters.add(
            name,
            engine.tensor(
                rows,
                cols,
                &normal(i as u64, rows, cols, deviation).to_f32(),
            ),
        );
    }
    parameters
}

fn block(tape: &mut Tape<'_>, x: &Var, layout: &Layout) -> Var {
    let p = tape.parameters();
    let id = |name| p.find(name).expect("a name of the list");
    let shape = AttentionShape {
        heads: HEADS,
        kv_heads: 1,
        head_dim: 16,
        scale: 0.25,
        mask: Mask::Causal,
    };
    let table = Arc::new(RopeTable::new(
        &[1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005],
        1.0,
        256,
    ));
    let normed = tape.rms_norm(x, id("norm"), 1e-5);
    let q = LinearWeight {
        weight: id("q"),
        bias: Some(id("q bias")),
    };
    let mut qkv = tape.linears(&normed, &[q, id("k").into(), id("v").into()]);
    let (v, k, q) = (qkv.remove(2), qkv.remove(1), qkv.remove(0));
    let k = tape.rms_norm_heads(&k, id("head norm"), 1e-5);
    let q = tape.rotate(q, 16, layout, &table);
    let k = tape.rotate(k, 16, layout, &table);
    let attended = tape.attention(AttentionInputs { q, k, v }, &shape, layout);
    let attended = tape.linear(&attended, id("o"));
    let x = tape.add(x.clone(), attended);
    let normed = tape.layer_norm(&x, id("layer norm"), id("layer norm bias"), 1e-5);
    let mut both = tape.linears(&normed, &[id("gate").into(), id("up").into()]);
    let up = both.remove(1);
    let inner = tape.swiglu(&both[0], &up);
    let inner = tape.activate(Activation::GeluTanh, &inner);
    let down = tape.linear(&inner, id("down"));
    tape.add(x, down)
}

/// Three blocks with the same weights, recomputed or not.
fn hidden<'p>(tape: &mut Tape<'p>, ids: &Arc<[u32]>, layout: &Layout, recompute: bool) -> Var {
    let embed = tape.parameters().find("embed").expect("there");
    let mut x = tape.embedding(embed, ids);
    for _ in 0..3 {
        let layout = layout.clone();
        x = if recompute {
            tape.recompute(&x, move |tape, x| block(tape, x, &layout))
        } else {
            block(tape, &x, &layout)
        };
    }
    x
}

/// Results of a step: numbers that went out, and all gradients.
struct Step {
    numbers: Vec<f32>,
    gradients: Gradients,
}

const LENGTHS: [usize; 4] = [5, 71, 1, 20];

fn token_step(engine: &Engine, parameters: &Parameters, recompute: bool) -> Step {
    let layout = Layout::whole(&LENGTHS);
    let tokens: Arc<[u32]> = ids(1, layout.rows(), VOCABULARY).into();
    let mut tape = Tape::training(engine, parameters);
    let hidden = hidden(&mut tape, &tokens, &layout, recompute);
    let output = parameters.find("embed").expect("there");
    let targets = ids(2, layout.rows(), VOCABULARY).into();
    let found = tape.token_logprobs(
        &hidden,
        &TokenTargets {
            output,
            targets,
            temperature: 0.9,
        },
    );
    let score = tape.scalar_head(&hidden, parameters.find("score").expect("there"), None);
    let mut numbers = engine.read(found.logprob.value());
    numbers.extend(engine.read(found.entropy.value()));
    numbers.extend(engine.read(score.value()));
    let seed = |i: u64| {
        engine.tensor(
            layout.rows(),
            1,
            &normal(50 + i, layout.rows(), 1, 1.0).to_f32(),
        )
    };
    let mut gradients = Gradients::zeros(engine, parameters);
    tape.backward(
        vec![
            (&found.logprob, seed(0)),
            (&found.entropy, seed(1)),
            (&score, seed(2)),
        ],
        &mut gradients,
    );
    Step { numbers, gradients }
}

fn assert_same(
    what: &str,
    engine: &Engine,
    parameters: &Parameters,
    (got, expected): (&Gradients, &Gradients),
) {
    for (id, parameter) in parameters.iter() {
        let read = |g: &Gradients| engine.read(g.get(id).expect("all are trained"));
        assert_bits(
            &format!("{what}: gradient of {}", parameter.name()),
            &read(got),
            &read(expected),
        );
    }
}

#[test]
fn recomputing_changes_no_bit() {
    for engine in engines() {
        let parameters = parameters(&engine);
        let [kept, again] =
            [false, true].map(|recompute| token_step(&engine, &parameters, recompute));
        let what = format!("recomputed on {} in {:?}", engine.isa(), engine.precision());
        assert_bits(&what, &again.numbers, &kept.numbers);
        assert_same(
            &what,
            &engine,
            &parameters,
            (&again.gradients, &kept.gradients),
        );
    }
}

#[test]
fn cross_entropy_is_token_logprobs_with_known_seeds() {
    // Numbers and gradients are equal to the bit: both make the same logits and go back through the same blocks.
    for engine in engines() {
        let parameters = parameters(&engine);
        let layout = Layout::whole(&LENGTHS);
        let n = layout.rows();
        let tokens: Arc<[u32]> = ids(3, n, VOCABULARY).into();
        let asked = TokenTargets {
            output: parameters.find("embed").expect("there"),
            targets: ids(4, n, VOCABULARY).into(),
            temperature: 1.0,
        };
        let mut weights: Vec<f32> = normal(5, n, 1, 1.0).to_f32();
        weights[7] = 0.0;

        let mut tape = Tape::training(&engine, &parameters);
        let last = hidden(&mut tape, &tokens, &layout, false);
        let found = tape.token_logprobs(&last, &asked);
        let expected = (
            engine.read(found.logprob.value()),
            engine.read(found.entropy.value()),
        );
        let seed = engine.tensor(n, 1, &weights.iter().map(|w| -w).collect::<Vec<_>>());
        let mut separate = Gradients::zeros(&engine, &parameters);
        tape.backward(vec![(&found.logprob, seed)], &mut separate);

        let mut tape = Tape::training(&engine, &parameters);
        let last = hidden(&mut tape, &tokens, &layout, false);
        let mut together = Gradients::zeros(&engine, &parameters);
        let got = tape.backward_cross_entropy(&last, &asked, &weights, &mut together);

        let what = format!(
            "cross-entropy on {} in {:?}",
            engine.isa(),
            engine.precision()
        );
        assert_bits(&what, &got.0, &expected.0);
        assert_bits(&what, &got.1, &expected.1);
        assert_same(&what, &engine, &parameters, (&together, &separate));
    }
}

#[test]
fn a_large_vocabulary_in_blocks_of_rows() {
    // 50,257 tokens: 25 chunks, and two blocks of rows where whole rows of logits are made.
    const ROWS: usize = 131;
    let targets: Arc<[u32]> = ids(6, ROWS, 50_257).into();
    let (x, w) = (normal(7, ROWS, 8, 1.0), normal(8, 50_257, 8, 1.0));
    let oracle = {
        let logits = hone_testing::linear(&x, &w, hone_testing::Rounding::None);
        hone_testing::token_numbers(&logits, &targets, 1.0)
    };
    for (isa, precision) in [
        (Isa::detect(), Precision::Bf16),
        (Isa::detect(), Precision::F32),
        (Isa::Portable, Precision::F32),
    ] {
        let engine = engine(isa, precision, 2);
        let mut parameters = Parameters::new();
        let table = parameters.add("x", engine.tensor(x.rows, x.cols, &x.to_f32()));
        let output = parameters.add("w", engine.tensor(w.rows, w.cols, &w.to_f32()));
        let asked = TokenTargets {
            output,
            targets: Arc::clone(&targets),
            temperature: 1.0,
        };
        let weights = normal(9, ROWS, 1, 1.0).to_f32();
        let rows: Arc<[u32]> = (0..ROWS as u32).collect();

        let mut tape = Tape::training(&engine, &parameters);
        let hidden = tape.embedding(table, &rows);
        let found = tape.token_logprobs(&hidden, &asked);
        let logprobs = engine.read(found.logprob.value());
        if precision == Precision::F32 {
            assert_near("log-probabilities", &logprobs, &oracle.logprobs, 1e-6);
            assert_near(
                "entropies",
                &engine.read(found.entropy.value()),
                &oracle.entropies,
                1e-6,
            );
        }
        let mut separate = Gradients::zeros(&engine, &parameters);
        let seed = engine.tensor(ROWS, 1, &weights.iter().map(|w| -w).collect::<Vec<_>>());
        tape.backward(vec![(&found.logprob, seed)], &mut separate);

        let mut tape = Tape::training(&engine, &parameters);
        let hidden = tape.embedding(table, &rows);
        let mut together = Gradients::zeros(&engine, &parameters);
        let got = tape.backward_cross_entropy(&hidden, &asked, &weights, &mut together);
        assert_bits("cross-entropy", &got.0, &logprobs);
        assert_same(
            "cross-entropy",
            &engine,
            &parameters,
            (&together, &separate),
        );
        // One row alone has the bits that it has among the others.
        let mut tape = Tape::inference(&engine, &parameters);
        let alone = tape.embedding(table, &[130].into());
        let asked = TokenTargets {
            targets: [targets[130]].into(),
            ..asked
        };
        let alone = tape.token_logprobs(&alone, &asked);
        assert_bits(
            "alone",
            &engine.read(alone.logprob.value()),
            &logprobs[130..],
        );
    }
}

#[test]
fn threads_change_no_bit() {
    for isa in Isa::all_here() {
        for precision in [Precision::F32, Precision::Bf16] {
            let run = |threads| {
                let engine = engine(isa, precision, threads);
                let mut parameters = parameters(&engine);
                let mut optimizer = Optimizer::new(
                    &engine,
                    &parameters,
                    AdamW {
                        weight_decay: 0.1,
                        ..AdamW::default()
                    },
                );
                let mut numbers = Vec::new();
                for _ in 0..2 {
                    let step = token_step(&engine, &parameters, false);
                    let rate = StepRate {
                        learning_rate: 1e-3,
                        clip: Some(1.0),
                    };
                    let report = optimizer.step(&engine, &mut parameters, &step.gradients, rate);
                    assert!(report.applied && report.grad_norm > 1.0);
                    numbers.extend(step.numbers);
                    numbers.push(report.grad_norm as f32);
                    for (id, parameter) in parameters.iter() {
                        numbers.extend(engine.read(step.gradients.get(id).expect("trained")));
                        numbers.extend(engine.read(parameter.value()));
                        let (m, v) = optimizer.moments(id).expect("trained");
                        numbers.extend(engine.read(m));
                        numbers.extend(engine.read(v));
                    }
                }
                numbers
            };
            let one = run(1);
            assert!(one.iter().all(|x| x.is_finite()));
            for threads in [2, 3] {
                assert_bits(
                    &format!("{threads} threads on {isa} in {precision:?}"),
                    &run(threads),
                    &one,
                );
            }
        }
    }
}

#[test]
fn the_tree_adds_neighbours_first() {
    let engine = engine(Isa::Portable, Precision::F32, 1);
    let mut parameters = Parameters::new();
    let id = parameters.add("w", engine.zeros(1, 4));
    for shards in 1..=13_u64 {
        let numbers: Vec<Vec<f32>> = (0..shards).map(|s| normal(s, 1, 4, 1.0).to_f32()).collect();
        let mut tree = GradientTree::new();
        for numbers in &numbers {
            tree.push(&engine, gradient(&engine, &mut parameters, numbers));
        }
        let sum = tree.finish(&engine).expect("there were shards");
        // By the definition: pairs of neighbours, level by level, while both halves of a pair are there ...
        let mut level: Vec<(u64, Vec<f32>)> = numbers.into_iter().map(|n| (1, n)).collect();
        let mut size = 1;
        while level.iter().filter(|(s, _)| *s == size).count() > 1 {
            let mut next: Vec<(u64, Vec<f32>)> = Vec::new();
            for (s, n) in level {
                match next.last_mut() {
                    Some((left, sum)) if *left == size && s == size => {
                        sum.iter_mut().zip(&n).for_each(|(a, b)| *a += b);
                        *left *= 2;
                    }
                    _ => next.push((s, n)),
                }
            }
            level = next;
            size *= 2;
        }
        // ... and what has no partner from the right.
        let mut expected = level.pop().expect("at least one").1;
        while let Some((_, mut left)) = level.pop() {
            left.iter_mut().zip(&expected).for_each(|(a, b)| *a += b);
            expected = left;
        }
        assert_bits(
            &format!("{shards} shards"),
            &engine.read(sum.get(id).expect("there")),
            &expected,
        );
    }
    assert!(GradientTree::new().finish(&engine).is_none());
}

/// A gradient of these numbers, by way of a head whose input they are.
fn gradient(engine: &Engine, parameters: &mut Parameters, numbers: &[f32]) -> Gradients {
    let mut gradients = Gradients::zeros(engine, parameters);
    let (id, _) = parameters.iter().next().expect("one");
    let mut tape = Tape::training(engine, parameters);
    let x = tape.constant(engine.tensor(1, numbers.len(), numbers));
    let y = tape.scalar_head(&x, id, None);
    tape.backward(vec![(&y, engine.tensor(1, 1, &[1.0]))], &mut gradients);
    assert_bits(
        "the seed",
        &engine.read(gradients.get(id).expect("there")),
        numbers,
    );
    gradients
}

#[test]
fn adamw_as_written_down() {
    // Two matrices and a vector; the third gradient is above the clip, the fourth is not finite.
    for engine in engines() {
        let mut parameters = Parameters::new();
        let starts = [
            normal(1, 5, 7, 1.0),
            normal(2, 3, 4, 1.0),
            normal(3, 1, 9, 1.0),
        ];
        for (i, s) in starts.iter().enumerate() {
            parameters.add(format!("{i}"), engine.tensor(s.rows, s.cols, &s.to_f32()));
        }
        let frozen = parameters.add("frozen", engine.tensor(2, 2, &[1.0; 4]));
        parameters.set_trainable(frozen, false);
        let constants = AdamW {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-6,
            weight_decay: 0.3,
        };
        let mut optimizer = Optimizer::new(&engine, &parameters, constants);
        let mut expected: Vec<Vec<[f64; 3]>> = starts
            .iter()
            .map(|s| s.data.iter().map(|&p| [p, 0.0, 0.0]).collect())
            .collect();
        let mut taken = 0;
        for step in 0..5_u64 {
            let size = if step == 2 { 5.0 } else { 0.05 };
            let mut numbers: Vec<Vec<f32>> = starts
                .iter()
                .enumerate()
                .map(|(i, s)| normal(10 + step * 3 + i as u64, s.rows, s.cols, size).to_f32())
                .collect();
            if step == 3 {
                numbers[1][2] = f32::INFINITY;
            }
            let mut gradients = Gradients::zeros(&engine, &parameters);
            assert!(gradients.get(frozen).is_none());
            fill(&engine, &parameters, &mut gradients, &numbers);
            let before = read_all(&engine, &parameters, &optimizer);
            let rate = StepRate {
                learning_rate: 0.01 * (step + 1) as f64,
                clip: Some(2.0),
            };
            let report = optimizer.step(&engine, &mut parameters, &gradients, rate);
            if step == 3 {
                assert!(!report.applied && !report.grad_norm.is_finite());
                assert_eq!(optimizer.steps(), taken);
                assert_bits(
                    "after a gradient that is not finite",
                    &read_all(&engine, &parameters, &optimizer),
                    &before,
                );
                continue;
            }
            taken += 1;
            let norm = numbers
                .iter()
                .flatten()
                .map(|&g| f64::from(g).powi(2))
                .sum::<f64>()
                .sqrt();
            assert!(report.applied && (report.grad_norm - norm).abs() < 1e-12 * norm);
            assert_eq!(norm > 2.0, step == 2);
            let scale = if norm > 2.0 { 2.0 / norm } else { 1.0 };
            let t = taken as i32;
            for (i, (numbers, state)) in numbers.iter().zip(&mut expected).enumerate() {
                let decay = if i < 2 { 0.3 } else { 0.0 };
                for (&g, [p, m, v]) in numbers.iter().zip(state) {
                    let g = f64::from(g) * scale;
                    *m = 0.9 * *m + 0.1 * g;
                    *v = 0.95 * *v + 0.05 * g * g;
                    let (m_hat, v_hat) =
                        (*m / (1.0 - 0.9_f64.powi(t)), *v / (1.0 - 0.95_f64.powi(t)));
                    *p -= rate.learning_rate * (decay * *p + m_hat / (v_hat.sqrt() + 1e-6));
                }
            }
            for (i, (id, parameter)) in parameters.iter().take(3).enumerate() {
                let column = |c: usize| expected[i].iter().map(|s| s[c]).collect::<Vec<_>>();
                let (m, v) = optimizer.moments(id).expect("trained");
                let what = format!("step {step}, tensor {i} on {}", engine.isa());
                assert_near(&what, &engine.read(parameter.value()), &column(0), 1e-6);
                assert_near(&what, &engine.read(m), &column(1), 1e-6);
                assert_near(&what, &engine.read(v), &column(2), 1e-6);
            }
        }
        assert_eq!(engine.read(parameters.get(frozen).value()), [1.0; 4]);
    }
}

#[test]
fn a_resumed_optimiser_takes_the_same_step() {
    for engine in engines() {
        let mut parameters = parameters(&engine);
        let constants = AdamW {
            weight_decay: 0.1,
            ..AdamW::default()
        };
        let mut optimizer = Optimizer::new(&engine, &parameters, constants);
        let rate = StepRate {
            learning_rate: 1e-2,
            clip: Some(1.0),
        };
        for _ in 0..2 {
            let gradients = token_step(&engine, &parameters, false).gradients;
            optimizer.step(&engine, &mut parameters, &gradients, rate);
        }
        let mut resumed_parameters = parameters.duplicate(&engine);
        let mut resumed = Optimizer::new(&engine, &resumed_parameters, constants);
        resumed.set_steps(optimizer.steps());
        for (id, _) in parameters.iter() {
            let (m, v) = optimizer.moments(id).expect("trained");
            let (m, v) = (engine.read(m), engine.read(v));
            let (to_m, to_v) = resumed.moments_mut(id).expect("trained");
            engine.write(to_m, &m);
            engine.write(to_v, &v);
        }
        let gradients = token_step(&engine, &parameters, false).gradients;
        optimizer.step(&engine, &mut parameters, &gradients, rate);
        let gradients = token_step(&engine, &resumed_parameters, false).gradients;
        resumed.step(&engine, &mut resumed_parameters, &gradients, rate);
        let got = read_all(&engine, &resumed_parameters, &resumed);
        assert_bits("resumed", &got, &read_all(&engine, &parameters, &optimizer));
        // What kernels read was brought up to date too.
        let [a, b] =
            [&parameters, &resumed_parameters].map(|p| token_step(&engine, p, false).numbers);
        assert_bits("after the step", &a, &b);
        let fresh = token_step(&engine, &parameters.duplicate(&engine), false).numbers;
        assert_bits("packed again after the step", &a, &fresh);
    }
}

/// Gradients of these numbers: each tensor's rows are taken by an embedding whose seed they are.
fn fill(engine: &Engine, parameters: &Parameters, gradients: &mut Gradients, numbers: &[Vec<f32>]) {
    let mut tape = Tape::training(engine, parameters);
    let rows: Vec<Var> = parameters
        .iter()
        .take(numbers.len())
        .map(|(id, p)| tape.embedding(id, &(0..p.value().rows() as u32).collect()))
        .collect();
    let seeds = rows
        .iter()
        .zip(numbers)
        .map(|(x, n)| (x, engine.tensor(x.shape().0, x.shape().1, n)));
    tape.backward(seeds.collect(), gradients);
}

fn read_all(engine: &Engine, parameters: &Parameters, optimizer: &Optimizer) -> Vec<f32> {
    let mut all = Vec::new();
    for (id, parameter) in parameters.iter() {
        all.extend(engine.read(parameter.value()));
        if let Some((m, v)) = optimizer.moments(id) {
            all.extend(engine.read(m));
            all.extend(engine.read(v));
        }
    }
    all
}

#[test]
fn frozen_parameters_pass_gradients_on() {
    for engine in engines() {
        let mut parameters = parameters(&engine);
        let all = token_step(&engine, &parameters, false);
        for name in ["q", "norm", "layer norm", "gate", "embed"] {
            let id = parameters.find(name).expect("there");
            parameters.set_trainable(id, false);
        }
        let some = token_step(&engine, &parameters, true);
        assert_bits("numbers", &some.numbers, &all.numbers);
        for (id, parameter) in parameters.iter() {
            match some.gradients.get(id) {
                Some(gradient) => {
                    let expected = engine.read(all.gradients.get(id).expect("there"));
                    assert_bits(parameter.name(), &engine.read(gradient), &expected);
                }
                None => assert!(!parameter.trainable()),
            }
        }
    }
}

#[test]
fn a_step_takes_no_new_memory() {
    let engine = engine(Isa::detect(), Precision::Bf16, 2);
    let mut parameters = parameters(&engine);
    let mut optimizer = Optimizer::new(&engine, &parameters, AdamW::default());
    let mut idle = Vec::new();
    for _ in 0..6 {
        let step = token_step(&engine, &parameters, true);
        optimizer.step(
            &engine,
            &mut parameters,
            &step.gradients,
            StepRate {
                learning_rate: 1e-3,
                clip: None,
            },
        );
        drop(step);
        idle.push(engine.idle_bytes());
    }
    // After the first step every buffer of the store waits to be used again, and no other is made.
    assert!(
        idle[0] > 0 && idle.iter().all(|&bytes| bytes == idle[0]),
        "{idle:?}"
    );
    engine.release_idle_memory();
    assert_eq!(engine.idle_bytes(), 0);
}

/// Outputs of `queries` at the end of a cache whose keys and values are given.
fn attend(engine: &Engine, shape: &AttentionShape, queries: &[f32], kv: [&[f32]; 2]) -> Vec<f32> {
    let parameters = Parameters::new();
    let width = shape.kv_heads * shape.head_dim;
    let n = kv[0].len() / width;
    let mut cache = SequenceCache::new(engine, 1, shape);
    let mut tape = Tape::inference(engine, &parameters);
    let mut out = Vec::new();
    // All but the last three positions first, with queries of no interest
    for range in [0..n - 3, n - 3..n] {
        let rows = range.len();
        let layout = Layout::continued([(range.start, rows)]);
        let [k, v] = kv.map(|x| {
            tape.constant(engine.tensor(rows, width, &x[range.start * width..range.end * width]))
        });
        let q = &queries
            [range.start * shape.heads * shape.head_dim..range.end * shape.heads * shape.head_dim];
        let q = tape.constant(engine.tensor(rows, shape.heads * shape.head_dim, q));
        let inputs = AttentionInputs { q, k, v };
        let found = tape.attention_cached(inputs, shape, &layout, (&mut [&mut cache], 0));
        out = engine.read(found.value());
    }
    out
}

#[test]
fn one_unit_of_one_cached_number_shows() {
    let shape = AttentionShape {
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        scale: 0.25,
        mask: Mask::Causal,
    };
    for engine in engines() {
        let n = 70;
        // Numbers of bf16, so that a unit of the cache's type is known
        let unit = if engine.precision() == Precision::Bf16 {
            1 << 16
        } else {
            1
        };
        let rounded = |seed| -> Vec<f32> {
            let numbers = normal(seed, n, 32, 1.0).to_f32();
            numbers
                .into_iter()
                .map(|x| f32::from_bits(x.to_bits() & 0xffff_0000))
                .collect()
        };
        let (queries, keys, values) = (normal(1, n, 64, 1.0).to_f32(), rounded(2), rounded(3));
        let as_it_was = attend(&engine, &shape, &queries, [&keys, &values]);
        assert_bits(
            "the same again",
            &attend(&engine, &shape, &queries, [&keys, &values]),
            &as_it_was,
        );
        let mut shown = 0;
        let places: Vec<usize> = (0..60).map(|i| i * 35 % ((n - 3) * 32)).collect();
        for &place in &places {
            let nudged = |numbers: &[f32]| {
                let mut numbers = numbers.to_vec();
                numbers[place] = f32::from_bits(numbers[place].to_bits() + unit);
                numbers
            };
            let by_key = attend(&engine, &shape, &queries, [&nudged(&keys), &values]);
            let by_value = attend(&engine, &shape, &queries, [&keys, &nudged(&values)]);
            for out in [by_key, by_value] {
                let differ = |head: usize| {
                    let columns = (0..3 * 64).filter(|c| c % 64 / 16 == head);
                    columns
                        .filter(|&c| out[c].to_bits() != as_it_was[c].to_bits())
                        .count()
                };
                // Two query heads read each head of keys; the others must not notice.
                let mine = place % 32 / 16;
                let others = (0..4).filter(|h| h / 2 != mine).map(differ).sum::<usize>();
                assert_eq!(
                    others,
                    0,
                    "{}: heads that do not read the number",
                    engine.isa()
                );
                shown += usize::from((0..4).map(differ).sum::<usize>() > 0);
            }
        }
        // A unit of f32 is often lost under a small weight; one of bf16 hardly ever.
        let (shown, all) = (shown, 2 * places.len());
        let least = if engine.precision() == Precision::Bf16 {
            all * 9 / 10
        } else {
            all / 8
        };
        assert!(
            shown >= least,
            "{shown} of {all} on {} in {:?}",
            engine.isa(),
            engine.precision()
        );
    }
}
