//! `config.json`: read in the old and the new spelling, written in the one that transformers reads.

use std::path::Path;

use hone_compute::Activation;
use hone_compute::rope::{RopeScaling, inverse_frequencies};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::architecture::{Architecture, Biases, Family, MlpKind, NormKind, Positions};
use crate::error::Error;

/// The most layers of a model: far above any, and few enough that a lying configuration costs nothing.
const MAX_LAYERS: usize = 4096;

/// The longest context, in tokens. A table of angles is made for it that no tensor backs.
const MAX_CONTEXT: usize = 1 << 20;

/// The widest head, likewise.
const MAX_HEAD_DIM: usize = 1 << 16;

/// What `config.json` says.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// The transformer's shape.
    pub architecture: Architecture,
    /// Whether it ends in one score (`...ForSequenceClassification` with one label).
    pub scores: bool,
    /// Added to a score; hone's own field, 0 where absent.
    pub score_offset: f32,
    /// `bos_token_id`, `eos_token_id` and `pad_token_id` as they stand.
    pub tokens: Map<String, Value>,
}

/// A model from scratch. `[model.new]` of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewModel {
    /// `llama`, `qwen2`, `qwen3` or `gpt2`.
    #[serde(default = "default_family")]
    pub family: String,
    /// Width of the residual stream.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; as many as `heads` where absent.
    #[schemars(example = 2)]
    #[serde(default)]
    pub kv_heads: Option<usize>,
    /// Width of a head; `width / heads` where absent.
    #[schemars(example = 32)]
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Width inside the feed-forward layer; where absent 4 widths (gpt2), or 8/3 widths rounded up to a multiple of 32.
    #[schemars(example = 512)]
    #[serde(default)]
    pub intermediate: Option<usize>,
    /// Longest sequence, in tokens.
    #[serde(default = "default_context")]
    pub context: usize,
    /// Whether the output matrix is the embedding.
    #[serde(default = "default_tied")]
    pub tied: bool,
    /// Base of the rotary frequencies.
    #[serde(default = "default_theta")]
    pub rope_theta: f64,
}

fn default_family() -> String {
    "llama".into()
}

fn default_context() -> usize {
    1024
}

fn default_tied() -> bool {
    true
}

fn default_theta() -> f64 {
    10_000.0
}

/// Width inside the feed-forward layer where none is given.
fn default_intermediate(width: usize, gpt2: bool) -> usize {
    if gpt2 {
        width.saturating_mul(4)
    } else {
        width.saturating_mul(8).div_ceil(3).next_multiple_of(32)
    }
}

impl NewModel {
    /// Fills in the sizes that follow from others. What makes no transformer is left for [`Self::architecture`] to
    /// refuse.
    pub fn resolve(&mut self) {
        let Some(family) = Family::from_name(&self.family) else {
            return;
        };
        self.kv_heads.get_or_insert(self.heads);
        if self.heads > 0 && self.width.is_multiple_of(self.heads) {
            self.head_dim.get_or_insert(self.width / self.heads);
        }
        self.intermediate
            .get_or_insert(default_intermediate(self.width, family == Family::Gpt2));
    }

    /// The architecture for a vocabulary of this size.
    ///
    /// # Errors
    /// If the sizes make no transformer.
    pub fn architecture(&self, vocab_size: usize) -> Result<Architecture, Error> {
        let fail = |reason: String| Err(Error::New { reason });
        let Some(family) = Family::from_name(&self.family) else {
            let known = Family::ALL.map(Family::name).join(", ");
            return fail(format!("family is `{}`; expected one of {known}", self.family));
        };
        if self.width == 0 || self.layers == 0 || self.heads == 0 || self.context == 0 {
            return fail("width, layers, heads and context must be above 0".into());
        }
        if self.layers > MAX_LAYERS || self.context > MAX_CONTEXT {
            return fail(format!(
                "layers is {} and context {}; at most {MAX_LAYERS} layers and a context of {MAX_CONTEXT} are supported",
                self.layers, self.context
            ));
        }
        let widest = [Some(self.width), Some(self.heads), self.head_dim, self.intermediate];
        if let Some(size) = widest.into_iter().flatten().find(|&size| size >= 1 << 31) {
            return fail(format!("a size is {size}; sizes are below 2^31"));
        }
        if self.head_dim.is_none() && !self.width.is_multiple_of(self.heads) {
            return fail(format!(
                "width {} is not a multiple of heads {}; give head_dim",
                self.width, self.heads
            ));
        }
        let kv_heads = self.kv_heads.unwrap_or(self.heads);
        if kv_heads == 0 || !self.heads.is_multiple_of(kv_heads) {
            return fail(format!("heads {} is not a multiple of kv_heads {kv_heads}", self.heads));
        }
        let head_dim = self.head_dim.unwrap_or(self.width / self.heads);
        if head_dim > MAX_HEAD_DIM {
            return fail(format!(
                "a head is {head_dim} wide; at most {MAX_HEAD_DIM} are supported"
            ));
        }
        let gpt2 = family == Family::Gpt2;
        if gpt2 && (kv_heads != self.heads || head_dim * self.heads != self.width) {
            return fail("gpt2 has as many key heads as heads, and width = heads * head_dim".into());
        }
        if !gpt2 && let Err(error) = inverse_frequencies(head_dim, self.rope_theta, &RopeScaling::Default) {
            return fail(error.to_string());
        }
        if gpt2 && self.rope_theta != default_theta() {
            return fail(format!(
                "rope_theta is {}, and gpt2 has learned positions; leave it out",
                self.rope_theta
            ));
        }
        let intermediate = self.intermediate.unwrap_or(default_intermediate(self.width, gpt2));
        let positions = Positions::Rotary {
            theta: self.rope_theta,
            scaling: RopeScaling::Default,
        };
        Ok(Architecture {
            family,
            vocab_size,
            width: self.width,
            layers: self.layers,
            heads: self.heads,
            kv_heads,
            head_dim,
            intermediate,
            context: self.context,
            norm: if gpt2 { NormKind::Layer } else { NormKind::Rms },
            norm_eps: if family == Family::Llama || gpt2 { 1e-5 } else { 1e-6 },
            positions: if gpt2 { Positions::Learned } else { positions },
            mlp: if gpt2 {
                MlpKind::Plain(Activation::GeluTanh)
            } else {
                MlpKind::SwiGlu
            },
            biases: Biases {
                qkv: gpt2 || family == Family::Qwen2,
                output: gpt2,
                mlp: gpt2,
            },
            qk_norm: family == Family::Qwen3,
            tied: self.tied,
        })
    }
}

/// Reads `config.json`'s text.
pub(crate) fn parse(path: &Path, text: &str) -> Result<ModelConfig, Error> {
    let value: Value = serde_json::from_str(text).map_err(|e| Error::Config {
        path: path.into(),
        reason: format!("not JSON: {e}"),
    })?;
    let Value::Object(fields) = value else {
        return Err(Error::Config {
            path: path.into(),
            reason: "expected a JSON object".into(),
        });
    };
    let fields = Fields { path, fields: &fields };
    let name = fields.text("model_type")?.unwrap_or_default();
    let Some(family) = Family::from_name(name) else {
        let known = Family::ALL.map(Family::name).join(", ");
        return Err(Error::UnknownArchitecture {
            path: path.into(),
            got: name.into(),
            known,
        });
    };
    let architecture = match family {
        Family::Gpt2 => gpt2(&fields)?,
        _ => llama_like(&fields, family)?,
    };
    let classes = fields.fields.get("architectures").and_then(Value::as_array);
    let scores = classes.is_some_and(|c| {
        c.iter()
            .filter_map(Value::as_str)
            .any(|c| c.ends_with("ForSequenceClassification"))
    });
    let tokens = ["bos_token_id", "eos_token_id", "pad_token_id"];
    let tokens = tokens
        .iter()
        .filter_map(|&k| fields.fields.get(k).map(|v| (k.to_string(), v.clone())))
        .collect();
    let score_offset = fields.single("hone_score_offset")?.unwrap_or(0.0);
    Ok(ModelConfig {
        architecture,
        scores,
        score_offset,
        tokens,
    })
}

struct Fields<'a> {
    path: &'a Path,
    fields: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn fail<T>(&self, reason: String) -> Result<T, Error> {
        Err(Error::Config {
            path: self.path.into(),
            reason,
        })
    }

    fn present(&self, key: &str) -> Option<&'a Value> {
        self.fields.get(key).filter(|v| !v.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, Error> {
        match self.present(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => self.fail(format!("`{key}` is {other}; expected a string")),
        }
    }

    fn float(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.present(key) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => self.fail(format!("`{key}` is {value}; expected a number")),
            },
        }
    }

    /// A number that is finite in single precision, too.
    fn single(&self, key: &str) -> Result<Option<f32>, Error> {
        match self.float(key)? {
            Some(number) if !(number as f32).is_finite() => self.fail(format!(
                "`{key}` is {number}; expected a number within single precision"
            )),
            number => Ok(number.map(|number| number as f32)),
        }
    }

    /// What is added before a root is taken: not below 0.
    fn epsilon(&self, key: &str) -> Result<Option<f32>, Error> {
        match self.single(key)? {
            Some(number) if number < 0.0 => self.fail(format!("`{key}` is {number}; expected at least 0")),
            number => Ok(number),
        }
    }

    /// A size of at most `most`.
    fn limited(&self, key: &str, most: usize) -> Result<Option<usize>, Error> {
        match self.size(key)? {
            Some(size) if size > most => self.fail(format!("`{key}` is {size}; at most {most} are supported")),
            size => Ok(size),
        }
    }

    fn layers(&self, key: &str) -> Result<usize, Error> {
        match self.limited(key, MAX_LAYERS)? {
            Some(layers) => Ok(layers),
            None => self.fail(format!("`{key}` is missing")),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, Error> {
        match self.present(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => self.fail(format!("`{key}` is {other}; expected true or false")),
        }
    }

    /// A size: a whole number above 0 and below 2^31.
    fn size(&self, key: &str) -> Result<Option<usize>, Error> {
        match self.present(key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) if number > 0 && number < 1 << 31 => Ok(Some(number as usize)),
                _ => self.fail(format!("`{key}` is {value}; expected a whole number above 0")),
            },
        }
    }

    fn needed(&self, key: &str) -> Result<usize, Error> {
        match self.size(key)? {
            Some(size) => Ok(size),
            None => self.fail(format!("`{key}` is missing")),
        }
    }
}

fn llama_like(f: &Fields<'_>, family: Family) -> Result<Architecture, Error> {
    let (width, heads) = (f.needed("hidden_size")?, f.needed("num_attention_heads")?);
    let kv_heads = f.size("num_key_value_heads")?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return f.fail(format!(
            "`num_attention_heads` {heads} is not a multiple of `num_key_value_heads` {kv_heads}"
        ));
    }
    let head_dim = match f.limited("head_dim", MAX_HEAD_DIM)? {
        Some(size) => size,
        None if family == Family::Qwen3 => 128,
        None if width.is_multiple_of(heads) && width / heads <= MAX_HEAD_DIM => width / heads,
        None if width.is_multiple_of(heads) => {
            return f.fail(format!(
                "`hidden_size` {width} in {heads} heads makes heads of {}; at most {MAX_HEAD_DIM} are supported",
                width / heads
            ));
        }
        None => {
            return f.fail(format!(
                "`hidden_size` {width} is not a multiple of `num_attention_heads` {heads}"
            ));
        }
    };
    match f.text("hidden_act")?.unwrap_or("silu") {
        "silu" | "swish" => {}
        other => {
            return f.fail(format!(
                "`hidden_act` is `{other}`; a {} of hone has silu",
                family.name()
            ));
        }
    }
    if f.flag("use_sliding_window", false)? {
        return f.fail("`use_sliding_window` is true; hone attends to the whole context only".into());
    }
    let rope = rope_fields(f)?;
    for fields in [Some(f), rope.as_ref()].into_iter().flatten() {
        if let Some(share) = fields.float("partial_rotary_factor")?
            && share != 1.0
        {
            return f.fail(format!(
                "`partial_rotary_factor` is {share}; hone turns whole heads only"
            ));
        }
    }
    let bias = f.flag("attention_bias", family == Family::Qwen2)?;
    let positions = Positions::Rotary {
        theta: theta(f)?,
        scaling: scaling(f)?,
    };
    if let Positions::Rotary { theta, scaling } = &positions
        && let Err(error) = inverse_frequencies(head_dim, *theta, scaling)
    {
        return f.fail(error.to_string());
    }
    Ok(Architecture {
        family,
        vocab_size: f.needed("vocab_size")?,
        width,
        layers: f.layers("num_hidden_layers")?,
        heads,
        kv_heads,
        head_dim,
        intermediate: f.needed("intermediate_size")?,
        context: f.limited("max_position_embeddings", MAX_CONTEXT)?.unwrap_or(2048),
        norm: NormKind::Rms,
        norm_eps: f.epsilon("rms_norm_eps")?.unwrap_or(1e-6),
        positions,
        mlp: MlpKind::SwiGlu,
        biases: Biases {
            qkv: bias || family == Family::Qwen2,
            output: bias && family != Family::Qwen2,
            mlp: f.flag("mlp_bias", false)?,
        },
        qk_norm: family == Family::Qwen3,
        tied: f.flag("tie_word_embeddings", false)?,
    })
}

fn rope_fields<'a>(f: &Fields<'a>) -> Result<Option<Fields<'a>>, Error> {
    for key in ["rope_parameters", "rope_scaling"] {
        match f.present(key) {
            None => {}
            Some(Value::Object(fields)) => return Ok(Some(Fields { path: f.path, fields })),
            Some(other) => return f.fail(format!("`{key}` is {other}; expected an object")),
        }
    }
    Ok(None)
}

// `f.path` and the map live as long as the text that was parsed.
fn theta(f: &Fields<'_>) -> Result<f64, Error> {
    if let Some(rope) = rope_fields(f)?
        && let Some(theta) = rope.float("rope_theta")?
    {
        return Ok(theta);
    }
    Ok(f.float("rope_theta")?.unwrap_or(10_000.0))
}

fn scaling(f: &Fields<'_>) -> Result<RopeScaling, Error> {
    let Some(rope) = rope_fields(f)? else {
        return Ok(RopeScaling::Default);
    };
    let kind = match rope.text("rope_type")? {
        Some(kind) => kind,
        None => rope.text("type")?.unwrap_or("default"),
    };
    let factor = rope.float("factor")?.unwrap_or(1.0);
    let original = match rope.size("original_max_position_embeddings")? {
        Some(size) => Some(size),
        None => f.size("max_position_embeddings")?,
    };
    let original = original.unwrap_or(2048);
    Ok(match kind {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor },
        "llama3" => RopeScaling::Llama3 {
            factor,
            low_freq_factor: rope.float("low_freq_factor")?.unwrap_or(1.0),
            high_freq_factor: rope.float("high_freq_factor")?.unwrap_or(4.0),
            original_max_position_embeddings: original,
        },
        "yarn" => RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_fast: rope.float("beta_fast")?.unwrap_or(32.0),
            beta_slow: rope.float("beta_slow")?.unwrap_or(1.0),
            attention_factor: rope.float("attention_factor")?,
            mscale: rope.float("mscale")?,
            mscale_all_dim: rope.float("mscale_all_dim")?,
            truncate: rope.flag("truncate", true)?,
        },
        other => {
            return rope.fail(format!(
                "rope scaling is `{other}`; hone knows default, linear, llama3, yarn"
            ));
        }
    })
}

fn gpt2(f: &Fields<'_>) -> Result<Architecture, Error> {
    let (width, heads) = (f.needed("n_embd")?, f.needed("n_head")?);
    if !width.is_multiple_of(heads) {
        return f.fail(format!("`n_embd` {width} is not a multiple of `n_head` {heads}"));
    }
    let activation = match f.text("activation_function")?.unwrap_or("gelu_new") {
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
        "gelu" => Activation::GeluErf,
        "relu" => Activation::Relu,
        other => {
            return f.fail(format!(
                "`activation_function` is `{other}`; hone knows gelu_new, gelu, relu"
            ));
        }
    };
    for (key, usual) in [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false)] {
        if f.flag(key, usual)? != usual {
            return f.fail(format!("`{key}` is {}; hone has {usual} only", !usual));
        }
    }
    Ok(Architecture {
        family: Family::Gpt2,
        vocab_size: f.needed("vocab_size")?,
        width,
        layers: f.layers("n_layer")?,
        heads,
        kv_heads: heads,
        head_dim: width / heads,
        intermediate: f.size("n_inner")?.unwrap_or(4 * width),
        context: f.limited("n_positions", MAX_CONTEXT)?.unwrap_or(1024),
        norm: NormKind::Layer,
        norm_eps: f.epsilon("layer_norm_epsilon")?.unwrap_or(1e-5),
        positions: Positions::Learned,
        mlp: MlpKind::Plain(activation),
        biases: Biases {
            qkv: true,
            output: true,
            mlp: true,
        },
        qk_norm: false,
        tied: f.flag("tie_word_embeddings", true)?,
    })
}

/// `config.json`'s fields, in a fixed order.
pub(crate) fn render(a: &Architecture, score_offset: Option<f32>, tokens: &Map<String, Value>) -> Value {
    let (causal, classifier) = match a.family {
        Family::Llama => ("LlamaForCausalLM", "LlamaForSequenceClassification"),
        Family::Qwen2 => ("Qwen2ForCausalLM", "Qwen2ForSequenceClassification"),
        Family::Qwen3 => ("Qwen3ForCausalLM", "Qwen3ForSequenceClassification"),
        Family::Gpt2 => ("GPT2LMHeadModel", "GPT2ForSequenceClassification"),
    };
    let class = if score_offset.is_some() { classifier } else { causal };
    let mut config = json!({ "architectures": [class], "model_type": a.family.name() });
    let shape = if a.family == Family::Gpt2 {
        gpt2_fields(a)
    } else {
        llama_fields(a)
    };
    let head = match score_offset {
        Some(offset) => json!({ "num_labels": 1, "id2label": { "0": "score" }, "label2id": { "score": 0 },
            "hone_score_offset": offset }),
        None => json!({}),
    };
    if let Value::Object(config) = &mut config {
        for part in [
            shape,
            head,
            Value::Object(tokens.clone()),
            json!({ "dtype": "float32", "torch_dtype": "float32" }),
        ] {
            if let Value::Object(part) = part {
                config.extend(part);
            }
        }
    }
    config
}

fn llama_fields(a: &Architecture) -> Value {
    let mut fields = json!({
        "vocab_size": a.vocab_size,
        "hidden_size": a.width,
        "intermediate_size": a.intermediate,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "max_position_embeddings": a.context,
        "hidden_act": "silu",
        "rms_norm_eps": a.norm_eps.to_string().parse::<f64>().unwrap_or(f64::from(a.norm_eps)),
        "tie_word_embeddings": a.tied,
        "use_cache": true,
    });
    if a.family != Family::Qwen2 {
        fields["attention_bias"] = json!(a.biases.qkv);
    }
    if a.family == Family::Llama {
        fields["mlp_bias"] = json!(a.biases.mlp);
    }
    if let Positions::Rotary { theta, scaling } = &a.positions {
        fields["rope_theta"] = json!(theta);
        let scaling = match *scaling {
            RopeScaling::Default => Value::Null,
            RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings }),
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                attention_factor,
                mscale,
                mscale_all_dim,
                truncate,
            } => {
                let mut yarn = json!({ "rope_type": "yarn", "factor": factor, "beta_fast": beta_fast,
                    "beta_slow": beta_slow, "truncate": truncate,
                    "original_max_position_embeddings": original_max_position_embeddings });
                let optional = [
                    ("attention_factor", attention_factor),
                    ("mscale", mscale),
                    ("mscale_all_dim", mscale_all_dim),
                ];
                for (key, value) in optional {
                    if let Some(value) = value {
                        yarn[key] = json!(value);
                    }
                }
                yarn
            }
        };
        let mut parameters = json!({ "rope_type": "default" });
        if let Value::Object(given) = &scaling {
            parameters = Value::Object(given.clone());
        }
        parameters["rope_theta"] = json!(theta);
        fields["rope_scaling"] = scaling;
        fields["rope_parameters"] = parameters;
    }
    fields
}

fn gpt2_fields(a: &Architecture) -> Value {
    let activation = match a.mlp {
        MlpKind::Plain(Activation::GeluErf) => "gelu",
        MlpKind::Plain(Activation::Relu) => "relu",
        _ => "gelu_new",
    };
    json!({
        "vocab_size": a.vocab_size,
        "n_embd": a.width,
        "n_inner": a.intermediate,
        "n_layer": a.layers,
        "n_head": a.heads,
        "n_positions": a.context,
        "n_ctx": a.context,
        "activation_function": activation,
        "layer_norm_epsilon": a.norm_eps.to_string().parse::<f64>().unwrap_or(f64::from(a.norm_eps)),
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": a.tied,
        "use_cache": true,
    })
}
