//! A rehearsal holds what the processor's backend holds: the same steps on both leave the same memory behind.

use std::sync::Arc;

use super::*;
use crate::cpu::backend::CpuBackend;
use crate::parameter::{GradientTree, Gradients, Packing, ParameterId, Parameters};
use crate::rope::{RopeScaling, RopeTable, inverse_frequencies};
use crate::{
    AdamW, AttentionInputs, Engine, LinearWeight, Mask, Optimizer, SamplingParameters, StepRate, Tape, TokenTargets,
    Var,
};

const WIDTH: usize = 48;
const INNER: usize = 80;
const TOKENS: usize = 300;
const SHAPE: AttentionShape = AttentionShape {
    heads: 4,
    kv_heads: 2,
    head_dim: 12,
    scale: 0.3,
    mask: Mask::Causal,
};

/// A block with all that a model has.
struct Model {
    parameters: Parameters,
    embedding: ParameterId,
    norm: ParameterId,
    layer: (ParameterId, ParameterId),
    qkv: [LinearWeight; 3],
    gate: ParameterId,
    up: ParameterId,
    down: ParameterId,
    head: ParameterId,
    rope: Arc<RopeTable>,
}

impl Model {
    fn new(engine: &Engine) -> Self {
        let mut parameters = Parameters::new();
        let mut add = |name: &str, rows: usize, cols: usize| {
            let numbers: Vec<f32> = (0..rows * cols)
                .map(|i| ((i * 37 % 101) as f32 - 50.0) / 500.0)
                .collect();
            parameters.add(name, engine.tensor(rows, cols, &numbers))
        };
        let kv = SHAPE.kv_heads * SHAPE.head_dim;
        let angles = inverse_frequencies(SHAPE.head_dim, 1e4, &RopeScaling::Default).unwrap();
        Self {
            embedding: add("e", TOKENS, WIDTH),
            norm: add("n", 1, WIDTH),
            layer: (add("lw", 1, WIDTH), add("lb", 1, WIDTH)),
            qkv: [
                LinearWeight {
                    weight: add("q", WIDTH, WIDTH),
                    bias: Some(add("qb", 1, WIDTH)),
                },
                add("k", kv, WIDTH).into(),
                add("v", kv, WIDTH).into(),
            ],
            gate: add("g", INNER, WIDTH),
            up: add("u", INNER, WIDTH),
            down: add("d", WIDTH, INNER),
            head: add("h", 1, WIDTH),
            rope: Arc::new(RopeTable::new(&angles.0, angles.1, 256)),
            parameters,
        }
    }

    fn hidden(
        &self,
        tape: &mut Tape<'_>,
        (ids, layout): (&Arc<[u32]>, &Layout),
        caches: Option<&mut [&mut SequenceCache]>,
    ) -> Var {
        let x = tape.embedding(self.embedding, ids);
        let normed = tape.rms_norm(&x, self.norm, 1e-5);
        let mut qkv = tape.linears(&normed, &self.qkv);
        let v = qkv.pop().unwrap();
        let k = tape.rotate(qkv.pop().unwrap(), SHAPE.head_dim, layout, &self.rope);
        let q = tape.rotate(qkv.pop().unwrap(), SHAPE.head_dim, layout, &self.rope);
        let inputs = AttentionInputs { q, k, v };
        let attended = match caches {
            Some(caches) => tape.attention_cached(inputs, &SHAPE, layout, (caches, 0)),
            None => tape.attention(inputs, &SHAPE, layout),
        };
        let x = tape.add(x, attended);
        let normed = tape.layer_norm(&x, self.layer.0, self.layer.1, 1e-5);
        let mut both = tape.linears(&normed, &[self.gate.into(), self.up.into()]);
        let up = both.swap_remove(1);
        let inner = tape.swiglu(&both[0], &up);
        let inner = tape.activate(Activation::GeluTanh, &inner);
        let down = tape.linear(&inner, self.down);
        tape.add_scaled(x, down, 0.5)
    }

    fn asked(&self, targets: &[u32]) -> TokenTargets {
        TokenTargets {
            output: self.embedding,
            targets: targets.into(),
            temperature: 0.7,
        }
    }
}

/// Two optimiser steps over shards of different sizes, a step from scores, and some sampling, whose packed weights are
/// dropped again where steps leave none.
fn work(engine: &Engine, packing: Packing) -> Model {
    let mut model = Model::new(engine);
    model.parameters.set_packing(packing);
    let mut optimizer = Optimizer::new(engine, &model.parameters, AdamW::default());
    for lengths in [vec![70, 3, 130], vec![64, 65]] {
        let mut tree = GradientTree::new();
        let shards = [
            Layout::whole(&lengths[..1]),
            Layout::whole(&lengths[1..]),
            Layout::branching([(lengths[0], &lengths[1..])]),
        ];
        for layout in shards {
            let mut gradients = Gradients::zeros(engine, &model.parameters);
            let ids: Arc<[u32]> = (0..layout.rows() as u32).map(|i| i * 7 % TOKENS as u32).collect();
            let mut tape = Tape::training(engine, &model.parameters);
            let hidden = model.hidden(&mut tape, (&ids, &layout), None);
            let weights = vec![0.01; ids.len()];
            tape.backward_cross_entropy(&hidden, &model.asked(&ids), &weights, &mut gradients);
            drop(hidden);
            // Log-probabilities of some rows and a head, with recomputation
            let mut tape = Tape::training(engine, &model.parameters);
            let (read, within, read_ids) = (&model, layout.clone(), Arc::clone(&ids));
            let x = tape.embedding(model.embedding, &ids);
            let hidden = tape.recompute(&x, move |tape, x| {
                let y = read.hidden(tape, (&read_ids, &within), None);
                tape.add(y, x.clone())
            });
            let chosen = tape.select_rows(&hidden, &(0..40).collect());
            let numbers = tape.token_logprobs(&chosen, &model.asked(&ids[..40]));
            let scores = tape.scalar_head(&chosen, model.head, None);
            let seed = || engine.tensor(40, 1, &[0.1; 40]);
            let seeds = vec![
                (&numbers.logprob, seed()),
                (&numbers.entropy, seed()),
                (&scores, seed()),
            ];
            tape.backward(seeds, &mut gradients);
            tree.push(engine, gradients);
        }
        let gradients = tree.finish(engine).unwrap();
        let rate = StepRate {
            learning_rate: 1e-3,
            clip: Some(1.0),
        };
        optimizer.step(engine, &mut model.parameters, &gradients, rate);
    }
    let packed = model.parameters.iter().filter_map(|(_, p)| p.packed()).count();
    assert_eq!(packed > 0, packing == Packing::Kept, "forms after training");
    let mut first = SequenceCache::new(engine, 1, &SHAPE);
    for turn in 0..3 {
        let mut second = first.clone();
        let layout = Layout::continued([(first.len(), 66), (second.len(), 1)]);
        let ids: Arc<[u32]> = vec![turn; layout.rows()].into();
        let mut tape = Tape::decoding(engine, &model.parameters);
        let hidden = model.hidden(&mut tape, (&ids, &layout), Some(&mut [&mut first, &mut second]));
        let row = SampleRow {
            parameters: SamplingParameters::default(),
            uniform: 0.5,
        };
        tape.sample(&hidden, model.embedding, &[row; 67]).unwrap();
        tape.token_logprobs(&hidden, &model.asked(&ids));
    }
    if packing == Packing::ForAWhile {
        model.parameters.drop_packed();
    }
    model
}

fn packed(model: &Model, of: impl Fn(&Packed) -> usize) -> usize {
    let forms = model.parameters.iter().filter_map(|(_, p)| p.packed());
    forms.map(|form| of(&form)).sum()
}

#[test]
fn a_rehearsal_leaves_the_memory_of_the_computation() {
    for isa in Isa::all_here() {
        for precision in [Precision::Bf16, Precision::F32] {
            for packing in [Packing::Kept, Packing::ForAWhile] {
                let what = format!("{isa} {precision:?} {packing:?}");
                let cpu = Arc::new(CpuBackend::new(isa, precision, 2));
                let model = work(&Engine::on(cpu.clone()), packing);
                let cells = packed(&model, |p| crate::cpu::backend::right_matrix(p).capacity());
                drop(model);

                let rehearsal = Arc::new(Rehearsal::new(isa, precision, 2));
                let model = work(&Engine::on(rehearsal.clone()), packing);
                let account = rehearsal.account().unwrap();
                assert_eq!(account.now.packed, cells * 4, "{what}: packed weights");
                assert_eq!(cells > 0, packing == Packing::Kept, "{what}");
                drop(model);

                let (computed, rehearsed) = (cpu.waiting(), rehearsal.ledger.waiting());
                assert!(!computed.0.is_empty());
                assert_eq!(rehearsed, computed, "{what}");
                let account = rehearsal.account().unwrap();
                assert_eq!(account.now.packed, 0, "all is given back");
                assert_eq!(account.now.pages, cpu.waiting_pages(), "pages wait for use");
                assert!(account.peak.pages > 0 && account.operations > 1e6);
                rehearsal.release_idle_memory();
                assert_eq!(rehearsal.account().unwrap().now.total(), 0);
            }
        }
    }
}

/// Log-probabilities of some rows and their gradients, where 64 rows are a block, also of a frozen output matrix and of frozen
/// rows.
fn large_vocabulary(engine: &Engine, rows: usize, packing: Packing) {
    const SIZE: usize = 70_001;
    let mut parameters = Parameters::new();
    parameters.set_packing(packing);
    let table = parameters.add("x", engine.zeros(rows, 4));
    let output = parameters.add("w", engine.zeros(SIZE, 4));
    let mut tape = Tape::training(engine, &parameters);
    let hidden = tape.embedding(table, &(0..rows as u32).collect());
    let asked = TokenTargets {
        output,
        targets: vec![7; rows].into(),
        temperature: 1.0,
    };
    let numbers = tape.token_logprobs(&hidden, &asked);
    let mut gradients = Gradients::zeros(engine, &parameters);
    tape.backward(vec![(&numbers.logprob, engine.zeros(rows, 1))], &mut gradients);
    let mut tape = Tape::training(engine, &parameters);
    let hidden = tape.embedding(table, &(0..rows as u32).collect());
    tape.backward_cross_entropy(&hidden, &asked, &vec![0.5; rows], &mut gradients);
    Tape::inference(engine, &parameters).token_logprobs(&hidden, &asked);
    drop(hidden);
    for frozen in [output, table] {
        parameters.set_trainable(frozen, false);
        let mut tape = Tape::training(engine, &parameters);
        let hidden = tape.embedding(table, &(0..rows as u32).collect());
        let mut gradients = Gradients::zeros(engine, &parameters);
        tape.backward_cross_entropy(&hidden, &asked, &vec![0.5; rows], &mut gradients);
        drop(hidden);
        parameters.set_trainable(frozen, true);
    }
}

#[test]
fn logits_of_a_large_vocabulary_leave_the_same_memory() {
    for precision in [Precision::Bf16, Precision::F32] {
        for (rows, packing) in [
            (100, Packing::Kept),
            (100, Packing::ForAWhile),
            (200, Packing::Kept),
            (200, Packing::ForAWhile),
        ] {
            let cpu = Arc::new(CpuBackend::new(Isa::detect(), precision, 2));
            large_vocabulary(&Engine::on(cpu.clone()), rows, packing);
            let rehearsal = Arc::new(Rehearsal::new(Isa::detect(), precision, 2));
            large_vocabulary(&Engine::on(rehearsal.clone()), rows, packing);
            let (computed, rehearsed) = (cpu.waiting(), rehearsal.ledger.waiting());
            assert_eq!(rehearsed, computed, "{precision:?}, {rows} rows, {packing:?}");
        }
    }
}

#[test]
fn logits_of_the_first_block_are_made_once() {
    let engine = Engine::on(Arc::new(Rehearsal::new(Isa::Portable, Precision::F32, 1)));
    large_vocabulary(&engine, 100, Packing::Kept);
    // Recorded: forward, the second block again, and back to hidden states and weights; at once: forward and back; not
    // recorded: forward; with one or the other frozen, forward and back to the other
    let products = (1.0 + 0.36 + 2.0) + 3.0 + 1.0 + 2.0 + 2.0;
    let one = 2.0 * 100.0 * 4.0 * 70_001.0;
    let operations = engine.account().expect("a rehearsal").operations;
    assert!(
        (operations / one - products).abs() < 1e-9,
        "{} products",
        operations / one
    );
}

#[test]
fn norms_and_activations_are_not_kept_for_the_way_back() {
    let (rows, width) = (64, 256);
    let engine = Engine::on(Arc::new(Rehearsal::new(Isa::Portable, Precision::F32, 1)));
    let mut parameters = Parameters::new();
    let norm = parameters.add("n", engine.zeros(1, width));
    let weight = parameters.add("w", engine.zeros(width, width));
    let in_use = || engine.account().expect("a rehearsal").now.tensors - engine.idle_bytes();
    let x = Arc::new(engine.zeros(rows, width));
    let mut tape = Tape::training(&engine, &parameters);
    let x = tape.leaf(x);
    let before = in_use();
    let normed = tape.rms_norm(&x, norm, 1e-5);
    let y = tape.linear(&normed, weight);
    drop(normed);
    let z = tape.activate(Activation::Silu, &y);
    let out = tape.linear(&z, weight);
    drop((y, z));
    // The input of the activation, the last result, and a number a row of the norm; neither the norm nor the activation
    let kept = 2 * rows * width + rows;
    assert_eq!(in_use() - before, kept * size_of::<f32>());
    drop(out);
}

#[test]
fn the_way_back_through_an_activation_takes_memory_for_weight_gradients_alone() {
    let (rows, width, inner) = (16, 256, 512);
    for gated in [true, false] {
        let engine = Engine::on(Arc::new(Rehearsal::new(Isa::Portable, Precision::F32, 1)));
        let mut parameters = Parameters::new();
        let [gate, up] = ["g", "u"].map(|name| parameters.add(name, engine.zeros(inner, width)));
        let down = parameters.add("d", engine.zeros(width, inner));
        let mut tape = Tape::training(&engine, &parameters);
        let x = tape.leaf(Arc::new(engine.zeros(rows, width)));
        let inside = if gated {
            let both = tape.linears(&x, &[gate.into(), up.into()]);
            tape.swiglu(&both[0], &both[1])
        } else {
            let y = tape.linear(&x, up);
            tape.activate(Activation::Silu, &y)
        };
        let out = tape.linear(&inside, down);
        drop(inside);
        let seed = engine.zeros(rows, width);
        let peak = || engine.account().expect("a rehearsal").peak.tensors;
        let before = peak();
        let mut gradients = Gradients::zeros(&engine, &parameters);
        tape.backward(vec![(&out, seed)], &mut gradients);
        let weights = 3 * width * inner * size_of::<f32>();
        assert_eq!(peak() - before, weights, "gated: {gated}");
    }
}

#[test]
fn pages_are_shared_until_they_are_written() {
    let rehearsal = Arc::new(Rehearsal::new(Isa::Portable, Precision::Bf16, 1));
    let (real, engine) = (
        Engine::on(Arc::new(CpuBackend::new(Isa::Portable, Precision::Bf16, 1))),
        Engine::on(rehearsal.clone()),
    );
    let fill = |engine: &Engine, rows: usize, cache: &mut SequenceCache| {
        let kv = engine.zeros(rows, SHAPE.kv_heads * SHAPE.head_dim);
        let layout = Layout::continued([(cache.len(), rows)]);
        engine.backend().append(&mut [cache], 0, &layout, (&kv, &kv));
    };
    let mut cache = SequenceCache::new(&real, 1, &SHAPE);
    fill(&real, 100, &mut cache);
    let page = cache.bytes() / 2;
    let pages = || rehearsal.account().unwrap().now.pages / page;
    let mut first = SequenceCache::new(&engine, 1, &SHAPE);
    fill(&engine, 100, &mut first);
    assert_eq!(pages(), 2);
    let mut second = first.clone();
    assert_eq!(pages(), 2);
    fill(&engine, 1, &mut second);
    assert_eq!(pages(), 3, "the page that is written is copied");
    drop(first);
    assert_eq!(pages(), 3, "its own page waits");
    let mut third = SequenceCache::new(&engine, 1, &SHAPE);
    fill(&engine, 1, &mut third);
    assert_eq!(pages(), 3, "and is used again");
    fill(&engine, 70, &mut third);
    assert_eq!(pages(), 4);
}

#[test]
fn time_is_that_of_the_slower_of_operations_and_memory() {
    let speeds = Speeds {
        matrix: 1e3,
        attention: 1e3,
        memory: 1e3,
    };
    let ledger = Ledger::default();
    ledger.products(1e3, 500.0);
    assert_eq!(ledger.account().seconds, 0.0, "no speeds, no time");
    ledger.count_time(speeds);
    ledger.products(2e3, 500.0);
    ledger.attends(100.0, 1e3);
    ledger.moves(4e3);
    let account = ledger.account();
    assert_eq!((account.seconds, account.operations), (2.0 + 1.0 + 4.0, 3100.0));
}
