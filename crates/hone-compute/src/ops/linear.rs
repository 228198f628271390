//! Matrix products with weights: `y = x W^T + b`, several weights on one input.

use std::sync::Arc;

use super::remake::Input;
use crate::parameter::ParameterId;
use crate::rows_left::RowChunks;
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
    x: Input,
    weights: Vec<LinearWeight>,
    chunks: RowChunks,
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
        let mut rights = Vec::with_capacity(weights.len());
        for w in weights {
            let parameter = self.parameters.get(w.weight);
            assert_eq!(
                x.value.cols(),
                parameter.value().cols(),
                "the input of {} is as wide as it",
                parameter.name()
            );
            outputs.push(backend.empty(x.value.rows(), parameter.value().rows()));
            let kept = parameter.kept_forward(self.engine, self.packing);
            rights.push(kept.unwrap_or_else(|| Arc::new(backend.pack_forward_for_a_while(parameter.value()))));
        }
        let packed: Vec<_> = rights.iter().map(Arc::as_ref).collect();
        backend.products(&left, &packed, &mut outputs);
        drop(rights);
        for (y, w) in outputs.iter_mut().zip(weights) {
            if let Some(bias) = w.bias {
                backend.add_bias(y, self.parameters.get(bias).value());
            }
        }
        let outputs: Vec<_> = outputs.into_iter().map(Arc::new).collect();
        let ids: Vec<_> = weights
            .iter()
            .flat_map(|w| std::iter::once(w.weight).chain(w.bias))
            .collect();
        if self.must_record(&[x], &ids) {
            self.record_shared(
                outputs,
                Linear {
                    x: Input::of(x),
                    weights: weights.to_vec(),
                    chunks: self.chunks.clone(),
                },
            )
        } else {
            outputs.into_iter().map(|value| Var::kept(None, value)).collect()
        }
    }
}

impl Operation for Linear {
    fn backward(self: Box<Self>, context: &mut Backward<'_>, upstream: Vec<Option<Tensor>>) {
        let engine = context.engine;
        let backend = engine.backend();
        let parameters = context.parameters;
        // x, packed once for the gradients of all weights; one that is made again goes before there is a dx
        let trained = |(w, dy): (&LinearWeight, &Option<Tensor>)| dy.is_some() && parameters.get(w.weight).trainable();
        let any_trained = self.weights.iter().zip(&upstream).any(trained);
        let right = any_trained.then(|| backend.pack_right(&self.x.numbers(engine, parameters)));
        let mut dx: Option<Tensor> = None;
        for (w, dy) in self.weights.iter().zip(upstream) {
            let Some(mut dy) = dy else { continue };
            if let Some(dbias) = w.bias.and_then(|bias| context.parameter(bias)) {
                backend.bias_gradient(&dy, &self.chunks, dbias);
            }
            let weight = parameters.get(w.weight);
            let (left, transposed) = match (self.x.node.is_some(), weight.trainable()) {
                (true, true) => {
                    let (left, transposed) = backend.pack_both(&mut dy);
                    (Some(left), Some(transposed))
                }
                (true, false) => (Some(backend.pack_left(&dy)), None),
                (false, true) => (None, Some(backend.pack_transposed(&dy))),
                (false, false) => (None, None),
            };
            drop(dy);
            // 1. dW += dy^T x
            let gradient = context.parameter_or_place(w.weight, self.x.rows);
            if let (Some(transposed), Some(right), Some((gradient, accumulate))) = (transposed, &right, gradient) {
                backend.weight_gradient(&transposed, right, gradient, accumulate);
            }
            // 2. dx += dy W
            if let Some(left) = left {
                let packed = backend.pack_right(weight.value());
                let first = dx.is_none();
                let dx = dx.get_or_insert_with(|| backend.empty(self.x.rows, self.x.cols));
                backend.product(&left, &packed, dx, !first);
            }
        }
        if let Some(dx) = dx {
            context.add_to(self.x.node, dx);
        }
    }
}
