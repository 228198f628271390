//! Results that the way back makes again instead of keeping them: norms and activations, which cost a pass over memory
//! where a matrix product costs hundreds of operations a number.

use std::sync::Arc;

use crate::backend::Activation;
use crate::engine::Engine;
use crate::parameter::{ParameterId, Parameters};
use crate::tape::{NodeId, Var};
use crate::tensor::Tensor;

/// How a result came about, by numbers that are kept anyway.
#[derive(Debug)]
pub(crate) enum Recipe {
    RmsNorm {
        x: Arc<Tensor>,
        weight: ParameterId,
        eps: f32,
    },
    LayerNorm {
        x: Arc<Tensor>,
        weight: ParameterId,
        bias: ParameterId,
        eps: f32,
    },
    Activation {
        kind: Activation,
        x: Arc<Tensor>,
    },
    SwiGlu {
        gate: Arc<Tensor>,
        up: Arc<Tensor>,
    },
}

impl Recipe {
    /// The result, with the bits it had.
    fn make(&self, engine: &Engine, parameters: &Parameters) -> Tensor {
        let backend = engine.backend();
        let numbers = |id: ParameterId| parameters.get(id).value();
        match self {
            Self::RmsNorm { x, weight, eps } => backend.rms_norm(x, numbers(*weight), *eps).0,
            Self::LayerNorm { x, weight, bias, eps } => backend.layer_norm(x, numbers(*weight), numbers(*bias), *eps).0,
            Self::Activation { kind, x } => backend.activate(*kind, x),
            Self::SwiGlu { gate, up } => backend.swiglu(gate, up),
        }
    }
}

/// An input that an operation reads on the way back: kept, or made again.
pub(crate) struct Input {
    pub node: Option<NodeId>,
    pub rows: usize,
    pub cols: usize,
    source: Source,
}

enum Source {
    Kept(Arc<Tensor>),
    Made(Arc<Recipe>),
}

/// The numbers of an [`Input`], for as long as they are looked at.
pub(crate) enum Numbers {
    Kept(Arc<Tensor>),
    Made(Tensor),
}

impl std::ops::Deref for Numbers {
    type Target = Tensor;
    fn deref(&self) -> &Tensor {
        match self {
            Self::Kept(tensor) => tensor,
            Self::Made(tensor) => tensor,
        }
    }
}

impl Input {
    /// Keeps `x`, or how to make it.
    pub fn of(x: &Var) -> Self {
        let (rows, cols) = x.shape();
        let source = match &x.recipe {
            Some(recipe) => Source::Made(Arc::clone(recipe)),
            None => Source::Kept(Arc::clone(&x.value)),
        };
        Self {
            node: x.node,
            rows,
            cols,
            source,
        }
    }

    /// Its numbers.
    pub fn numbers(&self, engine: &Engine, parameters: &Parameters) -> Numbers {
        match &self.source {
            Source::Kept(tensor) => Numbers::Kept(Arc::clone(tensor)),
            Source::Made(recipe) => Numbers::Made(recipe.make(engine, parameters)),
        }
    }
}
