//! A whole transformer, one sequence at a time.

use std::collections::BTreeMap;

use crate::layers::{self, AttentionSizes, TokenNumbers, add_bias, layer_norm, map, rms_norm, token_numbers};
use crate::matrix::{Matrix, Rounding};

/// How positions enter.
#[derive(Clone, Debug)]
pub enum Place {
    /// Queries and keys turn by these angles a position.
    Rotary(Vec<f64>),
    /// Rows of `embed_positions.weight` are added to the embedding.
    Learned,
}

/// The feed-forward layer.
#[derive(Clone, Copy, Debug)]
pub enum Feed {
    /// `down(silu(gate x) * up x)`.
    Gated,
    /// `down(f(up x))`.
    Plain(fn(f64) -> f64),
}

/// What is not seen from the weights' shapes. Weights are named as `layers.0.self_attn.q_proj.weight`; norms with a bias
/// are layer norms, those without take the root mean square; biases, norms of heads, an output matrix
/// (`lm_head.weight`) and adapters (`....lora_A.weight`, `....lora_B.weight`) are used where they are there.
#[derive(Clone, Debug)]
pub struct NaiveShape {
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Added under the roots of norms.
    pub eps: f64,
    /// How positions enter.
    pub place: Place,
    /// The feed-forward layer.
    pub feed: Feed,
    /// What an adapter's product is multiplied by.
    pub lora_scale: f64,
}

/// A transformer in f64.
#[derive(Clone, Debug)]
pub struct NaiveModel {
    /// Its shape.
    pub shape: NaiveShape,
    /// Its weights by name; vectors are `[1, n]`.
    pub weights: BTreeMap<String, Matrix>,
    /// What happens to operands of products, and to keys and values.
    pub rounding: Rounding,
}

impl NaiveModel {
    fn weight(&self, name: &str) -> &Matrix {
        self.weights.get(name).unwrap_or_else(|| panic!("no weight {name}"))
    }

    fn linear(&self, x: &Matrix, name: &str) -> Matrix {
        let mut y = layers::linear(x, self.weight(&format!("{name}.weight")), self.rounding);
        if let Some(bias) = self.weights.get(&format!("{name}.bias")) {
            y = add_bias(&y, bias);
        }
        if let Some(a) = self.weights.get(&format!("{name}.lora_A.weight")) {
            let low = layers::linear(x, a, self.rounding);
            let delta = layers::linear(&low, self.weight(&format!("{name}.lora_B.weight")), self.rounding);
            y = y.plus(&delta, self.shape.lora_scale);
        }
        y
    }

    fn norm(&self, x: &Matrix, name: &str) -> Matrix {
        let weight = self.weight(&format!("{name}.weight"));
        match self.weights.get(&format!("{name}.bias")) {
            Some(bias) => layer_norm(x, weight, bias, self.shape.eps),
            None => rms_norm(x, weight, self.shape.eps),
        }
    }

    /// Hidden states of one sequence after the last norm, `[n, d]`.
    pub fn hidden(&self, ids: &[u32]) -> Matrix {
        let s = &self.shape;
        let positions: Vec<u32> = (0..ids.len() as u32).collect();
        let mut x = self.weight("embed_tokens.weight").select(ids);
        if let Place::Learned = s.place {
            x = x.plus(&self.weight("embed_positions.weight").select(&positions), 1.0);
        }
        for layer in 0..s.layers {
            let name = |rest: &str| format!("layers.{layer}.{rest}");
            let normed = self.norm(&x, &name("input_layernorm"));
            let mut q = self.linear(&normed, &name("self_attn.q_proj"));
            let mut k = self.linear(&normed, &name("self_attn.k_proj"));
            let v = self.linear(&normed, &name("self_attn.v_proj"));
            if let Some(q_norm) = self.weights.get(&name("self_attn.q_norm.weight")) {
                q = rms_norm(&q, q_norm, s.eps);
                k = rms_norm(&k, self.weight(&name("self_attn.k_norm.weight")), s.eps);
            }
            if let Place::Rotary(frequencies) = &s.place {
                q = layers::rotate(&q, s.head_dim, &positions, frequencies, 1.0);
                k = layers::rotate(&k, s.head_dim, &positions, frequencies, 1.0);
            }
            let sizes = AttentionSizes {
                heads: s.heads,
                kv_heads: s.kv_heads,
                head_dim: s.head_dim,
                scale: 1.0 / (s.head_dim as f64).sqrt(),
                causal: true,
            };
            let attended = layers::attention((&q, &k, &v), sizes, &[ids.len()], self.rounding);
            x = x.plus(&self.linear(&attended, &name("self_attn.o_proj")), 1.0);

            let normed = self.norm(&x, &name("post_attention_layernorm"));
            let up = self.linear(&normed, &name("mlp.up_proj"));
            let inner = match s.feed {
                Feed::Gated => {
                    let gate = self.linear(&normed, &name("mlp.gate_proj"));
                    Matrix::from_fn(up.rows, up.cols, |r, c| layers::silu(gate.at(r, c)) * up.at(r, c))
                }
                Feed::Plain(f) => map(&up, f),
            };
            x = x.plus(&self.linear(&inner, &name("mlp.down_proj")), 1.0);
        }
        self.norm(&x, "norm")
    }

    /// Numbers of the tokens from the second on.
    pub fn token_numbers(&self, ids: &[u32], temperature: f64) -> TokenNumbers {
        let hidden = self.hidden(&ids[..ids.len() - 1]);
        let output = self
            .weights
            .get("lm_head.weight")
            .unwrap_or_else(|| self.weight("embed_tokens.weight"));
        token_numbers(&layers::linear(&hidden, output, self.rounding), &ids[1..], temperature)
    }

    /// `score.weight` times the hidden state of every token, never rounded.
    pub fn head_outputs(&self, ids: &[u32]) -> Vec<f64> {
        layers::linear(&self.hidden(ids), self.weight("score.weight"), Rounding::None).data
    }
}
