//! How far a run is, and the weights that were best so far.

use hone_compute::Engine;
use hone_model::Transformer;
use hone_run::{Checkpoint, Run};
use serde_json::json;

use crate::error::Result;
use crate::job::{Occasion, save};
use crate::learner::{Ema, Learner};

/// The state of a run beside the learner's.
#[derive(Default)]
pub(crate) struct Progress {
    pub done: u64,
    /// Lowest held-out loss so far, and the step that had it.
    pub best: Option<(f64, u64)>,
    pub best_weights: Option<Ema>,
}

impl Progress {
    /// Keeps these weights if no held-out loss was as low.
    pub fn offer(&mut self, engine: &Engine, model: &Transformer, loss: f64) {
        if self.best.is_none_or(|(best, _)| loss < best) {
            self.best = Some((loss, self.done));
            self.best_weights = Some(Ema::new(engine, model, 0.0));
        }
    }

    /// Saves a checkpoint.
    pub fn save(&self, engine: &Engine, run: &mut Run, (learner, occasion): (&Learner, Occasion)) -> Result<()> {
        let state = json!({
            "learner": learner.state(),
            "best": self.best.map(|(loss, step)| json!({ "loss_bits": loss.to_bits(), "step": step })),
        });
        save(run, (self.done, occasion), state, |writer| {
            learner.save(engine, "model", writer)?;
            match &self.best_weights {
                Some(best) => best.save(engine, "best", writer),
                None => Ok(()),
            }
        })
    }

    /// Reads back what [`Self::save`] wrote beside the learner.
    pub fn load(&mut self, engine: &Engine, learner: &Learner, checkpoint: &Checkpoint) -> Result<()> {
        let best = &checkpoint.state()["best"];
        if let (Some(bits), Some(step)) = (best["loss_bits"].as_u64(), best["step"].as_u64()) {
            self.best = Some((f64::from_bits(bits), step));
        }
        if checkpoint.path_of("best.weights.safetensors").is_ok() {
            let mut weights = Ema::new(engine, &learner.model, 0.0);
            weights.load(engine, "best", checkpoint)?;
            self.best_weights = Some(weights);
        }
        Ok(())
    }
}
