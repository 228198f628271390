//! Options as answers: the log-probability that a model gives each of them after a prompt.
//!
//! Source: Brown et al., "Language models are few-shot learners", 2020, section 2.4 (completions compared by their likelihood, also
//! by its mean a token); Gao et al., "A framework for few-shot language model evaluation" (its `acc_norm` divides by bytes).

use hone_compute::Engine;
use hone_model::Transformer;

use crate::logprobs::logprobs_from;

/// What options are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionMeasure {
    /// The summed log-probability: which option is the likeliest continuation. Favours short ones.
    Sum,
    /// Its mean a token.
    Mean,
    /// Its mean a byte of the option's text, which no tokenizer moves.
    Byte,
}

/// What a model says of an option.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptionScore {
    /// The summed log-probability, nats.
    pub logprob: f64,
    /// The option's tokens.
    pub tokens: usize,
    /// Its bytes, the space before it not counted.
    pub bytes: usize,
}

impl OptionScore {
    /// The number that is compared.
    pub fn by(&self, measure: OptionMeasure) -> f64 {
        match measure {
            OptionMeasure::Sum => self.logprob,
            OptionMeasure::Mean => self.logprob / self.tokens.max(1) as f64,
            OptionMeasure::Byte => self.logprob / self.bytes.max(1) as f64,
        }
    }
}

/// A prompt with the options after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionQuery {
    /// Tokens of the prompt; at least one.
    pub prompt: Vec<u32>,
    /// Tokens and bytes of each option.
    pub options: Vec<(Vec<u32>, usize)>,
}

/// The options' log-probabilities, those of a query together. They do not depend on what else is asked.
///
/// # Panics
/// If a prompt has no token.
pub fn option_scores(engine: &Engine, model: &Transformer, queries: &[OptionQuery]) -> Vec<Vec<OptionScore>> {
    let mut sequences: Vec<Vec<u32>> = Vec::new();
    let mut from = Vec::new();
    for query in queries {
        for (option, _) in &query.options {
            sequences.push([query.prompt.as_slice(), option].concat());
            from.push(query.prompt.len());
        }
    }
    let slices: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let mut scored = logprobs_from(engine, model, (&slices, &from), 1.0).into_iter();
    let score = |(option, bytes): &(Vec<u32>, usize), logprobs: &[f32]| OptionScore {
        logprob: logprobs.iter().map(|&x| f64::from(x)).sum(),
        tokens: option.len(),
        bytes: *bytes,
    };
    let of_query = |query: &OptionQuery| -> Vec<OptionScore> {
        let pairs = query.options.iter().zip(scored.by_ref());
        pairs.map(|(option, scores)| score(option, &scores.logprobs)).collect()
    };
    queries.iter().map(of_query).collect()
}

/// The option with the highest number, of equals the first; none without options, or where a number is NaN.
pub fn choice(scores: &[OptionScore], measure: OptionMeasure) -> Option<usize> {
    let numbers: Vec<f64> = scores.iter().map(|score| score.by(measure)).collect();
    if numbers.iter().any(|number| number.is_nan()) {
        return None;
    }
    let mut best = None;
    for (i, number) in numbers.iter().enumerate() {
        if best.is_none_or(|b: usize| *number > numbers[b]) {
            best = Some(i);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_by_hand() {
        let score = |logprob, tokens, bytes| OptionScore { logprob, tokens, bytes };
        let scores = [score(-4.0, 1, 2), score(-6.0, 3, 4), score(-9.0, 4, 12)];
        assert_eq!(choice(&scores, OptionMeasure::Sum), Some(0));
        assert_eq!(choice(&scores, OptionMeasure::Mean), Some(1));
        assert_eq!(choice(&scores, OptionMeasure::Byte), Some(2));
        assert_eq!(choice(&[scores[1], scores[1]], OptionMeasure::Sum), Some(0));
        assert_eq!(choice(&[], OptionMeasure::Sum), None);
        assert_eq!(choice(&[scores[0], score(f64::NAN, 1, 1)], OptionMeasure::Sum), None);
    }
}
