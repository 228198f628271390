//! Simple preference optimisation: length-normalised log-probabilities with a margin, and no reference.
//!
//! loss of a pair = -ln sigmoid(beta * (l_c/n_c - l_j/n_j) - gamma)
//!
//! Source: Meng, Xia and Chen, "SimPO: simple preference optimization with a reference-free reward", 2024, equation 6. The settings its
//! authors published have beta from 2 to 10 and gamma/beta from 0.1 to 0.8.
//!
//! Where it differs from other implementations, beside what `preference` says:
//! 1. No label smoothing and no supervised term. TRL has SimPO as a loss type of its CPO trainer, which adds a supervised term unless
//!    `cpo_alpha` is 0 (its default is 1) and has beta 0.1, far below the paper's.
//! 2. `gamma` is the margin itself, as in the paper, not its ratio to beta (`gamma_beta_ratio` in the authors' code).

use super::{Judged, PairCounts, PairInputs, PairLoss, over_pairs};
use crate::{Error, check_setting};
use hone_math::{log_sigmoid, sigmoid};

/// Settings of [`simpo`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SimpoConfig {
    /// Scale of the mean log-probability in the implicit reward. Default 2.
    pub beta: f64,
    /// By how much the chosen response's implicit reward should exceed the rejected one's. Default 1.
    #[doc(alias = "simpo_gamma")]
    pub gamma: f64,
}

impl Default for SimpoConfig {
    fn default() -> Self {
        Self { beta: 2.0, gamma: 1.0 }
    }
}

/// The SimPO loss of some pairs of a batch. `counts` is [`super::prepare`] of the whole batch.
///
/// # Errors
/// Slices of unequal length; an odd number of responses; a response without a token; a setting out of range; a global count that is 0
/// or below this part's own.
pub fn simpo(inputs: &PairInputs<'_>, config: SimpoConfig, counts: PairCounts) -> Result<PairLoss, Error> {
    let SimpoConfig { beta, gamma } = config;
    check_setting("simpo", "beta", beta, beta > 0.0 && beta.is_finite(), "more than 0")?;
    check_setting("simpo", "gamma", gamma, gamma >= 0.0 && gamma.is_finite(), "0 or more")?;
    over_pairs("simpo", inputs, counts, |_, chosen, rejected| {
        let rewards = [beta * chosen.mean(), beta * rejected.mean()];
        let above = rewards[0] - rewards[1] - gamma;
        let slope = -beta * sigmoid(-above);
        Judged {
            loss: -log_sigmoid(above),
            slopes: [slope / chosen.tokens, -slope / rejected.tokens],
            rewards,
        }
    })
}
