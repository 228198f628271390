//! What a run did on its way, look by look: what it maximised, and what the judge says of the same answers.
//!
//! 1. A look is what the run wrote down at an evaluation (`samples.jsonl`): answers to prompts of practice with their score and their log-ratio to
//!    the start. The judge reads them afterwards, so the run could not see it.
//! 2. Looks are noisy. The best one is the one around which the mean over itself and two neighbours to either side is highest; an early stop would
//!    have been there.
//! 3. The alarm compares that stretch with the last one: the proxy went up and the judge down, each beyond 1.96 standard errors of the difference
//!    of two means.

use std::collections::BTreeMap;

use hone_data::Source;
use hone_run::Sample;
use serde::{Deserialize, Serialize};

use super::judge::{Asked, Plan, Scale};
use super::method::{Method, Way};
use super::overoptimisation::Gains;
use super::player::{Answer, Player};
use super::results::Figure;
use super::tasks::Tasks;
use super::{Bench, Row};
use crate::error::Result;
use crate::files::read_lines;

/// One look at a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Updates that were done.
    pub step: u64,
    /// Answers that were written down.
    pub answers: u64,
    /// Mean log-ratio to the start, nats an answer.
    pub kl: f64,
    /// Mean of what the run maximised.
    pub proxy: f64,
    /// Mean of what the judge finds the same answers worth.
    pub reward: f64,
}

/// A run, look by look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// The method.
    pub method: String,
    /// The seed.
    pub seed: u64,
    /// Looks in their order.
    pub points: Vec<Point>,
    /// The step around which the judge's mean was highest.
    pub best_step: u64,
    /// From there to the end, where the proxy rose while the judge's mean fell: by how much each.
    pub parted: Option<Parted>,
}

/// How proxy and judge part from the best step to the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parted {
    /// By how much the proxy is higher: above 0.
    pub proxy: Figure,
    /// By how much the reward is lower: below 0.
    pub reward: Figure,
}

/// Looks to either side of one that are taken together with it.
const NEIGHBOURS: usize = 2;
/// Of the normal distribution, for 95%.
const DEVIATIONS: f64 = 1.96;

/// A look with what each of its answers came to.
struct Look {
    step: u64,
    kl: Vec<f64>,
    proxy: Vec<f64>,
    reward: Vec<f64>,
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The mean of some looks together, with its squared standard error.
fn together(looks: &[Look], of: fn(&Look) -> &[f64]) -> (f64, f64) {
    let all: Vec<f64> = looks.iter().flat_map(|look| of(look).iter().copied()).collect();
    let middle = mean(&all);
    let squares: f64 = all.iter().map(|x| (x - middle) * (x - middle)).sum();
    let count = all.len().max(2) as f64;
    (middle, squares / (count - 1.0) / count)
}

impl Course {
    fn new(method: &str, seed: u64, looks: &[Look]) -> Option<Self> {
        let around = |i: usize| &looks[i.saturating_sub(NEIGHBOURS)..(i + NEIGHBOURS + 1).min(looks.len())];
        let mut best: Option<(usize, f64)> = None;
        for i in 0..looks.len() {
            let (reward, _) = together(around(i), |look| &look.reward);
            if best.is_none_or(|(_, highest)| reward > highest) {
                best = Some((i, reward));
            }
        }
        let (best, _) = best?;
        let last = around(looks.len() - 1);
        let change = |of: fn(&Look) -> &[f64]| {
            let ((now, now_error), (then, then_error)) = (together(last, of), together(around(best), of));
            let margin = DEVIATIONS * (now_error + then_error).sqrt();
            let mean = now - then;
            Figure {
                mean,
                low: mean - margin,
                high: mean + margin,
            }
        };
        let (proxy, reward) = (change(|look| &look.proxy), change(|look| &look.reward));
        let point = |look: &Look| Point {
            step: look.step,
            answers: look.reward.len() as u64,
            kl: mean(&look.kl),
            proxy: mean(&look.proxy),
            reward: mean(&look.reward),
        };
        Some(Self {
            method: method.to_owned(),
            seed,
            points: looks.iter().map(point).collect(),
            best_step: looks[best].step,
            parted: (proxy.low > 0.0 && reward.high < 0.0).then_some(Parted { proxy, reward }),
        })
    }

    /// Gains over the first look, if that was at the first update: its answers are the start's.
    fn gains(&self) -> Gains {
        let mut gains = Gains::default();
        let Some(first) = self.points.first().filter(|first| first.step == 1) else {
            return gains;
        };
        for point in &self.points {
            // An estimate may lie below what it estimates
            gains.kl.push(point.kl.max(0.0));
            gains.proxy.push(point.proxy - first.proxy);
            gains.reward.push(point.reward - first.reward);
        }
        gains
    }
}

/// Gains along all runs of a method.
pub(super) fn gains(courses: &[Course], method: &str) -> Gains {
    let mut all = Gains::default();
    for course in courses.iter().filter(|course| course.method == method) {
        let own = course.gains();
        all.kl.extend(own.kl);
        all.proxy.extend(own.proxy);
        all.reward.extend(own.reward);
    }
    all
}

/// The courses of all methods that practise on prompts, where there is a proxy and the judge costs nothing: the labeler, or rules.
pub(super) fn find(bench: &Bench<'_>, methods: &[Method], rows: &[Row]) -> Result<Vec<Course>> {
    let plan = bench.config.judge.plan();
    let mut courses = Vec::new();
    if bench.config.proxy.is_none() || !plan.costs_nothing() {
        return Ok(courses);
    }
    let mut reader = None;
    for (method, row) in methods.iter().zip(rows) {
        let Way::Stage(stages) = &method.way else { continue };
        for ((stage, model), &seed) in stages.iter().zip(&row.models).zip(&bench.config.compare.seeds) {
            let path = model.with_file_name("samples.jsonl");
            let sources = stage
                .work
                .table()
                .map(|table| super::overlap::sources(table, "prompts"));
            let sources = sources.unwrap_or_default();
            if sources.is_empty() || !path.is_file() {
                continue;
            }
            let samples: Vec<Sample> = read_lines(&path)?;
            if reader.is_none() {
                reader = Some(Player::load(bench.engine, &bench.start)?);
            }
            if let Some(player) = &reader {
                let looks = looks(bench, player, (plan, &sources), samples)?;
                courses.extend(Course::new(&method.name, seed, &looks));
            }
        }
    }
    Ok(courses)
}

/// The judge's opinion of what a run wrote down. Answers to what is no prompt of its files, or without score or log-ratio, are left out.
fn looks(
    bench: &Bench<'_>,
    player: &Player,
    (plan, sources): (Plan<'_>, &[Source]),
    samples: Vec<Sample>,
) -> Result<Vec<Look>> {
    let tasks = Tasks::prompts(sources, bench.base)?;
    plan.check(&tasks, "data.prompts")?;
    let mut places = BTreeMap::new();
    for (i, task) in tasks.tasks.iter().enumerate() {
        let last = task.input().to_messages().pop().map(|message| message.content);
        places.entry(last.unwrap_or_default()).or_insert(i);
    }
    let known = |sample: &Sample| places.contains_key(&sample.prompt) && sample.score.is_some() && sample.kl.is_some();
    let samples: Vec<Sample> = samples.into_iter().filter(known).collect();
    let answer = |sample: &Sample| {
        let tokens = sample
            .extra
            .get("tokens")
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0) as usize;
        let ended = sample
            .extra
            .get("ended")
            .and_then(serde_json::Value::as_bool)
            .unwrap_or(false);
        Answer {
            task: places[&sample.prompt],
            ids: [].into(),
            spans: Vec::new(),
            response: sample.response.clone(),
            judged_tokens: tokens.saturating_sub(usize::from(ended)),
            logprob: 0.0,
            ended,
            earned: None,
            turns: Vec::new(),
        }
    };
    let answers: Vec<Answer> = samples.iter().map(answer).collect();
    let mut scale = Scale::open(bench.engine, plan, (bench.base, bench.out, "judge"))?;
    let asked = Asked {
        player,
        tasks: &tasks,
        answers: &answers,
        update: 0,
        shutdown: &bench.kitchen.shutdown,
    };
    let Some(rewards) = scale.score(bench.engine, asked)? else {
        bench.check_stop("compare")?;
        return Ok(Vec::new());
    };
    let mut by_step: BTreeMap<u64, Look> = BTreeMap::new();
    for (sample, reward) in samples.iter().zip(rewards) {
        let look = by_step.entry(sample.step).or_insert_with(|| Look {
            step: sample.step,
            kl: Vec::new(),
            proxy: Vec::new(),
            reward: Vec::new(),
        });
        look.kl.extend(sample.kl);
        look.proxy.extend(sample.score);
        look.reward.push(reward);
    }
    Ok(by_step.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks of 50 answers each, with these means and a deviation of about a tenth.
    fn looks(means: &[(f64, f64, f64)]) -> Vec<Look> {
        let wobbling = |mean: f64| (0..50).map(|i| mean + 0.1 * f64::from(i % 3 - 1)).collect();
        let look = |(i, &(kl, proxy, reward)): (usize, &(f64, f64, f64))| Look {
            step: i as u64 + 1,
            kl: wobbling(kl),
            proxy: wobbling(proxy),
            reward: wobbling(reward),
        };
        means.iter().enumerate().map(look).collect()
    }

    #[test]
    fn a_run_whose_proxy_rises_while_the_judge_falls_says_look_here() {
        let rising = |i: usize| (0.1 * i as f64, 0.2 * i as f64);
        // The judge's mean is highest at the sixth look
        let means: Vec<(f64, f64, f64)> = (0..16)
            .map(|i| (rising(i).0, rising(i).1, 1.0 - 0.02 * (i as f64 - 5.0).powi(2)))
            .collect();
        let course = Course::new("ppo", 2, &looks(&means)).unwrap();
        assert_eq!((course.best_step, course.points.len()), (6, 16));
        let parted = course.parted.as_ref().unwrap();
        assert!(parted.proxy.low > 0.0 && parted.reward.high < 0.0, "{parted:?}");
        // From the first look on: the proxy's gain at the last is that of 15 steps
        let gains = course.gains();
        assert!((gains.proxy[15] - 3.0).abs() < 1e-9 && gains.reward[0] == 0.0);
        assert!(gains.kl.iter().all(|&kl| kl >= 0.0));
        let curves = gains.curves("ppo");
        assert_eq!(curves.len(), 4);
        // Both rise: nothing to be told
        let means: Vec<(f64, f64, f64)> = (0..16).map(|i| (rising(i).0, rising(i).1, rising(i).1)).collect();
        let course = Course::new("ppo", 2, &looks(&means)).unwrap();
        assert_eq!((course.best_step, course.parted), (16, None));
        assert!(Course::new("ppo", 2, &[]).is_none());
    }

    #[test]
    fn gains_need_a_look_at_the_start() {
        let mut late = looks(&[(0.5, 1.0, 1.0), (1.0, 2.0, 2.0), (2.0, 3.0, 2.5)]);
        for look in &mut late {
            look.step += 4;
        }
        let course = Course::new("ppo", 1, &late).unwrap();
        assert_eq!(course.gains(), Gains::default());
        assert!(gains(&[course], "ppo").curves("ppo").is_empty());
    }
}
