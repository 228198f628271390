//! A model with its optimiser: the state that training changes, and how it is saved.

use hone_compute::{AdamW, Engine, GradientTree, Gradients, Optimizer, Packing, ParameterId, StepRate, Tensor};
use hone_model::{Dtype, TensorFile, TensorToWrite, Transformer, write_tensors};
use hone_run::{Checkpoint, CheckpointWriter};
use serde_json::{Value, json};

use crate::error::{Result, TrainError};

/// Steps in a row without a finite gradient after which a run stops.
const MOST_SKIPPED: u32 = 10;

/// A model, its optimiser, and counters.
pub struct Learner {
    /// The model.
    pub model: Transformer,
    optimizer: Optimizer,
    skipped_in_a_row: u32,
    skipped: u64,
}

/// What a step did.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    /// Norm of the gradients before clipping.
    pub grad_norm: f64,
    /// The learning rate that was used.
    pub learning_rate: f64,
    /// Steps skipped so far for a gradient that was not finite.
    pub skipped: u64,
}

impl Learner {
    /// A fresh optimiser for a model. Until a step says otherwise, whole sequences leave none of its weights in packed form.
    pub fn new(engine: &Engine, mut model: Transformer, constants: AdamW) -> Self {
        model.parameters_mut().own_trainable(engine);
        model.parameters_mut().set_packing(Packing::ForAWhile);
        let optimizer = Optimizer::new(engine, model.parameters(), constants);
        Self {
            model,
            optimizer,
            skipped_in_a_row: 0,
            skipped: 0,
        }
    }

    /// Sums gradients over the shards of a batch in the fixed tree. `work` adds one micro-batch's. How many there are
    /// decides whether they leave weights in packed form.
    ///
    /// # Errors
    /// If `work` fails.
    pub fn gradients<T>(
        &mut self,
        engine: &Engine,
        shards: Vec<Vec<T>>,
        mut work: impl FnMut(&Transformer, T, &mut Gradients) -> Result<()>,
    ) -> Result<Gradients> {
        let packing = Packing::of_step(shards.iter().map(Vec::len).sum());
        self.model.parameters_mut().set_packing(packing);
        let mut tree = GradientTree::new();
        for shard in shards {
            let mut gradients = Gradients::unwritten(engine, self.model.parameters());
            for microbatch in shard {
                work(&self.model, microbatch, &mut gradients)?;
            }
            tree.push(engine, gradients);
        }
        Ok(tree
            .finish(engine)
            .unwrap_or_else(|| Gradients::zeros(engine, self.model.parameters())))
    }

    /// One optimiser step, `step` counted from 0. A gradient that is not finite changes nothing and is counted.
    ///
    /// # Errors
    /// After ten such steps in a row.
    pub fn apply(&mut self, engine: &Engine, gradients: &Gradients, rate: StepRate, step: u64) -> Result<Applied> {
        let report = self
            .optimizer
            .step(engine, self.model.parameters_mut(), gradients, rate);
        if report.applied {
            self.skipped_in_a_row = 0;
        } else {
            self.skipped += 1;
            self.skipped_in_a_row += 1;
            if self.skipped_in_a_row >= MOST_SKIPPED {
                return Err(TrainError::Diverged {
                    count: self.skipped_in_a_row,
                    step: step + 1,
                });
            }
        }
        Ok(Applied {
            grad_norm: report.grad_norm,
            learning_rate: rate.learning_rate,
            skipped: self.skipped,
        })
    }

    /// Begins again: the optimiser forgets its moments and its steps, and the weights are those of `start`, a duplicate of
    /// the model from before it was trained, or stay where they are without one. Skipped steps stay counted.
    pub fn begin_again(&mut self, engine: &Engine, start: Option<&Transformer>) {
        let ids: Vec<ParameterId> = trained(&self.model).map(|(id, _)| id).collect();
        for id in ids {
            if let Some(start) = start {
                let weights = engine.read(start.parameters().get(id).value());
                self.model.parameters_mut().set(engine, id, &weights);
            }
            if let Some((m, v)) = self.optimizer.moments_mut(id) {
                for moment in [m, v] {
                    let zeros = vec![0.0; moment.len()];
                    engine.write(moment, &zeros);
                }
            }
        }
        self.optimizer.set_steps(0);
    }

    /// Steps skipped so far for a gradient that was not finite.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Counters for a checkpoint's manifest.
    pub fn state(&self) -> Value {
        json!({
            "optimizer_steps": self.optimizer.steps(),
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        })
    }

    /// Writes weights and moments into a checkpoint, as `NAME.weights.safetensors` and `NAME.moments.safetensors`.
    /// Frozen weights are left out: they come from where they came from.
    ///
    /// # Errors
    /// If writing fails.
    pub fn save(&self, engine: &Engine, name: &str, writer: &mut CheckpointWriter) -> Result<(), hone_run::Error> {
        writer.file(&format!("{name}.weights.safetensors"), |out| {
            write_tensors(
                out,
                Dtype::F32,
                tensors(engine, &self.model, |p, id| {
                    vec![(p, self.model.parameters().get(id).value())]
                }),
            )
        })?;
        writer.file(&format!("{name}.moments.safetensors"), |out| {
            let moments = tensors(engine, &self.model, |p, id| match self.optimizer.moments(id) {
                Some((m, v)) => vec![(format!("{p}.m"), m), (format!("{p}.v"), v)],
                None => Vec::new(),
            });
            write_tensors(out, Dtype::F32, moments)
        })
    }

    /// Reads back what [`Self::save`] and [`Self::state`] gave.
    ///
    /// # Errors
    /// If the files do not fit the model.
    pub fn load(&mut self, engine: &Engine, name: &str, checkpoint: &Checkpoint, state: &Value) -> Result<()> {
        let mut weights = TensorFile::open(&checkpoint.path_of(&format!("{name}.weights.safetensors"))?)?;
        let mut moments = TensorFile::open(&checkpoint.path_of(&format!("{name}.moments.safetensors"))?)?;
        let trained: Vec<(ParameterId, String)> = trained(&self.model).collect();
        for (id, name) in trained {
            self.model.parameters_mut().set(engine, id, &weights.read(&name)?);
            let (first, second) = (moments.read(&format!("{name}.m"))?, moments.read(&format!("{name}.v"))?);
            if let Some((m, v)) = self.optimizer.moments_mut(id) {
                engine.write(m, &first);
                engine.write(v, &second);
            }
        }
        let counter = |key: &str| state.get(key).and_then(Value::as_u64).unwrap_or(0);
        self.optimizer.set_steps(counter("optimizer_steps"));
        self.skipped = counter("skipped");
        self.skipped_in_a_row = counter("skipped_in_a_row") as u32;
        Ok(())
    }
}

fn trained(model: &Transformer) -> impl Iterator<Item = (ParameterId, String)> {
    model
        .parameters()
        .iter()
        .filter(|(_, p)| p.trainable())
        .map(|(id, p)| (id, p.name().to_string()))
}

fn tensors<'a>(
    engine: &'a Engine,
    model: &'a Transformer,
    of: impl Fn(String, ParameterId) -> Vec<(String, &'a Tensor)>,
) -> Vec<TensorToWrite<'a>> {
    let named = trained(model).flat_map(|(id, name)| of(name, id));
    let write = named.map(|(name, tensor)| TensorToWrite {
        name,
        shape: vec![tensor.rows(), tensor.cols()],
        numbers: Box::new(move || engine.read(tensor)),
    });
    write.collect()
}

/// An exponential moving average of a model's trained weights.
pub struct Ema {
    /// The averaged model.
    pub model: Transformer,
    decay: f64,
}

impl Ema {
    /// Starts at the model's weights.
    pub fn new(engine: &Engine, model: &Transformer, decay: f64) -> Self {
        let mut model = model.duplicate();
        model.parameters_mut().own_trainable(engine);
        Self { model, decay }
    }

    /// Moves towards the model's weights.
    pub fn update(&mut self, engine: &Engine, model: &Transformer) {
        let ids: Vec<_> = trained(model).map(|(id, _)| id).collect();
        for id in ids {
            let target = model.parameters().get(id).value();
            let decay = self.decay;
            self.model
                .parameters_mut()
                .update(engine, id, |average| engine.exponential_average(average, target, decay));
        }
    }

    /// Writes the average into a checkpoint.
    ///
    /// # Errors
    /// If writing fails.
    pub fn save(&self, engine: &Engine, name: &str, writer: &mut CheckpointWriter) -> Result<(), hone_run::Error> {
        writer.file(&format!("{name}.weights.safetensors"), |out| {
            let weights = tensors(engine, &self.model, |p, id| {
                vec![(p, self.model.parameters().get(id).value())]
            });
            write_tensors(out, Dtype::F32, weights)
        })
    }

    /// Reads it back.
    ///
    /// # Errors
    /// If the file does not fit the model.
    pub fn load(&mut self, engine: &Engine, name: &str, checkpoint: &Checkpoint) -> Result<()> {
        let mut weights = TensorFile::open(&checkpoint.path_of(&format!("{name}.weights.safetensors"))?)?;
        let trained: Vec<(ParameterId, String)> = trained(&self.model).collect();
        for (id, name) in trained {
            self.model.parameters_mut().set(engine, id, &weights.read(&name)?);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
