//! The tape: operations in the order they ran, each with a backward written by hand.
//!
//! A [`Var`] owns its number; the tape holds only what a backward needs, so memory that nothing needs is free at once.
//! A tape that does not record runs the same operations and keeps nothing.

use std::sync::Arc;

use crate::engine::Engine;
use crate::ops::remake::Recipe;
use crate::parameter::{Gradients, Packing, ParameterId, Parameters};
use crate::rows_left::{RowChunks, RowsLeft};
use crate::tensor::Tensor;

pub(crate) type NodeId = usize;

/// A result on the tape. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Var {
    /// None: no gradient flows into it.
    pub(crate) node: Option<NodeId>,
    pub(crate) value: Arc<Tensor>,
    /// How to make the numbers again, where that is cheaper than to keep them.
    pub(crate) recipe: Option<Arc<Recipe>>,
}

impl Var {
    /// A number that is kept as it is.
    pub(crate) fn kept(node: Option<NodeId>, value: Arc<Tensor>) -> Self {
        Self {
            node,
            value,
            recipe: None,
        }
    }

    /// Its numbers.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.value.rows(), self.value.cols())
    }
}

/// An operation that ran, with what its backward needs.
pub(crate) trait Operation {
    /// Takes the gradients of its outputs (none: no gradient arrived) and passes on those of its inputs.
    fn backward(self: Box<Self>, context: &mut Backward<'_>, upstream: Vec<Option<Tensor>>);
}

struct Recorded<'p> {
    operation: Box<dyn Operation + 'p>,
    first_output: NodeId,
    outputs: usize,
}

/// Runs operations and, if it records, remembers them for the way back.
pub struct Tape<'p> {
    pub(crate) engine: &'p Engine,
    pub(crate) parameters: &'p Parameters,
    operations: Vec<Recorded<'p>>,
    nodes: NodeId,
    recording: bool,
    pub(crate) packing: Packing,
    /// How sums over rows are cut on the way back of what is recorded now.
    pub(crate) chunks: RowChunks,
}

/// What operations see on the way back.
pub(crate) struct Backward<'b> {
    pub engine: &'b Engine,
    pub parameters: &'b Parameters,
    pub gradients: &'b mut Gradients,
    nodes: Vec<Option<Tensor>>,
}

impl<'p> Tape<'p> {
    /// A tape that records, for training.
    pub fn training(engine: &'p Engine, parameters: &'p Parameters) -> Self {
        Self {
            engine,
            parameters,
            operations: Vec::new(),
            nodes: 0,
            recording: true,
            packing: parameters.packing(),
            chunks: RowChunks::default(),
        }
    }

    /// A tape that keeps nothing, for whole sequences: log-probabilities, scores, held-out losses.
    pub fn inference(engine: &'p Engine, parameters: &'p Parameters) -> Self {
        Self {
            recording: false,
            ..Self::training(engine, parameters)
        }
    }

    /// The same for sampling: the packed forms of weights stay for the next token, whatever [`Parameters::packing`] says.
    pub fn decoding(engine: &'p Engine, parameters: &'p Parameters) -> Self {
        Self {
            packing: Packing::Kept,
            ..Self::inference(engine, parameters)
        }
    }

    /// The engine it runs on.
    pub fn engine(&self) -> &'p Engine {
        self.engine
    }

    /// The parameters it reads.
    pub fn parameters(&self) -> &'p Parameters {
        self.parameters
    }

    /// Whether it records.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Runs `work`, products, norms and what goes element by element, on results that have only these rows. On the way back
    /// sums over rows are cut as with all of them, so that gradients are the same where the others have none.
    pub fn with_rows_left<R>(&mut self, left: &RowsLeft, work: impl FnOnce(&mut Self) -> R) -> R {
        let before = std::mem::replace(&mut self.chunks, left.chunks());
        let result = work(self);
        self.chunks = before;
        result
    }

    /// For operations that sum over rows of their own.
    ///
    /// # Panics
    /// If rows are left out.
    pub(crate) fn needs_all_rows(&self) {
        assert!(self.chunks.are_of_all(), "an operation that needs all rows");
    }

    /// A number without gradient.
    pub fn constant(&self, value: Tensor) -> Var {
        Var::kept(None, Arc::new(value))
    }

    /// An input whose gradient is wanted.
    pub(crate) fn leaf(&mut self, value: Arc<Tensor>) -> Var {
        self.nodes += 1;
        Var::kept(Some(self.nodes - 1), value)
    }

    pub(crate) fn trains(&self, id: ParameterId) -> bool {
        self.parameters.get(id).trainable()
    }

    /// Whether an operation on these must be recorded.
    pub(crate) fn must_record(&self, inputs: &[&Var], parameters: &[ParameterId]) -> bool {
        self.recording && (inputs.iter().any(|v| v.node.is_some()) || parameters.iter().any(|&p| self.trains(p)))
    }

    /// Outputs of an operation that is not recorded.
    pub(crate) fn plain(&self, value: Tensor) -> Var {
        self.constant(value)
    }

    /// Records an operation with one output.
    pub(crate) fn record(&mut self, value: Tensor, operation: impl Operation + 'p) -> Var {
        let value = Arc::new(value);
        self.record_shared(vec![value], operation).swap_remove(0)
    }

    /// The same for an operation whose output is cheap to make again from what it keeps anyway.
    pub(crate) fn record_with(&mut self, value: Tensor, recipe: Recipe, operation: impl Operation + 'p) -> Var {
        let mut var = self.record(value, operation);
        var.recipe = Some(Arc::new(recipe));
        var
    }

    /// Records an operation with several outputs.
    pub(crate) fn record_shared(&mut self, values: Vec<Arc<Tensor>>, operation: impl Operation + 'p) -> Vec<Var> {
        let first = self.nodes;
        self.nodes += values.len();
        self.operations.push(Recorded {
            operation: Box::new(operation),
            first_output: first,
            outputs: values.len(),
        });
        values
            .into_iter()
            .enumerate()
            .map(|(i, value)| Var::kept(Some(first + i), value))
            .collect()
    }

    /// Goes back from `seeds`, the gradients of the loss with respect to some results, and adds the gradients of the
    /// parameters to `gradients`.
    ///
    /// # Panics
    /// If a seed has another shape than its result.
    pub fn backward(self, seeds: Vec<(&Var, Tensor)>, gradients: &mut Gradients) {
        self.run_backward(seeds, gradients, &[]);
    }

    /// The same, and gives back the gradients of these leaves.
    pub(crate) fn run_backward(
        self,
        seeds: Vec<(&Var, Tensor)>,
        gradients: &mut Gradients,
        leaves: &[NodeId],
    ) -> Vec<Option<Tensor>> {
        let nodes = (0..self.nodes).map(|_| None).collect();
        let mut context = Backward {
            engine: self.engine,
            parameters: self.parameters,
            gradients,
            nodes,
        };
        for (var, gradient) in seeds {
            assert_eq!(
                var.shape(),
                (gradient.rows(), gradient.cols()),
                "a seed has the shape of its result"
            );
            context.add(var, gradient);
        }
        for recorded in self.operations.into_iter().rev() {
            let outputs = recorded.first_output..recorded.first_output + recorded.outputs;
            let upstream: Vec<_> = outputs.map(|node| context.nodes[node].take()).collect();
            if upstream.iter().any(Option::is_some) {
                recorded.operation.backward(&mut context, upstream);
            }
        }
        leaves.iter().map(|&node| context.nodes[node].take()).collect()
    }
}

impl Backward<'_> {
    /// Whether the gradient of `var` is wanted.
    pub fn wants(&self, var: &Var) -> bool {
        var.node.is_some()
    }

    /// Adds to the gradient of `var`.
    pub fn add(&mut self, var: &Var, gradient: Tensor) {
        self.add_to(var.node, gradient);
    }

    /// The same by the place on the tape.
    pub fn add_to(&mut self, node: Option<NodeId>, gradient: Tensor) {
        let Some(node) = node else { return };
        match &mut self.nodes[node] {
            Some(sum) => self.engine.backend().add_assign(sum, &gradient),
            slot @ None => *slot = Some(gradient),
        }
    }

    /// The gradient of `var` so far (zeros at first), taken out to be added to; hand it back by [`Self::put`].
    pub fn take_or_zeros(&mut self, var: &Var) -> Option<Tensor> {
        let node = var.node?;
        let taken = self.nodes[node].take();
        Some(taken.unwrap_or_else(|| self.engine.zeros(var.value.rows(), var.value.cols())))
    }

    /// See [`Self::take_or_zeros`].
    pub fn put(&mut self, var: &Var, gradient: Option<Tensor>) {
        if let (Some(node), Some(gradient)) = (var.node, gradient) {
            self.nodes[node] = Some(gradient);
        }
    }

    /// Where the gradient of a parameter is summed; none if it is frozen.
    pub fn parameter(&mut self, id: ParameterId) -> Option<&mut Tensor> {
        self.gradients.sum(self.engine, id)
    }

    /// The same for an operation that writes all of it, from so many rows: whether it must add is told, too.
    pub fn parameter_or_place(&mut self, id: ParameterId, rows: usize) -> Option<(&mut Tensor, bool)> {
        self.gradients.sum_or_place(self.engine, id, rows)
    }

    /// The same for several different parameters.
    pub fn parameter_pair(&mut self, a: ParameterId, b: ParameterId) -> (Option<&mut Tensor>, Option<&mut Tensor>) {
        assert_ne!(a, b, "two different parameters");
        for id in [a, b] {
            self.parameter(id);
        }
        let (low, high) = (a.0.min(b.0), a.0.max(b.0));
        let (left, right) = self.gradients.tensors.split_at_mut(high);
        let (low, high) = (left[low].as_mut(), right[0].as_mut());
        if a.0 < b.0 { (low, high) } else { (high, low) }
    }
}

/// The tensor of `var` to write into: its own memory where nothing else holds it, else a copy.
pub(crate) fn into_owned(engine: &Engine, var: Var) -> Tensor {
    Arc::try_unwrap(var.value).unwrap_or_else(|shared| engine.backend().duplicate(&shared))
}
