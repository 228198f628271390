//! Activations of the feed-forward layer: SwiGLU (Shazeer, 2020) and plain ones.

use std::sync::Arc;

use super::remake::Recipe;
use crate::backend::Activation;
use crate::tape::{Backward, Operation, Tape, Var, into_owned};
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
        let engine = context.engine;
        let places = (self.gate.node, self.up.node);
        let (mut gate, mut up) = (into_owned(engine, self.gate), into_owned(engine, self.up));
        engine.backend().swiglu_backward(&mut gate, &mut up, &dy);
        drop(dy);
        context.add_to(places.0, gate);
        context.add_to(places.1, up);
    }
}

impl Operation for Activate {
    fn backward(self: Box<Self>, context: &mut Backward<'_>, mut upstream: Vec<Option<Tensor>>) {
        let Some(dy) = upstream.remove(0) else { return };
        let (engine, place) = (context.engine, self.x.node);
        let mut x = into_owned(engine, self.x);
        engine.backend().activate_backward(self.kind, &mut x, &dy);
        drop(dy);
        context.add_to(place, x);
    }
}
