//! Activations of the feed-forward layer: SwiGLU (Shazeer, 2020) and plain ones.

use std::sync::Arc;

use super::remake::Recipe;
use crate::backend::Activation;
use crate::tape::{Backward, Operation, Tape, Var};
use crate::tensor::Tensor;

struct SwiGlu {
    gate: Var,
    up: Var,
}

struct Activate {
    kind: Activation,
    x: Var,
}

impl Tape<'_> {
    /// `silu(gate) * up`, element by element.
    pub fn swiglu(&mut self, gate: &Var, up: &Var) -> Var {
        assert_eq!(gate.shape(), up.shape(), "gate and up have one shape");
        let y = self.engine.backend().swiglu(&gate.value, &up.value);
        if self.must_record(&[gate, up], &[]) {
            let recipe = Recipe::SwiGlu {
                gate: Arc::clone(&gate.value),
                up: Arc::clone(&up.value),
            };
            self.record_with(
                y,
                recipe,
                SwiGlu {
                    gate: gate.clone(),
                    up: up.clone(),
                },
            )
        } else {
            self.plain(y)
        }
    }

    /// The activation of every element.
    pub fn activate(&mut self, kind: Activation, x: &Var) -> Var {
        let y = self.engine.backend().activate(kind, &x.value);
        if self.must_record(&[x], &[]) {
            let recipe = Recipe::Activation {
                kind,
                x: Arc::clone(&x.value),
            };
            self.record_with(y, recipe, Activate { kind, x: x.clone() })
        } else {
            self.plain(y)
        }
    }
}

impl Operation for SwiGlu {
    fn backward(self: Box<Self>, context: &mut Backward<'_>, mut upstream: Vec<Option<Tensor>>) {
        let Some(dy) = upstream.remove(0) else { return };
        let (dgate, dup) = context
            .engine
            .backend()
            .swiglu_backward(&self.gate.value, &self.up.value, &dy);
        context.add(&self.gate, dgate);
        context.add(&self.up, dup);
    }
}

impl Operation for Activate {
    fn backward(self: Box<Self>, context: &mut Backward<'_>, mut upstream: Vec<Option<Tensor>>) {
        let Some(dy) = upstream.remove(0) else { return };
        let dx = context
            .engine
            .backend()
            .activate_backward(self.kind, &self.x.value, &dy);
        context.add(&self.x, dx);
    }
}
