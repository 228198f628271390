//! Several samples a prompt, and the best of them.

use crate::request::{Completion, Request};

/// `n` requests like `request`, each with random numbers of its own.
pub fn samples_of(request: &Request, n: usize) -> Vec<Request> {
    (0..n)
        .map(|i| Request {
            key: request.key.child(i as u64),
            ..request.clone()
        })
        .collect()
}

/// The index of the highest score (the first of equals); none without scores or if all are NaN.
pub fn best_of(scores: &[f32]) -> Option<usize> {
    let mut best: Option<usize> = None;
    for (i, score) in scores.iter().enumerate() {
        if !score.is_nan() && best.is_none_or(|b| *score > scores[b]) {
            best = Some(i);
        }
    }
    best
}

impl Completion {
    /// The summed log-probability.
    pub fn logprob(&self) -> f64 {
        self.logprobs.iter().map(|&x| f64::from(x)).sum()
    }
}
