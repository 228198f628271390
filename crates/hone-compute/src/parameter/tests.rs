//! Weights in packed form for a while, or kept.

use super::*;
use crate::cpu::backend::CpuBackend;
use crate::isa::{Isa, Precision};
use crate::{LinearWeight, SampleRow, SamplingParameters, Tape, TokenTargets};

/// No multiple of the columns that are packed at once, and more than them.
const TOKENS: usize = 5003;
const WIDTH: usize = 20;
const ROWS: usize = 37;

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trained {
    All,
    /// A matrix beside frozen ones, and the output matrix.
    Some,
}

struct Model {
    parameters: Parameters,
    embedding: ParameterId,
    up: LinearWeight,
    side: LinearWeight,
    down: ParameterId,
    output: ParameterId,
}

impl Model {
    /// With an output matrix of its own, or with the embedding.
    fn new(engine: &Engine, trained: Trained, untied: bool) -> Self {
        let mut parameters = Parameters::new();
        let mut add = |name: &str, rows: usize, cols: usize| {
            let numbers: Vec<f32> = (0..rows * cols)
                .map(|i| ((i * 37 + name.len() * 11) % 101) as f32 / 300.0 - 0.17)
                .collect();
            parameters.add(name, engine.tensor(rows, cols, &numbers))
        };
        let embedding = add("embedding", TOKENS, WIDTH);
        let up = LinearWeight {
            weight: add("up", 2 * WIDTH, WIDTH),
            bias: Some(add("bias", 1, 2 * WIDTH)),
        };
        let side = add("side", 2 * WIDTH, WIDTH).into();
        let down = add("down", WIDTH, 2 * WIDTH);
        let output = if untied {
            add("output", TOKENS, WIDTH)
        } else {
            embedding
        };
        if trained == Trained::Some {
            for id in [embedding, up.weight, down] {
                parameters.set_trainable(id, false);
            }
        }
        Self {
            parameters,
            embedding,
            up,
            side,
            down,
            output,
        }
    }

    fn hidden(&self, tape: &mut Tape<'_>) -> crate::Var {
        let ids: Arc<[u32]> = (0..ROWS as u32).map(|i| i * 131 % TOKENS as u32).collect();
        let x = tape.embedding(self.embedding, &ids);
        let (up, side, down) = (self.up, self.side, self.down);
        let y = tape.recompute(&x, move |tape, x| {
            let both = tape.linears(x, &[up, side]);
            let inner = tape.swiglu(&both[0], &both[1]);
            tape.linear(&inner, down)
        });
        tape.add(x, y)
    }

    fn asked(&self) -> TokenTargets {
        TokenTargets {
            output: self.output,
            targets: (0..ROWS as u32).map(|i| (i * 577 + 4090) % TOKENS as u32).collect(),
            temperature: 0.9,
        }
    }

    /// Log-probabilities, losses and all gradients of a step, as bits.
    fn numbers(&self, engine: &Engine) -> Vec<Vec<u32>> {
        let mut gradients = Gradients::zeros(engine, &self.parameters);
        let weights: Vec<f32> = (0..ROWS).map(|i| i as f32 / 50.0 - 0.3).collect();
        let mut tape = Tape::training(engine, &self.parameters);
        let hidden = self.hidden(&mut tape);
        let (known, entropies) = tape.backward_cross_entropy(&hidden, &self.asked(), &weights, &mut gradients);
        let mut tape = Tape::training(engine, &self.parameters);
        let hidden = self.hidden(&mut tape);
        let found = tape.token_logprobs(&hidden, &self.asked());
        let logprobs = engine.read(found.logprob.value());
        let seeds = [&found.logprob, &found.entropy].map(|var| (var, engine.tensor(ROWS, 1, &weights)));
        tape.backward(seeds.into(), &mut gradients);
        let mut tape = Tape::inference(engine, &self.parameters);
        let hidden = self.hidden(&mut tape);
        let read = tape.token_logprobs(&hidden, &self.asked());
        let mut all = vec![known, entropies, logprobs, engine.read(read.entropy.value())];
        let ids = self.parameters.iter().map(|(id, _)| id);
        all.extend(ids.filter_map(|id| gradients.get(id)).map(|tensor| engine.read(tensor)));
        let bits = all.iter().map(|numbers| numbers.iter().map(|x| x.to_bits()).collect());
        bits.collect()
    }

    fn states(&self, engine: &Engine) -> Vec<f32> {
        let mut tape = Tape::inference(engine, &self.parameters);
        engine.read(self.hidden(&mut tape).value())
    }

    fn sample(&self, engine: &Engine) {
        let mut tape = Tape::decoding(engine, &self.parameters);
        let hidden = self.hidden(&mut tape);
        let row = SampleRow {
            parameters: SamplingParameters::default(),
            uniform: 0.5,
        };
        tape.sample(&hidden, self.output, &[row; ROWS]).unwrap();
    }

    /// How many weights are there in packed form.
    fn packed(&self) -> usize {
        self.parameters.iter().filter_map(|(_, p)| p.packed()).count()
    }
}

fn engine(isa: Isa, precision: Precision) -> Engine {
    Engine::on(Arc::new(CpuBackend::new(isa, precision, 2)))
}

#[test]
fn a_step_of_few_microbatches_packs_for_a_while() {
    let packings = [0, 1, 2, 3, 64].map(Packing::of_step);
    assert_eq!(packings[..3], [Packing::ForAWhile; 3]);
    assert_eq!(packings[3..], [Packing::Kept; 2]);
}

#[test]
fn packing_for_a_while_leaves_nothing_and_changes_no_bit() {
    for isa in Isa::all_here() {
        for precision in [Precision::Bf16, Precision::F32] {
            for (trained, untied) in [(Trained::All, false), (Trained::All, true), (Trained::Some, true)] {
                let what = format!("{isa} {precision:?} {trained:?}, untied: {untied}");
                let engine = engine(isa, precision);
                let mut model = Model::new(&engine, trained, untied);
                model.parameters.set_packing(Packing::ForAWhile);
                let for_a_while = model.numbers(&engine);
                assert_eq!(model.packed(), 0, "{what}");
                model.parameters.set_packing(Packing::Kept);
                let kept = model.numbers(&engine);
                assert_eq!(model.packed(), 4, "{what}");
                assert!(for_a_while == kept, "{what}");
            }
        }
    }
}

#[test]
fn a_form_that_is_there_is_used_and_kept_up_to_date() {
    for trained in [Trained::All, Trained::Some] {
        let engine = engine(Isa::detect(), Precision::Bf16);
        let mut model = Model::new(&engine, trained, true);
        model.parameters.set_packing(Packing::ForAWhile);
        let before = model.states(&engine);
        model.sample(&engine);
        assert_eq!(model.packed(), 4, "sampling keeps forms");
        // Numbers that change without the form's knowing show which of both is read
        let weight = &mut model.parameters.items[model.down.0].weight;
        let value = &mut Arc::get_mut(weight).expect("one model").value;
        let numbers = vec![0.25; value.len()];
        engine.write(value, &numbers);
        assert_eq!(model.states(&engine), before, "the form is read");
        model.parameters.set(&engine, model.down, &numbers);
        let with_forms = model.numbers(&engine);
        assert_eq!(model.packed(), 4, "and stays");
        model.parameters.drop_packed();
        assert_eq!(model.packed(), 0);
        let without = model.numbers(&engine);
        assert!(with_forms == without, "it is up to date");
        assert_eq!(model.packed(), 0);
    }
}

#[test]
fn what_duplicates_share_is_dropped_too() {
    let engine = engine(Isa::detect(), Precision::F32);
    let mut model = Model::new(&engine, Trained::All, true);
    model.parameters.set_packing(Packing::ForAWhile);
    let copy = model.parameters.duplicate();
    assert_eq!(copy.packing(), Packing::ForAWhile);
    model.sample(&engine);
    assert_eq!(copy.iter().filter_map(|(_, p)| p.packed()).count(), 4);
    model.parameters.drop_packed();
    assert_eq!(copy.iter().filter_map(|(_, p)| p.packed()).count(), 0);
}
