//! Next-token prediction on packed sequences: what pre-training, supervised tuning and PPO-ptx share.

use std::sync::Arc;

use hone_compute::{Engine, Gradients, Layout, Tape};
use hone_data::{TokenExample, Window};
use hone_model::{Tokens, Transformer};
use hone_objective::cross_entropy::{TokenStats, cross_entropy_gradient};

use crate::error::Result;

/// Sequences side by side, and which of their positions predict a token that counts.
#[derive(Clone, Debug)]
pub struct LanguageBatch {
    ids: Arc<[u32]>,
    layout: Layout,
    /// Rows whose next token counts.
    rows: Arc<[u32]>,
    /// That token, a row.
    targets: Arc<[u32]>,
}

impl LanguageBatch {
    /// Examples whose mask says which tokens are targets. The first token of an example is no target: nothing comes
    /// before it.
    pub fn of_examples<'a>(examples: impl IntoIterator<Item = &'a TokenExample>) -> Self {
        let (mut ids, mut lengths, mut rows, mut targets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for example in examples {
            let start = ids.len();
            ids.extend_from_slice(&example.ids);
            lengths.push(example.ids.len());
            for (i, &id) in example.ids.iter().enumerate().skip(1) {
                if example.trained[i] {
                    rows.push((start + i - 1) as u32);
                    targets.push(id);
                }
            }
        }
        Self {
            ids: ids.into(),
            layout: Layout::whole(&lengths),
            rows: rows.into(),
            targets: targets.into(),
        }
    }

    /// Windows of a stream, in which every position predicts.
    pub fn of_windows<'a>(windows: impl IntoIterator<Item = Window<'a>>) -> Self {
        let (mut ids, mut lengths, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for window in windows {
            ids.extend_from_slice(window.inputs);
            targets.extend_from_slice(window.targets);
            lengths.extend_from_slice(&window.segments);
        }
        let rows = (0..ids.len() as u32).collect();
        Self {
            ids: ids.into(),
            layout: Layout::whole(&lengths),
            rows,
            targets: targets.into(),
        }
    }

    /// Tokens read.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Tokens predicted.
    pub fn targets(&self) -> usize {
        self.targets.len()
    }

    fn tokens_of(&self) -> Tokens<'_> {
        Tokens {
            ids: &self.ids,
            layout: &self.layout,
        }
    }
}

/// Adds the gradients of `scale` times the mean cross-entropy over `global_tokens` targets, of which the batch holds
/// some. Gives the batch's sums.
///
/// # Errors
/// If the batch has more targets than all.
pub fn cross_entropy_step(
    engine: &Engine,
    model: &Transformer,
    batch: &LanguageBatch,
    (global_tokens, scale): (u64, f64),
    gradients: &mut Gradients,
) -> Result<TokenStats> {
    if batch.targets() == 0 {
        return Ok(TokenStats::of(&[], &[])?);
    }
    let mask = vec![true; batch.targets()];
    // dloss / dlogprob, known before the log-probabilities are: -1 / n each
    let weights: Vec<f32> = cross_entropy_gradient(&mask, global_tokens)?
        .into_iter()
        .map(|g| -(f64::from(g) * scale) as f32)
        .collect();
    let mut tape = Tape::training(engine, model.parameters());
    let chosen = model.hidden_of(&mut tape, &batch.tokens_of(), &batch.rows); // [t, d]
    let asked = model.targets(&batch.targets, 1.0);
    let (logprobs, _) = tape.backward_cross_entropy(&chosen, &asked, &weights, gradients);
    Ok(TokenStats::of(&logprobs, &mask)?)
}

/// The batch's sums without gradients.
///
/// # Errors
/// None but those of the sums.
pub fn evaluate(engine: &Engine, model: &Transformer, batch: &LanguageBatch) -> Result<TokenStats> {
    let mask = vec![true; batch.targets()];
    if batch.targets() == 0 {
        return Ok(TokenStats::of(&[], &[])?);
    }
    let mut tape = Tape::inference(engine, model.parameters());
    let chosen = model.hidden_of(&mut tape, &batch.tokens_of(), &batch.rows);
    let logprobs = engine.read(model.logprobs(&mut tape, &chosen, &batch.targets, 1.0).logprob.value());
    Ok(TokenStats::of(&logprobs, &mask)?)
}

/// Splits `items` into `shards` runs of nearly equal count, each cut into micro-batches of at most `tokens` tokens (or
/// one item). Order is kept.
pub fn shards_of<T>(items: Vec<T>, shards: usize, tokens: usize, size: impl Fn(&T) -> usize) -> Vec<Vec<Vec<T>>> {
    let count = items.len();
    let mut result: Vec<Vec<Vec<T>>> = (0..shards).map(|_| Vec::new()).collect();
    let mut used = 0;
    for (i, item) in items.into_iter().enumerate() {
        let shard = &mut result[(i * shards / count).min(shards - 1)];
        let own = size(&item);
        match shard.last_mut() {
            Some(microbatch) if used + own <= tokens => {
                microbatch.push(item);
                used += own;
            }
            _ => {
                shard.push(vec![item]);
                used = own;
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_keep_order_and_bound_microbatches() {
        let shards = shards_of((1..=10).collect(), 2, 9, |&n: &usize| n);
        assert_eq!(
            shards,
            vec![
                vec![vec![1, 2, 3], vec![4, 5]],
                vec![vec![6], vec![7], vec![8], vec![9], vec![10]]
            ]
        );
        let one = shards_of(vec![5, 5, 5], 1, 100, |&n: &usize| n);
        assert_eq!(one, vec![vec![vec![5, 5, 5]]]);
    }

    #[test]
    fn only_masked_tokens_are_targets() {
        let example = TokenExample {
            ids: vec![7, 8, 9, 10],
            trained: vec![true, false, true, true],
        };
        let batch = LanguageBatch::of_examples([&example, &example]);
        assert_eq!(&*batch.rows, &[1, 2, 5, 6]);
        assert_eq!(&*batch.targets, &[9, 10, 9, 10]);
    }
}
