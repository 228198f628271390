//! Recomputing a block on the way back instead of keeping what is inside it (Chen et al., 2016): memory for time.

use std::sync::Arc;

use crate::tape::{Backward, Operation, Tape, Var};
use crate::tensor::Tensor;

struct Recompute<F> {
    input: Var,
    block: F,
}

impl<'p> Tape<'p> {
    /// Runs `block` on `input` and keeps only `input`; the way back runs it again, with the same bits.
    pub fn recompute<F>(&mut self, input: &Var, block: F) -> Var
    where
        F: Fn(&mut Tape<'_>, &Var) -> Var + 'p,
    {
        self.needs_all_rows();
        if !self.is_recording() {
            return block(self, input);
        }
        let mut silent = Tape::inference(self.engine, self.parameters);
        let output = block(&mut silent, &Var::kept(None, Arc::clone(&input.value)));
        self.record_shared(
            vec![output.value],
            Recompute {
                input: input.clone(),
                block,
            },
        )
        .swap_remove(0)
    }
}

impl<F> Operation for Recompute<F>
where
    F: Fn(&mut Tape<'_>, &Var) -> Var,
{
    fn backward(self: Box<Self>, context: &mut Backward<'_>, mut upstream: Vec<Option<Tensor>>) {
        let Some(dy) = upstream.remove(0) else { return };
        let mut tape = Tape::training(context.engine, context.parameters);
        let value = Arc::clone(&self.input.value);
        // Where nothing before the block is trained, the gradient of its input is not wanted.
        let input = if self.input.node.is_some() {
            tape.leaf(value)
        } else {
            Var::kept(None, value)
        };
        let output = (self.block)(&mut tape, &input);
        let leaves: Vec<_> = input.node.into_iter().collect();
        let mut gradients = tape.run_backward(vec![(&output, dy)], context.gradients, &leaves);
        if let Some(Some(dx)) = gradients.pop() {
            context.add(&self.input, dx);
        }
    }
}
