use thiserror::Error;

/// What an objective refuses. Each message says which function, what it got and what it expected.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Error {
    /// Two slices that describe the same tokens, responses or pairs differ in length.
    #[error(
        "{op}: `{what}` has {got} elements, expected {expected}; slices that describe the same batch must be equally long"
    )]
    ShapeMismatch {
        /// The function that refuses.
        op: &'static str,
        /// The slice at fault.
        what: &'static str,
        /// Its length as the other arguments imply it.
        expected: usize,
        /// Its length.
        got: usize,
    },
    /// A setting lies outside its range.
    #[error("{op}: `{name}` is {got}, expected {expected}")]
    Setting {
        /// The function that refuses.
        op: &'static str,
        /// The setting at fault.
        name: &'static str,
        /// Its value.
        got: f64,
        /// The values it may have, in words.
        expected: &'static str,
    },
    /// The count of the global batch contradicts the part of it that was passed.
    #[error(
        "{op}: the global number of {what} is {global}, but this part alone holds {local}; pass the count over the whole batch, which must not be 0"
    )]
    GlobalCount {
        /// The function that refuses.
        op: &'static str,
        /// What is counted.
        what: &'static str,
        /// The count that was passed.
        global: u64,
        /// What the slices hold.
        local: u64,
    },
    /// There is nothing to compute from.
    #[error("{op}: {what} is empty, expected at least {at_least}")]
    TooFew {
        /// The function that refuses.
        op: &'static str,
        /// What there is too little of.
        what: &'static str,
        /// The smallest number that makes sense.
        at_least: usize,
    },
    /// A response has no token that counts, so that its score has no place.
    #[error(
        "{op}: response {index} has no token under the mask, expected at least one; drop empty responses before scoring"
    )]
    EmptyResponse {
        /// The function that refuses.
        op: &'static str,
        /// Which response of the batch, from 0.
        index: usize,
    },
    /// Responses that should come in pairs do not.
    #[error(
        "{op}: {got} responses are no pairs, expected an even number; give each pair's chosen and then its rejected response"
    )]
    OddResponses {
        /// The function that refuses.
        op: &'static str,
        /// How many responses there are.
        got: usize,
    },
    /// A group has too few responses for its baseline.
    #[error(
        "{op}: group {index} has {got} responses, expected at least {at_least}; sample more answers a prompt or drop the group"
    )]
    GroupSize {
        /// The function that refuses.
        op: &'static str,
        /// Which group of the batch, from 0.
        index: usize,
        /// How many responses it has.
        got: usize,
        /// The smallest number that makes sense.
        at_least: usize,
    },
    /// A number that steers training is NaN or infinite.
    #[error("{op}: `{name}` is {got}, expected a finite number; skip the step that produced it")]
    NotFinite {
        /// The function that refuses.
        op: &'static str,
        /// The number at fault.
        name: &'static str,
        /// Its value.
        got: f64,
    },
    /// A ranking does not rank its answers.
    #[error("ranking of {answers} answers: {problem}; list each answer's index exactly once, the best group first")]
    Ranking {
        /// How many answers there are.
        answers: usize,
        /// What is wrong with it.
        problem: RankingProblem,
    },
}

/// What is wrong with a ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RankingProblem {
    /// Fewer than two answers.
    #[error("there is nothing to compare, expected at least 2 answers")]
    TooFewAnswers,
    /// A group of no answers.
    #[error("group {0} is empty")]
    EmptyGroup(usize),
    /// An index beyond the answers.
    #[error("answer {0} does not exist (they count from 0)")]
    UnknownAnswer(usize),
    /// An answer named twice.
    #[error("answer {0} is ranked twice")]
    RankedTwice(usize),
    /// An answer never named.
    #[error("answer {0} is not ranked")]
    NotRanked(usize),
}
