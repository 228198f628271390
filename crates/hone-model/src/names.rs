//! The weights of a transformer: hone's own names, their shapes, and where they stand in a family's files.

use crate::architecture::{Architecture, Family, MlpKind, NormKind, Positions};

/// One weight of the trunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightSpec {
    /// hone's name, the same for all families, such as `layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Rows: outputs, or 1 for a vector.
    pub rows: usize,
    /// Columns: inputs, or the length of a vector.
    pub cols: usize,
    /// How a new model starts.
    pub start: Start,
    /// Where it stands in files.
    pub file: FileTensor,
}

/// How a weight of a new model starts (GPT-2's rule).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// N(0, 0.02).
    Normal,
    /// N(0, 0.02 / sqrt(2 layers)): matrices that write to the residual stream.
    Residual,
    /// 1.
    One,
    /// 0.
    Zero,
}

/// A tensor of a file, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTensor {
    /// Its name in the file.
    pub name: String,
    /// Whether the file holds `[in, out]` (GPT-2's `Conv1D`).
    pub transposed: bool,
    /// Which of how many equal parts along the outputs.
    pub part: Option<(usize, usize)>,
    /// Whether the file's shape has one dimension.
    pub vector: bool,
}

/// All weights of the trunk in a fixed order. The output matrix is absent where it is tied.
pub fn weights(a: &Architecture) -> Vec<WeightSpec> {
    let mut list = List {
        family: a.family,
        specs: Vec::new(),
    };
    list.matrix("embed_tokens.weight", (a.vocab_size, a.width), Start::Normal);
    if a.positions == Positions::Learned {
        list.matrix("embed_positions.weight", (a.context, a.width), Start::Normal);
    }
    for i in 0..a.layers {
        let name = |rest: &str| format!("layers.{i}.{rest}");
        list.norm(&name("input_layernorm"), a);
        for (part, heads) in [("q_proj", a.heads), ("k_proj", a.kv_heads), ("v_proj", a.kv_heads)] {
            list.linear(
                &name(&format!("self_attn.{part}")),
                (heads * a.head_dim, a.width),
                a.biases.qkv,
                Start::Normal,
            );
        }
        if a.qk_norm {
            list.vector(&name("self_attn.q_norm.weight"), a.head_dim, Start::One);
            list.vector(&name("self_attn.k_norm.weight"), a.head_dim, Start::One);
        }
        list.linear(
            &name("self_attn.o_proj"),
            (a.width, a.heads * a.head_dim),
            a.biases.output,
            Start::Residual,
        );
        list.norm(&name("post_attention_layernorm"), a);
        if a.mlp == MlpKind::SwiGlu {
            list.linear(
                &name("mlp.gate_proj"),
                (a.intermediate, a.width),
                a.biases.mlp,
                Start::Normal,
            );
        }
        list.linear(
            &name("mlp.up_proj"),
            (a.intermediate, a.width),
            a.biases.mlp,
            Start::Normal,
        );
        list.linear(
            &name("mlp.down_proj"),
            (a.width, a.intermediate),
            a.biases.mlp,
            Start::Residual,
        );
    }
    list.norm("norm", a);
    if !a.tied {
        list.matrix("lm_head.weight", (a.vocab_size, a.width), Start::Normal);
    }
    list.specs
}

struct List {
    family: Family,
    specs: Vec<WeightSpec>,
}

impl List {
    fn push(&mut self, name: &str, (rows, cols): (usize, usize), start: Start, vector: bool) {
        let mut file = match self.family {
            Family::Llama | Family::Qwen2 | Family::Qwen3 => llama_file(name),
            Family::Gpt2 => gpt2_file(name),
        };
        file.vector = vector;
        self.specs.push(WeightSpec {
            name: name.to_string(),
            rows,
            cols,
            start,
            file,
        });
    }

    fn matrix(&mut self, name: &str, shape: (usize, usize), start: Start) {
        self.push(name, shape, start, false);
    }

    fn vector(&mut self, name: &str, length: usize, start: Start) {
        self.push(name, (1, length), start, true);
    }

    fn linear(&mut self, name: &str, shape: (usize, usize), bias: bool, start: Start) {
        self.matrix(&format!("{name}.weight"), shape, start);
        if bias {
            self.vector(&format!("{name}.bias"), shape.0, Start::Zero);
        }
    }

    fn norm(&mut self, name: &str, a: &Architecture) {
        self.vector(&format!("{name}.weight"), a.width, Start::One);
        if a.norm == NormKind::Layer {
            self.vector(&format!("{name}.bias"), a.width, Start::Zero);
        }
    }
}

fn llama_file(name: &str) -> FileTensor {
    let name = if name.starts_with("lm_head") {
        name.to_string()
    } else {
        format!("model.{name}")
    };
    FileTensor {
        name,
        transposed: false,
        part: None,
        vector: false,
    }
}

fn gpt2_file(name: &str) -> FileTensor {
    let plain = |name: String| FileTensor {
        name,
        transposed: false,
        part: None,
        vector: false,
    };
    match name {
        "embed_tokens.weight" => return plain("transformer.wte.weight".into()),
        "embed_positions.weight" => return plain("transformer.wpe.weight".into()),
        "norm.weight" => return plain("transformer.ln_f.weight".into()),
        "norm.bias" => return plain("transformer.ln_f.bias".into()),
        "lm_head.weight" => return plain("lm_head.weight".into()),
        _ => {}
    }
    // layers.I.PLACE.weight or layers.I.PLACE.bias
    let rest = name.strip_prefix("layers.").unwrap_or(name);
    let (layer, rest) = rest.split_once('.').unwrap_or((rest, ""));
    let (place, kind) = rest.rsplit_once('.').unwrap_or((rest, ""));
    let (place, matrix, part) = match place {
        "input_layernorm" => ("ln_1", false, None),
        "post_attention_layernorm" => ("ln_2", false, None),
        "self_attn.q_proj" => ("attn.c_attn", true, Some((0, 3))),
        "self_attn.k_proj" => ("attn.c_attn", true, Some((1, 3))),
        "self_attn.v_proj" => ("attn.c_attn", true, Some((2, 3))),
        "self_attn.o_proj" => ("attn.c_proj", true, None),
        "mlp.up_proj" => ("mlp.c_fc", true, None),
        "mlp.down_proj" => ("mlp.c_proj", true, None),
        other => (other, false, None),
    };
    let transposed = matrix && kind == "weight";
    FileTensor {
        name: format!("transformer.h.{layer}.{place}.{kind}"),
        transposed,
        part,
        vector: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Biases;
    use hone_compute::Activation;

    fn gpt2() -> Architecture {
        Architecture {
            family: Family::Gpt2,
            vocab_size: 100,
            width: 16,
            layers: 1,
            heads: 2,
            kv_heads: 2,
            head_dim: 8,
            intermediate: 64,
            context: 32,
            norm: NormKind::Layer,
            norm_eps: 1e-5,
            positions: Positions::Learned,
            mlp: MlpKind::Plain(Activation::GeluTanh),
            biases: Biases {
                qkv: true,
                output: true,
                mlp: true,
            },
            qk_norm: false,
            tied: true,
        }
    }

    #[test]
    fn gpt2_names_as_transformers_writes_them() {
        let specs = weights(&gpt2());
        let find = |name: &str| &specs.iter().find(|s| s.name == name).unwrap().file;
        let k = find("layers.0.self_attn.k_proj.weight");
        assert_eq!(
            (k.name.as_str(), k.transposed, k.part),
            ("transformer.h.0.attn.c_attn.weight", true, Some((1, 3)))
        );
        let bias = find("layers.0.mlp.up_proj.bias");
        assert_eq!(
            (bias.name.as_str(), bias.transposed),
            ("transformer.h.0.mlp.c_fc.bias", false)
        );
        assert_eq!(find("norm.bias").name, "transformer.ln_f.bias");
        // 12 tensors a block of transformers' GPT-2, with c_attn in three parts of two: 12 - 2 + 6
        assert_eq!(specs.iter().filter(|s| s.name.starts_with("layers.0")).count(), 16);
    }
}
