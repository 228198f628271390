//! Rewards a token from a score a response.
//!
//! reward_t = -kl_coef * (logp_t - ref_logp_t), with the score added at the response's last token.
//!
//! Sources: Ziegler et al., "Fine-tuning language models from human preferences", 2019, section 2.2 and `compute_rewards` of its code;
//! Ouyang et al. (InstructGPT), 2022, equation 2; Huang et al., "The N+ implementation details of RLHF with PPO", 2024.
//!
//! Where it differs from other implementations:
//! 1. A response without EOS has its score *replaced* by a stated value, as in the N+ details (-1). TRL 0.11 and later *subtracts*
//!    a penalty from the score instead.
//! 2. The score is added at the last token under the mask. TRL adds it one position later where there is one, at the padding's first.
//! 3. The divergence in the reward is k1, neither clipped nor absolute.

use crate::gae::ranges;
use crate::kl::Estimator;
use crate::statistics::Moments;
use crate::{Error, check_length, check_setting};

/// Default weight of the divergence in the reward.
pub const KL_COEF: f64 = 0.05;

/// What [`rewards`] reads.
#[derive(Clone, Copy, Debug)]
pub struct RewardInputs<'a> {
    /// The policy's log-probabilities as sampled, `[sum of lengths]`.
    pub logprobs: &'a [f32],
    /// The reference's, `[sum of lengths]`.
    pub ref_logprobs: &'a [f32],
    /// True at the response's tokens, its EOS included, `[sum of lengths]`.
    pub mask: &'a [bool],
    /// Length of each sequence, `[b]`.
    pub lengths: &'a [usize],
    /// Score of each response, the missing-EOS rule applied, `[b]`.
    pub scores: &'a [f32],
}

/// What [`rewards`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewards {
    /// Reward of each token, 0 outside the mask, `[sum of lengths]`.
    pub rewards: Vec<f32>,
    /// Statistics over responses.
    pub stats: RewardStats,
}

/// Statistics over responses, in TRL's terms.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RewardStats {
    /// Divergence of a response: the sum of its tokens' k1 (`objective/kl`).
    pub kl: Moments,
    /// Entropy of a response as sampled: the sum of its tokens' -logp (`objective/entropy`).
    pub entropy: Moments,
    /// Score of a response (`objective/scores`).
    pub score: Moments,
    /// What the divergence takes from a response (`objective/non_score_reward`).
    pub non_score_reward: Moments,
    /// Score and divergence together (`objective/rlhf_reward`).
    pub total: Moments,
    /// Tokens of a response.
    pub length: Moments,
}

/// Rewards of a whole rollout batch.
///
/// # Errors
/// Slices of unequal length; lengths that do not add up to the tokens; a response without a token; a coefficient that is negative or
/// not finite.
pub fn rewards(inputs: &RewardInputs<'_>, kl_coef: f64) -> Result<Rewards, Error> {
    let n = inputs.logprobs.len();
    check_length("rewards", "ref_logprobs", inputs.ref_logprobs.len(), n)?;
    check_length("rewards", "mask", inputs.mask.len(), n)?;
    check_length("rewards", "scores", inputs.scores.len(), inputs.lengths.len())?;
    check_setting(
        "rewards",
        "kl_coef",
        kl_coef,
        kl_coef >= 0.0 && kl_coef.is_finite(),
        "0 or more",
    )?;

    let mut out = Rewards {
        rewards: vec![0.0; n],
        stats: RewardStats::default(),
    };
    for (index, range) in ranges("rewards", inputs.lengths, n)?.enumerate() {
        let score = f64::from(inputs.scores[index]);
        let (mut kl, mut entropy, mut tokens) = (0.0, 0.0, 0_u64);
        let mut last = None;
        for t in range.filter(|&t| inputs.mask[t]) {
            let k1 = Estimator::K1.value(inputs.logprobs[t], inputs.ref_logprobs[t]);
            // Written so that equal log-probabilities give +0, not -0
            out.rewards[t] = (0.0 - kl_coef * k1) as f32;
            kl += k1;
            entropy -= f64::from(inputs.logprobs[t]);
            tokens += 1;
            last = Some((t, k1));
        }
        let Some((t, k1)) = last else {
            return Err(Error::EmptyResponse { op: "rewards", index });
        };
        out.rewards[t] = (score - kl_coef * k1) as f32;

        out.stats.kl.push(kl);
        out.stats.entropy.push(entropy);
        out.stats.score.push(score);
        out.stats.non_score_reward.push(0.0 - kl_coef * kl);
        out.stats.total.push(score - kl_coef * kl);
        out.stats.length.push(tokens as f64);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let inputs = RewardInputs {
            logprobs: &[-1.0, -2.0, f32::NAN, -4.0],
            ref_logprobs: &[-2.0, -1.5, 0.0, -4.0],
            mask: &[true, true, false, true],
            lengths: &[3, 1],
            scores: &[2.0, -1.0],
        };
        let out = rewards(&inputs, 0.5).unwrap();
        assert_eq!(out.rewards, [-0.5, 2.25, 0.0, -1.0]);
        // Divergences 1 - 0.5 and 0
        assert_eq!(out.stats.kl.mean(), 0.25);
        assert_eq!(out.stats.entropy.mean(), 3.5);
        assert_eq!(out.stats.score.mean(), 0.5);
        assert_eq!(out.stats.non_score_reward.mean(), -0.125);
        assert_eq!(out.stats.total.mean(), 0.375);
        assert_eq!(out.stats.length.mean(), 1.5);
    }

    #[test]
    fn a_policy_equal_to_its_reference_has_kl_0_and_earns_the_score() {
        let logprobs = [-0.3, -7.25, -1e-3, -2.0];
        let inputs = RewardInputs {
            logprobs: &logprobs,
            ref_logprobs: &logprobs,
            mask: &[true; 4],
            lengths: &[1, 3],
            scores: &[0.7, -0.2],
        };
        let out = rewards(&inputs, 0.05).unwrap();
        assert_eq!(out.rewards.map_bits(), [0.7_f32, 0.0, 0.0, -0.2].map(f32::to_bits));
        assert_eq!(out.stats.kl.mean(), 0.0);
    }

    trait MapBits {
        fn map_bits(&self) -> Vec<u32>;
    }

    impl MapBits for Vec<f32> {
        fn map_bits(&self) -> Vec<u32> {
            self.iter().map(|x| x.to_bits()).collect()
        }
    }

    #[test]
    fn refusals() {
        let inputs = RewardInputs {
            logprobs: &[-1.0],
            ref_logprobs: &[-1.0],
            mask: &[false],
            lengths: &[1],
            scores: &[1.0],
        };
        assert_eq!(
            rewards(&inputs, 0.1),
            Err(Error::EmptyResponse {
                op: "rewards",
                index: 0
            })
        );
        let inputs = RewardInputs {
            mask: &[true],
            ..inputs
        };
        assert!(rewards(&inputs, -0.1).is_err() && rewards(&inputs, f64::NAN).is_err());
        assert!(rewards(&RewardInputs { scores: &[], ..inputs }, 0.1).is_err());
        assert!(
            rewards(
                &RewardInputs {
                    lengths: &[2],
                    ..inputs
                },
                0.1
            )
            .is_err()
        );
    }
}
