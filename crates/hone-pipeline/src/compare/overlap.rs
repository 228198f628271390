//! What is practised on of what is judged.
//!
//! 1. Episodes: those of a seed that a stage or method will play are built and looked at. Different seeds can meet by chance where there are few
//!    different episodes, as in small mazes; of an environment that hides what matters (a word game) it cannot be told.
//! 2. Prompts: the rows of every file that a stage or method names in `data.prompts`, without those that it holds out (`data.held_out`), and all
//!    rows of those in `data.train` that can be read as prompts. A method that practises on judged prompts (`data.prompts`) is refused. Prompts
//!    that a run drops for their length are counted all the same.
//! 3. A method that chooses its model by judged prompts or episodes (`[judge]` of its own) is refused. Of its prompts the first `judge.limit`
//!    count, which are those that it looks at; all of them where some may be too long for the run, so that later ones move up.
//! 4. Few-shot practice leaves out what is judged, so it never meets it.

use std::collections::HashSet;
use std::path::Path;

use hone_data::{Prompt, Source, hold_out, load_prompts};
use hone_task::EnvironmentSetting;
use hone_train::rollout::{JudgeSection, PromptData, shared};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::Bench;
use super::config::Ready;
use super::method::Way;
use super::tasks::identity;
use crate::error::{PipelineError, Result};
use crate::recipe::ReadyStage;

/// How much of what is judged something practises on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// `STAGE`, or `METHOD/SEED`.
    pub by: String,
    /// Episodes that it plays, or rows of prompts from which it draws.
    pub practised: u64,
    /// Of the judged ones, those that are among them.
    pub judged: u64,
}

/// What stages and methods practise on of what is judged.
pub(super) fn find(bench: &Bench<'_>, ready: &Ready) -> Result<Vec<Overlap>> {
    let held = bench.tasks.identities();
    let look = Look { bench, held: &held };
    let mut found = Vec::new();
    if held.is_empty() {
        return Ok(found);
    }
    for stage in &ready.stages {
        found.extend(look.at(stage, (stage.name.clone(), None))?);
    }
    for method in &ready.methods {
        let Way::Stage(stages) = &method.way else { continue };
        for (stage, seed) in stages.iter().zip(&bench.config.compare.seeds) {
            let by = format!("{}/{seed}", method.name);
            found.extend(look.at(stage, (by, Some(method.name.as_str())))?);
        }
    }
    for overlap in found.iter().filter(|overlap| overlap.judged > 0) {
        bench.kitchen.say(format!(
            "{}: practises on {} of the {} that are judged",
            overlap.by,
            overlap.judged,
            bench.tasks.tasks.len()
        ));
    }
    Ok(found)
}

struct Look<'a> {
    bench: &'a Bench<'a>,
    held: &'a HashSet<String>,
}

impl Look<'_> {
    /// What a stage practises on; none where it has nothing of the kind. `method` is its name, if it is one.
    fn at(&self, stage: &ReadyStage, (by, method): (String, Option<&str>)) -> Result<Option<Overlap>> {
        let Some(table) = stage.work.table() else {
            return Ok(None);
        };
        if let Some(method) = method {
            self.refuse_choice(table, method)?;
        }
        let counted = match &self.bench.tasks.environment {
            Some(_) => self.episodes(table)?,
            None => self.prompts(table, method)?,
        };
        Ok(counted.map(|(practised, judged)| Overlap { by, practised, judged }))
    }

    /// Refuses a method that chooses its model by what is judged.
    fn refuse_choice(&self, table: &Table, method: &str) -> Result<()> {
        let Some(own) = table.get("judge").and_then(Value::as_table) else {
            return Ok(());
        };
        let mut met = HashSet::new();
        // A file that cannot be read stops the run that needs it
        let named = sources(table, ("judge", "prompts")).into_iter();
        let read = named.filter_map(|source| {
            let weight = source.weight;
            let loaded = load_prompts(&source.resolved_in(self.bench.base)).ok()?;
            Some((loaded.items, weight))
        });
        for (prompts, count) in first_of(read.collect(), limit(own), longest(table)) {
            let asked = prompts.iter().take(count).map(|prompt| identity(&prompt.input));
            met.extend(asked.filter(|own| self.held.contains(own)));
        }
        if !met.is_empty() {
            let reason = format!(
                "holds {} of the {} judged prompts; expected others: the method chooses its best model by them, and what is chosen by the \
                 figures is above them by chance",
                met.len(),
                self.bench.tasks.tasks.len()
            );
            return Err(PipelineError::setting(
                format!("method {method}: judge.prompts"),
                reason,
            ));
        }
        let seed = own.get("seed").and_then(Value::as_integer);
        let judged = self.bench.config.judge.episode_seed();
        if own.contains_key("environment") && seed.is_some_and(|seed| u64::try_from(seed) == Ok(judged)) {
            let reason =
                format!("is {judged}, as the comparison's judge.seed is: these episodes are judged; expected another");
            return Err(PipelineError::setting(format!("method {method}: judge.seed"), reason));
        }
        Ok(())
    }

    fn episodes(&self, table: &Table) -> Result<Option<(u64, u64)>> {
        let Some((setting, seed, count)) = played(table) else {
            return Ok(None);
        };
        if !matches!(setting, EnvironmentSetting::Maze(_)) {
            return Ok(None);
        }
        let mut environment = setting.build()?;
        let mut met = HashSet::new();
        for index in 0..count {
            environment.reset(seed, index)?;
            let shown = environment.observe();
            if self.held.contains(&shown) {
                met.insert(shown);
            }
        }
        Ok(Some((count, met.len() as u64)))
    }

    fn prompts(&self, table: &Table, method: Option<&str>) -> Result<Option<(u64, u64)>> {
        let mut counted = None;
        for name in ["prompts", "train"] {
            let (mut practised, mut met) = (0, HashSet::new());
            for source in sources(table, ("data", name)) {
                let loaded = load_prompts(&source.resolved_in(self.bench.base));
                let items = match (loaded, name) {
                    // What a run holds out at a source's end it does not meet
                    (Ok(loaded), "prompts") => hold_out(loaded.items, held_out(table))?.train,
                    (Ok(loaded), _) => loaded.items,
                    // Of a file that is no file of prompts, such as texts to read, it cannot be told; one that cannot be read at all stops
                    // the run that needs it
                    (Err(_), _) => continue,
                };
                for prompt in items {
                    practised += 1;
                    let own = identity(&prompt.input);
                    if self.held.contains(&own) {
                        met.insert(own);
                    }
                }
            }
            if let (Some(method), "prompts", false) = (method, name, met.is_empty()) {
                let reason = format!(
                    "holds {} of the {} judged prompts; expected others, or the comparison says how well they were learned by heart",
                    met.len(),
                    self.bench.tasks.tasks.len()
                );
                return Err(PipelineError::setting(format!("method {method}: data.prompts"), reason));
            }
            if practised > 0 {
                let (all, judged) = counted.unwrap_or((0, 0));
                counted = Some((all + practised, judged + met.len() as u64));
            }
        }
        Ok(counted)
    }
}

/// Sources with how many of each one's first prompts a stage's own judge asks, of so many in all. Where one of them may have more than
/// `longest` tokens the run may leave it out and ask a later one instead: then all of each.
fn first_of(read: Vec<(Vec<Prompt>, f64)>, limit: usize, longest: Option<usize>) -> Vec<(Vec<Prompt>, usize)> {
    let fits = |prompt: &Prompt| longest.is_some_and(|longest| most_tokens(prompt) <= longest);
    if !read.iter().flat_map(|(prompts, _)| prompts).all(fits) {
        return read
            .into_iter()
            .map(|(prompts, _)| {
                let count = prompts.len();
                (prompts, count)
            })
            .collect();
    }
    let counts: Vec<usize> = read.iter().map(|(prompts, _)| prompts.len()).collect();
    let weights: Vec<f64> = read
        .iter()
        .map(|(prompts, weight)| weight * prompts.len() as f64)
        .collect();
    let taken = shared(&counts, &weights, limit);
    read.into_iter().map(|(prompts, _)| prompts).zip(taken).collect()
}

/// No fewer tokens than a prompt has: one for each byte, and what a chat template may put around each turn.
fn most_tokens(prompt: &Prompt) -> usize {
    const AROUND_A_TURN: usize = 24;
    let turns = prompt.input.to_messages();
    let bytes: usize = turns.iter().map(|turn| turn.content.len() + AROUND_A_TURN).sum();
    bytes + AROUND_A_TURN
}

/// How long prompts may be; none where that follows from the model.
fn longest(stage: &Table) -> Option<usize> {
    let given = stage.get("data").and_then(|data| data.get("max_prompt_length"));
    given
        .and_then(Value::as_integer)
        .and_then(|length| usize::try_from(length).ok())
}

/// How many prompts a stage's own judge asks.
fn limit(judge: &Table) -> usize {
    let given = judge.get("limit").and_then(Value::as_integer);
    given.map_or(JudgeSection::default().limit, |limit| {
        usize::try_from(limit).unwrap_or(0)
    })
}

/// The share of its prompts that a stage holds out.
fn held_out(table: &Table) -> f64 {
    let given = table.get("data").and_then(|data| data.get("held_out"));
    let number = given.and_then(|value| value.as_float().or_else(|| Some(value.as_integer()? as f64)));
    number.unwrap_or_else(|| PromptData::default().held_out)
}

/// The files that a section of a stage's settings names.
pub(super) fn sources(table: &Table, (section, name): (&str, &str)) -> Vec<Source> {
    let named = table.get(section).and_then(|section| section.get(name));
    let all = named.and_then(Value::as_array).into_iter().flatten();
    let source = |value: &Value| match value.as_str() {
        Some(path) => Some(Source::new(Path::new(path))),
        None => Source::deserialize(value.clone()).ok(),
    };
    all.filter_map(source).collect()
}

/// The environment that a stage's settings name, the seed of its episodes, and how many the run plays, as far as its settings say; those
/// that a method drops and draws anew are not counted.
fn played(table: &Table) -> Option<(EnvironmentSetting, u64, u64)> {
    let mut environment = table.get("environment")?.as_table()?.clone();
    environment.remove("max_turns");
    let setting = EnvironmentSetting::deserialize(Value::Table(environment)).ok()?;
    let number = |table: &Table, key: &str| u64::try_from(table.get(key)?.as_integer()?).ok();
    // A stage that writes demonstrations
    if let Some(episodes) = number(table, "episodes") {
        return Some((setting, number(table, "seed")?, episodes));
    }
    let seed = number(table.get("train")?.as_table()?, "seed")?;
    let section = ["ppo", "grpo", "online_preference", "expert_iteration"]
        .into_iter()
        .find_map(|name| table.get(name)?.as_table())?;
    let updates = number(section, "updates").or_else(|| number(section, "rounds"))?;
    let prompts = number(section, "rollout_batch")? / number(section, "samples_per_prompt").unwrap_or(1).max(1);
    Some((setting, seed, updates * prompts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stage_plays_is_read_from_its_settings() {
        let of = |text: &str| played(&toml::from_str(text).unwrap());
        let maze = "environment = { kind = \"maze\", size = 3, max_turns = 4 }\n";
        let grpo = of(&format!(
            "{maze}train = {{ seed = 5 }}\ngrpo = {{ updates = 3, rollout_batch = 8, samples_per_prompt = 4 }}"
        ));
        assert!(matches!(grpo, Some((EnvironmentSetting::Maze(_), 5, 6))), "{grpo:?}");
        let rounds = of(&format!(
            "{maze}train = {{ seed = 5 }}\nexpert_iteration = {{ rounds = 2, rollout_batch = 8 }}"
        ));
        assert!(matches!(rounds, Some((_, 5, 16))), "{rounds:?}");
        let written = of(&format!("{maze}episodes = 40\nseed = 2"));
        assert!(matches!(written, Some((_, 2, 40))), "{written:?}");
        assert!(of("train = { seed = 5 }").is_none());
    }

    #[test]
    fn what_a_methods_own_judge_does_not_ask_is_no_choice() {
        let of = |text: &str| limit(&toml::from_str(text).unwrap());
        assert_eq!((of("limit = 3"), of("every = 2")), (3, JudgeSection::default().limit));
        let prompts = |count: usize| {
            let prompt = |i: usize| Prompt {
                input: hone_data::PromptInput::Text(i.to_string()),
                extra: serde_json::Map::new(),
            };
            (0..count).map(prompt).collect::<Vec<Prompt>>()
        };
        let counts = |found: Vec<(Vec<Prompt>, usize)>| found.into_iter().map(|(_, count)| count).collect::<Vec<_>>();
        let asked = |read, limit| counts(first_of(read, limit, Some(128)));
        assert_eq!(asked(vec![(prompts(10), 1.0)], 3), [3]);
        assert_eq!(asked(vec![(prompts(10), 1.0)], 64), [10]);
        // As the judge itself shares them out: by weight and size
        assert_eq!(asked(vec![(prompts(10), 1.0), (prompts(10), 3.0)], 4), [1, 3]);
        // A prompt that the run may leave out for its length makes room for later ones
        let mut long = prompts(10);
        long[0].input = hone_data::PromptInput::Text("far too long ".repeat(10));
        assert_eq!(asked(vec![(long, 1.0), (prompts(10), 1.0)], 4), [10, 10]);
        assert_eq!(counts(first_of(vec![(prompts(10), 1.0)], 3, None)), [10]);
        let length = |text: &str| longest(&toml::from_str(text).unwrap());
        assert_eq!(length("data = { max_prompt_length = 128 }"), Some(128));
        assert_eq!(length("data = { held_out = 0.1 }"), None);
    }

    #[test]
    fn sources_are_paths_or_tables() {
        let table = toml::from_str("data = { train = [\"a.jsonl\", { path = \"b.jsonl\", weight = 2.0 }] }").unwrap();
        let paths: Vec<String> = sources(&table, ("data", "train"))
            .iter()
            .map(|s| s.path.display().to_string())
            .collect();
        assert_eq!(paths, ["a.jsonl", "b.jsonl"]);
        assert!(sources(&table, ("data", "prompts")).is_empty());
        assert_eq!(held_out(&table), PromptData::default().held_out);
        assert_eq!(held_out(&toml::from_str("data = { held_out = 0 }").unwrap()), 0.0);
    }
}
