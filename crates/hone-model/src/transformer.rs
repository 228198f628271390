//! The transformer: one block for all families.

use std::convert::Infallible;
use std::sync::Arc;

use hone_compute::rope::{RopeTable, inverse_frequencies};
use hone_compute::{
    AttentionInputs, Engine, Layout, LinearWeight, ParameterId, Parameters, RowsLeft, SequenceCache, Tape,
    TokenLogprobs, TokenTargets, Var,
};
use hone_math::Key;

use crate::architecture::{Architecture, MlpKind, NormKind, Positions};
use crate::lora::{Adapter, LoraWeights};
use crate::names::{self, Start};

/// A transformer with its weights.
pub struct Transformer {
    pub(crate) architecture: Architecture,
    pub(crate) parameters: Parameters,
    pub(crate) embedding: ParameterId,
    position_embedding: Option<ParameterId>,
    pub(crate) blocks: Vec<Block>,
    norm: Norm,
    pub(crate) output: ParameterId,
    rope: Option<Arc<RopeTable>>,
    pub(crate) head: Option<ScalarHead>,
    pub(crate) adapter: Option<Adapter>,
    recompute: bool,
}

/// One number a row, from the last hidden states: a score or a value.
#[derive(Clone, Copy)]
pub(crate) struct ScalarHead {
    pub weight: ParameterId,
    /// Added to the head's output: a reward model's scores are shifted so that demonstrations score 0 on average.
    pub offset: f32,
}

#[derive(Clone, Copy)]
struct Norm {
    weight: ParameterId,
    bias: Option<ParameterId>,
}

/// A linear layer, with its adapter where there is one.
#[derive(Clone, Copy)]
pub(crate) struct Linear {
    pub weight: LinearWeight,
    pub lora: Option<LoraWeights>,
}

pub(crate) struct Block {
    attention_norm: Norm,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    q_norm: Option<ParameterId>,
    k_norm: Option<ParameterId>,
    pub o: Linear,
    mlp_norm: Norm,
    pub gate: Option<Linear>,
    pub up: Linear,
    pub down: Linear,
}

/// The tokens of a batch: sequences one after another, without padding.
pub struct Tokens<'a> {
    /// Token ids, `[n]`.
    pub ids: &'a Arc<[u32]>,
    /// Which rows belong to which sequence.
    pub layout: &'a Layout,
}

impl Transformer {
    /// A model with weights of its own, by GPT-2's rule: N(0, 0.02), smaller by sqrt(2 layers) for the matrices that
    /// write to the residual stream, biases 0, norms 1.
    pub fn random(engine: &Engine, architecture: Architecture, seed: u64) -> Self {
        if engine.rehearses() {
            return Self::zeros(engine, architecture);
        }
        let layers = architecture.layers;
        Self::build(engine, architecture, |index, spec| {
            let key = Key::new(seed, "init", index as u64);
            let count = (spec.rows * spec.cols) as u64;
            let normal = |deviation: f64| (0..count).map(|i| (key.normal(i) * deviation) as f32).collect();
            match spec.start {
                Start::Normal => normal(0.02),
                Start::Residual => normal(0.02 / (2.0 * layers as f64).sqrt()),
                Start::One => vec![1.0; count as usize],
                Start::Zero => vec![0.0; count as usize],
            }
        })
    }

    /// A model whose weights are all 0: for a rehearsal, which looks at shapes alone.
    pub(crate) fn zeros(engine: &Engine, architecture: Architecture) -> Self {
        let mut parameters = Parameters::new();
        for spec in names::weights(&architecture) {
            parameters.add(spec.name, engine.zeros(spec.rows, spec.cols));
        }
        Self::assemble(architecture, parameters)
    }

    /// A model whose weights `values(index, spec)` gives.
    pub(crate) fn build(
        engine: &Engine,
        architecture: Architecture,
        mut values: impl FnMut(usize, &names::WeightSpec) -> Vec<f32>,
    ) -> Self {
        let built: Result<_, Infallible> = Self::try_build(engine, architecture, |index, spec| Ok(values(index, spec)));
        match built {
            Ok(model) => model,
            Err(never) => match never {},
        }
    }

    /// The same where a weight may fail: nothing is allocated for those after it.
    pub(crate) fn try_build<E>(
        engine: &Engine,
        architecture: Architecture,
        mut values: impl FnMut(usize, &names::WeightSpec) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let mut parameters = Parameters::new();
        for (index, spec) in names::weights(&architecture).iter().enumerate() {
            let numbers = values(index, spec)?;
            parameters.add(spec.name.clone(), engine.tensor(spec.rows, spec.cols, &numbers));
        }
        Ok(Self::assemble(architecture, parameters))
    }

    /// Finds the parts of a model among `parameters`, which hold every weight of [`names::weights`].
    fn assemble(architecture: Architecture, parameters: Parameters) -> Self {
        let find = |name: &str| parameters.find(name).expect("every weight of the list was added");
        let optional = |name: String| parameters.find(&name);
        let norm = |name: &str| Norm {
            weight: find(&format!("{name}.weight")),
            bias: optional(format!("{name}.bias")),
        };
        let linear = |name: String| Linear {
            weight: LinearWeight {
                weight: find(&format!("{name}.weight")),
                bias: optional(format!("{name}.bias")),
            },
            lora: None,
        };
        let blocks = (0..architecture.layers).map(|i| {
            let place = |rest: &str| format!("layers.{i}.{rest}");
            Block {
                attention_norm: norm(&place("input_layernorm")),
                q: linear(place("self_attn.q_proj")),
                k: linear(place("self_attn.k_proj")),
                v: linear(place("self_attn.v_proj")),
                q_norm: optional(place("self_attn.q_norm.weight")),
                k_norm: optional(place("self_attn.k_norm.weight")),
                o: linear(place("self_attn.o_proj")),
                mlp_norm: norm(&place("post_attention_layernorm")),
                gate: (architecture.mlp == MlpKind::SwiGlu).then(|| linear(place("mlp.gate_proj"))),
                up: linear(place("mlp.up_proj")),
                down: linear(place("mlp.down_proj")),
            }
        });
        let blocks = blocks.collect();
        let embedding = find("embed_tokens.weight");
        let output = if architecture.tied {
            embedding
        } else {
            find("lm_head.weight")
        };
        let rope = match &architecture.positions {
            Positions::Rotary { theta, scaling } => {
                let angles = inverse_frequencies(architecture.head_dim, *theta, scaling);
                let (frequencies, factor) = angles.expect("an architecture's angles were checked when it was made");
                Some(Arc::new(RopeTable::new(&frequencies, factor, architecture.context)))
            }
            Positions::Learned => None,
        };
        let position_embedding = optional("embed_positions.weight".into());
        let norm = norm("norm");
        Self {
            architecture,
            embedding,
            position_embedding,
            blocks,
            norm,
            output,
            rope,
            head: None,
            adapter: None,
            recompute: false,
            parameters,
        }
    }

    /// Its shape.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Its weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Its weights, to be changed by an optimiser.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// The output matrix.
    pub fn output(&self) -> ParameterId {
        self.output
    }

    /// Whether the way back computes blocks again instead of keeping what is inside them.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.recompute = recompute;
    }

    /// A copy that changes on its own; see [`Parameters::duplicate`].
    pub fn duplicate(&self) -> Self {
        let mut copy = Self::assemble_like(self, self.parameters.duplicate());
        copy.recompute = self.recompute;
        copy
    }

    fn assemble_like(other: &Self, parameters: Parameters) -> Self {
        let mut model = Self::assemble(other.architecture.clone(), parameters);
        for (mine, theirs) in model.blocks.iter_mut().zip(&other.blocks) {
            mine.copy_adapters(theirs);
        }
        (model.head, model.adapter) = (other.head, other.adapter.clone());
        model
    }

    /// The model with more tokens: new rows of the embedding, and of an untied output matrix, are the mean of the others.
    /// An adapter or a head is not taken along: tokens are added to base models.
    ///
    /// # Panics
    /// If there are fewer tokens than before.
    pub fn with_vocabulary(&self, engine: &Engine, tokens: usize) -> Self {
        let before = self.architecture.vocab_size;
        assert!(tokens >= before, "a vocabulary only grows");
        let mut architecture = self.architecture.clone();
        architecture.vocab_size = tokens;
        if engine.rehearses() {
            return Self::zeros(engine, architecture);
        }
        Self::build(engine, architecture, |_, spec| {
            let id = self
                .parameters
                .find(&spec.name)
                .expect("both models have the same weights");
            let mut numbers = engine.read(self.parameters.get(id).value());
            if spec.rows == tokens && numbers.len() == before * spec.cols && tokens > before {
                let mean: Vec<f32> = (0..spec.cols)
                    .map(|c| {
                        (numbers
                            .iter()
                            .skip(c)
                            .step_by(spec.cols)
                            .map(|&x| f64::from(x))
                            .sum::<f64>()
                            / before as f64) as f32
                    })
                    .collect();
                numbers.extend(mean.iter().cycle().take((tokens - before) * spec.cols));
            }
            numbers
        })
    }

    /// An empty cache for one sequence.
    pub fn new_cache(&self, engine: &Engine) -> SequenceCache {
        SequenceCache::new(engine, self.architecture.layers, &self.architecture.attention())
    }

    /// Last hidden states `[n, d]` of whole sequences, after the final norm.
    pub fn hidden<'p>(&'p self, tape: &mut Tape<'p>, tokens: &Tokens<'_>) -> Var {
        let x = self.blocks_of(tape, tokens, None);
        self.normalise(tape, &x, self.norm)
    }

    /// Last hidden states of these rows of whole sequences, in any order, some perhaps more than once, `[rows, d]`. Behind its
    /// attention the last block computes hardly any others: what is asked of the states, and the gradients of finite numbers,
    /// are those of [`Self::hidden`] and a choice among its rows, to the bit but for the sign of a zero.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn hidden_of<'p>(&'p self, tape: &mut Tape<'p>, tokens: &Tokens<'_>, rows: &Arc<[u32]>) -> Var {
        let n = tokens.layout.rows();
        if rows.iter().copied().eq(0..n as u32) {
            return self.hidden(tape, tokens);
        }
        let left = tape.engine().rows_left(rows, n);
        if self.blocks.is_empty() || !worth_leaving_out(&left) {
            let hidden = self.hidden(tape, tokens);
            return tape.select_rows(&hidden, rows);
        }
        let x = self.blocks_of(tape, tokens, Some(&left)); // [left, d]
        let hidden = tape.with_rows_left(&left, |tape| self.normalise(tape, &x, self.norm));
        tape.select_rows(&hidden, &left.places(rows))
    }

    /// Last hidden states of the last `wanted[i]` tokens of each sequence, one after another; at least one each. The last
    /// block computes nothing else of the others than their keys and values. Tokens that are earlier still are in
    /// `caches`, where there are any, to which all are added. Not for training.
    ///
    /// # Panics
    /// If more tokens are wanted of a sequence than it has.
    pub fn hidden_last<'p>(
        &'p self,
        tape: &mut Tape<'p>,
        tokens: &Tokens<'_>,
        wanted: &[usize],
        mut caches: Option<&mut [&mut SequenceCache]>,
    ) -> Var {
        let last = Last::of(tokens.layout, wanted);
        let mut x = self.embed(tape, tokens);
        for index in 0..self.blocks.len() {
            let caches = caches.as_deref_mut();
            let last = (index + 1 == self.blocks.len()).then_some(&last);
            x = self.block_of(tape, index, x, (tokens.layout, last), caches);
        }
        self.normalise(tape, &x, self.norm)
    }

    /// The same for the next tokens of sequences whose earlier ones are in `caches` (one a span of the layout), to
    /// which they are added.
    pub fn hidden_cached<'p>(
        &'p self,
        tape: &mut Tape<'p>,
        tokens: &Tokens<'_>,
        caches: &mut [&mut SequenceCache],
    ) -> Var {
        let mut x = self.embed(tape, tokens);
        for index in 0..self.blocks.len() {
            x = self.block(tape, index, x, tokens.layout, Some(&mut *caches));
        }
        self.normalise(tape, &x, self.norm)
    }

    /// Log-probabilities and entropies of `targets` from chosen rows of the hidden states.
    pub fn logprobs(&self, tape: &mut Tape<'_>, hidden: &Var, targets: &Arc<[u32]>, temperature: f32) -> TokenLogprobs {
        tape.token_logprobs(hidden, &self.targets(targets, temperature))
    }

    /// What the vocabulary operation is asked for these targets.
    pub fn targets(&self, targets: &Arc<[u32]>, temperature: f32) -> TokenTargets {
        TokenTargets {
            output: self.output,
            targets: Arc::clone(targets),
            temperature,
        }
    }

    fn embed(&self, tape: &mut Tape<'_>, tokens: &Tokens<'_>) -> Var {
        assert_eq!(tokens.ids.len(), tokens.layout.rows(), "one id a row");
        let x = tape.embedding(self.embedding, tokens.ids); // [n, d]
        match self.position_embedding {
            Some(table) => {
                let positions = tape.embedding(table, &tokens.layout.shared_positions());
                tape.add(x, positions)
            }
            None => x,
        }
    }

    fn block(
        &self,
        tape: &mut Tape<'_>,
        index: usize,
        x: Var,
        layout: &Layout,
        caches: Option<&mut [&mut SequenceCache]>,
    ) -> Var {
        self.block_of(tape, index, x, (layout, None), caches)
    }

    /// The stream behind all blocks, of whole sequences; of `left` alone where they are given.
    fn blocks_of<'p>(&'p self, tape: &mut Tape<'p>, tokens: &Tokens<'_>, left: Option<&RowsLeft>) -> Var {
        let mut x = self.embed(tape, tokens);
        for index in 0..self.blocks.len() {
            let left = left.filter(|_| index + 1 == self.blocks.len()).cloned();
            let layout = tokens.layout.clone();
            let block = move |tape: &mut Tape<'_>, x: Var| match &left {
                None => self.block(tape, index, x, &layout, None),
                Some(left) => self.block_of_rows(tape, index, x, (&layout, left)),
            };
            x = if self.recompute && tape.is_recording() {
                tape.recompute(&x, move |tape, x| block(tape, x.clone()))
            } else {
                block(tape, x)
            };
        }
        x
    }

    /// A block, of some rows alone behind its attention.
    fn block_of_rows(&self, tape: &mut Tape<'_>, index: usize, x: Var, (layout, left): (&Layout, &RowsLeft)) -> Var {
        let attended = self.attended(tape, index, &x, (layout, None), None);
        let [x, attended] = [x, attended].map(|all| tape.select_rows(&all, left.rows()));
        tape.with_rows_left(left, |tape| self.behind_attention(tape, index, x, attended))
    }

    /// A block, of `last` tokens alone where they are given.
    fn block_of(
        &self,
        tape: &mut Tape<'_>,
        index: usize,
        mut x: Var,
        (layout, last): (&Layout, Option<&Last>),
        caches: Option<&mut [&mut SequenceCache]>,
    ) -> Var {
        let attended = self.attended(tape, index, &x, (layout, last), caches);
        if let Some(last) = last {
            x = tape.select_rows(&x, &last.rows);
        }
        self.behind_attention(tape, index, x, attended)
    }

    /// What a block does with the results `[n, heads * head_dim]` of its attention and the stream `[n, d]`.
    fn behind_attention(&self, tape: &mut Tape<'_>, index: usize, x: Var, attended: Var) -> Var {
        let block = &self.blocks[index];
        // 1. The output of the attention, added to the stream
        let output = linears(tape, &attended, &[&block.o]).swap_remove(0); // [n, d]
        drop(attended);
        let x = tape.add(x, output);
        // 2. The feed-forward layer likewise
        let normed = self.normalise(tape, &x, block.mlp_norm);
        let inner = match &block.gate {
            Some(gate) => {
                let mut both = linears(tape, &normed, &[gate, &block.up]);
                let up = both.swap_remove(1);
                tape.swiglu(&both[0], &up) // [n, intermediate]
            }
            None => {
                let up = linears(tape, &normed, &[&block.up]).swap_remove(0);
                match self.architecture.mlp {
                    MlpKind::Plain(kind) => tape.activate(kind, &up),
                    MlpKind::SwiGlu => unreachable!("a gated layer has a gate"),
                }
            }
        };
        drop(normed);
        let down = linears(tape, &inner, &[&block.down]).swap_remove(0); // [n, d]
        tape.add(x, down)
    }

    /// The attention of a block on the normalised stream, `[n, heads * head_dim]`.
    fn attended(
        &self,
        tape: &mut Tape<'_>,
        index: usize,
        x: &Var,
        (layout, last): (&Layout, Option<&Last>),
        caches: Option<&mut [&mut SequenceCache]>,
    ) -> Var {
        let (block, a) = (&self.blocks[index], &self.architecture);
        let x = self.normalise(tape, x, block.attention_norm); // [n, d]
        let asked = last.map_or(layout, |last| &last.layout);
        let [mut q, mut k, v] = match last {
            None => three(linears(tape, &x, &[&block.q, &block.k, &block.v])), // [n, heads * head_dim]
            Some(last) => {
                let chosen = tape.select_rows(&x, &last.rows);
                let mut all = linears(tape, &chosen, &[&block.q]);
                all.extend(linears(tape, &x, &[&block.k, &block.v]));
                three(all)
            }
        };
        drop(x);
        if let (Some(q_norm), Some(k_norm)) = (block.q_norm, block.k_norm) {
            q = tape.rms_norm_heads(&q, q_norm, a.norm_eps);
            k = tape.rms_norm_heads(&k, k_norm, a.norm_eps);
        }
        if let Some(table) = &self.rope {
            q = tape.rotate(q, a.head_dim, asked, table);
            k = tape.rotate(k, a.head_dim, layout, table);
        }
        let inputs = AttentionInputs { q, k, v };
        let shape = a.attention();
        match (caches, last) {
            (Some(caches), None) => tape.attention_cached(inputs, &shape, layout, (caches, index)),
            (None, None) => tape.attention(inputs, &shape, layout),
            (caches, Some(_)) => {
                let caches = caches.map(|caches| (caches, index));
                tape.attention_of_last(inputs, &shape, (layout, asked), caches)
            }
        }
    }

    fn normalise(&self, tape: &mut Tape<'_>, x: &Var, norm: Norm) -> Var {
        match (self.architecture.norm, norm.bias) {
            (NormKind::Layer, Some(bias)) => tape.layer_norm(x, norm.weight, bias, self.architecture.norm_eps),
            _ => tape.rms_norm(x, norm.weight, self.architecture.norm_eps),
        }
    }
}

impl Block {
    /// Its linear layers by PEFT's short names.
    pub(crate) fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
        let mut all = vec![
            ("self_attn.q_proj", &mut self.q),
            ("self_attn.k_proj", &mut self.k),
            ("self_attn.v_proj", &mut self.v),
            ("self_attn.o_proj", &mut self.o),
            ("mlp.up_proj", &mut self.up),
            ("mlp.down_proj", &mut self.down),
        ];
        if let Some(gate) = &mut self.gate {
            all.push(("mlp.gate_proj", gate));
        }
        all
    }

    fn copy_adapters(&mut self, other: &Self) {
        self.q.lora = other.q.lora;
        self.k.lora = other.k.lora;
        self.v.lora = other.v.lora;
        self.o.lora = other.o.lora;
        self.up.lora = other.up.lora;
        self.down.lora = other.down.lora;
        if let (Some(mine), Some(theirs)) = (&mut self.gate, &other.gate) {
            mine.lora = theirs.lora;
        }
    }
}

/// The last tokens of each sequence of a batch.
struct Last {
    /// Their rows.
    rows: Arc<[u32]>,
    /// Where they stand when there are no others.
    layout: Layout,
}

impl Last {
    fn of(layout: &Layout, wanted: &[usize]) -> Self {
        assert_eq!(
            layout.spans().len(),
            wanted.len(),
            "a number of tokens for each sequence"
        );
        let parts: Vec<_> = layout
            .spans()
            .iter()
            .zip(wanted)
            .map(|(span, &wanted)| {
                assert!(
                    (1..=span.length).contains(&wanted),
                    "{wanted} of {} tokens",
                    span.length
                );
                (
                    span.row + span.length - wanted,
                    span.start + span.length - wanted,
                    wanted,
                )
            })
            .collect();
        Self {
            rows: parts
                .iter()
                .flat_map(|&(row, _, count)| row as u32..(row + count) as u32)
                .collect(),
            layout: Layout::continued(parts.iter().map(|&(_, start, count)| (start, count))),
        }
    }
}

/// Whether it is worth it to choose these rows, which costs a few passes over all of them.
fn worth_leaving_out(left: &RowsLeft) -> bool {
    let count = left.rows().len();
    count > 0 && count * 16 <= left.of() * 15
}

fn three(results: Vec<Var>) -> [Var; 3] {
    results.try_into().expect("three results of three layers")
}

/// Several linear layers on one input, adapters unmerged: `x W^T + b + scale (x A^T) B^T` (Hu et al., 2021).
fn linears(tape: &mut Tape<'_>, x: &Var, layers: &[&Linear]) -> Vec<Var> {
    let adapters: Vec<_> = layers.iter().map(|l| l.lora).collect();
    let weights: Vec<LinearWeight> = layers
        .iter()
        .map(|l| l.weight)
        .chain(adapters.iter().flatten().map(|lora| lora.a.into()))
        .collect();
    let mut results = tape.linears(x, &weights);
    let mut inner = results.split_off(layers.len()).into_iter();
    let mut outputs = Vec::with_capacity(layers.len());
    for (y, lora) in results.into_iter().zip(adapters) {
        let low = lora.and_then(|lora| Some((lora, inner.next()?)));
        outputs.push(match low {
            Some((lora, low)) => {
                let delta = tape.linear(&low, lora.b);
                tape.add_scaled(y, delta, lora.scale)
            }
            None => y,
        });
    }
    outputs
}
