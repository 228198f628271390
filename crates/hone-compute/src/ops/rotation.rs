//! Rotary position embedding (Su et al., 2021) in the half-split form of Hugging Face's Llama.

use std::sync::Arc;

use crate::backend::{Rotation, Turn};
use crate::layout::Layout;
use crate::rope::RopeTable;
use crate::tape::{Backward, Operation, Tape, Var, into_owned};
use crate::tensor::Tensor;

struct Rotate {
    x: Var,
    head_dim: usize,
    layout: Layout,
    table: Arc<RopeTable>,
}

impl Tape<'_> {
    /// Rotates every head of `x` `[n, heads * head_dim]` by the angles of its row's position.
    ///
    /// # Panics
    /// If a position is beyond the table: lengths are checked where sequences enter.
    pub fn rotate(&mut self, x: Var, head_dim: usize, layout: &Layout, table: &Arc<RopeTable>) -> Var {
        let input = Var::kept(x.node, Arc::new(self.engine.backend().empty(0, 0)));
        let record = self.must_record(&[&x], &[]);
        let mut y = into_owned(self.engine, x);
        let rotation = Rotation {
            head_dim,
            positions: layout.positions(),
            table,
            turn: Turn::Forward,
        };
        self.engine.backend().rotate(&mut y, &rotation);
        if record {
            self.record(
                y,
                Rotate {
                    x: input,
                    head_dim,
                    layout: layout.clone(),
                    table: Arc::clone(table),
                },
            )
        } else {
            self.plain(y)
        }
    }
}

impl Operation for Rotate {
    fn backward(self: Box<Self>, context: &mut Backward<'_>, mut upstream: Vec<Option<Tensor>>) {
        let Some(mut dy) = upstream.remove(0) else { return };
        let positions = self.layout.positions();
        let rotation = Rotation {
            head_dim: self.head_dim,
            positions,
            table: &self.table,
            turn: Turn::Backward,
        };
        context.engine.backend().rotate(&mut dy, &rotation);
        context.add(&self.x, dy);
    }
}
