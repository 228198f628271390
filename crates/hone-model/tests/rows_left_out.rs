//! Hidden states of chosen rows, behind whose last attention hardly any others are computed, are those of all rows to the bit,
//! and so are the gradients of all weights.

mod common;

use std::sync::Arc;

use common::{VOCABULARY, architectures, engine, random_model, randomise, tokens};
use hone_compute::{Engine, EngineOptions, Gradients, Isa, Layout, Precision, Tape, Var};
use hone_model::{Architecture, LoraConfig, NewModel, Tokens, Transformer};

/// How the chosen rows are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// All rows, of which they are chosen.
    All,
    Alone,
    /// The same, the blocks once more on the way back.
    Recomputed,
}

/// 143 rows, an odd number, in three chunks of the sums over rows.
fn short() -> Layout {
    Layout::whole(&[70, 2, 68, 3])
}

/// 613 rows of sequences that share beginnings, more than the products go through at once.
fn long() -> Layout {
    Layout::branching([(70, &[40, 3, 60][..]), (100, &[50, 0, 20]), (30, &[60; 4])])
}

fn states<'p>(model: &'p Transformer, tape: &mut Tape<'p>, (layout, rows): (&Layout, &Arc<[u32]>), way: Way) -> Var {
    let ids: Arc<[u32]> = tokens(5, layout.rows()).into();
    let batch = Tokens { ids: &ids, layout };
    if way == Way::All {
        let hidden = model.hidden(tape, &batch);
        tape.select_rows(&hidden, rows)
    } else {
        model.hidden_of(tape, &batch, rows)
    }
}

/// Bits of the log-probabilities of what follows these rows and of the head, and of the gradients of two weighted sums of them,
/// one added to the other.
fn bits(engine: &Engine, model: &mut Transformer, asked: (&Layout, &Arc<[u32]>), way: Way) -> Vec<Vec<u32>> {
    model.set_recompute(way == Way::Recomputed);
    let rows = asked.1;
    let targets: Arc<[u32]> = rows.iter().map(|row| row % VOCABULARY as u32).collect();
    let mut gradients = Gradients::zeros(engine, model.parameters());
    let mut found = Vec::new();
    for pass in [0.1, 0.4] {
        let mut tape = Tape::training(engine, model.parameters());
        let chosen = states(model, &mut tape, asked, way);
        let logprob = model.logprobs(&mut tape, &chosen, &targets, 0.9).logprob;
        let head = model.head_outputs(&mut tape, &chosen);
        let seed = |of: f32| {
            let weights: Vec<f32> = (0..rows.len()).map(|i| (i as f32 * 0.7 + of).sin()).collect();
            engine.tensor(weights.len(), 1, &weights)
        };
        found.extend([engine.read(logprob.value()), engine.read(head.value())]);
        tape.backward(vec![(&logprob, seed(pass)), (&head, seed(pass + 0.1))], &mut gradients);
    }
    let ids = model.parameters().iter().map(|(id, _)| id);
    found.extend(
        ids.filter_map(|id| gradients.get(id))
            .map(|gradient| engine.read(gradient)),
    );
    let bits = |numbers: Vec<f32>| numbers.into_iter().map(f32::to_bits).collect();
    found.into_iter().map(bits).collect()
}

/// Rows of `n` in any order, some more than once: one, some far apart, an odd number of pieces, all but some that make room
/// enough to leave them out, and all.
fn choices(n: u32) -> Vec<Arc<[u32]>> {
    let pieces = (30..60).chain([71, 71]).chain(n - 44..n - 4).chain([n - 1]);
    vec![
        [75].into(),
        [69, 71, n - 4, n - 1].into(),
        [n - 1, 3, 64, 64, 63].into(),
        pieces.collect(),
        (0..n).filter(|row| !(32..64).contains(row) && row % 12 > 1).collect(),
        (0..n).collect(),
    ]
}

fn assert_same(engine: &Engine, model: &mut Transformer, (what, layout): (&str, &Layout)) {
    for rows in choices(layout.rows() as u32) {
        let all = bits(engine, model, (layout, &rows), Way::All);
        for way in [Way::Alone, Way::Recomputed] {
            let some = bits(engine, model, (layout, &rows), way);
            assert_eq!(some.len(), all.len());
            let which = some.iter().zip(&all).position(|(some, all)| some != all);
            assert_eq!(which, None, "{what}, {way:?}, {} rows: a result", rows.len());
        }
    }
}

#[test]
fn no_bit_changes_in_any_family() {
    for (what, architecture) in architectures() {
        for precision in [Precision::F32, Precision::Bf16] {
            let engine = engine(Isa::detect(), precision, 2);
            let mut model = random_model(&engine, &architecture, 3);
            model.add_reward_head(&engine, 5);
            assert_same(&engine, &mut model, (&format!("{what} {precision:?}"), &short()));
        }
    }
}

/// Wider than a panel of the products, within and behind the last block.
fn wide() -> Architecture {
    let model = NewModel {
        family: "llama".into(),
        width: 72,
        layers: 2,
        heads: 3,
        kv_heads: Some(3),
        head_dim: Some(24),
        intermediate: Some(150),
        context: 160,
        tied: false,
        rope_theta: 10_000.0,
    };
    model.architecture(VOCABULARY).expect("a sound shape")
}

#[test]
fn no_bit_changes_on_any_instruction_set() {
    for isa in Isa::all_here() {
        for precision in [Precision::F32, Precision::Bf16] {
            let engine = engine(isa, precision, 2);
            let mut model = random_model(&engine, &wide(), 4);
            model.add_reward_head(&engine, 5);
            for layout in [short(), long()] {
                assert_same(&engine, &mut model, (&format!("{isa} {precision:?}"), &layout));
            }
        }
    }
}

#[test]
fn no_bit_of_an_adapter_changes() {
    let (what, architecture) = &architectures()[0];
    let engine = engine(Isa::detect(), Precision::Bf16, 2);
    let mut model = random_model(&engine, architecture, 6);
    model.add_reward_head(&engine, 5);
    let targets = ["q_proj", "o_proj", "gate_proj", "down_proj"].map(String::from);
    let config = LoraConfig {
        targets: targets.into(),
        ..LoraConfig::default()
    };
    model.add_adapter(&engine, &config, 7).expect("an adapter");
    randomise(&engine, &mut model, 8);
    model.train_head();
    assert_same(&engine, &mut model, (what, &short()));
}

/// Operations of a training step that asks for these rows.
fn operations(options: &EngineOptions, asked: (&Layout, &Arc<[u32]>), way: Way) -> f64 {
    let engine = Engine::rehearsal(options).expect("an instruction set of this machine");
    let model = Transformer::random(&engine, wide(), 1);
    let mut tape = Tape::training(&engine, model.parameters());
    let chosen = states(&model, &mut tape, asked, way);
    let mut gradients = Gradients::zeros(&engine, model.parameters());
    let seed = engine.zeros(chosen.shape().0, chosen.shape().1);
    tape.backward(vec![(&chosen, seed)], &mut gradients);
    engine.account().expect("a rehearsal").operations
}

#[test]
fn rows_are_left_out() {
    let layout = short();
    for isa in Isa::all_here() {
        for precision in [Precision::F32, Precision::Bf16] {
            let options = EngineOptions {
                isa: Some(isa),
                precision,
                threads: Some(1),
            };
            // Rows 75; and 0, 1, 2, 64 and 65 with their neighbours in groups of 1, 2 or 32
            let left = match (precision, isa) {
                (Precision::F32, _) => [1, 5],
                (Precision::Bf16, Isa::Amx) => [32, 64],
                (Precision::Bf16, _) => [2, 6],
            };
            let weights = 72 * 72 + 3 * 72 * 150;
            for (rows, left) in [&[75][..], &[0, 1, 2, 65, 64, 0]].into_iter().zip(left) {
                let rows: Arc<[u32]> = rows.into();
                let [all, alone] = [Way::All, Way::Alone].map(|way| operations(&options, (&layout, &rows), way));
                // A product of the way forward and two of the way back, of two operations each
                let saved = (6 * weights * (layout.rows() - left)) as f64;
                assert_eq!(all - alone, saved, "{isa} {precision:?}, {} rows", rows.len());
            }
        }
    }
}
