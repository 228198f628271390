//! What the verdicts come to: figures of each method, over all seeds and for each; what `compare.json` holds.
//!
//! Definitions, with `x[p]` the mean of a figure over a prompt's answers:
//! 1. A figure is the mean of `x` over prompts, with a 95% bootstrap interval over prompts. Over several seeds `x[p]` is the mean of the
//!    seeds', so the interval says how far other prompts could lead, and the deviation of the seeds' means how far other seeds could.
//! 2. A difference is taken prompt by prompt from the baseline with the same seed.
//! 3. The win rate of a prompt is the share of all pairs of an answer and one of the baseline's with the same seed in which the judge finds the
//!    first worth more, ties a half.
//! 4. KL is of a method's own samples; best-of-N gives its bound; few-shot has none.

use std::path::Path;

use hone_eval::{Bootstrap, Comparison as LengthComparison, length_controlled_win_rate};
use hone_math::Key;
use hone_objective::best_of_n::kl_bound;
use hone_objective::overoptimisation::{Form, fit};
use hone_objective::statistics::{bootstrap_interval, paired_bootstrap};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::measure::Verdict;
use super::updates::Updates;
use crate::error::{PipelineError, Result};
use crate::files::{read_lines, write_json};

/// The version of `compare.json`.
pub(super) const FORMAT: u32 = 1;

/// A mean with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Over prompts.
    pub mean: f64,
    /// Lower end of the 95% interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// What a method came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// What the judge finds its answers worth.
    pub reward: Figure,
    /// That less the baseline's, prompt by prompt.
    pub difference: Figure,
    /// Of an environment: what was earned over what could be, both summed over prompts.
    pub share_of_optimum: Option<f64>,
    /// What the proxy finds its answers worth.
    pub proxy: Option<Figure>,
    /// Nats an answer from the starting model.
    pub kl: Option<Figure>,
    /// Whether that is a bound.
    pub kl_is_bound: bool,
    /// Against the baseline.
    pub win_rate: Figure,
    /// The same at equal length.
    pub length_controlled_win_rate: f64,
    /// Tokens an answer.
    pub mean_length: f64,
    /// Share of answers that ended by themselves.
    pub ended: f64,
    /// Tokens sampled for an answer, those of answers that were not taken included.
    pub tokens_per_answer: f64,
    /// Tokens sampled in practice.
    pub tokens_sampled: Option<f64>,
    /// Tokens trained on in practice, one that is passed over twice counted twice.
    pub tokens_trained: Option<f64>,
}

/// One seed of a method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedResult {
    /// The seed.
    pub seed: u64,
    /// Its figures.
    #[serde(flatten)]
    pub measures: Measures,
}

/// A method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodResult {
    /// Its name.
    pub name: String,
    /// As in the recipe.
    pub kind: String,
    /// Whether it is a control.
    pub control: bool,
    /// Whether it changes weights.
    pub trains: bool,
    /// Over all seeds.
    #[serde(flatten)]
    pub measures: Measures,
    /// Standard deviation of the seeds' mean rewards; none of one seed.
    pub reward_seed_deviation: Option<f64>,
    /// Seed by seed.
    pub seeds: Vec<SeedResult>,
}

/// Two methods of which the proxy prefers one and the judge the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// The one with the higher proxy and the lower reward.
    pub method: String,
    /// The other.
    pub than: String,
    /// By how much its proxy is higher.
    pub proxy: Figure,
    /// By how much its reward is lower: below 0.
    pub reward: Figure,
}

/// A curve of over-optimisation through the methods of one family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// `best-of` or `training`.
    pub family: String,
    /// The fit: `d (alpha - beta d)` of best-of-N, `d (alpha - beta ln d)` of training, `d` the root of KL.
    pub alpha: f64,
    /// See `alpha`.
    pub beta: f64,
    /// Root-mean-square error.
    pub rmse: f64,
    /// KL at which the curve is highest, if it comes down again.
    pub peak_kl: Option<f64>,
    /// Points it was fitted to.
    pub points: u64,
}

/// Where what the methods could see and what counts part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overoptimisation {
    /// Pairs to be looked at.
    pub alarms: Vec<Alarm>,
    /// Curves, where there are points enough.
    pub curves: Vec<Curve>,
}

/// The contents of `compare.json`: a function of the recipe, without times and paths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompareResult {
    /// Version of this format.
    pub format: u32,
    /// The recipe's file name.
    pub recipe: String,
    /// The starting model as the recipe has it.
    pub start: String,
    /// The method against which win rates and differences are taken.
    pub baseline: String,
    /// What judges: `environment maze`, `rewards` or `reward model`.
    pub judge: String,
    /// Prompts or episodes.
    pub prompts: u64,
    /// Answers to each.
    pub samples: u64,
    /// Of sampling.
    pub temperature: f64,
    /// Most tokens of an answer.
    pub max_new_tokens: u64,
    /// The methods, in the order of the recipe.
    pub methods: Vec<MethodResult>,
    /// Weight updates; none where fewer than two methods have some to compare.
    pub updates: Option<Updates>,
    /// Proxy against judge; none without a proxy.
    pub overoptimisation: Option<Overoptimisation>,
}

impl CompareResult {
    /// Writes the file.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let value = serde_json::to_value(self).map_err(|e| PipelineError::file(path, e.to_string()))?;
        write_json(path, &value)
    }
}

/// A method and seed, prompt by prompt: means over a prompt's answers, `[prompts]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PerPrompt {
    pub reward: Vec<f64>,
    pub optimum: Option<Vec<f64>>,
    pub proxy: Option<Vec<f64>>,
    pub kl: Option<Vec<f64>>,
    pub win: Vec<f64>,
    pub length: Vec<f64>,
    pub ended: Vec<f64>,
    pub sampled: Vec<f64>,
}

impl PerPrompt {
    /// From `samples` answers to each prompt, beside the baseline's answers to the same prompts.
    pub fn new(verdicts: &[Verdict], baseline: &[Verdict], optimum: Option<Vec<f64>>, samples: usize) -> Self {
        let of = |figure: &dyn Fn(&Verdict) -> f64| -> Vec<f64> {
            let prompts = verdicts.chunks(samples);
            prompts
                .map(|all| all.iter().map(figure).sum::<f64>() / all.len() as f64)
                .collect()
        };
        let maybe = |figure: fn(&Verdict) -> Option<f64>| {
            let all = verdicts.iter().all(|v| figure(v).is_some());
            all.then(|| of(&|v| figure(v).unwrap_or_default()))
        };
        let pairs = verdicts.chunks(samples).zip(baseline.chunks(samples));
        Self {
            reward: of(&|v| v.reward),
            optimum,
            proxy: maybe(|v| v.proxy),
            kl: maybe(|v| v.kl),
            win: pairs.map(|(own, other)| share_won(own, other)).collect(),
            length: of(&|v| v.tokens as f64),
            ended: of(&|v| f64::from(u8::from(v.ended))),
            sampled: of(&|v| v.sampled as f64),
        }
    }

    /// The mean over seeds, prompt by prompt.
    pub fn mean(seeds: &[Self]) -> Self {
        let of = |figure: &dyn Fn(&Self) -> &[f64]| -> Vec<f64> {
            let prompts = seeds.first().map_or(0, |seed| figure(seed).len());
            let at = |p: usize| seeds.iter().map(|seed| figure(seed)[p]).sum::<f64>() / seeds.len() as f64;
            (0..prompts).map(at).collect()
        };
        let maybe = |figure: fn(&Self) -> &Option<Vec<f64>>| {
            let all = seeds.iter().all(|seed| figure(seed).is_some());
            all.then(|| of(&|seed| figure(seed).as_deref().unwrap_or_default()))
        };
        Self {
            reward: of(&|s| &s.reward),
            optimum: maybe(|s| &s.optimum),
            proxy: maybe(|s| &s.proxy),
            kl: maybe(|s| &s.kl),
            win: of(&|s| &s.win),
            length: of(&|s| &s.length),
            ended: of(&|s| &s.ended),
            sampled: of(&|s| &s.sampled),
        }
    }
}

/// The share of pairs that the first wins, ties a half.
fn share_won(own: &[Verdict], other: &[Verdict]) -> f64 {
    let mut won = 0.0;
    for a in own {
        for b in other {
            won += match a.reward.total_cmp(&b.reward) {
                _ if a.reward == b.reward => 0.5,
                std::cmp::Ordering::Greater => 1.0,
                _ => 0.0,
            };
        }
    }
    won / (own.len() * other.len()) as f64
}

/// Tokens of practice.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Tokens {
    pub sampled: Option<f64>,
    pub trained: Option<f64>,
}

impl Tokens {
    /// The mean over seeds.
    pub fn mean(seeds: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> Option<f64>| -> Option<f64> {
            let all: Option<Vec<f64>> = seeds.iter().map(figure).collect();
            all.map(|all| all.iter().sum::<f64>() / all.len() as f64)
        };
        Self {
            sampled: of(|t| t.sampled),
            trained: of(|t| t.trained),
        }
    }

    /// What a run's metrics say. A step with rollouts says `rollout/tokens`, or else how many responses it had and how long they were. A run
    /// that says how many tokens it was trained on is believed; in others each sampled token is trained on once an epoch of its rollout.
    pub fn of_run(dir: &Path, epochs: f64) -> Result<Self> {
        let (mut sampled, mut read): (Option<f64>, Option<f64>) = (None, None);
        for line in read_lines::<Value>(&dir.join("metrics.jsonl"))? {
            if let Some(tokens) = sampled_in(&line) {
                *sampled.get_or_insert(0.0) += tokens;
            }
            let trained = line["train/target_tokens"].as_f64();
            if let Some(tokens) = trained.or_else(|| line["train/tokens"].as_f64()) {
                *read.get_or_insert(0.0) += tokens;
            }
        }
        Ok(Self {
            sampled: Some(sampled.unwrap_or(0.0)),
            trained: read.or_else(|| sampled.map(|tokens| tokens * epochs)),
        })
    }
}

/// Tokens that were sampled in a step, by a line of its run's metrics; none where it says nothing of a rollout.
pub(super) fn sampled_in(line: &Value) -> Option<f64> {
    let number = |key: &str| line[key].as_f64();
    // An evaluation also has lengths, but no episodes
    let counted = || {
        let (length, episodes, step) = (number("completions/mean_length")?, number("episode")?, number("step")?);
        Some((length * episodes / step).round())
    };
    number("rollout/tokens").or_else(counted)
}

/// How intervals are drawn.
pub(super) fn draws(resamples: u32) -> Bootstrap {
    Bootstrap {
        resamples,
        // The same prompts are drawn for all methods
        ..Bootstrap::new(Key::new(1, "compare/bootstrap", 0))
    }
}

fn figure(values: &[f64], draws: &Bootstrap) -> Result<Figure> {
    let found = bootstrap_interval(values, draws)?;
    Ok(Figure {
        mean: found.estimate,
        low: found.low,
        high: found.high,
    })
}

fn difference(first: &[f64], second: &[f64], draws: &Bootstrap) -> Result<Figure> {
    let found = paired_bootstrap(first, second, draws)?.difference;
    Ok(Figure {
        mean: found.estimate,
        low: found.low,
        high: found.high,
    })
}

impl Measures {
    /// Figures of a method beside the baseline's; `bound` is best-of-N's N.
    pub(super) fn new(
        own: &PerPrompt,
        baseline: &PerPrompt,
        bound: Option<usize>,
        tokens: Tokens,
        draws: &Bootstrap,
    ) -> Result<Self> {
        let sum = |values: &[f64]| values.iter().sum::<f64>();
        let mean = |values: &[f64]| sum(values) / values.len() as f64;
        let maybe = |values: &Option<Vec<f64>>| values.as_ref().map(|values| figure(values, draws)).transpose();
        let kl = match bound {
            Some(n) => {
                let bound = kl_bound(n as u64)?;
                Some(Figure {
                    mean: bound,
                    low: bound,
                    high: bound,
                })
            }
            None => maybe(&own.kl)?,
        };
        let prompts = own.win.iter().zip(&own.length).zip(&baseline.length);
        let comparisons: Vec<LengthComparison> = prompts
            .map(|((&win, own), other)| LengthComparison {
                win,
                longer_by: own - other,
            })
            .collect();
        Ok(Self {
            reward: figure(&own.reward, draws)?,
            difference: difference(&own.reward, &baseline.reward, draws)?,
            share_of_optimum: own
                .optimum
                .as_deref()
                .map(sum)
                .filter(|optimum| *optimum > 0.0)
                .map(|optimum| sum(&own.reward) / optimum),
            proxy: maybe(&own.proxy)?,
            kl,
            kl_is_bound: bound.is_some(),
            win_rate: figure(&own.win, draws)?,
            length_controlled_win_rate: length_controlled_win_rate(&comparisons)?.win_rate,
            mean_length: mean(&own.length),
            ended: mean(&own.ended),
            tokens_per_answer: mean(&own.sampled),
            tokens_sampled: tokens.sampled,
            tokens_trained: tokens.trained,
        })
    }
}

/// The standard deviation of some means; none of one.
pub(super) fn deviation(means: &[f64]) -> Option<f64> {
    let n = means.len() as f64;
    let mean = means.iter().sum::<f64>() / n;
    let squares: f64 = means.iter().map(|x| (x - mean) * (x - mean)).sum();
    (means.len() > 1).then(|| (squares / (n - 1.0)).sqrt())
}

/// Pairs of methods about which proxy and judge disagree beyond their intervals, and curves where there are points enough. Controls are left out.
pub(super) fn overoptimisation(
    methods: &[MethodResult],
    prompts: &[PerPrompt],
    draws: &Bootstrap,
) -> Result<Option<Overoptimisation>> {
    if methods.iter().any(|method| method.measures.proxy.is_none()) {
        return Ok(None);
    }
    let shown: Vec<usize> = (0..methods.len()).filter(|&i| !methods[i].control).collect();
    let mut alarms = Vec::new();
    for &a in &shown {
        for &b in &shown {
            let (Some(own), Some(other)) = (&prompts[a].proxy, &prompts[b].proxy) else {
                continue;
            };
            if a == b {
                continue;
            }
            let proxy = difference(own, other, draws)?;
            let reward = difference(&prompts[a].reward, &prompts[b].reward, draws)?;
            if proxy.low > 0.0 && reward.high < 0.0 {
                alarms.push(Alarm {
                    method: methods[a].name.clone(),
                    than: methods[b].name.clone(),
                    proxy,
                    reward,
                });
            }
        }
    }
    let points = |chosen: &dyn Fn(&MethodResult) -> bool| -> Vec<(f64, f64)> {
        let chosen = methods.iter().filter(|method| !method.control && chosen(method));
        // A seed is a point; best-of-N's seeds have one divergence
        chosen
            .flat_map(|method| &method.seeds)
            .filter_map(|seed| Some((seed.measures.kl?.mean, seed.measures.difference.mean)))
            .filter(|(kl, _)| *kl >= 0.0)
            .collect()
    };
    let mut curves = Vec::new();
    for (family, form, chosen) in [
        ("best-of", Form::BestOfN, points(&|method| method.measures.kl_is_bound)),
        ("training", Form::ReinforcementLearning, points(&|method| method.trains)),
    ] {
        let (kl, gain): (Vec<f64>, Vec<f64>) = chosen.iter().copied().unzip();
        // Too few points, or all at one divergence, make no curve
        if let Ok(fitted) = fit(form, &kl, &gain) {
            curves.push(Curve {
                family: family.to_owned(),
                alpha: fitted.alpha,
                beta: fitted.beta,
                rmse: fitted.rmse,
                peak_kl: fitted.peak().map(|peak| peak.kl),
                points: kl.len() as u64,
            });
        }
    }
    Ok(Some(Overoptimisation { alarms, curves }))
}

#[cfg(test)]
mod tests;
