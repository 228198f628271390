//! Parameters, their packed forms, and gradients.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::Packed;
use crate::engine::Engine;
use crate::tensor::Tensor;

/// Which parameter of a [`Parameters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(pub(crate) usize);

impl ParameterId {
    /// Its place in the order of creation.
    pub fn index(self) -> usize {
        self.0
    }
}

/// One weight of a model. Duplicates of a model share its numbers until one of them changes its own.
pub struct Parameter {
    name: String,
    weight: Arc<Weight>,
    trainable: bool,
    decayed: bool,
}

/// Whether a pass over whole sequences leaves weights in packed form behind. A form that is there is used in any case, and
/// brought up to date when the weight changes; the numbers are the same in any case, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Packing {
    /// The form that the way forward reads is made once and stays.
    #[default]
    Kept,
    /// It is made for as long as the weight is multiplied with. Sampling, which reads all weights for every token, keeps
    /// forms all the same.
    ForAWhile,
}

impl Packing {
    /// The most micro-batches of a step for which packing anew takes no more than keeping forms up to date would, or
    /// little more.
    const MOST_MICROBATCHES: usize = 2;

    /// What a training step of so many micro-batches, those of all shards, does.
    pub fn of_step(microbatches: usize) -> Self {
        if microbatches <= Self::MOST_MICROBATCHES {
            Self::ForAWhile
        } else {
            Self::Kept
        }
    }
}

/// The f32 master copy, and the form the kernels of the way forward read, if it is kept. The way back packs a weight for as
/// long as it is multiplied with.
struct Weight {
    value: Tensor,
    forward: Mutex<Option<Arc<Packed>>>,
}

impl Weight {
    fn new(value: Tensor) -> Arc<Self> {
        Arc::new(Self {
            value,
            forward: Mutex::default(),
        })
    }

    fn forward(&self) -> MutexGuard<'_, Option<Arc<Packed>>> {
        self.forward.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The weight to change: its own copy, where another model has the same.
    fn own<'a>(weight: &'a mut Arc<Self>, engine: &Engine) -> &'a mut Self {
        if Arc::get_mut(weight).is_none() {
            *weight = Self::new(engine.backend().duplicate(&weight.value));
        }
        Arc::get_mut(weight).expect("a copy of its own")
    }
}

impl Parameter {
    /// Its name in files, such as `model.layers.0.self_attn.q_proj.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The f32 master copy: `[out, in]` for a matrix, `[1, n]` for a vector.
    pub fn value(&self) -> &Tensor {
        &self.weight.value
    }

    /// Whether training changes it. Frozen parameters have no gradient and cost no gradient work.
    pub fn trainable(&self) -> bool {
        self.trainable
    }

    /// Whether weight decay applies (matrices; not norms and biases).
    pub fn decayed(&self) -> bool {
        self.decayed
    }

    /// The packed form, if there is one.
    #[cfg(test)]
    pub(crate) fn packed(&self) -> Option<Arc<Packed>> {
        self.weight.forward().clone()
    }

    /// The form for `y = x W^T`, which stays.
    pub(crate) fn packed_forward(&self, engine: &Engine) -> Arc<Packed> {
        let make = || Arc::new(engine.backend().pack_forward(&self.weight.value, None));
        Arc::clone(self.weight.forward().get_or_insert_with(make))
    }

    /// The same where it is there or is to stay; otherwise it is to be made for a while.
    pub(crate) fn kept_forward(&self, engine: &Engine, packing: Packing) -> Option<Arc<Packed>> {
        match packing {
            Packing::Kept => Some(self.packed_forward(engine)),
            Packing::ForAWhile => self.weight.forward().clone(),
        }
    }
}

/// All weights of a model, in a fixed order.
#[derive(Default)]
pub struct Parameters {
    items: Vec<Parameter>,
    names: HashMap<String, ParameterId>,
    packing: Packing,
}

impl Parameters {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a trainable parameter; matrices (more than one row) are subject to weight decay.
    ///
    /// # Panics
    /// If the name is taken: names come from a model's own list, where each stands once.
    pub fn add(&mut self, name: impl Into<String>, value: Tensor) -> ParameterId {
        let name = name.into();
        let id = ParameterId(self.items.len());
        assert!(
            self.names.insert(name.clone(), id).is_none(),
            "parameter {name} is there already"
        );
        let decayed = value.rows() > 1;
        self.items.push(Parameter {
            name,
            weight: Weight::new(value),
            trainable: true,
            decayed,
        });
        id
    }

    /// How many parameters (tensors, not numbers).
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The parameter of this name.
    pub fn find(&self, name: &str) -> Option<ParameterId> {
        self.names.get(name).copied()
    }

    /// One of them.
    pub fn get(&self, id: ParameterId) -> &Parameter {
        &self.items[id.0]
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = (ParameterId, &Parameter)> {
        self.items.iter().enumerate().map(|(i, p)| (ParameterId(i), p))
    }

    /// Freezes or frees one.
    pub fn set_trainable(&mut self, id: ParameterId, trainable: bool) {
        self.items[id.0].trainable = trainable;
    }

    /// Freezes or frees all.
    pub fn set_all_trainable(&mut self, trainable: bool) {
        for item in &mut self.items {
            item.trainable = trainable;
        }
    }

    /// Numbers in all parameters, and in the trainable ones.
    pub fn count(&self) -> (usize, usize) {
        let all = self.items.iter().map(|p| p.value().len()).sum();
        let trainable = self.items.iter().filter(|p| p.trainable).map(|p| p.value().len()).sum();
        (all, trainable)
    }

    /// Changes the numbers of one through `change`, and brings its packed form up to date.
    pub fn update<R>(&mut self, engine: &Engine, id: ParameterId, change: impl FnOnce(&mut Tensor) -> R) -> R {
        let weight = Weight::own(&mut self.items[id.0].weight, engine);
        let result = change(&mut weight.value);
        let mut forward = weight.forward();
        if let Some(packed) = forward.take() {
            let packed = engine.backend().pack_forward(&weight.value, Arc::into_inner(packed));
            *forward = Some(Arc::new(packed));
        }
        drop(forward);
        result
    }

    /// What passes over whole sequences do from now on.
    pub fn set_packing(&mut self, packing: Packing) {
        self.packing = packing;
    }

    /// What they do now.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// Gives up the packed forms, those that duplicates share among them. What needs one again makes it again.
    pub fn drop_packed(&mut self) {
        for item in &self.items {
            item.weight.forward().take();
        }
    }

    /// Takes memory for what training will change, where a duplicate has the same numbers.
    pub fn own_trainable(&mut self, engine: &Engine) {
        for item in self.items.iter_mut().filter(|item| item.trainable) {
            Weight::own(&mut item.weight, engine);
        }
    }

    /// Sets the numbers of one.
    ///
    /// # Panics
    /// If `values` has another length than the parameter.
    pub fn set(&mut self, engine: &Engine, id: ParameterId, values: &[f32]) {
        self.update(engine, id, |tensor| engine.write(tensor, values));
    }

    /// A copy, whose changes do not show in this one, nor this one's in it. Numbers take memory of their own once they are
    /// changed, so that what is frozen is there once.
    pub fn duplicate(&self) -> Self {
        let items = self.items.iter().map(|p| Parameter {
            name: p.name.clone(),
            weight: Arc::clone(&p.weight),
            trainable: p.trainable,
            decayed: p.decayed,
        });
        Self {
            items: items.collect(),
            names: self.names.clone(),
            packing: self.packing,
        }
    }
}

/// The gradients of the trainable parameters of a [`Parameters`], summed in f32.
pub struct Gradients {
    pub(crate) tensors: Vec<Option<Tensor>>,
    /// Whether each holds a sum yet; until then its numbers are whatever was there.
    written: Vec<bool>,
}

impl Gradients {
    /// Zero for every trainable parameter.
    pub fn zeros(engine: &Engine, parameters: &Parameters) -> Self {
        let tensors = parameters
            .items
            .iter()
            .map(|p| p.trainable.then(|| engine.zeros(p.value().rows(), p.value().cols())));
        Self {
            tensors: tensors.collect(),
            written: vec![true; parameters.items.len()],
        }
    }

    /// The same for a [`GradientTree`]: what is added to each first is written in place of the zeros, and where nothing was
    /// added the tree writes them.
    pub fn unwritten(engine: &Engine, parameters: &Parameters) -> Self {
        let empty = |p: &Parameter| engine.backend().empty(p.value().rows(), p.value().cols());
        Self {
            tensors: parameters.items.iter().map(|p| p.trainable.then(|| empty(p))).collect(),
            written: vec![false; parameters.items.len()],
        }
    }

    /// Where the gradient of one is summed; none if it is frozen.
    pub(crate) fn sum(&mut self, engine: &Engine, id: ParameterId) -> Option<&mut Tensor> {
        self.settle(engine, id.0);
        self.tensors[id.0].as_mut()
    }

    /// The same for a caller that writes all of it, from so many rows: in place of what is there, if that is no sum yet.
    /// Whether it is one, to which is to be added, is told, too.
    pub(crate) fn sum_or_place(
        &mut self,
        engine: &Engine,
        id: ParameterId,
        rows: usize,
    ) -> Option<(&mut Tensor, bool)> {
        if rows == 0 {
            self.settle(engine, id.0);
        }
        let accumulate = std::mem::replace(&mut self.written[id.0], true);
        self.tensors[id.0].as_mut().map(|tensor| (tensor, accumulate))
    }

    fn settle(&mut self, engine: &Engine, index: usize) {
        if !std::mem::replace(&mut self.written[index], true)
            && let Some(tensor) = &mut self.tensors[index]
        {
            engine.backend().fill(tensor, 0.0);
        }
    }

    /// The gradient of one; none if it is frozen. Of [`Self::unwritten`], after [`Self::finish`].
    pub fn get(&self, id: ParameterId) -> Option<&Tensor> {
        debug_assert!(self.written[id.0], "a gradient that holds no sum yet");
        self.tensors[id.0].as_ref()
    }

    /// Forgets the sums: see [`Self::unwritten`].
    pub fn clear(&mut self) {
        self.written.fill(false);
    }

    /// Makes what has no sum yet zero.
    pub fn finish(&mut self, engine: &Engine) {
        for index in 0..self.tensors.len() {
            self.settle(engine, index);
        }
    }

    /// Adds those of another shard; both are finished.
    pub fn add(&mut self, engine: &Engine, other: &Self) {
        debug_assert!(
            [&self.written, &other.written].iter().all(|w| !w.contains(&false)),
            "finished gradients"
        );
        for (mine, theirs) in self.tensors.iter_mut().zip(&other.tensors) {
            if let (Some(mine), Some(theirs)) = (mine, theirs) {
                engine.backend().add_assign(mine, theirs);
            }
        }
    }

    /// The Euclidean norm over all of them, which are finished, in a fixed order.
    pub fn norm(&self, engine: &Engine) -> f64 {
        debug_assert!(!self.written.contains(&false), "finished gradients");
        self.tensors
            .iter()
            .flatten()
            .map(|t| engine.backend().sum_of_squares(t))
            .sum::<f64>()
            .sqrt()
    }
}

/// Sums gradients of virtual shards in a fixed binary tree, whatever the order of work beneath a shard.
///
/// Shards 0 and 1 are added, 2 and 3, then the two sums, and so on; what has no partner at the end is folded in from
/// the right. At most `log2(shards) + 1` buffers are alive.
pub struct GradientTree {
    stack: Vec<(u32, Gradients)>,
}

impl GradientTree {
    /// No shard yet.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self { stack: Vec::new() }
    }

    /// Adds the next shard.
    pub fn push(&mut self, engine: &Engine, shard: Gradients) {
        let mut level = 0;
        let mut sum = shard;
        sum.finish(engine);
        while self.stack.last().is_some_and(|(l, _)| *l == level) {
            if let Some((_, mut left)) = self.stack.pop() {
                left.add(engine, &sum);
                sum = left;
                level += 1;
            }
        }
        self.stack.push((level, sum));
    }

    /// The sum of all shards; none if there was none.
    pub fn finish(mut self, engine: &Engine) -> Option<Gradients> {
        let (_, mut sum) = self.stack.pop()?;
        while let Some((_, mut left)) = self.stack.pop() {
            left.add(engine, &sum);
            sum = left;
        }
        Some(sum)
    }
}

#[cfg(test)]
mod tests;
