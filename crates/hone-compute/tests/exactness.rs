//! Which results of the tape and the optimiser are equal to the bit.

mod common;

use std::sync::Arc;

use common::{engine, engines, ids, normal, read_all};
use hone_compute::rope::RopeTable;
use hone_compute::{
    Activation, AdamW, AttentionInputs, AttentionShape, Engine, Gradients, Isa, Layout, LinearWeight, Mask, Optimizer,
    Parameters, Precision, SequenceCache, StepRate, Tape, TokenTargets, Var,
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
            engine.tensor(rows, cols, &normal(i as u64, rows, cols, deviation).to_f32()),
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
    let table = Arc::new(RopeTable::new(&[1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005], 1.0, 256));
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
    let seed = |i: u64| engine.tensor(layout.rows(), 1, &normal(50 + i, layout.rows(), 1, 1.0).to_f32());
    let mut gradients = Gradients::zeros(engine, parameters);
    tape.backward(
        vec![(&found.logprob, seed(0)), (&found.entropy, seed(1)), (&score, seed(2))],
        &mut gradients,
    );
    Step { numbers, gradients }
}

fn assert_same(what: &str, engine: &Engine, parameters: &Parameters, (got, expected): (&Gradients, &Gradients)) {
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
        let [kept, again] = [false, true].map(|recompute| token_step(&engine, &parameters, recompute));
        let what = format!("recomputed on {} in {:?}", engine.isa(), engine.precision());
        assert_bits(&what, &again.numbers, &kept.numbers);
        assert_same(&what, &engine, &parameters, (&again.gradients, &kept.gradients));
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
        let expected = (engine.read(found.logprob.value()), engine.read(found.entropy.value()));
        let seed = engine.tensor(n, 1, &weights.iter().map(|w| -w).collect::<Vec<_>>());
        let mut separate = Gradients::zeros(&engine, &parameters);
        tape.backward(vec![(&found.logprob, seed)], &mut separate);

        let mut tape = Tape::training(&engine, &parameters);
        let last = hidden(&mut tape, &tokens, &layout, false);
        let mut together = Gradients::zeros(&engine, &parameters);
        let got = tape.backward_cross_entropy(&last, &asked, &weights, &mut together);

        let what = format!("cross-entropy on {} in {:?}", engine.isa(), engine.precision());
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
        assert_same("cross-entropy", &engine, &parameters, (&together, &separate));
        // One row alone has the bits that it has among the others.
        let mut tape = Tape::inference(&engine, &parameters);
        let alone = tape.embedding(table, &[130].into());
        let asked = TokenTargets {
            targets: [targets[130]].into(),
            ..asked
        };
        let alone = tape.token_logprobs(&alone, &asked);
        assert_bits("alone", &engine.read(alone.logprob.value()), &logprobs[130..]);
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
        let mut resumed_parameters = parameters.duplicate();
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
        let [a, b] = [&parameters, &resumed_parameters].map(|p| token_step(&engine, p, false).numbers);
        assert_bits("after the step", &a, &b);
        let mut again = parameters.duplicate();
        for (id, parameter) in parameters.iter() {
            again.set(&engine, id, &engine.read(parameter.value()));
        }
        let fresh = token_step(&engine, &again, false).numbers;
        assert_bits("packed again after the step", &a, &fresh);
    }
}

#[test]
fn duplicates_share_what_neither_changes() {
    for engine in engines() {
        let original = parameters(&engine);
        let before = token_step(&engine, &original, false).numbers;
        let mut copy = original.duplicate();
        let changed = copy.find("gate").expect("there");
        let numbers: Vec<f32> = engine
            .read(copy.get(changed).value())
            .iter()
            .map(|x| x + 0.25)
            .collect();
        copy.set(&engine, changed, &numbers);
        for (id, parameter) in original.iter() {
            let shared = std::ptr::eq(parameter.value(), copy.get(id).value());
            assert_eq!(shared, id != changed, "{}", parameter.name());
        }
        assert_bits("the original", &token_step(&engine, &original, false).numbers, &before);
        let moved = token_step(&engine, &copy, false).numbers;
        assert!(
            moved.iter().zip(&before).any(|(a, b)| a != b),
            "the copy has not changed"
        );
        copy.own_trainable(&engine);
        for (id, parameter) in original.iter() {
            assert!(
                !std::ptr::eq(parameter.value(), copy.get(id).value()),
                "{}",
                parameter.name()
            );
        }
    }
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
    assert!(idle[0] > 0 && idle.iter().all(|&bytes| bytes == idle[0]), "{idle:?}");
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
        let [k, v] = kv.map(|x| tape.constant(engine.tensor(rows, width, &x[range.start * width..range.end * width])));
        let q = &queries[range.start * shape.heads * shape.head_dim..range.end * shape.heads * shape.head_dim];
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
                    columns.filter(|&c| out[c].to_bits() != as_it_was[c].to_bits()).count()
                };
                // Two query heads read each head of keys; the others must not notice.
                let mine = place % 32 / 16;
                let others = (0..4).filter(|h| h / 2 != mine).map(differ).sum::<usize>();
                assert_eq!(others, 0, "{}: heads that do not read the number", engine.isa());
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
