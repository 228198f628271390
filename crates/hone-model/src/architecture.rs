//! What kind of transformer: families differ in data, not in code.

use hone_compute::rope::RopeScaling;
use hone_compute::{Activation, AttentionShape, Mask};
use serde::{Deserialize, Serialize};

/// A family of models in Hugging Face's naming (`model_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Llama and what shares its layout.
    Llama,
    /// Qwen2 and Qwen2.5: Llama with biases on queries, keys and values.
    Qwen2,
    /// Qwen3: Llama with a norm on the heads of queries and keys.
    Qwen3,
    /// GPT-2: layer norms, learned positions, GeLU, biases everywhere.
    Gpt2,
}

impl Family {
    /// All that are known.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Gpt2];

    /// `model_type` in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gpt2 => "gpt2",
        }
    }

    /// The family of this `model_type`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }
}

/// How rows are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square, one weight a column.
    Rms,
    /// Mean and variance, weight and bias.
    Layer,
}

/// How a token's position reaches the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// Queries and keys are rotated.
    Rotary {
        /// Base of the frequencies.
        theta: f64,
        /// Stretching for longer contexts.
        scaling: RopeScaling,
    },
    /// A learned vector a position is added to the embedding.
    Learned,
}

/// The feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpKind {
    /// `down(silu(gate x) * up x)`.
    SwiGlu,
    /// `down(activation(up x))`.
    Plain(Activation),
}

/// Which matrices have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The output of attention.
    pub output: bool,
    /// The feed-forward layer.
    pub mlp: bool,
}

/// A transformer's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Which family's files it reads and writes.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream (`hidden_size`).
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head; `heads * head_dim` need not equal `width`.
    pub head_dim: usize,
    /// Width inside the feed-forward layer.
    pub intermediate: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// How rows are normalised.
    pub norm: NormKind,
    /// Added under the root.
    pub norm_eps: f32,
    /// How positions enter.
    pub positions: Positions,
    /// The feed-forward layer.
    pub mlp: MlpKind,
    /// Which matrices have a bias.
    pub biases: Biases,
    /// Whether queries and keys are normalised a head.
    pub qk_norm: bool,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
}

impl Architecture {
    /// The sizes of its attention.
    pub fn attention(&self) -> AttentionShape {
        AttentionShape {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            mask: Mask::Causal,
        }
    }

    /// Weights of one block, without norms and biases, which count for little: for plans of memory and time.
    pub fn block_weights(&self) -> usize {
        let attention = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads);
        let mlp = match self.mlp {
            MlpKind::SwiGlu => 3,
            MlpKind::Plain(_) => 2,
        };
        attention + mlp * self.width * self.intermediate
    }
}
