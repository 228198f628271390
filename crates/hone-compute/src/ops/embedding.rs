//! Token (or position) embeddings: rows of a table.

use std::sync::Arc;

use crate::parameter::ParameterId;
use crate::tape::{Backward, Operation, Tape, Var};
use crate::tensor::Tensor;

struct Embedding {
    table: ParameterId,
    ids: Arc<[u32]>,
}

impl Tape<'_> {
    /// Row `ids[i]` of `table` `[v, d]` for every i: `[n, d]`.
    ///
    /// # Panics
    /// If an id is not a row of the table: ids are checked where they enter.
    pub fn embedding(&mut self, table: ParameterId, ids: &Arc<[u32]>) -> Var {
        let weights = self.parameters.get(table).value();
        assert!(
            ids.iter().all(|&id| (id as usize) < weights.rows()),
            "a token id beyond the embedding"
        );
        let value = self.engine.backend().gather(weights, ids);
        if self.must_record(&[], &[table]) {
            self.record(
                value,
                Embedding {
                    table,
                    ids: Arc::clone(ids),
                },
            )
        } else {
            self.plain(value)
        }
    }
}

impl Operation for Embedding {
    fn backward(self: Box<Self>, context: &mut Backward<'_>, mut upstream: Vec<Option<Tensor>>) {
        let Some(dy) = upstream.remove(0) else { return };
        let engine = context.engine;
        if let Some(gradient) = context.parameter(self.table) {
            engine.backend().scatter_add(&dy, &self.ids, gradient);
        }
    }
}
