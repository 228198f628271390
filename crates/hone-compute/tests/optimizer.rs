//! The gradient tree and the optimiser against loops written by hand.

mod common;

use common::{engine, engines, normal, read_all};
use hone_compute::{
    AdamW, Engine, GradientTree, Gradients, Isa, Optimizer, Parameters, Precision, StepRate, Tape, Var,
};
use hone_testing::{assert_bits, assert_near};

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
    assert_bits("the seed", &engine.read(gradients.get(id).expect("there")), numbers);
    gradients
}

#[test]
fn a_gradient_whose_square_overflows_skips_the_step() {
    for engine in engines() {
        let mut parameters = Parameters::new();
        parameters.add("w", engine.tensor(1, 4, &[1.0; 4]));
        let mut optimizer = Optimizer::new(&engine, &parameters, AdamW::default());
        let mut step = |parameters: &mut Parameters, size: f32, clip| {
            let mut gradients = Gradients::zeros(&engine, parameters);
            fill(&engine, parameters, &mut gradients, &[vec![0.5, size, -0.25, 0.0]]);
            let learning_rate = 0.1;
            let report = optimizer.step(&engine, parameters, &gradients, StepRate { learning_rate, clip });
            (report, read_all(&engine, parameters, &optimizer))
        };
        let (report, before) = step(&mut parameters, 1.0, None);
        assert!(report.applied);
        let (report, after) = step(&mut parameters, 2e19, None);
        assert!(!report.applied && report.grad_norm.is_finite());
        assert_bits("after the skipped step", &after, &before);
        // Clipped, or small enough by itself, it counts, and nothing is frozen.
        for (size, clip) in [(2e19, Some(1.0)), (1e19, None), (3e38, Some(1e-3))] {
            let (report, now) = step(&mut parameters, size, clip);
            assert!(report.applied && now.iter().all(|x| x.is_finite()), "{size:e}");
            assert!(now != before, "{size:e}");
        }
    }
}

#[test]
fn adamw_as_written_down() {
    // Two matrices and a vector; the third gradient is above the clip, the fourth is not finite.
    for engine in engines() {
        let mut parameters = Parameters::new();
        let starts = [normal(1, 5, 7, 1.0), normal(2, 3, 4, 1.0), normal(3, 1, 9, 1.0)];
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
                    let (m_hat, v_hat) = (*m / (1.0 - 0.9_f64.powi(t)), *v / (1.0 - 0.95_f64.powi(t)));
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
