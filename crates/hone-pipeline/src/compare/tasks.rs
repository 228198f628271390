//! What is answered: prompts with their columns, or episodes of an environment.

use std::collections::HashSet;
use std::path::Path;

use hone_data::{Prompt, PromptInput, Source, load_prompts};
use hone_generate::opening;
use hone_math::Key;
use hone_run::config::digest;
use hone_task::Environment;
use hone_task::environment::{EnvironmentSetting, Maze};
use hone_world::Question;
use serde_json::{Map, Value};

use super::config::JudgeSection;
use crate::error::{PipelineError, Result};
use crate::rows::labeler_question;

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Asked {
    /// A prompt of a file.
    Prompt(PromptInput),
    /// The first observation of an episode.
    Episode { rules: String, observation: String },
}

/// Something asked, as far as it tells a judged task from one that is practised on: the turns, text being one of the user.
pub(super) fn identity(input: &PromptInput) -> String {
    let turns = input.to_messages().into_iter();
    turns.map(|m| format!("{}\0{}\0", m.role, m.content.trim())).collect()
}

/// Something to answer.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub asked: Asked,
    /// What is asked, as a person reads it.
    pub shown: String,
    /// The row's other columns, for verifiers.
    pub columns: Map<String, Value>,
    /// Of an episode: its index and, where it is known, the most that can be earned.
    pub episode: Option<(u64, Option<f64>)>,
}

impl Task {
    /// The prompt for a reward model.
    pub fn input(&self) -> PromptInput {
        match &self.asked {
            Asked::Prompt(input) => input.clone(),
            Asked::Episode { .. } => PromptInput::Text(self.shown.clone()),
        }
    }

    /// What tells it from other tasks; none where that cannot be seen: a word game hides the word.
    fn identity(&self, setting: Option<&EnvironmentSetting>) -> Option<String> {
        match (&self.asked, setting) {
            (Asked::Prompt(input), _) => Some(identity(input)),
            (Asked::Episode { observation, .. }, Some(EnvironmentSetting::Maze(_))) => Some(observation.clone()),
            (Asked::Episode { .. }, _) => None,
        }
    }

    /// The most that can be earned, where that is known.
    pub fn optimum(&self) -> Option<f64> {
        self.episode.and_then(|(_, optimum)| optimum)
    }

    /// What the small world's labeler reads beside a reply: none where the row lacks it.
    pub fn question(&self) -> Result<Question, String> {
        labeler_question(&self.input(), &self.columns)
    }
}

/// An environment that is played.
#[derive(Clone, Debug)]
pub(super) struct Played {
    pub setting: EnvironmentSetting,
    /// Of its episodes.
    pub seed: u64,
    /// Turns after which an episode is cut off.
    pub max_turns: usize,
}

/// All of them.
pub(super) struct Tasks {
    pub tasks: Vec<Task>,
    /// Of episodes.
    pub environment: Option<Played>,
    /// The files of prompts in their order, each with the place of its first task.
    files: Vec<(String, usize)>,
}

/// Draws of other episodes for each that is wanted, after which few-shot practice makes do with those it has.
const TRIES: u64 = 100;

impl Tasks {
    /// What the judge asks.
    pub fn judged(judge: &JudgeSection, base: &Path) -> Result<Self> {
        match &judge.environment {
            Some(environment) => {
                let count = judge.episode_count();
                let plays = judge.plays(environment, judge.episode_seed());
                Self::episodes(plays, (count, count), &HashSet::new())
            }
            None => Self::prompts(&judge.prompts, base),
        }
    }

    /// What may be practised on: other episodes, or other prompts in an order of the seed's own. At most `count`, and none that is
    /// `held` out.
    pub fn practice(
        judge: &JudgeSection,
        sources: &[Source],
        base: &Path,
        (seed, count): (u64, usize),
        held: &HashSet<String>,
    ) -> Result<Self> {
        if let Some(environment) = &judge.environment {
            let count = count as u64;
            let tries = count.saturating_mul(TRIES);
            return Self::episodes(judge.plays(environment, seed), (count, tries), held);
        }
        let mut all = Self::prompts(sources, base)?;
        all.tasks
            .retain(|task| task.identity(None).is_none_or(|own| !held.contains(&own)));
        let order = Key::new(seed, "compare/practice", 0).permutation(all.tasks.len());
        all.tasks = order.into_iter().take(count).map(|i| all.tasks[i].clone()).collect();
        // Their rows are not those of the files any more
        all.files.clear();
        Ok(all)
    }

    /// The first `count` episodes that are not held out, of the first `tries`.
    fn episodes(plays: Played, (count, tries): (u64, u64), held: &HashSet<String>) -> Result<Self> {
        let mut running = plays.setting.build()?;
        let mut tasks = Vec::new();
        for index in 0..tries {
            if tasks.len() as u64 == count {
                break;
            }
            running.reset(plays.seed, index)?;
            let (rules, observation) = (running.rules(), running.observe());
            let task = Task {
                shown: opening(&rules, &observation),
                asked: Asked::Episode { rules, observation },
                columns: Map::new(),
                episode: Some((index, running.optimum())),
            };
            let own = task.identity(Some(&plays.setting));
            if own.is_none_or(|own| !held.contains(&own)) {
                tasks.push(task);
            }
        }
        Ok(Self {
            tasks,
            environment: Some(plays),
            files: Vec::new(),
        })
    }

    pub fn prompts(sources: &[Source], base: &Path) -> Result<Self> {
        let (mut tasks, mut files) = (Vec::new(), Vec::new());
        for source in sources {
            files.push((source.path.display().to_string(), tasks.len()));
            for prompt in load_prompts(&source.clone().resolved_in(base))?.items {
                let Prompt { input, extra } = prompt;
                tasks.push(Task {
                    shown: text_of(&input),
                    columns: extra,
                    asked: Asked::Prompt(input),
                    episode: None,
                });
            }
        }
        Ok(Self {
            tasks,
            environment: None,
            files,
        })
    }

    /// The file that a task comes from and its row there, from 1.
    pub fn origin(&self, place: usize) -> String {
        match self.files.iter().rev().find(|(_, first)| *first <= place) {
            Some((file, first)) => format!("{file}: row {}", place - first + 1),
            None => format!("row {}", place + 1),
        }
    }

    /// What tells each task from others; nothing where that cannot be seen.
    pub fn identities(&self) -> HashSet<String> {
        let setting = self.environment.as_ref().map(|plays| &plays.setting);
        self.tasks.iter().filter_map(|task| task.identity(setting)).collect()
    }

    /// An action as a person looks at it: in the maze the way, drawn into the grid.
    pub fn drawn(&self, task: usize, action: &str) -> Result<Option<String>> {
        let (Some(plays), Some((index, _))) = (&self.environment, self.tasks[task].episode) else {
            return Ok(None);
        };
        let EnvironmentSetting::Maze(config) = &plays.setting else {
            return Ok(None);
        };
        // Of several turns each may have moves that were too many
        if config.moves_per_turn.is_some() {
            return Ok(None);
        }
        let mut maze = Maze::new(config.clone())?;
        maze.reset(plays.seed, index)?;
        Ok(Some(maze.grid().drawn(action)))
    }

    /// A digest of all that is asked, with the columns.
    pub fn digest(&self) -> Result<String> {
        let mut rows = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            let columns = serde_json::to_string(&task.columns)
                .map_err(|e| PipelineError::setting("judge.prompts", e.to_string()))?;
            rows.push(toml::Value::String(task.shown.clone()));
            rows.push(toml::Value::String(columns));
        }
        Ok(digest(&toml::Table::from_iter([("tasks".to_owned(), rows.into())])))
    }
}

/// A prompt as a person reads it.
fn text_of(input: &PromptInput) -> String {
    match input {
        PromptInput::Text(text) => text.clone(),
        PromptInput::Messages(messages) => match messages.as_slice() {
            [only] => only.content.clone(),
            all => all
                .iter()
                .map(|m| format!("{}: {}", m.role, m.content))
                .collect::<Vec<_>>()
                .join("\n\n"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn maze() -> JudgeSection {
        toml::from_str("episodes = 6\nenvironment = { kind = \"maze\", size = 4 }").unwrap()
    }

    #[test]
    fn episodes_are_asked_as_they_are_played() -> Result<()> {
        let judge = maze();
        let tasks = Tasks::judged(&judge, Path::new(""))?;
        assert_eq!(tasks.tasks.len(), 6);
        let mut other = judge.environment.clone().unwrap().build()?;
        for (index, task) in tasks.tasks.iter().enumerate() {
            other.reset(1_000_003, index as u64)?;
            assert_eq!(task.shown, opening(&other.rules(), &other.observe()));
            assert_eq!(task.optimum(), other.optimum());
            other.step("up left down")?;
            assert!(tasks.drawn(index, "up left down")?.unwrap().contains('@'));
        }
        // Practice has other episodes, those of its seed
        let practice = Tasks::practice(&judge, &[], Path::new(""), (1, 6), &HashSet::new())?;
        let shown = |tasks: &Tasks| -> Vec<String> { tasks.tasks.iter().map(|t| t.shown.clone()).collect() };
        assert_ne!(shown(&practice), shown(&tasks));
        assert_ne!(practice.digest()?, tasks.digest()?);
        assert_eq!(tasks.digest()?, Tasks::judged(&judge, Path::new(""))?.digest()?);
        Ok(())
    }

    #[test]
    fn prompts_keep_their_columns_and_practice_their_seeds_order() -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let rows: String = (0..9)
            .map(|i| format!("{{\"prompt\":\"p{i}\",\"answer\":{i}}}\n"))
            .collect();
        std::fs::write(dir.path().join("p.jsonl"), rows).unwrap();
        let judge: JudgeSection = toml::from_str("prompts = [\"p.jsonl\"]\nreward = \"r\"").unwrap();
        let all = Tasks::judged(&judge, dir.path())?;
        assert_eq!((all.tasks.len(), &all.tasks[4].columns["answer"]), (9, &4.into()));
        let held = HashSet::from([identity(&PromptInput::Text(" p3".into()))]);
        let practice = |seed| -> Result<Vec<String>> {
            let tasks = Tasks::practice(&judge, &judge.prompts, dir.path(), (seed, 4), &HashSet::new())?.tasks;
            Ok(tasks.into_iter().map(|task| task.shown).collect())
        };
        let rest = Tasks::practice(&judge, &judge.prompts, dir.path(), (1, 9), &held)?.tasks;
        assert_eq!(rest.len(), 8);
        assert!(rest.iter().all(|task| task.shown != "p3"));
        assert_eq!(practice(1)?.len(), 4);
        assert_eq!(practice(1)?, practice(1)?);
        assert!((2..6).any(|seed| practice(seed).unwrap() != practice(1).unwrap()));
        Ok(())
    }
    /// Mazes of four cells and one coin are few: without being held out the judged ones would be practised on.
    #[test]
    fn held_out_episodes_are_not_practised_on() -> Result<()> {
        let judge: JudgeSection = toml::from_str("episodes = 4\nenvironment = { kind = \"maze\", size = 2 }").unwrap();
        let judged = Tasks::judged(&judge, Path::new(""))?;
        let held = judged.identities();
        let shared = |held: &HashSet<String>| -> Result<usize> {
            let practice = Tasks::practice(&judge, &[], Path::new(""), (1, 40), held)?;
            assert_eq!(practice.tasks.len(), 40);
            Ok(practice.identities().intersection(&judged.identities()).count())
        };
        assert!(shared(&HashSet::new())? > 0);
        assert_eq!(shared(&held)?, 0);
        // What a word game hides cannot be told from what it shows
        let game: JudgeSection = toml::from_str("episodes = 3\nenvironment = { kind = \"word-game\" }").unwrap();
        assert!(Tasks::judged(&game, Path::new(""))?.identities().is_empty());
        Ok(())
    }

    #[test]
    fn the_labelers_question_is_read_from_a_row() {
        let task = |columns: Value| Task {
            asked: Asked::Prompt(PromptInput::Text("Q?".into())),
            shown: "Q?".into(),
            columns: columns.as_object().cloned().unwrap_or_default(),
            episode: None,
        };
        let question = task(json!({ "answer": "seven", "kind": "sum", "group": "familiar" })).question();
        assert_eq!(question.map(|q| (q.text, q.answer)), Ok(("Q?".into(), "seven".into())));
        assert!(task(json!({ "kind": "sum" })).question().is_err());
    }
}
