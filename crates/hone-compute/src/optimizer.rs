//! AdamW (Loshchilov and Hutter, 2019), one pass over each parameter, and clipping by the norm of all gradients.

use crate::cpu::optimizer::AdamW as AdamWStep;
use crate::engine::Engine;
use crate::parameter::{Gradients, ParameterId, Parameters};
use crate::tensor::Tensor;

/// The constants of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second moment after bias correction.
    pub eps: f64,
    /// Decoupled decay, on matrices only.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// First and second moments of the trainable parameters, and how many steps were taken.
pub struct Optimizer {
    constants: AdamW,
    moments: Vec<Option<(Tensor, Tensor)>>,
    steps: u64,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// False: a gradient was not finite, or its square would not be, and nothing was changed.
    pub applied: bool,
}

impl Optimizer {
    /// Zero moments for every trainable parameter.
    pub fn new(engine: &Engine, parameters: &Parameters, constants: AdamW) -> Self {
        let zeros = |p: &crate::Parameter| {
            (
                engine.zeros(p.value().rows(), p.value().cols()),
                engine.zeros(p.value().rows(), p.value().cols()),
            )
        };
        let moments = parameters
            .iter()
            .map(|(_, p)| p.trainable().then(|| zeros(p)))
            .collect();
        Self {
            constants,
            moments,
            steps: 0,
        }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Sets the count of steps, when resuming.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// The moments of a trainable parameter.
    pub fn moments(&self, id: ParameterId) -> Option<(&Tensor, &Tensor)> {
        self.moments[id.index()].as_ref().map(|(m, v)| (m, v))
    }

    /// The same to be written, when resuming.
    pub fn moments_mut(&mut self, id: ParameterId) -> Option<(&mut Tensor, &mut Tensor)> {
        self.moments[id.index()].as_mut().map(|(m, v)| (m, v))
    }

    /// One step with the summed gradients. They are scaled down to norm `clip` where they exceed it; where one of them is
    /// not finite, or the norm that is left is beyond the root of the largest f32, nothing changes.
    pub fn step(
        &mut self,
        engine: &Engine,
        parameters: &mut Parameters,
        gradients: &Gradients,
        rate: StepRate,
    ) -> StepReport {
        let grad_norm = gradients.norm(engine);
        let gradient_scale = rate
            .clip
            .filter(|&clip| grad_norm > clip)
            .map_or(1.0, |clip| clip / grad_norm);
        // No element is larger than the norm. One whose square is infinite would freeze its weight for good.
        let squares_fit = grad_norm * gradient_scale <= f64::from(f32::MAX).sqrt();
        if !(grad_norm.is_finite() && squares_fit) {
            return StepReport {
                grad_norm,
                applied: false,
            };
        }
        self.steps += 1;
        let c = self.constants;
        for index in 0..self.moments.len() {
            let id = ParameterId(index);
            let (Some((m, v)), Some(gradient)) = (&mut self.moments[index], gradients.get(id)) else {
                continue;
            };
            let decay = if parameters.get(id).decayed() {
                c.weight_decay
            } else {
                0.0
            };
            let step = AdamWStep {
                learning_rate: rate.learning_rate,
                beta1: c.beta1,
                beta2: c.beta2,
                eps: c.eps,
                weight_decay: decay,
                step: self.steps,
                gradient_scale: gradient_scale as f32,
            };
            parameters.update(engine, id, |value| {
                engine.backend().adamw_step(&step, value, gradient, (m, v))
            });
        }
        StepReport {
            grad_norm,
            applied: true,
        }
    }
}

/// How far a step goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRate {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Largest norm of all gradients; none: no clipping.
    pub clip: Option<f64>,
}
