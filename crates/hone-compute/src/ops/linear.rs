//! Matrix products with weights: `y = x W^T + b`, several weights on one input.

use std::sync::Arc;

use crate::parameter::ParameterId;
use crate::tape::{Backward, Operation, Tape, Var};
use crate::tensor::Tensor;

/// A weight `[out, in]` and its bias `[1, out]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearWeight {
    /// The matrix.
    pub weight: ParameterId,
    /// The bias, if there is one.
    pub bias: Option<ParameterId>,
}

impl From<ParameterId> for LinearWeight {
    fn from(weight: ParameterId) -> Self {
        Self { weight, bias: None }
    }
}

struct Linear {
    x: Var,
    weights: Vec<LinearWeight>,
}

impl Tape<'_> {
    /// `x W^T + b` for `x` `[n, in]`: `[n, out]`.
    pub fn linear(&mut self, x: &Var, weight: impl Into<LinearWeight>) -> Var {
        self.linears(x, &[weight.into()]).swap_remove(0)
    }

    /// The same for several different weights, which share the work on `x`.
    pub fn linears(&mut self, x: &Var, weights: &[LinearWeight]) -> Vec<Var> {
        let backend = self.engine.backend();
        let left = backend.pack_left(&x.value);
        let mut outputs = Vec::with_capacity(weights.len());
        for w in weights {
            let parameter = self.parameters.get(w.weight);
            assert_eq!(
                x.value.cols(),
                parameter.value().cols(),
                "the input of {} is as wide as it",
                parameter.name()
            );
            let mut y = backend.empty(x.value.rows(), parameter.value().rows());
            backend.product(&left, parameter.packed_forward(self.engine), &mut y, false);
            if let Some(bias) = w.bias {
                backend.add_bias(&mut y, self.parameters.get(bias).value());
            }
            outputs.push(Arc::new(y));
        }
        let ids: Vec<_> = weights
            .iter()
            .flat_map(|w| std::iter::once(w.weight).chain(w.bias))
            .collect();
        if self.must_record(&[x], &ids) {
            self.record_shared(
                outputs,
                Linear {
                    x: x.clone(),
                    weights: weights.to_vec(),
                },
            )
        } else {
            outputs.into_iter().map(|value| Var { node: None, value }).collect()
        }
    }
}

impl Operation for Linear {
    fn backward(self: Box<Self>, context: &mut Backward<'_>, upstream: Vec<Option<Tensor>>) {
        let engine = context.engine;
        let backend = engine.backend();
        let arrived: Vec<_> = self
            .weights
            .iter()
            .zip(&upstream)
            .filter_map(|(w, dy)| dy.as_ref().map(|dy| (*w, dy)))
            .collect();
        if context.wants(&self.x) {
            let mut dx = backend.empty(self.x.value.rows(), self.x.value.cols());
            for (i, (w, dy)) in arrived.iter().enumerate() {
                let weight = context.parameters.get(w.weight).packed_backward(engine);
                backend.product(&backend.pack_left(dy), weight, &mut dx, i > 0);
            }
            context.add(&self.x, dx);
        }
        let mut trained: Vec<_> = arrived
            .iter()
            .filter(|(w, _)| context.parameters.get(w.weight).trainable())
            .collect();
        // In the order of the parameters, as their gradients can then be borrowed one after another.
        trained.sort_by_key(|(w, _)| w.weight);
        if !trained.is_empty() {
            let dys: Vec<_> = trained.iter().map(|(_, dy)| *dy).collect();
            let ids: Vec<_> = trained.iter().map(|(w, _)| w.weight).collect();
            backend.weight_gradients(&self.x.value, &dys, &mut context.gradients.several(&ids));
        }
        for (w, dy) in arrived {
            if let Some(dbias) = w.bias.and_then(|bias| context.parameter(bias)) {
                backend.bias_gradient(dy, dbias);
            }
        }
    }
}
