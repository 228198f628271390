//! The answers of a method and seed, judged: written once, read ever after.

use std::path::Path;

use hone_generate::best_of;
use hone_math::Key;
use hone_run::{Error as RunError, Event, publish_dir};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Bench;
use super::config::JUDGED;
use super::judge::{Answer, Example, Player, Sampling, Scale, answers, log_ratios};
use super::method::{Method, Way};
use super::tasks::Tasks;
use crate::error::{PipelineError, Result};
use crate::files::{read_json, read_lines, write_json, write_lines};

/// One answer to one of the judge's prompts: a line of `judged/METHOD/seed-S/verdicts.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Verdict {
    /// Which prompt, by its line in `judged/tasks.jsonl` from 0.
    pub task: usize,
    pub response: String,
    /// Tokens of the response.
    pub tokens: usize,
    /// Tokens that were sampled for it, with those of answers that were not taken.
    pub sampled: usize,
    /// Whether it ended by itself.
    pub ended: bool,
    /// What it is worth to the judge.
    pub reward: f64,
    /// What it is worth to the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<f64>,
    /// Summed log-ratio to the starting model, nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
}

/// What few-shot practice came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Practice {
    /// Tokens that were sampled in it.
    pub tokens: u64,
    /// What is shown before each prompt: what was asked, and answered.
    pub examples: Vec<(String, String)>,
}

/// A method with one seed.
pub(super) struct Judged {
    pub verdicts: Vec<Verdict>,
    pub practice: Practice,
}

const VERDICTS: &str = "verdicts.jsonl";
const SETTINGS: &str = "settings.json";
const PRACTICE: &str = "practice.json";

/// Tells a reader of verdicts what was asked.
pub(super) fn write_tasks(bench: &Bench<'_>) -> Result<()> {
    let dir = bench.out.join(JUDGED);
    std::fs::create_dir_all(&dir).map_err(|e| PipelineError::file(&dir, format!("cannot be created: {e}")))?;
    let rows = bench.tasks.tasks.iter().map(|task| {
        let mut row = json!({ "prompt": task.row.prompt });
        if let Some(optimum) = task.optimum() {
            row["optimum"] = json!(optimum);
        }
        row
    });
    write_lines(&dir.join("tasks.jsonl"), &rows.collect::<Vec<Value>>())
}

/// The verdicts of a method and seed, from their file or made now; `model` is the directory of what answers.
pub(super) fn judged(bench: &Bench<'_>, method: &Method, seed: u64, model: &Path) -> Result<Judged> {
    let dir = bench.out.join(JUDGED).join(&method.name).join(format!("seed-{seed}"));
    let settings = settings(bench, method, seed, model)?;
    hone_run::recover_dir(&dir)?;
    if dir.exists() {
        let before = read_json(&dir.join(SETTINGS))?;
        let keys = changed("", &before, &settings);
        if !keys.is_empty() {
            return Err(RunError::ConfigChanged { dir, keys }.into());
        }
    } else {
        let (verdicts, practice) = bench.timed((&method.name, seed, "answers"), || {
            answer(bench, method, seed, (model, &dir))
        })?;
        publish_dir(&dir, &mut |dir| {
            write_lines(&dir.join(VERDICTS), &verdicts).map_err(RunError::caller)?;
            let practice = serde_json::to_value(&practice).map_err(RunError::caller)?;
            write_json(&dir.join(PRACTICE), &practice).map_err(RunError::caller)?;
            write_json(&dir.join(SETTINGS), &settings).map_err(RunError::caller)
        })?;
    }
    // Read back in any case, so that a resumed comparison has the same numbers
    let verdicts: Vec<Verdict> = read_lines(&dir.join(VERDICTS))?;
    let samples = bench.config.compare.samples;
    let in_place = verdicts.iter().enumerate().all(|(i, v)| v.task == i / samples);
    if verdicts.len() != bench.tasks.tasks.len() * samples || !in_place {
        let reason = format!(
            "has {} answers; expected {samples} to each of {} prompts, in order; delete its folder to answer anew",
            verdicts.len(),
            bench.tasks.tasks.len()
        );
        return Err(PipelineError::file(&dir.join(VERDICTS), reason));
    }
    let practice = serde_json::from_value(read_json(&dir.join(PRACTICE))?)
        .map_err(|e| PipelineError::file(&dir.join(PRACTICE), e.to_string()))?;
    Ok(Judged { verdicts, practice })
}

/// All that the verdicts follow from.
fn settings(bench: &Bench<'_>, method: &Method, seed: u64, model: &Path) -> Result<Value> {
    let c = &bench.config.compare;
    let way = match &method.way {
        Way::Start | Way::Stage(_) => Value::Null,
        Way::BestOf { n } => json!({ "n": n }),
        Way::FewShot {
            shots,
            samples,
            prompts,
        } => json!({ "shots": shots, "samples": samples, "prompts": to_value(prompts)? }),
    };
    // The place of judge and proxy says nothing of what they are; prompts are in the digest of what is asked
    let (judge, proxy) = (&bench.config.judge, &bench.config.proxy);
    let reward = |name: &Option<String>| name.as_deref().and_then(|name| fingerprint(&bench.base.join(name)));
    Ok(json!({
        "compare": { "samples": c.samples, "temperature": c.temperature, "max_new_tokens": c.max_new_tokens },
        "start": fingerprint(&bench.start),
        "model": fingerprint(model),
        "tasks": bench.tasks_digest,
        "judge": { "rewards": to_value(&judge.rewards)?, "reward": reward(&judge.reward) },
        "proxy": match proxy {
            Some(proxy) => json!({ "rewards": to_value(&proxy.rewards)?, "reward": reward(&proxy.reward) }),
            None => Value::Null,
        },
        "method": { "kind": method.kind, "settings": way },
        "seed": seed,
    }))
}

fn to_value(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| PipelineError::setting("compare", e.to_string()))
}

/// What tells a directory that hone wrote from another: its manifest's digest of itself.
fn fingerprint(dir: &Path) -> Option<String> {
    let manifest = read_json(&dir.join(hone_run::MANIFEST_FILE)).ok()?;
    Some(manifest["manifest_blake3"].as_str()?.to_owned())
}

/// Dotted keys whose values differ.
fn changed(key: &str, before: &Value, now: &Value) -> Vec<String> {
    match (before, now) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let inside = |name: &String| {
                if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                }
            };
            names
                .into_iter()
                .flat_map(|name| changed(&inside(name), &before[name], &now[name]))
                .collect()
        }
        _ if before == now => Vec::new(),
        _ => vec![key.to_owned()],
    }
}

/// Answers, chooses, judges.
fn answer(
    bench: &Bench<'_>,
    method: &Method,
    seed: u64,
    (model, dir): (&Path, &Path),
) -> Result<(Vec<Verdict>, Practice)> {
    let (c, engine) = (&bench.config.compare, bench.engine);
    let what = format!("answers of {}, seed {seed}", method.name);
    let player = Player::load(engine, model)?;
    // Programs that judge keep their journals here until the verdicts are written
    let work = dir.with_file_name(format!("seed-{seed}.work"));
    let mut judge = bench.judge_scale(&work)?;
    let mut proxy = bench.proxy_scale(&work)?;
    let mut practice = Practice::default();
    let mut examples = Vec::new();
    if let Way::FewShot {
        shots,
        samples,
        prompts,
    } = &method.way
    {
        let tasks = Tasks::practice(&bench.config.judge, prompts, bench.base, (seed, *samples))?;
        let key = Key::new(seed, &format!("compare/practice/{}", method.name), 0);
        let sampled = sample(
            bench,
            (&player, &tasks, &[]),
            (1, key),
            &format!("practice of {}, seed {seed}", method.name),
        )?;
        practice.tokens = sampled.iter().map(|answer| answer.tokens() as u64).sum();
        let scores = proxy
            .as_mut()
            .unwrap_or(&mut judge)
            .score(engine, &tasks, &sampled, 1)?;
        examples = best_examples(&tasks, &sampled, &scores, *shots);
        let shown = |e: &Example| -> (String, String) {
            let task = tasks.tasks.iter().find(|task| task.asked == e.asked);
            (
                task.map_or(String::new(), |task| task.row.prompt.clone()),
                e.response.clone(),
            )
        };
        practice.examples = examples.iter().map(shown).collect();
    }
    let n = match method.way {
        Way::BestOf { n } => n,
        _ => 1,
    };
    let key = Key::new(seed, &format!("compare/answers/{}", method.name), 0);
    let all = sample(bench, (&player, bench.tasks, &examples), (c.samples * n, key), &what)?;
    // What a method could see chooses among its samples: the proxy, where there is one
    let seen = match &mut proxy {
        Some(proxy) => Some(proxy.score(engine, bench.tasks, &all, 0)?),
        None => None,
    };
    let mut chosen: Vec<usize> = (0..all.len()).collect();
    let mut worth = Vec::new();
    if n > 1 {
        if seen.is_none() {
            worth = judge.score(engine, bench.tasks, &all, 0)?;
        }
        chosen = best_of_each(seen.as_ref().unwrap_or(&worth), n);
    }
    let sampled: Vec<usize> = all
        .chunks(n)
        .map(|chunk| chunk.iter().map(Answer::tokens).sum())
        .collect();
    let proxies: Option<Vec<f64>> = seen.map(|scores| chosen.iter().map(|&i| scores[i]).collect());
    let picked: Vec<Answer> = chosen.iter().map(|&i| all[i].clone()).collect();
    let rewards = if worth.is_empty() {
        judge.score(engine, bench.tasks, &picked, 0)?
    } else {
        chosen.iter().map(|&i| worth[i]).collect()
    };
    let kl = match method.way {
        Way::Start | Way::Stage(_) => bench.log_ratios(&player, &picked, method)?,
        Way::BestOf { .. } | Way::FewShot { .. } => None,
    };
    let verdict = |(i, answer): (usize, Answer)| Verdict {
        task: answer.task,
        tokens: answer.tokens(),
        sampled: sampled[i],
        ended: answer.ended,
        reward: rewards[i],
        proxy: proxies.as_ref().map(|scores| scores[i]),
        kl: kl.as_ref().map(|ratios| ratios[i]),
        response: answer.response,
    };
    let verdicts = picked.into_iter().enumerate().map(verdict).collect();
    if work.exists() {
        std::fs::remove_dir_all(&work).map_err(|e| PipelineError::file(&work, format!("cannot be removed: {e}")))?;
    }
    Ok((verdicts, practice))
}

/// Samples with progress; an error if it is asked to stop on the way.
fn sample(
    bench: &Bench<'_>,
    (player, tasks, examples): (&Player, &Tasks, &[Example]),
    (samples, key): (usize, Key),
    what: &str,
) -> Result<Vec<Answer>> {
    let stopped = |done: u64| PipelineError::Stopped {
        stage: what.to_owned(),
        step: done,
    };
    let total = (tasks.tasks.len() * samples) as u64;
    bench.event(&Event::Started {
        stage: what.to_owned(),
        step: 0,
        total,
    });
    if bench.kitchen.shutdown.requested() {
        return Err(stopped(0));
    }
    let sampling = Sampling {
        samples,
        temperature: bench.config.compare.temperature,
        max_new_tokens: bench.config.compare.max_new_tokens,
        key,
        shutdown: &bench.kitchen.shutdown,
    };
    let mut all = 0;
    let mut step = |done: usize, tokens: usize| {
        all += tokens;
        bench.event(&Event::Step {
            step: done as u64,
            total,
            tokens: tokens as u64,
            headline: vec![("length".to_owned(), all as f64 / done as f64)],
        });
    };
    let mut short = |count: usize| {
        bench.kitchen.say(format!(
            "{what}: {count} prompts have fewer than {} examples, to fit the context",
            examples.len()
        ));
    };
    let found = answers(
        (bench.engine, player),
        (tasks, examples),
        &sampling,
        &mut short,
        &mut step,
    )?;
    bench.event(&Event::Finished {
        step: total,
        stopped: found.is_none(),
    });
    found.ok_or_else(|| stopped(0))
}

/// The best samples of different prompts, the best last, where it is nearest to what is asked.
fn best_examples(tasks: &Tasks, sampled: &[Answer], scores: &[f64], shots: usize) -> Vec<Example> {
    let mut order: Vec<usize> = (0..sampled.len()).collect();
    // The first of equals comes first
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut best: Vec<Example> = order
        .into_iter()
        .take(shots)
        .map(|i| Example {
            asked: tasks.tasks[sampled[i].task].asked.clone(),
            response: sampled[i].response.clone(),
        })
        .collect();
    best.reverse();
    best
}

/// The index of the highest of each `n` scores.
fn best_of_each(scores: &[f64], n: usize) -> Vec<usize> {
    let best = |(i, group): (usize, &[f64])| {
        let group: Vec<f32> = group.iter().map(|&score| score as f32).collect();
        i * n + best_of(&group).unwrap_or_default()
    };
    scores.chunks(n).enumerate().map(best).collect()
}

impl Bench<'_> {
    fn judge_scale(&self, work: &Path) -> Result<Scale> {
        let judge = &self.config.judge;
        let scored = (judge.rewards.as_slice(), judge.reward.as_deref());
        Scale::open(self.engine, scored, (self.base, &work.join("judge"), "judge"))
    }

    fn proxy_scale(&self, work: &Path) -> Result<Option<Scale>> {
        let Some(proxy) = &self.config.proxy else {
            return Ok(None);
        };
        let scored = (proxy.rewards.as_slice(), proxy.reward.as_deref());
        Scale::open(self.engine, scored, (self.base, &work.join("proxy"), "proxy")).map(Some)
    }

    /// Log-ratios to the starting model; none where its tokens are others.
    fn log_ratios(&self, player: &Player, answers: &[Answer], method: &Method) -> Result<Option<Vec<f64>>> {
        let start = Player::load(self.engine, &self.start)?;
        if !player.speaks_like(&start) {
            self.kitchen.say(format!(
                "{}: its tokenizer or template is not the starting model's, so its KL is not measured",
                method.name
            ));
            return Ok(None);
        }
        let temperature = self.config.compare.temperature;
        Ok(Some(log_ratios(self.engine, &start, answers, temperature)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tasks::{Asked, Task};
    use super::*;

    #[test]
    fn the_best_are_chosen_and_equals_in_order() {
        assert_eq!(best_of_each(&[0.0, 2.0, 1.0, 3.0, 3.0, 1.0], 3), [1, 3]);
        let judge = toml::from_str("episodes = 4\nenvironment = { kind = \"maze\", size = 3 }").unwrap();
        let tasks = Tasks::judged(&judge, Path::new("")).unwrap();
        let answer = |task: usize| Answer {
            task,
            ids: vec![1],
            prompt_length: 1,
            response: format!("r{task}"),
            logprob: 0.0,
            ended: true,
            earned: None,
        };
        let sampled: Vec<Answer> = (0..4).map(answer).collect();
        let best = best_examples(&tasks, &sampled, &[1.0, 2.0, 0.0, 2.0], 3);
        let responses: Vec<&str> = best.iter().map(|e| e.response.as_str()).collect();
        assert_eq!(responses, ["r0", "r3", "r1"]);
        let asked: Vec<&Asked> = [0, 3, 1]
            .map(|i: usize| &tasks.tasks[i])
            .iter()
            .map(|task: &&Task| &task.asked)
            .collect();
        assert!(best.iter().zip(asked).all(|(e, asked)| e.asked == *asked));
    }

    #[test]
    fn changed_settings_are_named() {
        let before = json!({ "compare": { "samples": 4, "temperature": 1.0 }, "seed": 1 });
        let now = json!({ "compare": { "samples": 2, "temperature": 1.0 }, "seed": 1, "model": "a" });
        assert_eq!(changed("", &before, &now), ["compare.samples", "model"]);
        assert!(changed("", &before, &before).is_empty());
    }
}
