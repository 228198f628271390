//! Token log-probabilities and entropies from hidden states and the output matrix.
//!
//! This is the one operation behind the sampler, the policy, the reference and `hone logprobs`. Logits are made in
//! chunks of the vocabulary and merged in a fixed order; no `[n, v]` array outlives a block of rows. Where the way back is
//! recorded, the logits of the first block are kept for it, in the memory that it needs anyway.

use std::sync::Arc;

use crate::backend::{KeptLogits, TokenStatistics, Vocabulary, VocabularyGradients, VocabularyUpstream};
use crate::parameter::{Gradients, ParameterId};
use crate::sampling::{Adjustment, BestRow, Choice, SampleRow, SamplingError};
use crate::tape::{Backward, Operation, Tape, Var};
use crate::tensor::Tensor;

/// What is asked of the vocabulary operation.
#[derive(Clone)]
pub struct TokenTargets {
    /// The output matrix `[v, d]`.
    pub output: ParameterId,
    /// The token whose log-probability is asked, for each row of the hidden states.
    pub targets: Arc<[u32]>,
    /// Divides the logits; above 0.
    pub temperature: f32,
}

/// Results of the vocabulary operation, each `[n, 1]`.
pub struct TokenLogprobs {
    /// ln p(target).
    pub logprob: Var,
    /// Entropy of the distribution, in nats.
    pub entropy: Var,
}

struct Logprobs {
    hidden: Var,
    asked: TokenTargets,
    statistics: TokenStatistics,
    kept: KeptLogits,
}

impl Tape<'_> {
    fn vocabulary<'a>(&'a self, hidden: &'a Tensor, asked: &'a TokenTargets) -> Vocabulary<'a> {
        let output = self.parameters.get(asked.output);
        assert_eq!(hidden.rows(), asked.targets.len(), "one target a row");
        assert_eq!(
            hidden.cols(),
            output.value().cols(),
            "hidden states as wide as the output matrix"
        );
        let size = output.value().rows();
        assert!(
            asked.targets.iter().all(|&t| (t as usize) < size),
            "a target beyond the vocabulary"
        );
        assert!(asked.temperature > 0.0, "a temperature above 0");
        Vocabulary {
            hidden,
            output: output.value(),
            forward: output.kept_forward(self.engine, self.packing),
            targets: &asked.targets,
            temperature: asked.temperature,
        }
    }

    /// Log-probabilities of the targets and entropies, from hidden states `[n, d]`.
    pub fn token_logprobs(&mut self, hidden: &Var, asked: &TokenTargets) -> TokenLogprobs {
        let backend = self.engine.backend();
        if !self.must_record(&[hidden], &[asked.output]) {
            let statistics = backend.token_statistics(&self.vocabulary(&hidden.value, asked));
            return TokenLogprobs {
                logprob: self.plain(statistics.logprob),
                entropy: self.plain(statistics.entropy),
            };
        }
        let (statistics, kept) = backend.token_statistics_keeping(&self.vocabulary(&hidden.value, asked));
        let outputs = vec![
            Arc::new(backend.duplicate(&statistics.logprob)),
            Arc::new(backend.duplicate(&statistics.entropy)),
        ];
        let operation = Logprobs {
            hidden: hidden.clone(),
            asked: asked.clone(),
            statistics,
            kept,
        };
        let mut outputs = self.record_shared(outputs, operation);
        let entropy = outputs.swap_remove(1);
        TokenLogprobs {
            logprob: outputs.swap_remove(0),
            entropy,
        }
    }

    /// Ends the tape with the loss `-sum of weights[i] * logprob[i]` and goes back from it in the same pass over the
    /// vocabulary: cross-entropy, where the gradient is known beforehand. Gives the log-probabilities and entropies.
    pub fn backward_cross_entropy(
        self,
        hidden: &Var,
        asked: &TokenTargets,
        weights: &[f32],
        gradients: &mut Gradients,
    ) -> (Vec<f32>, Vec<f32>) {
        let engine = self.engine;
        let backend = engine.backend();
        let mut dhidden = hidden
            .node
            .map(|_| backend.empty(hidden.value.rows(), hidden.value.cols()));
        let negative: Vec<f32> = weights.iter().map(|w| -w).collect();
        let into = VocabularyGradients {
            dhidden: dhidden.as_mut(),
            dweight: gradients.sum_or_place(engine, asked.output, hidden.value.rows()),
        };
        let statistics = backend.weighted_logprobs(&self.vocabulary(&hidden.value, asked), &negative, into);
        if let Some(dhidden) = dhidden {
            self.backward(vec![(hidden, dhidden)], gradients);
        }
        (backend.read(&statistics.logprob), backend.read(&statistics.entropy))
    }

    /// Draws one token for each row of `hidden` `[n, d]`.
    ///
    /// # Errors
    /// If a row (whose number is given) has no finite logit, which a diverged model gives.
    pub fn sample(
        &self,
        hidden: &Var,
        output: ParameterId,
        rows: &[SampleRow],
    ) -> Result<Vec<Choice>, (usize, SamplingError)> {
        self.sample_adjusted(hidden, output, rows, &[])
    }

    /// The same from logits with these changes, a list for each row; one that is empty changes no bit. The
    /// log-probability is that of the logits as the model gives them.
    ///
    /// # Errors
    /// As [`Self::sample`].
    ///
    /// # Panics
    /// If there are lists, but not one for each row, or a changed token is beyond the vocabulary.
    pub fn sample_adjusted(
        &self,
        hidden: &Var,
        output: ParameterId,
        rows: &[SampleRow],
        adjustments: &[Vec<Adjustment>],
    ) -> Result<Vec<Choice>, (usize, SamplingError)> {
        assert_eq!(hidden.value.rows(), rows.len(), "one request a row");
        assert!(
            adjustments.is_empty() || adjustments.len() == rows.len(),
            "one list of changes a row"
        );
        let parameter = self.parameters.get(output);
        let size = parameter.value().rows();
        assert!(
            adjustments.iter().flatten().all(|a| (a.token as usize) < size),
            "a changed token beyond the vocabulary"
        );
        let forward = parameter.packed_forward(self.engine);
        self.engine
            .backend()
            .sample(&hidden.value, &forward, size, (rows, adjustments))
    }

    /// The most probable tokens after each row of `hidden` `[n, d]`, the most probable first, of equal ones the lowest id
    /// first. A log-probability is equal to the bit to that which [`Self::sample`] and [`Self::token_logprobs`] give.
    ///
    /// # Errors
    /// As [`Self::sample`].
    pub fn best(
        &self,
        hidden: &Var,
        output: ParameterId,
        rows: &[BestRow],
    ) -> Result<Vec<Vec<Choice>>, (usize, SamplingError)> {
        assert_eq!(hidden.value.rows(), rows.len(), "one request a row");
        assert!(
            rows.iter()
                .all(|row| row.temperature.is_normal() && row.temperature > 0.0),
            "a temperature above 0"
        );
        let parameter = self.parameters.get(output);
        let forward = parameter.packed_forward(self.engine);
        self.engine
            .backend()
            .best(&hidden.value, &forward, parameter.value().rows(), rows)
    }
}

impl Operation for Logprobs {
    fn backward(self: Box<Self>, context: &mut Backward<'_>, mut upstream: Vec<Option<Tensor>>) {
        let engine = context.engine;
        let Self {
            hidden,
            asked,
            statistics,
            kept,
        } = *self;
        let dentropy = upstream.pop().flatten();
        let dlogprob = upstream.pop().flatten();
        let output = context.parameters.get(asked.output);
        let vocabulary = Vocabulary {
            hidden: &hidden.value,
            output: output.value(),
            forward: output.kept_forward(engine, context.parameters.packing()),
            targets: &asked.targets,
            temperature: asked.temperature,
        };
        let upstream = VocabularyUpstream {
            dlogprob: dlogprob.as_ref(),
            dentropy: dentropy.as_ref(),
            statistics: &statistics,
            kept,
        };
        let (rows, cols) = hidden.shape();
        let mut dhidden = context.wants(&hidden).then(|| engine.backend().empty(rows, cols));
        let into = VocabularyGradients {
            dhidden: dhidden.as_mut(),
            dweight: context.parameter_or_place(asked.output, rows),
        };
        engine.backend().token_statistics_backward(&vocabulary, upstream, into);
        if let Some(dhidden) = dhidden {
            context.add(&hidden, dhidden);
        }
    }
}
