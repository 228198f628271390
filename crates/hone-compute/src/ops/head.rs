//! Heads that give one number a row: scores of a reward model, values of a value network. Always in f32.

use crate::parameter::ParameterId;
use crate::rows_left::RowChunks;
use crate::tape::{Backward, Operation, Tape, Var};
use crate::tensor::Tensor;

struct ScalarHead {
    x: Var,
    weight: ParameterId,
    bias: Option<ParameterId>,
}

impl Tape<'_> {
    /// `x . w + b` for each row of `x` `[n, d]`, `w` `[1, d]`, `b` `[1, 1]`: `[n, 1]`.
    pub fn scalar_head(&mut self, x: &Var, weight: ParameterId, bias: Option<ParameterId>) -> Var {
        self.needs_all_rows();
        let backend = self.engine.backend();
        let w = self.parameters.get(weight).value();
        assert_eq!(w.len(), x.value.cols(), "one weight a column");
        let mut y = backend.row_dot(&x.value, w);
        if let Some(bias) = bias {
            backend.add_bias(&mut y, self.parameters.get(bias).value());
        }
        let ids: Vec<_> = std::iter::once(weight).chain(bias).collect();
        if self.must_record(&[x], &ids) {
            self.record(
                y,
                ScalarHead {
                    x: x.clone(),
                    weight,
                    bias,
                },
            )
        } else {
            self.plain(y)
        }
    }
}

impl Operation for ScalarHead {
    fn backward(self: Box<Self>, context: &mut Backward<'_>, mut upstream: Vec<Option<Tensor>>) {
        let Some(dy) = upstream.remove(0) else { return };
        let backend = context.engine.backend();
        let mut dx = context.take_or_zeros(&self.x);
        let weight = context.parameters.get(self.weight).value();
        backend.row_dot_backward(
            &self.x.value,
            weight,
            &dy,
            (dx.as_mut(), context.parameter(self.weight)),
        );
        context.put(&self.x, dx);
        if let Some(dbias) = self.bias.and_then(|bias| context.parameter(bias)) {
            backend.bias_gradient(&dy, &RowChunks::default(), dbias);
        }
    }
}
