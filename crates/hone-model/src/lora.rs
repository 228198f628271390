//! Low-rank adapters (Hu et al., 2021): `W + (alpha / r) B A`, B zero at the start, never merged while in use.

use hone_compute::{Engine, ParameterId};
use hone_math::Key;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::transformer::Transformer;

/// The shape of an adapter. `[lora]` of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank r of the update.
    #[serde(default = "default_rank")]
    pub rank: usize,
    /// The update is multiplied by alpha / r.
    #[serde(default = "default_alpha")]
    pub alpha: f64,
    /// Which matrices: `q`, `k`, `v`, `o`, `gate`, `up`, `down`, or PEFT's `q_proj` and so on.
    #[serde(default = "default_targets")]
    pub targets: Vec<String>,
    /// Trains the embedding and the output matrix too, and keeps them with the adapter, as PEFT's `modules_to_save` does:
    /// where tokens are used that the model never learned, such as those of a chat template that a base model has but was
    /// not trained with. Where tuning gives a model new tokens it is done anyway.
    #[serde(default)]
    pub vocabulary: bool,
}

fn default_rank() -> usize {
    8
}

fn default_alpha() -> f64 {
    16.0
}

fn default_targets() -> Vec<String> {
    vec!["q".into(), "v".into()]
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: default_rank(),
            alpha: default_alpha(),
            targets: default_targets(),
            vocabulary: false,
        }
    }
}

/// The weights of one layer's adapter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoraWeights {
    /// `[r, in]`.
    pub a: ParameterId,
    /// `[out, r]`.
    pub b: ParameterId,
    pub scale: f32,
}

/// The adapter that a model carries.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Its shape.
    pub config: LoraConfig,
    /// What the model was called when the adapter was made.
    pub base: Option<String>,
}

impl Transformer {
    /// Adds a fresh adapter and freezes everything else. A is drawn as PyTorch's linear layers are (uniform within
    /// `1 / sqrt(in)`), B is 0, so the model is unchanged at first.
    ///
    /// # Errors
    /// If a target names no matrix of this family, rank or alpha makes no sense, or there is an adapter already.
    pub fn add_adapter(&mut self, engine: &Engine, config: &LoraConfig, seed: u64) -> Result<(), Error> {
        let key = Key::new(seed, "lora", 0);
        let mut index = 0;
        self.attach_adapter(engine, config, |_, rows, cols, is_a| {
            index += 1;
            if !is_a {
                return Ok(vec![0.0; rows * cols]);
            }
            let (key, bound) = (key.child(index), 1.0 / (cols as f64).sqrt());
            Ok((0..rows * cols)
                .map(|i| ((key.uniform(i as u64) * 2.0 - 1.0) * bound) as f32)
                .collect())
        })
    }

    /// Adds an adapter whose numbers `values(name, rows, cols, is_a)` gives.
    pub(crate) fn attach_adapter(
        &mut self,
        engine: &Engine,
        config: &LoraConfig,
        mut values: impl FnMut(&str, usize, usize, bool) -> Result<Vec<f32>, Error>,
    ) -> Result<(), Error> {
        if self.adapter.is_some() {
            return Err(Error::AdapterPresent);
        }
        let most = self.architecture().width;
        if config.rank == 0 || config.rank > most {
            return Err(Error::AdapterRank { got: config.rank, most });
        }
        if !(config.alpha > 0.0 && config.alpha.is_finite()) {
            return Err(Error::AdapterAlpha { got: config.alpha });
        }
        self.check_targets(config)?;
        self.parameters.set_all_trainable(false);
        let scale = (config.alpha / config.rank as f64) as f32;
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            for (place, linear) in block.linears_mut() {
                if !config.targets.iter().any(|target| is_target(target, place)) {
                    continue;
                }
                let weight = self.parameters.get(linear.weight.weight).value();
                let (rows, cols) = (weight.rows(), weight.cols());
                let name = format!("layers.{layer}.{place}");
                let a = values(&name, config.rank, cols, true)?;
                let b = values(&name, rows, config.rank, false)?;
                let a = engine.tensor(config.rank, cols, &a);
                let b = engine.tensor(rows, config.rank, &b);
                let a = self.parameters.add(format!("{name}.lora_A.weight"), a);
                let b = self.parameters.add(format!("{name}.lora_B.weight"), b);
                linear.lora = Some(LoraWeights { a, b, scale });
            }
        }
        self.adapter = Some(Adapter {
            config: config.clone(),
            base: None,
        });
        if config.vocabulary {
            self.adapt_vocabulary();
        }
        Ok(())
    }

    fn check_targets(&mut self, config: &LoraConfig) -> Result<(), Error> {
        let known: Vec<_> = self
            .blocks
            .first_mut()
            .map(|b| b.linears_mut().iter().map(|(place, _)| *place).collect())
            .unwrap_or_default();
        for target in &config.targets {
            if !known.iter().any(|place| is_target(target, place)) {
                let known = known.iter().map(|p| short_name(p)).collect::<Vec<_>>().join(", ");
                return Err(Error::UnknownTarget {
                    target: target.clone(),
                    known,
                });
            }
        }
        Ok(())
    }

    /// The adapter it carries.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// Adds each adapter's update to its matrix and drops the adapter. Log-probabilities may move by rounding: products
    /// of the sum are not sums of the products.
    pub fn merge_adapter(mut self, engine: &Engine) -> Self {
        if engine.rehearses() {
            let mut kept = Self::zeros(engine, self.architecture.clone());
            if let Some(head) = self.head {
                kept.add_head(engine, &vec![0.0; kept.architecture.width], head.offset);
            }
            return kept;
        }
        let mut merged = Vec::new();
        for block in &mut self.blocks {
            for (_, linear) in block.linears_mut() {
                let Some(lora) = linear.lora.take() else { continue };
                let (a, b) = (self.parameters.get(lora.a).value(), self.parameters.get(lora.b).value());
                let weight = self.parameters.get(linear.weight.weight).value();
                let numbers = merge(
                    &engine.read(weight),
                    &engine.read(a),
                    &engine.read(b),
                    (a.rows(), lora.scale),
                );
                merged.push((linear.weight.weight, numbers));
            }
        }
        for (id, numbers) in merged {
            self.parameters.set(engine, id, &numbers);
        }
        let head = self.head;
        let architecture = self.architecture.clone();
        let mut kept = Self::build(engine, architecture, |_, spec| {
            let id = self
                .parameters
                .find(&spec.name)
                .expect("a merged model has every weight of its list");
            engine.read(self.parameters.get(id).value())
        });
        if let Some(head) = head {
            kept.add_head(
                engine,
                &engine.read(self.parameters.get(head.weight).value()),
                head.offset,
            );
        }
        kept
    }
}

/// `w + scale * b a`, summed in double precision; `w` `[out, in]`, `a` `[r, in]`, `b` `[out, r]`, r of at least 1.
fn merge(w: &[f32], a: &[f32], b: &[f32], (rank, scale): (usize, f32)) -> Vec<f32> {
    let (outputs, inputs) = (b.len() / rank, a.len() / rank);
    let mut merged = w.to_vec();
    for o in 0..outputs {
        for i in 0..inputs {
            let sum: f64 = (0..rank)
                .map(|r| f64::from(b[o * rank + r]) * f64::from(a[r * inputs + i]))
                .sum();
            merged[o * inputs + i] = (f64::from(w[o * inputs + i]) + f64::from(scale) * sum) as f32;
        }
    }
    merged
}

/// Whether a target as configured means this place, such as `q` or `q_proj` for `self_attn.q_proj`.
fn is_target(target: &str, place: &str) -> bool {
    let last = place.rsplit('.').next().unwrap_or(place);
    target == place || target == last || target == short_name(place)
}

/// `q` for `self_attn.q_proj`.
pub(crate) fn short_name(place: &str) -> &str {
    let last = place.rsplit('.').next().unwrap_or(place);
    last.strip_suffix("_proj").unwrap_or(last)
}
