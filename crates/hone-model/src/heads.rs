//! Heads that give one number a position: scores of a reward model, values of a value network.

use hone_compute::{Engine, Tape, Var};
use hone_math::Key;

use crate::transformer::{ScalarHead, Transformer};

/// The name of the head's weight, the one that `LlamaForSequenceClassification` and its like use.
pub(crate) const HEAD: &str = "score.weight";

impl Transformer {
    /// Adds a reward head: N(0, 1 / sqrt(d + 1)), offset 0 (Stiennon et al., 2020).
    pub fn add_reward_head(&mut self, engine: &Engine, seed: u64) {
        let key = Key::new(seed, "reward head", 0);
        let d = self.architecture.width;
        let deviation = 1.0 / ((d + 1) as f64).sqrt();
        let weights: Vec<f32> = (0..d).map(|i| (key.normal(i as u64) * deviation) as f32).collect();
        self.add_head(engine, &weights, 0.0);
    }

    /// Adds a value head of zeros: every value starts at 0.
    pub fn add_value_head(&mut self, engine: &Engine) {
        self.add_head(engine, &vec![0.0; self.architecture.width], 0.0);
    }

    /// Adds a head with these weights, or replaces the numbers of the one there is.
    pub(crate) fn add_head(&mut self, engine: &Engine, weights: &[f32], offset: f32) {
        let weight = match self.head {
            Some(head) => {
                self.parameters.set(engine, head.weight, weights);
                head.weight
            }
            None => self.parameters.add(HEAD, engine.tensor(1, weights.len(), weights)),
        };
        self.head = Some(ScalarHead { weight, offset });
    }

    /// Lets the head learn, which an adapter that was added after it has frozen.
    pub fn train_head(&mut self) {
        if let Some(head) = self.head {
            self.parameters.set_trainable(head.weight, true);
        }
    }

    /// Whether it has a head.
    pub fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// What is added to the head's output.
    pub fn head_offset(&self) -> Option<f32> {
        self.head.map(|head| head.offset)
    }

    /// Shifts the head's output.
    pub fn set_head_offset(&mut self, offset: f32) {
        if let Some(head) = &mut self.head {
            head.offset = offset;
        }
    }

    /// The head's number for each row of the hidden states `[n, d]`, without the offset: `[n, 1]`.
    ///
    /// # Panics
    /// If there is no head: stages load their model as what it is.
    pub fn head_outputs(&self, tape: &mut Tape<'_>, hidden: &Var) -> Var {
        let head = self.head.expect("a model with a head");
        tape.scalar_head(hidden, head.weight, None)
    }
}
