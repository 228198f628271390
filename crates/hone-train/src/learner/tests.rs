//! What steps, evaluations and samples leave of weights in packed form.

use std::sync::Arc;

use hone_compute::{EngineOptions, Isa, Precision, Tape};
use hone_data::TokenExample;
use hone_model::{LoraConfig, NewModel, Tokens};

use super::*;
use crate::language::{LanguageBatch, cross_entropy_step, evaluate};

/// No multiple of the columns that are packed at once, and more than them.
const TOKENS: usize = 4999;
const CONSTANTS: AdamW = AdamW {
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.1,
};

/// Whether the output matrix is the embedding's, and whether an adapter is trained, on a tied one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Tied,
    Untied,
    Lora,
}

pub(crate) fn learner(engine: &Engine, kind: Kind) -> Learner {
    let tied = !matches!(kind, Kind::Untied);
    let new = format!(r#"{{"width": 16, "layers": 2, "heads": 2, "intermediate": 32, "tied": {tied}}}"#);
    let new: NewModel = serde_json::from_str(&new).unwrap();
    let mut model = Transformer::random(engine, new.architecture(TOKENS).unwrap(), 1);
    if matches!(kind, Kind::Lora) {
        model.add_adapter(engine, &LoraConfig::default(), 1).unwrap();
    }
    Learner::new(engine, model, CONSTANTS)
}

fn batch(number: u32) -> LanguageBatch {
    let example = TokenExample {
        ids: (0..20).map(|i| (number * 631 + i * 977) % TOKENS as u32).collect(),
        trained: vec![true; 20],
    };
    LanguageBatch::of_examples([&example])
}

/// A step of so many micro-batches in two shards. Gives its gradients.
pub(crate) fn step(engine: &Engine, learner: &mut Learner, microbatches: u32) -> Vec<Vec<u32>> {
    let mut shards = vec![Vec::new(), Vec::new()];
    (0..microbatches).for_each(|number| shards[number as usize % 2].push(batch(number)));
    let add = |model: &Transformer, batch: LanguageBatch, gradients: &mut Gradients| {
        cross_entropy_step(engine, model, &batch, (60, 1.0), gradients).map(|_| ())
    };
    let gradients = learner.gradients(engine, shards, add).unwrap();
    let rate = StepRate {
        learning_rate: 1e-2,
        clip: Some(1.0),
    };
    learner.apply(engine, &gradients, rate, 0).unwrap();
    let ids = learner.model.parameters().iter().map(|(id, _)| id);
    let tensors = ids.filter_map(|id| gradients.get(id));
    tensors
        .map(|t| engine.read(t).iter().map(|x| x.to_bits()).collect())
        .collect()
}

/// An engine that counts.
pub(crate) fn rehearsal() -> Engine {
    Engine::rehearsal(&EngineOptions::default()).unwrap()
}

pub(crate) fn packed_bytes(engine: &Engine) -> usize {
    engine.account().expect("a rehearsal").now.packed
}

/// Makes the packed forms that sampling makes.
pub(crate) fn decode(engine: &Engine, model: &Transformer) {
    let mut tape = Tape::decoding(engine, model.parameters());
    let (ids, layout) = (Arc::from([1_u32, 2]), hone_compute::Layout::whole(&[2]));
    let tokens = Tokens {
        ids: &ids,
        layout: &layout,
    };
    let hidden = model.hidden(&mut tape, &tokens);
    model.logprobs(&mut tape, &hidden, &Arc::from([3, 4]), 1.0);
}

#[test]
fn steps_give_the_same_numbers_with_packed_forms_and_without() {
    for isa in Isa::all_here() {
        for (kind, precision) in [
            (Kind::Tied, Precision::Bf16),
            (Kind::Untied, Precision::F32),
            (Kind::Untied, Precision::Bf16),
            (Kind::Lora, Precision::Bf16),
        ] {
            let options = EngineOptions {
                isa: Some(isa),
                precision,
                threads: Some(2),
            };
            let engine = Engine::new(&options).unwrap();
            let [mut with, mut without] = [(); 2].map(|()| learner(&engine, kind));
            decode(&engine, &with.model);
            for microbatches in [1, 2, 2] {
                let expected = step(&engine, &mut with, microbatches);
                assert!(expected.iter().flatten().any(|&x| x != 0));
                assert!(
                    step(&engine, &mut without, microbatches) == expected,
                    "{isa} {precision:?} {kind:?}"
                );
            }
        }
    }
}

#[test]
fn steps_of_few_microbatches_leave_no_packed_form() {
    for kind in [Kind::Tied, Kind::Untied, Kind::Lora] {
        let engine = rehearsal();
        let mut learner = learner(&engine, kind);
        evaluate(&engine, &learner.model, &batch(7)).unwrap();
        assert_eq!(
            packed_bytes(&engine),
            0,
            "{kind:?}: an evaluation before the first step"
        );
        for microbatches in [0, 1, 2] {
            step(&engine, &mut learner, microbatches);
            evaluate(&engine, &learner.model, &batch(7)).unwrap();
            assert_eq!(packed_bytes(&engine), 0, "{kind:?}: {microbatches} micro-batches");
        }
        step(&engine, &mut learner, 3);
        let kept = packed_bytes(&engine);
        assert!(kept > 2 * 16 * TOKENS, "{kind:?}: three");
        step(&engine, &mut learner, 1);
        assert_eq!(packed_bytes(&engine), kept, "{kind:?}: what is there stays");
    }
}
