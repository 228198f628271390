//! Hidden states of chosen rows, behind whose last attention hardly any others are computed, are those of all rows to the bit,
//! and so are the gradients of all weights.

mod common;

use std::sync::Arc;

use common::{architectures, engine, pack, random_model, randomise, tokens};
use hone_compute::{Engine, Gradients, Isa, Precision, Tape};
use hone_model::{LoraConfig, Tokens, Transformer};

/// Sequences whose rows are 143 in all, an odd number, in three chunks of the sums over rows.
const LENGTHS: [usize; 4] = [70, 2, 68, 3];

/// How the chosen rows are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// All rows, of which they are chosen.
    All,
    Alone,
    /// The same, the blocks once more on the way back.
    Recomputed,
}

/// Bits of the log-probabilities of what follows these rows and of the head, and of the gradients of a weighted sum of them.
fn bits(engine: &Engine, model: &mut Transformer, rows: &Arc<[u32]>, way: Way) -> Vec<Vec<u32>> {
    model.set_recompute(way == Way::Recomputed);
    let sequences: Vec<Vec<u32>> = (0..).zip(LENGTHS).map(|(i, length)| tokens(i, length)).collect();
    let pack = pack(&sequences);
    let batch = Tokens {
        ids: &pack.ids,
        layout: &pack.layout,
    };
    let mut tape = Tape::training(engine, model.parameters());
    let chosen = match way {
        Way::All => {
            let hidden = model.hidden(&mut tape, &batch);
            tape.select_rows(&hidden, rows)
        }
        _ => model.hidden_of(&mut tape, &batch, rows),
    };
    let targets: Arc<[u32]> = rows.iter().map(|row| row % 61).collect();
    let logprob = model.logprobs(&mut tape, &chosen, &targets, 0.9).logprob;
    let head = model.head_outputs(&mut tape, &chosen);
    let seed = |of: f32| {
        let weights: Vec<f32> = (0..rows.len()).map(|i| (i as f32 * 0.7 + of).sin()).collect();
        engine.tensor(weights.len(), 1, &weights)
    };
    let mut found = vec![engine.read(logprob.value()), engine.read(head.value())];
    let mut gradients = Gradients::zeros(engine, model.parameters());
    tape.backward(vec![(&logprob, seed(0.1)), (&head, seed(0.2))], &mut gradients);
    let ids = model.parameters().iter().map(|(id, _)| id);
    found.extend(
        ids.filter_map(|id| gradients.get(id))
            .map(|gradient| engine.read(gradient)),
    );
    let bits = |numbers: Vec<f32>| numbers.into_iter().map(f32::to_bits).collect();
    found.into_iter().map(bits).collect()
}

/// Rows in any order, some more than once: one, the last of each sequence, what follows a prompt, the last of an odd number;
/// nearly all, and all.
fn choices() -> Vec<Arc<[u32]>> {
    let answers = (30..69).chain([71, 71]).chain(100..140).chain([142]);
    vec![
        [75].into(),
        [69, 71, 139, 142].into(),
        [142, 3, 64, 64, 63].into(),
        answers.collect(),
        (0..143).filter(|row| row % 48 != 7).collect(),
        (0..143).collect(),
    ]
}

fn assert_same(engine: &Engine, model: &mut Transformer, what: &str) {
    for rows in choices() {
        let all = bits(engine, model, &rows, Way::All);
        for way in [Way::Alone, Way::Recomputed] {
            let some = bits(engine, model, &rows, way);
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
            assert_same(&engine, &mut model, &format!("{what} {precision:?}"));
        }
    }
}

#[test]
fn no_bit_changes_on_any_instruction_set() {
    let (what, architecture) = &architectures()[1];
    for isa in Isa::all_here() {
        for precision in [Precision::F32, Precision::Bf16] {
            let engine = engine(isa, precision, 1);
            let mut model = random_model(&engine, architecture, 4);
            model.add_reward_head(&engine, 5);
            assert_same(&engine, &mut model, &format!("{what}, {isa} {precision:?}"));
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
    assert_same(&engine, &mut model, what);
}
