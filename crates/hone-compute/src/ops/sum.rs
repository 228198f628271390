//! Sums: the residual stream, position embeddings, adapters.

use std::sync::Arc;

use crate::tape::{Backward, Operation, Tape, Var, into_owned};
use crate::tensor::Tensor;

/// `y + factor * x`; only the places of its inputs on the tape are kept.
struct ScaledSum {
    y: Var,
    x: Var,
    factor: f32,
}

impl Tape<'_> {
    /// `y + x`, of one shape.
    pub fn add(&mut self, y: Var, x: Var) -> Var {
        self.add_scaled(y, x, 1.0)
    }

    /// `y + factor * x`, of one shape.
    pub fn add_scaled(&mut self, y: Var, x: Var, factor: f32) -> Var {
        assert_eq!(y.shape(), x.shape(), "terms of one shape");
        let backend = self.engine.backend();
        let record = self.must_record(&[&y, &x], &[]);
        let empty = Arc::new(backend.empty(0, 0));
        let (y_place, x_place) = (Var::kept(y.node, Arc::clone(&empty)), Var::kept(x.node, empty));
        let mut sum = into_owned(self.engine, y);
        if factor == 1.0 {
            backend.add_assign(&mut sum, &x.value);
        } else {
            backend.scale_add(&mut sum, &x.value, factor);
        }
        if record {
            self.record(
                sum,
                ScaledSum {
                    y: y_place,
                    x: x_place,
                    factor,
                },
            )
        } else {
            self.plain(sum)
        }
    }
}

impl Operation for ScaledSum {
    fn backward(self: Box<Self>, context: &mut Backward<'_>, mut upstream: Vec<Option<Tensor>>) {
        let Some(dy) = upstream.remove(0) else { return };
        let backend = context.engine.backend();
        if context.wants(&self.x) {
            let mut dx = backend.duplicate(&dy);
            if self.factor != 1.0 {
                backend.scale(&mut dx, self.factor);
            }
            context.add(&self.x, dx);
        }
        context.add(&self.y, dy);
    }
}
