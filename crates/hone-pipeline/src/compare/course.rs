//! What a run did on its way, look by look: what it maximised, and what the judge says of the same answers.
//!
//! 1. A look is what the run wrote down at an evaluation (`samples.jsonl`): answers to prompts of practice with their score and, where it was
//!    measured, their log-ratio to the start. The judge reads them afterwards, so the run could not see it.
//! 2. Looks are noisy, and the answers to one prompt are alike. So a mean is over prompts, of the means of their answers, and its standard error
//!    is from the deviation between prompts. A stretch is a look with two neighbours to either side.
//! 3. Prompts are divided in halves, by chance and once for all. One half chooses the best step: that in whose stretch the judge's mean is
//!    highest. The other half compares that stretch with the last, so that what made it look best has no part in the comparison.
//! 4. The alarm: on that half the proxy went up and the judge down, each beyond 1.96 standard errors of the difference of two means. For a judge
//!    whose mean does not move, a run is told of by chance about once in forty; somewhat more often where a stretch has no more than
//!    [`FEWEST`] prompts, below which nothing is told.
//!
//! Runs of which there is no course are listed with the reason.

use std::collections::{BTreeMap, HashSet};

use hone_data::Source;
use hone_math::Key;
use hone_run::Sample;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::judge::{Asked, Plan, Scale};
use super::method::{Method, Way};
use super::overoptimisation::Gains;
use super::player::{Answer, Player};
use super::results::Figure;
use super::tasks::{Tasks, identity};
use super::updates::LeftOut;
use super::{Bench, Row};
use crate::error::Result;
use crate::files::read_lines;

/// One look at a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Updates that the model had seen when it gave these answers: 0 is the start.
    pub step: u64,
    /// Answers that were written down and judged.
    pub answers: u64,
    /// Mean log-ratio to the start, nats an answer; none where the run measured none.
    pub kl: Option<f64>,
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
    /// Answers that were written down and not judged: the judge cannot read their prompt, or cannot tell which row it is.
    pub unjudged: u64,
    /// The step around which the judge's mean was highest, on one half of the prompts.
    pub best_step: u64,
    /// Prompts of the other half in the shorter of the two stretches that are compared; none where they are too few to compare.
    pub tested_on: Option<u64>,
    /// From there to the last look, where the proxy rose while the judge's mean fell on the other half: by how much each.
    pub parted: Option<Parted>,
}

/// How proxy and judge part from the best step to the last look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parted {
    /// By how much the proxy is higher: above 0.
    pub proxy: Figure,
    /// By how much the reward is lower: below 0.
    pub reward: Figure,
}

/// The runs of methods that practise on prompts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Courses {
    pub found: Vec<Course>,
    pub left_out: Vec<LeftOut>,
}

/// Looks to either side of one that are taken together with it.
const NEIGHBOURS: usize = 2;
/// Of the normal distribution, for 95%.
const DEVIATIONS: f64 = 1.96;
/// Prompts of a stretch's half below which its standard error says too little.
const FEWEST: usize = 8;

/// A look with what each of its answers came to.
struct Look {
    step: u64,
    seen: Vec<Seen>,
}

/// An answer.
struct Seen {
    /// The prompt, by its row.
    task: usize,
    kl: Option<f64>,
    proxy: f64,
    reward: f64,
}

/// Whether answers to a prompt choose the best step; the others compare.
fn chooses(task: usize) -> bool {
    Key::new(0, "compare/halves", task as u64).uniform(0) < 0.5
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_u64), |(sum, count), value| (sum + value, count + 1));
    sum / count.max(1) as f64
}

/// A mean over prompts.
struct Stretch {
    mean: f64,
    /// The squared standard error.
    error: f64,
    prompts: usize,
}

impl Stretch {
    /// Of the answers in some looks to one half of the prompts; none where it has no answer there.
    fn of(looks: &[Look], choosing: bool, of: fn(&Seen) -> f64) -> Option<Self> {
        let mut by_prompt: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        for seen in looks.iter().flat_map(|look| &look.seen) {
            if chooses(seen.task) == choosing {
                let (sum, count) = by_prompt.entry(seen.task).or_default();
                *sum += of(seen);
                *count += 1.0;
            }
        }
        let means: Vec<f64> = by_prompt.values().map(|(sum, count)| sum / count).collect();
        if means.is_empty() {
            return None;
        }
        let middle = mean(means.iter().copied());
        let squares: f64 = means.iter().map(|x| (x - middle) * (x - middle)).sum();
        let count = means.len().max(2) as f64;
        Some(Self {
            mean: middle,
            error: squares / (count - 1.0) / count,
            prompts: means.len(),
        })
    }

    fn less(&self, other: &Self) -> Figure {
        let margin = DEVIATIONS * (self.error + other.error).sqrt();
        let mean = self.mean - other.mean;
        Figure {
            mean,
            low: mean - margin,
            high: mean + margin,
        }
    }
}

/// Proxy and judge at the last look less those around another, with the prompts of the shorter stretch; none where there are too few.
fn change(last: &[Look], best: &[Look]) -> Option<(u64, Parted)> {
    let of = |looks: &[Look]| {
        let (proxy, reward) = (
            Stretch::of(looks, false, |seen| seen.proxy)?,
            Stretch::of(looks, false, |seen| seen.reward)?,
        );
        (reward.prompts >= FEWEST).then_some((proxy, reward))
    };
    let ((proxy, reward), (proxy_then, reward_then)) = (of(last)?, of(best)?);
    let parted = Parted {
        proxy: proxy.less(&proxy_then),
        reward: reward.less(&reward_then),
    };
    Some((reward.prompts.min(reward_then.prompts) as u64, parted))
}

impl Course {
    fn new((method, seed): (&str, u64), looks: &[Look], unjudged: u64) -> Option<Self> {
        let around = |i: usize| &looks[i.saturating_sub(NEIGHBOURS)..(i + NEIGHBOURS + 1).min(looks.len())];
        let mut best: Option<(usize, f64)> = None;
        for i in 0..looks.len() {
            let Some(reward) = Stretch::of(around(i), true, |seen| seen.reward) else {
                continue;
            };
            if best.is_none_or(|(_, highest)| reward.mean > highest) {
                best = Some((i, reward.mean));
            }
        }
        let (best, _) = best?;
        let change = change(around(looks.len() - 1), around(best));
        let point = |look: &Look| {
            let known: Option<Vec<f64>> = look.seen.iter().map(|seen| seen.kl).collect();
            Point {
                step: look.step,
                answers: look.seen.len() as u64,
                kl: known.map(|all| mean(all.into_iter())),
                proxy: mean(look.seen.iter().map(|seen| seen.proxy)),
                reward: mean(look.seen.iter().map(|seen| seen.reward)),
            }
        };
        Some(Self {
            method: method.to_owned(),
            seed,
            points: looks.iter().map(point).collect(),
            unjudged,
            best_step: looks[best].step,
            tested_on: change.as_ref().map(|(prompts, _)| *prompts),
            parted: change
                .map(|(_, parted)| parted)
                .filter(|parted| parted.proxy.low > 0.0 && parted.reward.high < 0.0),
        })
    }

    /// The start's own answers, if the run wrote them down.
    fn start(&self) -> Option<&Point> {
        self.points.first().filter(|first| first.step == 0)
    }
}

/// Gains along all runs of a method that begin with a look at the start's own answers: over the mean of these answers in all of its runs.
/// Looks without log-ratios are left out.
pub(super) fn gains(courses: &[Course], method: &str) -> Gains {
    let own = || courses.iter().filter(|course| course.method == method);
    let starts: Vec<&Point> = own().filter_map(Course::start).collect();
    let count: f64 = starts.iter().map(|start| start.answers as f64).sum();
    let origin = |of: fn(&Point) -> f64| starts.iter().map(|p| of(p) * p.answers as f64).sum::<f64>() / count;
    let (proxy, reward) = (origin(|start| start.proxy), origin(|start| start.reward));
    let mut gains = Gains::default();
    for point in own().filter(|course| course.start().is_some()).flat_map(|c| &c.points) {
        if let Some(kl) = point.kl {
            gains.add(kl, point.proxy - proxy, point.reward - reward);
        }
    }
    gains
}

/// The sources of a method's prompts where it practises on such.
fn practised(method: &Method) -> Option<(&Table, Vec<Source>)> {
    let Way::Stage(stages) = &method.way else { return None };
    let table = stages.first()?.work.table()?;
    let sources = super::overlap::sources(table, ("data", "prompts"));
    (!sources.is_empty()).then_some((table, sources))
}

/// The prompts of practice as far as the judge can read them, by the last turn, which is what runs write down.
struct Readable {
    tasks: Tasks,
    /// None where several rows have this last turn and differ otherwise.
    places: BTreeMap<String, Option<usize>>,
}

/// What the judge can read of a method's prompts, or why there is no course of it.
fn readable(
    bench: &Bench<'_>,
    plan: Plan<'_>,
    method: &Method,
    (table, sources): (&Table, &[Source]),
) -> Result<Readable, String> {
    let of = |section: &str, key: &str| table.get(section).and_then(|section| section.get(key)).cloned();
    if !plan.costs_nothing() {
        return Err("the judge is no labeler and no list of rules, so it is asked of held-out answers alone".into());
    }
    if method.kind == "expert-iteration" {
        return Err("it writes down the answers that it chose by their score, not those that it gave".into());
    }
    let dynamic = of("grpo", "dynamic_sampling").and_then(|value| value.as_bool());
    let dapo = of("grpo", "method").is_some_and(|name| name.as_str() == Some("dapo"));
    if dynamic.unwrap_or(dapo) {
        return Err("dynamic sampling leaves out prompts by the scores of their answers".into());
    }
    let none = Some(Value::Integer(0));
    if of("eval", "every") == none || of("eval", "samples") == none {
        return Err("it writes no answers down: eval.every or eval.samples is 0".into());
    }
    let tasks = Tasks::prompts(sources, bench.base).map_err(|error| error.to_string())?;
    let unreadable = plan.unreadable(&tasks, usize::MAX).map_err(|error| error.to_string())?;
    if unreadable.len() >= tasks.tasks.len() {
        let reason = unreadable
            .first()
            .map_or("there is none", |(_, reason)| reason.as_str());
        return Err(format!("the judge can read none of its prompts: {reason}"));
    }
    let unreadable: HashSet<usize> = unreadable.into_iter().map(|(place, _)| place).collect();
    let places = places(&tasks, &unreadable);
    Ok(Readable { tasks, places })
}

/// The tasks by their last turns; none where several have one and differ otherwise, since nobody can tell whose answer it is then.
fn places(tasks: &Tasks, unreadable: &HashSet<usize>) -> BTreeMap<String, Option<usize>> {
    let mut places: BTreeMap<String, Option<usize>> = BTreeMap::new();
    for (i, task) in tasks.tasks.iter().enumerate() {
        let last = task.input().to_messages().pop().map(|message| message.content);
        let place = places.entry(last.unwrap_or_default()).or_insert(Some(i));
        let same = |other: usize| {
            let other = &tasks.tasks[other];
            identity(&other.input()) == identity(&task.input()) && other.columns == task.columns
        };
        *place = place.filter(|&first| first == i || same(first));
    }
    places.retain(|_, place| place.is_none_or(|place| !unreadable.contains(&place)));
    places
}

/// Says of which methods there will be no course, before they begin.
pub(super) fn announce(bench: &Bench<'_>, methods: &[Method]) {
    let plan = bench.config.judge.plan();
    if bench.config.proxy.is_none() {
        return;
    }
    for method in methods {
        if let Some((table, sources)) = practised(method)
            && let Err(reason) = readable(bench, plan, method, (table, &sources))
        {
            bench
                .kitchen
                .say(format!("{}: its way is not judged look by look: {reason}", method.name));
        }
    }
}

/// The courses of all methods that practise on prompts, where there is a proxy and the judge costs nothing: the labeler, or rules. What cannot
/// be had is listed with the reason, and is no error.
pub(super) fn find(bench: &Bench<'_>, methods: &[Method], rows: &[Row]) -> Result<Courses> {
    let plan = bench.config.judge.plan();
    let mut courses = Courses::default();
    if bench.config.proxy.is_none() {
        return Ok(courses);
    }
    let mut reader = None;
    for (method, row) in methods.iter().zip(rows) {
        let Some((table, sources)) = practised(method) else {
            continue;
        };
        let mut left_out = |name: String, reason: String| courses.left_out.push(LeftOut { name, reason });
        let readable = match readable(bench, plan, method, (table, &sources)) {
            Ok(readable) => readable,
            Err(reason) => {
                left_out(method.name.clone(), reason);
                continue;
            }
        };
        for (model, &seed) in row.models.iter().zip(&bench.config.compare.seeds) {
            let name = format!("{}/{seed}", method.name);
            let path = model.with_file_name("samples.jsonl");
            if !path.is_file() {
                left_out(name, "it wrote no answers down".into());
                continue;
            }
            let samples: Vec<Sample> = read_lines(&path)?;
            if reader.is_none() {
                reader = Some(Player::load(bench.engine, &bench.start)?);
            }
            let Some(player) = &reader else { continue };
            let looks = looks(bench, player, (plan, &readable), samples);
            bench.check_stop("compare")?;
            let course = looks.map(|found| {
                let (looks, unjudged) = found?;
                Course::new((&method.name, seed), &looks, unjudged)
            });
            match course {
                Ok(Some(course)) => {
                    if course.points.iter().all(|point| point.kl.is_none()) {
                        left_out(
                            name,
                            "a course without a curve: it measured no log-ratio to the start".into(),
                        );
                    }
                    courses.found.push(course);
                }
                Ok(None) => left_out(name, "none of the answers that it wrote down can be judged".into()),
                Err(reason) => left_out(name, reason),
            }
        }
    }
    Ok(courses)
}

/// The judge's opinion of what a run wrote down, look by look, and how many answers it has none of: those to what is no prompt that it can
/// read, and those without a score. None if it is asked to stop.
fn looks(
    bench: &Bench<'_>,
    player: &Player,
    (plan, readable): (Plan<'_>, &Readable),
    samples: Vec<Sample>,
) -> Result<Option<(Vec<Look>, u64)>, String> {
    let place = |sample: &Sample| readable.places.get(&sample.prompt).copied().flatten();
    let all = samples.len();
    let known = |sample: Sample| {
        let known = (place(&sample)?, sample.score?);
        Some((sample, known))
    };
    let samples: Vec<(Sample, (usize, f64))> = samples.into_iter().filter_map(known).collect();
    let answer = |(sample, (task, _)): &(Sample, (usize, f64))| {
        let tokens = sample.extra.get("tokens").and_then(serde_json::Value::as_u64);
        let ended = sample.extra.get("ended").and_then(serde_json::Value::as_bool);
        let (tokens, ended) = (tokens.unwrap_or(0) as usize, ended.unwrap_or(false));
        Answer {
            task: *task,
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
    let refused = |error: crate::error::PipelineError| format!("the judge cannot read an answer: {error}");
    let mut scale = Scale::open(bench.engine, plan, (bench.base, bench.out, "judge")).map_err(refused)?;
    let asked = Asked {
        player,
        tasks: &readable.tasks,
        answers: &answers,
        update: 0,
        shutdown: &bench.kitchen.shutdown,
    };
    let Some(rewards) = scale.score(bench.engine, asked).map_err(refused)? else {
        return Ok(None);
    };
    let unjudged = (all - samples.len()) as u64;
    let mut by_step: BTreeMap<u64, Look> = BTreeMap::new();
    for ((sample, (task, proxy)), reward) in samples.into_iter().zip(rewards) {
        // A line bears the number of the update that learns from it
        let step = sample.step.saturating_sub(1);
        let look = by_step.entry(step).or_insert_with(|| Look { step, seen: Vec::new() });
        look.seen.push(Seen {
            task,
            kl: sample.kl,
            proxy,
            reward,
        });
    }
    Ok(Some((by_step.into_values().collect(), unjudged)))
}

#[cfg(test)]
mod tests;
