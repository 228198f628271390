//! Choosing rows, such as the positions whose next token counts, or the last of each sequence.

use std::sync::Arc;

use crate::tape::{Backward, Operation, Tape, Var};
use crate::tensor::Tensor;

struct SelectRows {
    x: Var,
    rows: Arc<[u32]>,
}

impl Tape<'_> {
    /// Row `rows[i]` of `x` `[n, d]` for every i: `[rows, d]`.
    ///
    /// # Panics
    /// If a row is not there.
    pub fn select_rows(&mut self, x: &Var, rows: &Arc<[u32]>) -> Var {
        assert!(
            rows.iter().all(|&row| (row as usize) < x.value.rows()),
            "a row that is not there"
        );
        let y = self.engine.backend().gather(&x.value, rows);
        if self.must_record(&[x], &[]) {
            self.record(
                y,
                SelectRows {
                    x: x.clone(),
                    rows: Arc::clone(rows),
                },
            )
        } else {
            self.plain(y)
        }
    }
}

impl Operation for SelectRows {
    fn backward(self: Box<Self>, context: &mut Backward<'_>, mut upstream: Vec<Option<Tensor>>) {
        let Some(dy) = upstream.remove(0) else { return };
        let Some(mut dx) = context.take_or_zeros(&self.x) else {
            return;
        };
        context.engine.backend().scatter_add(&dy, &self.rows, &mut dx);
        context.put(&self.x, Some(dx));
    }
}
