//! The answers of a method and seed, judged: written once, read ever after.

use std::path::{Path, PathBuf};

use hone_data::Source;
use hone_generate::best_of;
use hone_math::Key;
use hone_run::{Error as RunError, Event, publish_dir};
use hone_task::RewardRule;
use hone_train::artefact;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Bench;
use super::config::{JUDGED, directory};
use super::judge::{Asked, Plan, Scale};
use super::method::{Method, Way};
use super::player::{Answer, Example, Player, Sampling, Told, answers, log_ratios};
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

/// Tells a reader of verdicts what was asked. Verdicts on something else are refused before anything is written.
pub(super) fn write_tasks(bench: &Bench<'_>) -> Result<()> {
    let dir = bench.out.join(JUDGED);
    std::fs::create_dir_all(&dir).map_err(|e| PipelineError::file(&dir, format!("cannot be created: {e}")))?;
    for before in judged_folders(&dir)? {
        let settings = read_json(&before.join(SETTINGS))?;
        if settings["tasks"] != bench.tasks_digest.as_str() {
            let keys = vec!["tasks".to_owned()];
            return Err(RunError::ConfigChanged { dir: before, keys }.into());
        }
    }
    let rows = bench.tasks.tasks.iter().map(|task| {
        let mut row = json!({ "prompt": task.shown });
        if let Some(optimum) = task.optimum() {
            row["optimum"] = json!(optimum);
        }
        row
    });
    write_lines(&dir.join("tasks.jsonl"), &rows.collect::<Vec<Value>>())
}

/// The folders that hold verdicts, in the order of their names.
fn judged_folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for method in folders(dir)? {
        let seeds = folders(&method)?;
        found.extend(seeds.into_iter().filter(|seed| seed.join(VERDICTS).is_file()));
    }
    Ok(found)
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let cannot = |e: std::io::Error| PipelineError::file(dir, format!("cannot be read: {e}"));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
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
        let work = work_folder(&dir, &settings)?;
        let (verdicts, practice) = bench.timed((&method.name, seed, "answers"), || {
            answer(bench, method, seed, (model, &work))
        })?;
        publish_dir(&dir, &mut |dir| {
            write_lines(&dir.join(VERDICTS), &verdicts).map_err(RunError::caller)?;
            let practice = serde_json::to_value(&practice).map_err(RunError::caller)?;
            write_json(&dir.join(PRACTICE), &practice).map_err(RunError::caller)?;
            write_json(&dir.join(SETTINGS), &settings).map_err(RunError::caller)
        })?;
    }
    // Journals have done their work once the verdicts are there
    remove_work(&dir)?;
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

/// The folder of what programs have said of the answers of `dir`, until the verdicts are there.
fn work_of(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_os_string();
    name.push(".work");
    dir.with_file_name(name)
}

fn remove_work(dir: &Path) -> Result<()> {
    let work = work_of(dir);
    if work.exists() {
        std::fs::remove_dir_all(&work).map_err(|e| PipelineError::file(&work, format!("cannot be removed: {e}")))?;
    }
    Ok(())
}

/// The same folder, ready: what was said under other settings is forgotten.
fn work_folder(dir: &Path, settings: &Value) -> Result<PathBuf> {
    let work = work_of(dir);
    let record = work.join(SETTINGS);
    if work.exists() && !(record.is_file() && read_json(&record)? == *settings) {
        remove_work(dir)?;
    }
    std::fs::create_dir_all(&work).map_err(|e| PipelineError::file(&work, format!("cannot be created: {e}")))?;
    write_json(&record, settings)?;
    Ok(work)
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
    let (judge, proxy) = (&bench.config.judge, &bench.config.proxy);
    // What is asked is in its digest; what seed and turns are follows from there being an environment
    let plays = judge
        .environment
        .as_ref()
        .map(|environment| judge.plays(environment, judge.episode_seed()));
    let plays = match plays {
        Some(plays) => {
            json!({ "environment": to_value(&plays.setting)?, "seed": plays.seed, "max_turns": plays.max_turns })
        }
        None => Value::Null,
    };
    Ok(json!({
        "compare": { "samples": c.samples, "temperature": c.temperature, "max_new_tokens": c.max_new_tokens },
        "start": artefact::fingerprint(&bench.start)?,
        "model": artefact::fingerprint(model)?,
        "tasks": bench.tasks_digest,
        "judge": { "plays": plays, "scale": scale(bench.base, judge.plan())? },
        "proxy": proxy.as_ref().map(|proxy| scale(bench.base, proxy.plan())).transpose()?,
        "method": { "kind": method.kind, "settings": way },
        "seed": seed,
    }))
}

/// What a scale is, models by what they hold: their places say nothing of that.
fn scale(base: &Path, plan: Plan<'_>) -> Result<Value> {
    let mut rewards = Vec::new();
    for entry in plan.rewards {
        let model = match &entry.rule {
            RewardRule::Model { path } => fingerprint(base, path)?,
            _ => Value::Null,
        };
        let mut entry = to_value(entry)?;
        if !model.is_null() {
            entry["path"] = model;
        }
        rewards.push(entry);
    }
    let reward = plan.reward.map(|name| fingerprint(base, name)).transpose()?;
    Ok(json!({ "rewards": rewards, "reward": reward, "labeler": to_value(&plan.labeler)? }))
}

fn to_value(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| PipelineError::setting("compare", e.to_string()))
}

/// What tells a model's directory from another.
fn fingerprint(base: &Path, name: &str) -> Result<Value> {
    Ok(artefact::fingerprint(&directory(base, "model", name)?)?.into())
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

/// Answers, chooses, judges. Programs that judge keep their journals in `work`.
fn answer(
    bench: &Bench<'_>,
    method: &Method,
    seed: u64,
    (model, work): (&Path, &Path),
) -> Result<(Vec<Verdict>, Practice)> {
    let (c, engine) = (&bench.config.compare, bench.engine);
    let what = format!("answers of {}, seed {seed}", method.name);
    let player = Player::load(engine, model)?;
    let mut judge = bench.judge_scale(work)?;
    let mut proxy = bench.proxy_scale(work)?;
    let mut practice = Practice::default();
    let mut examples = Vec::new();
    if let Way::FewShot { shots, prompts, .. } = &method.way {
        let tasks = bench.practice_tasks(method, seed, prompts)?;
        let what = format!("practice of {}, seed {seed}", method.name);
        let key = Key::new(seed, &format!("compare/practice/{}", method.name), 0);
        let sampled = sample(bench, (&player, &tasks, &[]), (1, key), &what)?;
        practice.tokens = sampled.iter().map(|answer| answer.tokens() as u64).sum();
        let judging = Judging {
            bench,
            player: &player,
            tasks: &tasks,
            update: 1,
            what: &what,
        };
        let scores = judging.by(proxy.as_mut().unwrap_or(&mut judge), &sampled)?;
        examples = best_examples(&tasks, &sampled, &scores, *shots);
        let shown = |e: &Example| -> (String, String) {
            let task = tasks.tasks.iter().find(|task| task.asked == e.asked);
            (
                task.map_or(String::new(), |task| task.shown.clone()),
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
    let judging = Judging {
        bench,
        player: &player,
        tasks: bench.tasks,
        update: 0,
        what: &what,
    };
    // What a method could see chooses among its samples: the proxy, where there is one
    let seen = match &mut proxy {
        Some(proxy) => Some(judging.by(proxy, &all)?),
        None => None,
    };
    let mut chosen: Vec<usize> = (0..all.len()).collect();
    let mut worth = Vec::new();
    if n > 1 {
        if seen.is_none() {
            worth = judging.by(&mut judge, &all)?;
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
        judging.by(&mut judge, &picked)?
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
    Ok((verdicts, practice))
}

/// Answers of one player that are judged, with an error if it is asked to stop on the way.
struct Judging<'a> {
    bench: &'a Bench<'a>,
    player: &'a Player,
    tasks: &'a Tasks,
    update: u64,
    what: &'a str,
}

impl Judging<'_> {
    fn by(&self, scale: &mut Scale, answers: &[Answer]) -> Result<Vec<f64>> {
        let asked = Asked {
            player: self.player,
            tasks: self.tasks,
            answers,
            update: self.update,
            shutdown: &self.bench.kitchen.shutdown,
        };
        let scores = scale.score(self.bench.engine, asked)?;
        scores.ok_or_else(|| PipelineError::Stopped {
            stage: self.what.to_owned(),
            step: 0,
        })
    }
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
    let mut told = Told {
        short: &mut short,
        step: &mut step,
    };
    let found = answers((bench.engine, player), (tasks, examples), &sampling, &mut told)?;
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
            turns: sampled[i].turns.clone(),
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
        let folder = work.join("judge");
        Scale::open(self.engine, self.config.judge.plan(), (self.base, &folder, "judge"))
    }

    fn proxy_scale(&self, work: &Path) -> Result<Option<Scale>> {
        let Some(proxy) = &self.config.proxy else {
            return Ok(None);
        };
        Scale::open(self.engine, proxy.plan(), (self.base, &work.join("proxy"), "proxy")).map(Some)
    }

    /// What a few-shot method may practise on: nothing that is judged.
    pub(super) fn practice_tasks(&self, method: &Method, seed: u64, prompts: &[Source]) -> Result<Tasks> {
        let Way::FewShot { shots, samples, .. } = method.way else {
            return Err(PipelineError::setting(
                "method",
                "is no few-shot method; this is a fault of hone",
            ));
        };
        let held = self.tasks.identities();
        let tasks = Tasks::practice(&self.config.judge, prompts, self.base, (seed, samples), &held)?;
        if tasks.tasks.len() < shots {
            let reason = format!(
                "has {} things to practise on that are not judged; expected at least shots = {shots}",
                tasks.tasks.len()
            );
            return Err(PipelineError::setting(format!("method {}", method.name), reason));
        }
        Ok(tasks)
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
    use super::super::tasks::{Asked as Told, Task};
    use super::*;

    #[test]
    fn the_best_are_chosen_and_equals_in_order() {
        assert_eq!(best_of_each(&[0.0, 2.0, 1.0, 3.0, 3.0, 1.0], 3), [1, 3]);
        let judge = toml::from_str("episodes = 4\nenvironment = { kind = \"maze\", size = 3 }").unwrap();
        let tasks = Tasks::judged(&judge, Path::new("")).unwrap();
        let answer = |task: usize| Answer {
            task,
            ids: [1].into(),
            spans: Vec::new(),
            response: format!("r{task}"),
            judged_tokens: 0,
            logprob: 0.0,
            ended: true,
            earned: None,
            turns: Vec::new(),
        };
        let sampled: Vec<Answer> = (0..4).map(answer).collect();
        let best = best_examples(&tasks, &sampled, &[1.0, 2.0, 0.0, 2.0], 3);
        let responses: Vec<&str> = best.iter().map(|e| e.response.as_str()).collect();
        assert_eq!(responses, ["r0", "r3", "r1"]);
        let asked: Vec<&Told> = [0, 3, 1]
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

    #[test]
    fn what_programs_said_is_kept_for_the_same_settings_alone() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("seed-1");
        let said = |work: &Path| work.join("judge.journal");
        let first = work_folder(&dir, &json!({ "seed": 1 }))?;
        std::fs::write(said(&first), "0.5").unwrap();
        assert!(said(&work_folder(&dir, &json!({ "seed": 1 }))?).is_file());
        assert!(!said(&work_folder(&dir, &json!({ "seed": 1, "model": "b" }))?).exists());
        std::fs::write(said(&first), "0.5").unwrap();
        std::fs::remove_file(first.join(SETTINGS)).unwrap();
        assert!(
            !said(&work_folder(&dir, &json!({ "seed": 1 }))?).exists(),
            "of unknown settings"
        );
        remove_work(&dir)?;
        assert!(!first.exists());
        Ok(())
    }

    #[test]
    fn a_model_inside_rewards_is_told_by_what_it_holds() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("m");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(model.join("config.json"), "{}").unwrap();
        let judge: super::super::JudgeSection =
            toml::from_str("prompts = [\"p\"]\nrewards = [{ kind = \"model\", path = \"m\" }]").unwrap();
        let first = scale(folder.path(), judge.plan())?;
        assert_eq!(first, scale(folder.path(), judge.plan())?);
        std::fs::write(model.join("config.json"), "{ }").unwrap();
        assert_eq!(changed("", &first, &scale(folder.path(), judge.plan())?), ["rewards"]);
        Ok(())
    }
}
