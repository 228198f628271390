//! Root-mean-square and layer normalisation of rows.

use std::sync::Arc;

use super::remake::Recipe;
use crate::backend::{NormGradients, NormStatistics};
use crate::parameter::ParameterId;
use crate::rows_left::RowChunks;
use crate::tape::{Backward, Operation, Tape, Var};
use crate::tensor::Tensor;

struct Norm {
    x: Var,
    weight: ParameterId,
    bias: Option<ParameterId>,
    statistics: NormStatistics,
    chunks: RowChunks,
    /// Rows of `x` as the norm sees them, such as one a head.
    shape: (usize, usize),
}

impl Tape<'_> {
    /// `x / sqrt(mean(x^2) + eps) * weight` for each row of `x` `[n, d]`, `weight` `[1, d]` (Zhang and Sennrich, 2019).
    pub fn rms_norm(&mut self, x: &Var, weight: ParameterId, eps: f32) -> Var {
        let w = self.parameters.get(weight).value();
        assert_eq!(w.len(), x.value.cols(), "one weight a column");
        let (y, statistics) = self.engine.backend().rms_norm(&x.value, w, eps);
        if self.must_record(&[x], &[weight]) {
            let recipe = Recipe::RmsNorm {
                x: Arc::clone(&x.value),
                weight,
                eps,
            };
            self.record_with(
                y,
                recipe,
                Norm {
                    x: x.clone(),
                    weight,
                    bias: None,
                    statistics,
                    chunks: self.chunks.clone(),
                    shape: x.shape(),
                },
            )
        } else {
            self.plain(y)
        }
    }

    /// The same for every group of `weight.len()` columns apart: the norm of queries and keys a head.
    pub fn rms_norm_heads(&mut self, x: &Var, weight: ParameterId, eps: f32) -> Var {
        let w = self.parameters.get(weight).value();
        let (n, d) = x.shape();
        assert_eq!(d % w.len(), 0, "whole heads");
        let shape = (n * d / w.len(), w.len());
        self.needs_all_rows();
        let (y, statistics) = self.engine.backend().rms_norm(&x.value, w, eps);
        if self.must_record(&[x], &[weight]) {
            self.record(
                y,
                Norm {
                    x: x.clone(),
                    weight,
                    bias: None,
                    statistics,
                    // Cut by heads, not by rows of the stream
                    chunks: RowChunks::default(),
                    shape,
                },
            )
        } else {
            self.plain(y)
        }
    }

    /// `(x - mean) / sqrt(var + eps) * weight + bias` for each row of `x` `[n, d]` (Ba, Kiros and Hinton, 2016).
    pub fn layer_norm(&mut self, x: &Var, weight: ParameterId, bias: ParameterId, eps: f32) -> Var {
        let (w, b) = (self.parameters.get(weight).value(), self.parameters.get(bias).value());
        assert_eq!(w.len(), x.value.cols(), "one weight a column");
        let (y, statistics) = self.engine.backend().layer_norm(&x.value, w, b, eps);
        if self.must_record(&[x], &[weight, bias]) {
            let recipe = Recipe::LayerNorm {
                x: Arc::clone(&x.value),
                weight,
                bias,
                eps,
            };
            self.record_with(
                y,
                recipe,
                Norm {
                    x: x.clone(),
                    weight,
                    bias: Some(bias),
                    statistics,
                    chunks: self.chunks.clone(),
                    shape: x.shape(),
                },
            )
        } else {
            self.plain(y)
        }
    }
}

impl Operation for Norm {
    fn backward(self: Box<Self>, context: &mut Backward<'_>, mut upstream: Vec<Option<Tensor>>) {
        let Some(dy) = upstream.remove(0) else { return };
        debug_assert_eq!(self.shape.0 * self.shape.1, dy.len());
        let engine = context.engine;
        // A gradient that nobody wants is made all the same: only frozen models under a trained adapter have one.
        let mut dx = context
            .take_or_zeros(&self.x)
            .unwrap_or_else(|| engine.zeros(dy.rows(), dy.cols()));
        let weight = context.parameters.get(self.weight).value();
        let (dweight, dbias) = match self.bias {
            Some(bias) => context.parameter_pair(self.weight, bias),
            None => (context.parameter(self.weight), None),
        };
        let into = NormGradients {
            chunks: &self.chunks,
            dx: &mut dx,
            dweight,
            dbias,
        };
        engine
            .backend()
            .norm_backward(&self.x.value, weight, &self.statistics, &dy, into);
        context.put(&self.x, Some(dx));
    }
}
