//! What a stage notes down while it rehearses.

use std::collections::HashSet;

use hone_compute::{Account, Engine, Gradients, Packing, Precision, logits_bytes, return_freed_memory};
use hone_model::Transformer;

use super::machine::{MachineMemory, ProcessMemory};
use super::time::measure_speeds;
use super::{ModelSize, Part, Plan, SourcePlan, TimePlan};
use crate::artefact::merges;
use crate::error::Result;
use crate::job::Job;
use crate::learner::{Ema, Learner};
use crate::sections::{Keep, TrainSection};

/// Steps whose time is taken.
const TIMED: u64 = 8;
/// Steps that are looked through for micro-batches of other sizes.
const LOOKED_AT: u64 = 4096;
/// Steps that are rehearsed for the sake of their sizes.
const TELLING: usize = 192;

/// A rehearsal under way.
pub(crate) struct Notes<'e> {
    engine: &'e Engine,
    process: ProcessMemory,
    models: Vec<ModelSize>,
    parts: Vec<Part>,
    /// Bytes of tensors that are in `parts`.
    noted: usize,
    /// Which parts are gradients.
    gradients: Vec<usize>,
    /// The most bytes of logits.
    logits: usize,
    /// The largest tensor that is written to a file.
    largest: usize,
    seconds: f64,
    /// What is taken for granted.
    assumed: Vec<String>,
}

/// What a stage plans to do.
pub(crate) struct Planned {
    pub stage: &'static str,
    pub steps: u64,
    pub tokens: u64,
    pub sources: Vec<SourcePlan>,
    /// Seconds and operations of a step.
    pub step: (f64, f64),
}

impl<'e> Notes<'e> {
    /// Starts where the data are in memory and the models' shapes are known. What reading them left behind is given back.
    pub fn new(engine: &'e Engine) -> Self {
        return_freed_memory();
        Self {
            engine,
            process: ProcessMemory::read(),
            models: Vec::new(),
            parts: Vec::new(),
            noted: 0,
            gradients: Vec::new(),
            logits: 0,
            largest: 0,
            seconds: 0.0,
            assumed: Vec::new(),
        }
    }

    /// The same; the machine's speed is measured where time is to be estimated.
    pub fn timed_if(timed: bool, engine: &'e Engine, (job, train): (&Job, &TrainSection)) -> Result<Self> {
        let notes = Self::new(engine);
        if timed {
            engine.count_time(measure_speeds(job, train)?);
        }
        Ok(notes)
    }

    /// The engine that counts.
    pub fn engine(&self) -> &'e Engine {
        self.engine
    }

    fn account(&self) -> Account {
        self.engine.account().unwrap_or_default()
    }

    /// What the plan takes for granted, in words.
    pub fn assume(&mut self, what: impl Into<String>) {
        self.assumed.push(what.into());
    }

    /// A model that is in memory and learns.
    pub fn model(&mut self, name: &'static str, model: &Transformer) {
        let (parameters, trained) = model.parameters().count();
        self.models.push(ModelSize {
            name,
            parameters,
            trained,
        });
        self.written(model);
    }

    /// A model that is in memory and is only read.
    pub fn read_model(&mut self, name: &'static str, model: &Transformer) {
        self.models.push(ModelSize {
            name,
            parameters: model.parameters().count().0,
            trained: 0,
        });
    }

    /// A model that goes into files: of one with an adapter what is trained, unless it is merged for that.
    pub fn written(&mut self, model: &Transformer) {
        let whole = model.adapter().is_none() || merges(model);
        let parameters = model.parameters().iter().filter(|(_, p)| whole || p.trainable());
        let largest = parameters.map(|(_, p)| p.value().len()).max();
        self.largest = self.largest.max(largest.unwrap_or(0) * size_of::<f32>());
    }

    /// The tensors that were made since the last note.
    pub fn tensors(&mut self, what: impl Into<String>) {
        let now = self.account().now.tensors;
        self.part(what, now.saturating_sub(self.noted));
        self.noted = self.noted.max(now);
    }

    /// The same, of which `bytes` are something else.
    pub fn tensors_with(&mut self, what: impl Into<String>, (bytes, other): (usize, &str)) {
        let now = self.account().now.tensors;
        self.part(what, now.saturating_sub(self.noted + bytes));
        self.part(other, bytes);
        self.noted = self.noted.max(now);
    }

    /// Leaves the gradients out of the parts: their buffers are not there at the peak.
    fn leave_gradients_out(&mut self) {
        for &i in &self.gradients {
            self.noted -= std::mem::take(&mut self.parts[i].bytes) as usize;
        }
        self.gradients.clear();
        self.parts.retain(|part| part.bytes > 0);
    }

    fn part(&mut self, what: impl Into<String>, bytes: usize) {
        if bytes > 0 {
            self.parts.push(Part {
                what: what.into(),
                bytes: bytes as u64,
            });
        }
    }

    /// The buffers in which gradients are summed over the shards of a batch.
    pub fn gradients(&mut self, learner: &mut Learner, shards: usize, of: &str) -> Result<()> {
        let empty: Vec<Vec<()>> = (0..shards).map(|_| Vec::new()).collect();
        let before = self.account().now.tensors;
        learner.gradients(self.engine, empty, |_, (), _: &mut Gradients| Ok(()))?;
        let one = 4 * learner.model.parameters().count().1;
        let copies = (self.account().now.tensors - before + one / 2) / one.max(1);
        let over = if shards > 1 {
            format!(", {copies} buffers for {shards} shards")
        } else {
            String::new()
        };
        let before = self.parts.len();
        self.tensors(format!("{of}gradients, f32{over}"));
        self.gradients.extend(before..self.parts.len());
        Ok(())
    }

    /// Logits of as many predictions at once.
    pub fn logits(&mut self, rows: usize, model: &Transformer) {
        self.logits = self.logits.max(logits_bytes(rows, model.architecture().vocab_size));
    }

    /// Seconds and operations of `work`.
    pub fn timed<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<((f64, f64), T)> {
        let before = self.account();
        let result = work()?;
        let after = self.account();
        let taken = (after.seconds - before.seconds, after.operations - before.operations);
        Ok((taken, result))
    }

    /// Time that is spent `times` besides the steps.
    pub fn besides<T>(&mut self, times: u64, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let ((seconds, _), result) = self.timed(work)?;
        self.seconds += times as f64 * seconds;
        Ok(result)
    }

    /// What is done beside a copy of a learner's weights, the best so far, which the first evaluation finds. The copy is a part
    /// of the plan if more is needed then than ever before.
    pub fn with_best_weights(
        &mut self,
        (keep, learner): (Keep, &mut Learner),
        work: impl FnOnce(&mut Learner) -> Result<()>,
    ) -> Result<()> {
        if keep != Keep::Best {
            return Ok(());
        }
        let before = self.account().peak.total();
        let best = Ema::new(self.engine, &learner.model, 0.0);
        work(learner)?;
        drop(best);
        if self.account().peak.total() > before {
            let bytes = size_of::<f32>() * learner.model.parameters().count().1;
            self.part("the best weights so far, f32", bytes);
            self.noted += bytes;
        }
        Ok(())
    }

    /// The plan, once all is rehearsed.
    pub fn finish(mut self, planned: Planned, (recompute, train): (bool, &TrainSection)) -> Plan {
        let account = self.account();
        let peak = account.peak;
        if peak.tensors < self.noted {
            // Such as where an evaluation, which gives them back, needs more than a step
            self.leave_gradients_out();
        }
        let rest = peak.tensors.saturating_sub(self.noted);
        let logits = self.logits.min(rest);
        let recomputed = if recompute { ", blocks recomputed" } else { "" };
        let activations = rest - logits;
        self.part(format!("activations of a micro-batch{recomputed}"), activations);
        self.part("a block of logits", logits);
        self.part("weights packed for the kernels", peak.packed);
        self.part("operands packed for the kernels", peak.operands);
        self.part("pages of keys and values", peak.pages);
        let process = self.process.now as usize;
        // It is on its way when nothing is computed: only what exceeds the peak of the computation is more. The
        // allocator keeps small pieces, such as pages, which are free then
        let kept = account.now.total() - account.now.pages + peak.pages;
        let saving = (kept + self.largest).saturating_sub(peak.total());
        self.part("a tensor on its way to a file", saving);
        self.part("the program and its data, as measured", process);
        let counted: u64 = self.parts.iter().map(|part| part.bytes).sum();
        let before = self.process.peak.saturating_sub(counted);
        self.part("more than that while data were read", before as usize);

        let peak_bytes = counted + before;
        let machine = MachineMemory::read();
        let moments = self.models.iter().map(|m| 8 * m.trained).sum::<usize>();
        let hints = hints(activations + logits, moments, (recompute, train));
        let (seconds_a_step, operations) = planned.step;
        let time = (account.seconds > 0.0).then_some(TimePlan {
            seconds: seconds_a_step * planned.steps as f64 + self.seconds,
            seconds_a_step,
            operations: operations * planned.steps as f64,
        });
        Plan {
            stage: planned.stage,
            isa: self.engine.isa().name(),
            precision: match self.engine.precision() {
                Precision::Bf16 => "bf16",
                Precision::F32 => "f32",
            },
            threads: self.engine.threads(),
            models: self.models,
            steps: planned.steps,
            tokens: planned.tokens,
            sources: planned.sources,
            assumed: self.assumed,
            memory: self.parts,
            peak_bytes,
            machine,
            fits: machine.map(|machine| peak_bytes <= machine.available),
            time,
            hints,
        }
    }
}

/// The keys from which the big parts follow.
fn hints(activations: usize, moments: usize, (recompute, train): (bool, &TrainSection)) -> Vec<String> {
    let mut hints = vec![format!(
        "lower train.microbatch_tokens (it is {}) or the lengths that are trained on",
        train.microbatch_tokens
    )];
    if !recompute {
        hints.push("set model.recompute = true".into());
    }
    if train.shards > 1 {
        hints.push(format!("lower train.shards (it is {})", train.shards));
    }
    if moments > activations {
        hints.push("take a smaller model or, but for pre-training, train less of it ([lora])".into());
    }
    hints
}

/// Some steps spread over all of them, whose time stands for that of the others; and behind them the steps that have a
/// micro-batch of a size that no step before has: memory of each size is kept for later. `sizes` gives the tokens and
/// the predictions of each micro-batch of a step. Where some steps leave packed weights behind and others do not, the first
/// that does comes first of these, and then all sizes, since packed weights stay from there on.
pub(crate) fn telling_steps(
    total: u64,
    sizes: impl FnMut(u64) -> Result<Vec<(usize, usize)>>,
) -> Result<(Vec<u64>, Vec<u64>)> {
    let mut keeps = None;
    let (mut timed, mut telling, packings) = (Vec::new(), Vec::new(), &mut HashSet::new());
    tell(total, sizes, (&mut timed, &mut telling), |step, microbatches| {
        let packing = Packing::of_step(microbatches);
        if packing == Packing::Kept {
            keeps.get_or_insert(step);
        }
        packings.insert(packing)
    })?;
    if let Some(keeps) = keeps.filter(|_| packings.len() > 1) {
        let all: Vec<u64> = timed.iter().copied().chain(telling).collect();
        telling = std::iter::once(keeps).chain(all).collect();
    }
    Ok((timed, telling))
}

/// The same for updates, at most `most` of them, whose steps' micro-batches are given all together: how many there are counts
/// as a size, since more of them may leave more behind.
pub(crate) fn telling_updates(
    (total, most): (u64, usize),
    sizes: impl FnMut(u64) -> Result<Vec<(usize, usize)>>,
) -> Result<(Vec<u64>, Vec<u64>)> {
    let (mut timed, mut telling, counts) = (Vec::new(), Vec::new(), &mut HashSet::new());
    tell(total, sizes, (&mut timed, &mut telling), |_, microbatches| {
        counts.insert(microbatches)
    })?;
    telling.truncate(most);
    Ok((timed, telling))
}

/// Looks for the steps of [`telling_steps`]; `differs` says whether a step of so many micro-batches is the first of its kind.
fn tell(
    total: u64,
    mut sizes: impl FnMut(u64) -> Result<Vec<(usize, usize)>>,
    (timed, telling): (&mut Vec<u64>, &mut Vec<u64>),
    mut differs: impl FnMut(u64, usize) -> bool,
) -> Result<()> {
    timed.extend((0..TIMED.min(total)).map(|i| i * total / TIMED.min(total)));
    let mut seen = HashSet::new();
    let looked_at = timed.iter().copied().chain(0..total.min(LOOKED_AT));
    for (i, step) in looked_at.enumerate() {
        let sizes = sizes(step)?;
        let mut new = differs(step, sizes.len());
        for (tokens, predictions) in sizes {
            new |= seen.insert((0, bucket(tokens)));
            new |= seen.insert((1, bucket(predictions)));
        }
        if new && i >= timed.len() && telling.len() < TELLING {
            telling.push(step);
        }
    }
    Ok(())
}

/// Evaluations of a run: every so many steps, and at the end.
pub(crate) fn evaluations(every: u64, total: u64) -> u64 {
    match every {
        0 => 1,
        every => total.div_ceil(every),
    }
}

/// Sizes within a sixty-fourth of a power of two count as one.
fn bucket(size: usize) -> usize {
    let step = (size.next_power_of_two() / 64).max(1);
    size.div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    use hone_compute::EngineOptions;
    use hone_model::{LoraConfig, NewModel};

    use super::*;
    use crate::learner::tests::{Kind, decode, learner};

    #[test]
    fn evaluations_are_those_of_the_cadence() {
        for (every, total) in [(0, 7), (3, 7), (3, 9), (10, 7), (1, 4)] {
            let cadence = crate::job::Cadence {
                total,
                checkpoint_every: 1,
                eval_every: every,
            };
            let counted = (1..=total).filter(|&done| cadence.evaluates(done)).count() as u64;
            assert_eq!(evaluations(every, total), counted, "{every} {total}");
        }
    }

    #[test]
    fn steps_of_other_sizes_are_found() {
        let sizes = |step: u64| {
            Ok(match step {
                77 => vec![(100, 10), (999, 10)],
                901 => vec![(100, 50)],
                _ => vec![(100, 10)],
            })
        };
        let (timed, telling) = telling_steps(1000, sizes).unwrap();
        assert_eq!(timed, [0, 125, 250, 375, 500, 625, 750, 875]);
        assert_eq!(telling, [77, 901]);
        assert_eq!(telling_steps(2, sizes).unwrap(), (vec![0, 1], vec![]));
    }

    #[test]
    fn all_sizes_are_gone_through_with_packed_weights() {
        // Step 3 has more micro-batches, of the same sizes, and leaves packed weights
        let sizes = |step: u64| {
            Ok(match step {
                3 => vec![(100, 10); 3],
                5 => vec![(999, 10)],
                _ => vec![(100, 10); 2],
            })
        };
        let (timed, telling) = telling_steps(64, sizes).unwrap();
        assert_eq!(timed, [0, 8, 16, 24, 32, 40, 48, 56]);
        assert_eq!(telling, [&[3][..], &timed, &[3, 5]].concat());
        // Where all of them do, nothing is gone through twice
        let all_keep = telling_steps(64, |_| Ok(vec![(100, 10); 3])).unwrap();
        assert!(all_keep.1.is_empty());
    }

    #[test]
    fn updates_of_other_sizes_or_of_more_micro_batches_are_found() {
        let sizes = |update: u64| {
            Ok(match update {
                3 => vec![(100, 10); 3],
                5 => vec![(999, 10); 2],
                6 => vec![(100, 50); 2],
                _ => vec![(100, 10); 2],
            })
        };
        assert_eq!(telling_updates((64, 9), sizes).unwrap().1, [3, 5, 6]);
        assert_eq!(telling_updates((64, 2), sizes).unwrap().1, [3, 5]);
    }

    /// A rehearsal's notes of a model of 1,000 tokens and width 8, with an adapter or without.
    fn notes_of(lora: Option<LoraConfig>, merge: bool) -> usize {
        let engine = Engine::rehearsal(&EngineOptions::default()).unwrap();
        let new = r#"{"width": 8, "layers": 1, "heads": 2}"#;
        let new: NewModel = serde_json::from_str(new).unwrap();
        let mut model = Transformer::random(&engine, new.architecture(1000).unwrap(), 1);
        if let Some(lora) = lora {
            model.add_adapter(&engine, &lora, 1).unwrap();
        }
        let mut notes = Notes::new(&engine);
        notes.model("model", &model);
        if merge {
            notes.written(&model.merge_adapter(&engine));
        }
        notes.largest
    }

    #[test]
    fn the_parts_are_those_of_the_peak() {
        let options = EngineOptions {
            precision: Precision::F32,
            ..EngineOptions::default()
        };
        for sampled in [false, true] {
            let engine = Engine::rehearsal(&options).unwrap();
            let mut notes = Notes::new(&engine);
            let mut learner = learner(&engine, Kind::Tied);
            notes.tensors("weights and moments");
            notes.gradients(&mut learner, 1, "").unwrap();
            if sampled {
                // With weights in packed form, which are larger than the gradients that are given back before
                engine.release_idle_memory();
                decode(&engine, &learner.model);
            }
            let peak = notes.account().peak.total() as u64;
            let planned = Planned {
                stage: "test",
                steps: 1,
                tokens: 1,
                sources: Vec::new(),
                step: (0.0, 0.0),
            };
            let plan = notes.finish(planned, (false, &TrainSection::default()));
            let measured = ["the program", "more than that", "a tensor on its way"];
            let counted = |part: &&Part| !measured.iter().any(|what| part.what.starts_with(what));
            let sum: u64 = plan.memory.iter().filter(counted).map(|part| part.bytes).sum();
            assert_eq!(sum, peak, "{:?}", plan.memory);
            let gradients = plan.memory.iter().find(|part| part.what.starts_with("gradients"));
            let whole = 4 * learner.model.parameters().count().1 as u64;
            let expected = if sampled { None } else { Some(whole) };
            assert_eq!(gradients.map(|part| part.bytes), expected, "{:?}", plan.memory);
        }
    }

    #[test]
    fn an_adapters_base_is_not_written() {
        let lora = LoraConfig {
            rank: 3,
            ..LoraConfig::default()
        };
        let embedding = 4 * 1000 * 8;
        assert_eq!(notes_of(None, false), embedding);
        assert_eq!(notes_of(Some(lora.clone()), false), 4 * 3 * 8);
        assert_eq!(notes_of(Some(lora), true), embedding);
    }

    #[test]
    fn near_sizes_are_one() {
        assert_eq!(bucket(1000), bucket(1007));
        assert_ne!(bucket(1000), bucket(1010));
        assert_eq!(bucket(0), 0);
    }
}
