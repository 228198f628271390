//! The method that is configured: what a batch's log-probabilities come to.

use hone_objective::preference::{
    DpoConfig, IpoConfig, IpoForm, KtoConfig, KtoConstants, KtoInputs, OrpoConfig, PairCounts, PairInputs, PairStats,
    SftMean, SimpoConfig, dpo, ipo, kto, orpo, simpo,
};
use hone_objective::statistics::Moments;

use super::lengths::Lengths;
use super::section::{IpoFormSetting, MethodSetting, PreferenceSection, SftMeanSetting, WeighSetting};
use crate::error::{Result, TrainError};

/// What was judged of a prompt's responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Every (better, worse) pair of responses.
    Pairs(Vec<(usize, usize)>),
    /// Of each response, whether it is desirable.
    Labels(Vec<bool>),
}

impl Judgement {
    /// Pairs, or labelled responses.
    pub fn count(&self) -> u64 {
        match self {
            Self::Pairs(pairs) => pairs.len() as u64,
            Self::Labels(labels) => labels.len() as u64,
        }
    }
}

/// The responses to one prompt, as a loss compares them.
pub(crate) struct Compared<'a> {
    /// Tokens of each response, `[k]`.
    pub lengths: Vec<usize>,
    pub judgement: &'a Judgement,
    /// Log-probability of each response under the reference, `[k]`; empty for methods without one.
    pub reference: &'a [f64],
}

impl Compared<'_> {
    /// Tokens of all responses.
    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Tokens of the better responses, each once for each of its pairs.
    pub fn chosen_tokens(&self) -> u64 {
        match self.judgement {
            Judgement::Pairs(pairs) => pairs.iter().map(|&(better, _)| self.lengths[better] as u64).sum(),
            Judgement::Labels(_) => 0,
        }
    }
}

/// A method with its settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Method {
    loss: Loss,
    weigh: WeighSetting,
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    Dpo(DpoConfig),
    Ipo(IpoConfig),
    Kto(KtoConfig),
    Orpo(OrpoConfig),
    Simpo(SimpoConfig),
}

/// The constants of a batch, by which all of its parts are normalised.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Constants {
    prompts: u64,
    /// Pairs; of KTO, responses.
    judgements: u64,
    /// Tokens of chosen responses, each once for each of its pairs.
    chosen_tokens: u64,
    /// KTO's estimate of the divergence.
    pub kl: Option<f64>,
}

/// What a part of a batch comes to.
pub(crate) struct Judged {
    /// Gradient with respect to the log-probability of each response token, `[t]`.
    pub gradient: Vec<f32>,
    pub stats: Stats,
}

/// Statistics over pairs, of KTO over responses; parts add up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    /// This part's share of the batch's loss.
    pub loss: f64,
    pub chosen_rewards: Moments,
    pub rejected_rewards: Moments,
    pub chosen_logprobs: Moments,
    pub rejected_logprobs: Moments,
    /// Judgements that the implicit rewards agree with, equal ones as a half.
    pub correct: f64,
    pub count: u64,
    /// This part's share of ORPO's supervised term.
    pub nll: f64,
    pub log_odds: Moments,
    pub log_odds_ratio: Moments,
    /// Of pairs: by how much the better response is longer, with the margin of implicit rewards. Of KTO: a response's length with its
    /// implicit reward.
    pub lengths: Lengths,
}

impl Stats {
    /// Adds another part's.
    pub fn merge(&mut self, other: &Self) {
        self.loss += other.loss;
        self.chosen_rewards.merge(&other.chosen_rewards);
        self.rejected_rewards.merge(&other.rejected_rewards);
        self.chosen_logprobs.merge(&other.chosen_logprobs);
        self.rejected_logprobs.merge(&other.rejected_logprobs);
        self.correct += other.correct;
        self.count += other.count;
        self.nll += other.nll;
        self.log_odds.merge(&other.log_odds);
        self.log_odds_ratio.merge(&other.log_odds_ratio);
        self.lengths.merge(&other.lengths);
    }

    /// Share of judgements that the implicit rewards agree with.
    pub fn accuracy(&self) -> f64 {
        self.correct / self.count as f64
    }

    /// Mean implicit reward of chosen responses less that of rejected ones.
    pub fn margin(&self) -> f64 {
        self.chosen_rewards.mean() - self.rejected_rewards.mean()
    }

    /// Names and values for `metrics.jsonl` of what there is: a batch of KTO may be all of one kind.
    pub fn metrics(&self) -> Vec<(&'static str, f64)> {
        let mut metrics = Vec::new();
        let (chosen, rejected) = (&self.chosen_rewards, &self.rejected_rewards);
        if chosen.count() > 0 {
            metrics.push(("rewards/chosen", chosen.mean()));
            metrics.push(("logps/chosen", self.chosen_logprobs.mean()));
        }
        if rejected.count() > 0 {
            metrics.push(("rewards/rejected", rejected.mean()));
            metrics.push(("logps/rejected", self.rejected_logprobs.mean()));
        }
        if chosen.count() > 0 && rejected.count() > 0 {
            metrics.push(("rewards/margins", self.margin()));
        }
        metrics.extend(self.lengths.correlation().map(|r| ("rewards/length_correlation", r)));
        if self.log_odds.count() > 0 {
            metrics.push(("nll_loss", self.nll));
            metrics.push(("log_odds_chosen", self.log_odds.mean()));
            metrics.push(("log_odds_ratio", self.log_odds_ratio.mean()));
        }
        metrics
    }

    fn of_pairs(loss: f64, pairs: &PairStats) -> Self {
        Self {
            loss,
            chosen_rewards: pairs.chosen_rewards,
            rejected_rewards: pairs.rejected_rewards,
            chosen_logprobs: pairs.chosen_logprobs,
            rejected_logprobs: pairs.rejected_logprobs,
            correct: pairs.correct_sum,
            count: pairs.pairs(),
            ..Self::default()
        }
    }
}

impl Method {
    /// The method of a configuration, whose keys have their values.
    ///
    /// # Errors
    /// A key that the method does not have, and a value out of its range.
    pub fn new(section: &PreferenceSection) -> Result<Self> {
        check_keys(section)?;
        let number = |key: &str, value: Option<f64>, (holds, expected): (fn(f64) -> bool, &str)| -> Result<f64> {
            let value = value.unwrap_or(f64::NAN);
            if value.is_finite() && holds(value) {
                return Ok(value);
            }
            let reason = format!("is {value}; expected {expected}");
            Err(TrainError::setting(format!("preference.{key}"), reason))
        };
        let positive: (fn(f64) -> bool, &str) = (|x| x > 0.0, "a number above 0");
        let not_negative: (fn(f64) -> bool, &str) = (|x| x >= 0.0, "0 or a number above");
        let beta = || number("beta", section.beta, positive);
        let loss = match section.method {
            MethodSetting::Dpo => Loss::Dpo(DpoConfig {
                beta: beta()?,
                label_smoothing: number(
                    "label_smoothing",
                    section.label_smoothing,
                    (|x| (0.0..=0.5).contains(&x), "0 to 0.5"),
                )?,
            }),
            MethodSetting::Ipo => Loss::Ipo(IpoConfig {
                beta: beta()?,
                form: match section.form.unwrap_or_default() {
                    IpoFormSetting::Summed => IpoForm::Summed,
                    IpoFormSetting::PerToken => IpoForm::PerToken,
                },
            }),
            MethodSetting::Kto if section.balance == Some(true) => Loss::Kto(KtoConfig {
                beta: beta()?,
                ..KtoConfig::default()
            }),
            MethodSetting::Kto => Loss::Kto(KtoConfig {
                beta: beta()?,
                desirable_weight: number("desirable_weight", section.desirable_weight, not_negative)?,
                undesirable_weight: number("undesirable_weight", section.undesirable_weight, not_negative)?,
            }),
            MethodSetting::Orpo => Loss::Orpo(OrpoConfig {
                odds_ratio_coef: number("odds_ratio_coef", section.odds_ratio_coef, not_negative)?,
                sft_mean: match section.sft_mean.unwrap_or_default() {
                    SftMeanSetting::Responses => SftMean::Responses,
                    SftMeanSetting::Tokens => SftMean::Tokens,
                },
            }),
            MethodSetting::Simpo => Loss::Simpo(SimpoConfig {
                beta: beta()?,
                gamma: number("gamma", section.gamma, not_negative)?,
            }),
        };
        Ok(Self {
            loss,
            weigh: section.weigh,
        })
    }

    /// The method with KTO's weights for so much desirable and undesirable, and these weights.
    pub fn balanced(mut self, labels: (f64, f64)) -> (Self, Option<(f64, f64)>) {
        let Loss::Kto(config) = &mut self.loss else {
            return (self, None);
        };
        let weights = balanced(labels);
        (config.desirable_weight, config.undesirable_weight) = weights;
        (self, Some(weights))
    }

    /// What of each label these responses add to a loss: of each weight 1 in all, as `weigh` has it.
    pub fn share_of_labels(self, judgement: &Judgement) -> (f64, f64) {
        let Judgement::Labels(labels) = judgement else {
            return (0.0, 0.0);
        };
        let desirable = labels.iter().filter(|&&label| label).count() as f64;
        let all = labels.len() as f64;
        match self.weigh {
            WeighSetting::Prompts => (desirable / all, (all - desirable) / all),
            WeighSetting::Pairs => (desirable, all - desirable),
        }
    }

    /// Counts of a whole batch. `mismatched` are the log-probabilities of its mismatched responses under the policy and
    /// under the reference, which KTO alone asks for.
    pub fn constants(self, compared: &[Compared<'_>], mismatched: Option<(&[f64], &[f64])>) -> Result<Constants> {
        let mut constants = Constants {
            prompts: compared.len() as u64,
            judgements: compared.iter().map(|c| c.judgement.count()).sum(),
            chosen_tokens: compared.iter().map(Compared::chosen_tokens).sum(),
            kl: None,
        };
        if let Some((policy, reference)) = mismatched {
            constants.kl = Some(kto::prepare(policy, reference, constants.judgements)?.kl);
        }
        Ok(constants)
    }

    /// Loss, gradient and statistics of some of a batch's prompts, from the log-probabilities of their responses' tokens.
    pub fn judge(self, compared: &[Compared<'_>], logprobs: &[f32], constants: Constants) -> Result<Judged> {
        let mut judged = Judged {
            gradient: Vec::with_capacity(logprobs.len()),
            stats: Stats::default(),
        };
        let mut rest = logprobs;
        for one in compared {
            let (own, others) = rest.split_at(one.tokens());
            rest = others;
            let one = self.judge_one(one, own, constants)?;
            judged.gradient.extend(one.gradient);
            judged.stats.merge(&one.stats);
        }
        Ok(judged)
    }

    fn judge_one(self, compared: &Compared<'_>, logprobs: &[f32], constants: Constants) -> Result<Judged> {
        let lengths = &compared.lengths;
        let own = compared.judgement.count();
        // What a judgement's loss is divided by
        let divisor = match self.weigh {
            WeighSetting::Prompts => constants.prompts * own,
            WeighSetting::Pairs => constants.judgements,
        };
        match compared.judgement {
            Judgement::Labels(labels) => {
                let Loss::Kto(config) = self.loss else {
                    unreachable!("labels are read for KTO alone");
                };
                let inputs = KtoInputs {
                    logprobs,
                    mask: &vec![true; logprobs.len()],
                    lengths,
                    ref_logprobs: compared.reference,
                    desirable: labels,
                };
                let constants = KtoConstants {
                    kl: constants.kl.unwrap_or(0.0),
                    responses: divisor,
                };
                let loss = kto(&inputs, config, constants)?;
                let stats = &loss.stats;
                let mut together = Lengths::default();
                let (mut rest, mut reference) = (logprobs, compared.reference.iter());
                for (&length, &label) in lengths.iter().zip(labels) {
                    let (own, others) = rest.split_at(length);
                    rest = others;
                    let inputs = KtoInputs {
                        logprobs: own,
                        mask: &vec![true; length],
                        lengths: &[length],
                        ref_logprobs: &[reference.next().copied().unwrap_or_default()],
                        desirable: &[label],
                    };
                    let one = kto(&inputs, config, constants)?.stats;
                    let rewards = if label {
                        one.chosen_rewards
                    } else {
                        one.rejected_rewards
                    };
                    together.merge(&Lengths::of(length as f64, rewards.mean()));
                }
                Ok(Judged {
                    gradient: loss.grad_logprobs,
                    stats: Stats {
                        loss: loss.loss,
                        chosen_rewards: stats.chosen_rewards,
                        rejected_rewards: stats.rejected_rewards,
                        chosen_logprobs: stats.chosen_logprobs,
                        rejected_logprobs: stats.rejected_logprobs,
                        correct: stats.correct_sum,
                        count: stats.loss.count(),
                        lengths: together,
                        ..Stats::default()
                    },
                })
            }
            Judgement::Pairs(pairs) => {
                let counts = PairCounts {
                    pairs: divisor,
                    chosen_tokens: constants.chosen_tokens,
                };
                let flat = Flat::new(pairs, lengths, logprobs);
                let (mut stats, gradient) = self.judge_pairs(&flat, compared.reference, counts)?;
                for &(better, worse) in pairs {
                    let counts = PairCounts {
                        pairs: 1,
                        chosen_tokens: lengths[better] as u64,
                    };
                    let one = Flat::new(&[(better, worse)], lengths, logprobs);
                    let margin = self.judge_pairs(&one, compared.reference, counts)?.0.margin();
                    let longer = lengths[better] as f64 - lengths[worse] as f64;
                    stats.lengths.merge(&Lengths::of(longer, margin));
                }
                Ok(Judged {
                    gradient: flat.gathered(&gradient, logprobs.len()),
                    stats,
                })
            }
        }
    }

    fn judge_pairs(self, flat: &Flat, reference: &[f64], counts: PairCounts) -> Result<(Stats, Vec<f32>)> {
        let inputs = PairInputs {
            logprobs: &flat.logprobs,
            mask: &vec![true; flat.logprobs.len()],
            lengths: &flat.lengths,
        };
        let reference: Vec<f64> = match self.loss {
            Loss::Dpo(_) | Loss::Ipo(_) => flat.responses.iter().map(|&r| reference[r]).collect(),
            _ => Vec::new(),
        };
        let loss = match self.loss {
            Loss::Dpo(config) => dpo(&inputs, &reference, config, counts)?,
            Loss::Ipo(config) => ipo(&inputs, &reference, config, counts)?,
            Loss::Simpo(config) => simpo(&inputs, config, counts)?,
            Loss::Orpo(config) => {
                let loss = orpo(&inputs, config, counts)?;
                let mut stats = Stats::of_pairs(loss.loss, &loss.stats.pairs);
                stats.nll = loss.stats.nll.mean() * loss.stats.nll.count() as f64 / counts.pairs as f64;
                stats.log_odds = loss.stats.log_odds;
                stats.log_odds_ratio = loss.stats.log_odds_ratio;
                return Ok((stats, loss.grad_logprobs));
            }
            Loss::Kto(_) => unreachable!("KTO has labels"),
        };
        Ok((Stats::of_pairs(loss.loss, &loss.stats), loss.grad_logprobs))
    }
}

/// The largest ratio of what is desirable, with its weights, to what is not.
const MOST_DESIRABLE: f64 = 4.0 / 3.0;

/// Weights of desirable and undesirable responses where there is so much of each. Both are 1 where the ratio lies in 1 to 4/3 as it is, as
/// the paper asks (Ethayarajh et al., 2024, equation 9); else the side that lacks weighs as much more as brings it to the nearer end.
fn balanced((desirable, undesirable): (f64, f64)) -> (f64, f64) {
    let ratio = desirable / undesirable;
    if desirable <= 0.0 || undesirable <= 0.0 {
        (1.0, 1.0)
    } else if ratio < 1.0 {
        (undesirable / desirable, 1.0)
    } else if ratio > MOST_DESIRABLE {
        (1.0, ratio / MOST_DESIRABLE)
    } else {
        (1.0, 1.0)
    }
}

/// The largest weight of which nothing is said.
const HEAVY: f64 = 10.0;

/// What is to be said of weights that follow from the data, where one of them is large.
pub(crate) fn warning((desirable, undesirable): (f64, f64)) -> Option<String> {
    let (rare, other, weight) = if desirable >= undesirable {
        ("desirable", "undesirable", desirable)
    } else {
        ("undesirable", "desirable", undesirable)
    };
    (weight > HEAVY).then(|| {
        format!(
            "preference.balance: one {rare} response pulls as hard as {weight:.1} {other} ones, because there are so few: each of them is \
             learned as if it were there {weight:.1} times, its faults too. More {rare} responses help; or give preference.{rare}_weight \
             yourself, at most {HEAVY:.0}"
        )
    })
}

/// Refuses keys that the method does not have.
fn check_keys(section: &PreferenceSection) -> Result<()> {
    use MethodSetting::{Dpo, Ipo, Kto, Orpo, Simpo};
    let keys: [(&str, bool, &[MethodSetting]); 9] = [
        ("beta", section.beta.is_some(), &[Dpo, Ipo, Kto, Simpo]),
        ("label_smoothing", section.label_smoothing.is_some(), &[Dpo]),
        ("form", section.form.is_some(), &[Ipo]),
        ("balance", section.balance.is_some(), &[Kto]),
        ("desirable_weight", section.desirable_weight.is_some(), &[Kto]),
        ("undesirable_weight", section.undesirable_weight.is_some(), &[Kto]),
        ("odds_ratio_coef", section.odds_ratio_coef.is_some(), &[Orpo]),
        ("sft_mean", section.sft_mean.is_some(), &[Orpo]),
        ("gamma", section.gamma.is_some(), &[Simpo]),
    ];
    for (key, set, methods) in keys {
        if set && !methods.contains(&section.method) {
            let names: Vec<&str> = methods.iter().map(|method| method.name()).collect();
            let reason = format!(
                "has no effect: preference.method is {}, and the key belongs to {}; leave it out",
                section.method.name(),
                names.join(", ")
            );
            return Err(TrainError::setting(format!("preference.{key}"), reason));
        }
    }
    let weights = [
        ("desirable_weight", section.desirable_weight),
        ("undesirable_weight", section.undesirable_weight),
    ];
    for (key, weight) in weights {
        if let (Some(true), Some(weight)) = (section.balance, weight) {
            let reason = format!("is {weight}, and preference.balance chooses the weights; leave one of them out");
            return Err(TrainError::setting(format!("preference.{key}"), reason));
        }
    }
    Ok(())
}

/// The responses of an example's pairs, of each pair the better one first: a response of several pairs is there several
/// times.
struct Flat {
    /// Which response each is.
    responses: Vec<usize>,
    lengths: Vec<usize>,
    logprobs: Vec<f32>,
    /// Where each response's tokens begin in the example.
    starts: Vec<usize>,
}

impl Flat {
    fn new(pairs: &[(usize, usize)], lengths: &[usize], logprobs: &[f32]) -> Self {
        let mut starts = Vec::with_capacity(lengths.len());
        let mut at = 0;
        for length in lengths {
            starts.push(at);
            at += length;
        }
        let responses: Vec<usize> = pairs.iter().flat_map(|&(better, worse)| [better, worse]).collect();
        let tokens = |&r: &usize| &logprobs[starts[r]..starts[r] + lengths[r]];
        Self {
            lengths: responses.iter().map(|&r| lengths[r]).collect(),
            logprobs: responses.iter().flat_map(tokens).copied().collect(),
            responses,
            starts,
        }
    }

    /// The gradient of each of the example's tokens: the sum over its response's places.
    fn gathered(&self, gradient: &[f32], tokens: usize) -> Vec<f32> {
        let mut sums = vec![0.0f64; tokens];
        let mut rest = gradient;
        for (&response, &length) in self.responses.iter().zip(&self.lengths) {
            let (own, others) = rest.split_at(length);
            rest = others;
            for (sum, &g) in sums[self.starts[response]..].iter_mut().zip(own) {
                *sum += f64::from(g);
            }
        }
        sums.into_iter().map(|sum| sum as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_bring_the_ratio_to_the_nearer_end() {
        assert_eq!(balanced((10.0, 40.0)), (4.0, 1.0));
        assert_eq!(balanced((10.0, 10.0)), (1.0, 1.0));
        assert_eq!(balanced((12.0, 10.0)), (1.0, 1.0));
        let (desirable, undesirable) = balanced((40.0, 10.0));
        assert_eq!((desirable, undesirable), (1.0, 3.0));
        assert!((40.0 * desirable / (10.0 * undesirable) - MOST_DESIRABLE).abs() < 1e-12);
        // One kind alone has nothing to be balanced against
        assert_eq!(balanced((3.0, 0.0)), (1.0, 1.0));
    }

    #[test]
    fn a_weight_above_ten_is_told() {
        assert_eq!(warning(balanced((10.0, 100.0))), None);
        let said = warning(balanced((10.0, 101.0))).unwrap();
        assert!(
            said.contains("one desirable response pulls as hard as 10.1 undesirable ones"),
            "{said}"
        );
        assert!(
            said.contains("give preference.desirable_weight yourself, at most 10"),
            "{said}"
        );
        let said = warning(balanced((400.0, 10.0))).unwrap();
        assert!(
            said.contains("one undesirable response pulls as hard as 30.0 desirable ones"),
            "{said}"
        );
    }

    /// The margins that ORPO and SimPO report are of means over tokens, so what goes with length is neither sign nor size of sums.
    #[test]
    fn lengths_go_with_the_margins_of_methods_without_a_reference() {
        // Four prompts with a pair each: tokens of the better and of the worse response, and the log-probability of each of their tokens
        let pairs: [((usize, f32), (usize, f32)); 4] = [
            ((5, -0.5), (2, -1.0)),
            ((3, -0.75), (3, -0.5)),
            ((1, -1.5), (4, -0.25)),
            ((6, -0.25), (2, -2.0)),
        ];
        let judgement = Judgement::Pairs(vec![(0, 1)]);
        let compared: Vec<Compared<'_>> = pairs
            .iter()
            .map(|((better, _), (worse, _))| Compared {
                lengths: vec![*better, *worse],
                judgement: &judgement,
                reference: &[],
            })
            .collect();
        let tokens = |&(count, logprob): &(usize, f32)| std::iter::repeat_n(logprob, count);
        let logprobs: Vec<f32> = pairs
            .iter()
            .flat_map(|(better, worse)| tokens(better).chain(tokens(worse)))
            .collect();
        let longer: Vec<f64> = pairs
            .iter()
            .map(|(better, worse)| better.0 as f64 - worse.0 as f64)
            .collect();
        let margins: Vec<f64> = pairs
            .iter()
            .map(|(better, worse)| f64::from(better.1 - worse.1))
            .collect();
        let expected = hone_objective::statistics::pearson(&longer, &margins).unwrap().unwrap();
        assert!(expected > 0.5 && expected < 0.99, "{expected}");
        for (method, scale) in [(MethodSetting::Orpo, 0.1), (MethodSetting::Simpo, 2.0)] {
            let mut section = PreferenceSection {
                method,
                ..PreferenceSection::default()
            };
            section.resolve();
            let method = Method::new(&section).unwrap();
            let constants = method.constants(&compared, None).unwrap();
            let stats = method.judge(&compared, &logprobs, constants).unwrap().stats;
            let told: Vec<(&str, f64)> = stats
                .metrics()
                .into_iter()
                .filter(|(name, _)| name.contains("length"))
                .collect();
            assert_eq!(told.len(), 1, "{told:?}");
            assert_eq!(told[0].0, "rewards/length_correlation");
            assert!((told[0].1 - expected).abs() < 1e-12, "{told:?}, expected {expected}");
            let mean = scale * margins.iter().sum::<f64>() / 4.0;
            assert!((stats.margin() - mean).abs() < 1e-9, "{} {mean}", stats.margin());
            // In two parts, as micro-batches have them
            let at = logprobs.len() - 8;
            let mut parts = method.judge(&compared[..3], &logprobs[..at], constants).unwrap().stats;
            parts.merge(&method.judge(&compared[3..], &logprobs[at..], constants).unwrap().stats);
            assert!((parts.lengths.correlation().unwrap() - expected).abs() < 1e-12);
            // Exchanged, differences of length and margins both turn their sign
            let exchanged = Judgement::Pairs(vec![(1, 0)]);
            let turned: Vec<Compared<'_>> = compared
                .iter()
                .map(|c| Compared {
                    lengths: c.lengths.clone(),
                    judgement: &exchanged,
                    reference: &[],
                })
                .collect();
            let stats = method.judge(&turned, &logprobs, constants).unwrap().stats;
            assert!((stats.lengths.correlation().unwrap() - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn labels_weigh_as_their_loss_does() {
        let mut section = PreferenceSection {
            method: MethodSetting::Kto,
            ..PreferenceSection::default()
        };
        section.resolve();
        assert_eq!((section.balance, section.desirable_weight), (Some(true), None));
        let labels = Judgement::Labels(vec![true, false, false, false]);
        assert_eq!(Method::new(&section).unwrap().share_of_labels(&labels), (0.25, 0.75));
        section.weigh = WeighSetting::Pairs;
        assert_eq!(Method::new(&section).unwrap().share_of_labels(&labels), (1.0, 3.0));
        // A weight that is given is taken, and the other is 1
        let mut section = PreferenceSection {
            method: MethodSetting::Kto,
            undesirable_weight: Some(0.5),
            ..PreferenceSection::default()
        };
        section.resolve();
        assert_eq!((section.balance, section.desirable_weight), (Some(false), Some(1.0)));
        section.balance = Some(true);
        let said = Method::new(&section).unwrap_err().to_string();
        assert!(said.contains("preference.desirable_weight"), "{said}");
    }

    #[test]
    fn a_response_of_several_pairs_gets_the_sum_of_their_gradients() {
        // Three responses of 1, 2 and 1 tokens; the second beats both others
        let flat = Flat::new(&[(1, 0), (1, 2)], &[1, 2, 1], &[-1.0, -2.0, -3.0, -4.0]);
        assert_eq!(flat.lengths, [2, 1, 2, 1]);
        assert_eq!(flat.logprobs, [-2.0, -3.0, -1.0, -2.0, -3.0, -4.0]);
        let gathered = flat.gathered(&[0.5, 0.5, -1.0, 0.25, 0.25, -3.0], 4);
        assert_eq!(gathered, [-1.0, 0.75, 0.75, -3.0]);
    }
}
