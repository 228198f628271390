//! What is answered: prompts with their columns, or episodes of an environment.

use std::path::Path;

use hone_data::{Prompt, PromptInput, Source, load_prompts};
use hone_math::Key;
use hone_run::config::digest;
use hone_task::environment::{EnvironmentSetting, Maze};
use hone_task::{Environment, PromptRow};

use super::config::JudgeSection;
use crate::error::{PipelineError, Result};
use crate::recipe::opening;

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Asked {
    /// A prompt of a file.
    Prompt(PromptInput),
    /// The first observation of an episode.
    Episode { rules: String, observation: String },
}

/// Something to answer.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub asked: Asked,
    /// The prompt as a person reads it, with the columns that verifiers read.
    pub row: PromptRow,
    /// Of an episode: its index and, where it is known, the most that can be earned.
    pub episode: Option<(u64, Option<f64>)>,
}

impl Task {
    /// The prompt for a reward model.
    pub fn input(&self) -> PromptInput {
        match &self.asked {
            Asked::Prompt(input) => input.clone(),
            Asked::Episode { .. } => PromptInput::Text(self.row.prompt.clone()),
        }
    }

    /// The most that can be earned, where that is known.
    pub fn optimum(&self) -> Option<f64> {
        self.episode.and_then(|(_, optimum)| optimum)
    }
}

/// All of them.
pub(super) struct Tasks {
    pub tasks: Vec<Task>,
    /// Of episodes: the environment and its seed.
    environment: Option<(EnvironmentSetting, u64)>,
}

impl Tasks {
    /// What the judge asks.
    pub fn judged(judge: &JudgeSection, base: &Path) -> Result<Self> {
        match &judge.environment {
            Some(environment) => Self::episodes(environment, judge.episode_seed(), judge.episode_count()),
            None => Self::prompts(&judge.prompts, base),
        }
    }

    /// What may be practised on: other episodes, or other prompts in an order of the seed's own. At most `count`.
    pub fn practice(
        judge: &JudgeSection,
        sources: &[Source],
        base: &Path,
        (seed, count): (u64, usize),
    ) -> Result<Self> {
        if let Some(environment) = &judge.environment {
            return Self::episodes(environment, seed, count as u64);
        }
        let mut all = Self::prompts(sources, base)?;
        let order = Key::new(seed, "compare/practice", 0).permutation(all.tasks.len());
        all.tasks = order.into_iter().take(count).map(|i| all.tasks[i].clone()).collect();
        Ok(all)
    }

    /// The first `count` episodes of a seed.
    fn episodes(environment: &EnvironmentSetting, seed: u64, count: u64) -> Result<Self> {
        let mut running = environment.build()?;
        let mut tasks = Vec::new();
        for index in 0..count {
            running.reset(seed, index)?;
            let (rules, observation) = (running.rules(), running.observe());
            tasks.push(Task {
                row: PromptRow::new(opening(&rules, &observation)),
                asked: Asked::Episode { rules, observation },
                episode: Some((index, running.optimum())),
            });
        }
        Ok(Self {
            tasks,
            environment: Some((environment.clone(), seed)),
        })
    }

    fn prompts(sources: &[Source], base: &Path) -> Result<Self> {
        let mut tasks = Vec::new();
        for source in sources {
            for prompt in load_prompts(&source.clone().resolved_in(base))?.items {
                let Prompt { input, extra } = prompt;
                tasks.push(Task {
                    row: PromptRow {
                        prompt: text_of(&input),
                        columns: extra,
                    },
                    asked: Asked::Prompt(input),
                    episode: None,
                });
            }
        }
        Ok(Self {
            tasks,
            environment: None,
        })
    }

    /// What an action of an episode earns, in the one turn that it has.
    pub fn played(&self, task: usize, action: &str) -> Result<Option<f64>> {
        let (Some((setting, seed)), Some((index, _))) = (&self.environment, self.tasks[task].episode) else {
            return Ok(None);
        };
        let mut environment = setting.build()?;
        environment.reset(*seed, index)?;
        environment.step(action)?;
        Ok(Some(environment.reward()))
    }

    /// An action as a person looks at it: in the maze the way, drawn into the grid.
    pub fn drawn(&self, task: usize, action: &str) -> Result<Option<String>> {
        let (Some((EnvironmentSetting::Maze(config), seed)), Some((index, _))) =
            (&self.environment, self.tasks[task].episode)
        else {
            return Ok(None);
        };
        let mut maze = Maze::new(config.clone())?;
        maze.reset(*seed, index)?;
        Ok(Some(maze.grid().drawn(action)))
    }

    /// A digest of all that is asked, with the columns.
    pub fn digest(&self) -> Result<String> {
        let mut rows = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            let columns = serde_json::to_string(&task.row.columns)
                .map_err(|e| PipelineError::setting("judge.prompts", e.to_string()))?;
            rows.push(toml::Value::String(task.row.prompt.clone()));
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
            assert_eq!(task.row.prompt, opening(&other.rules(), &other.observe()));
            assert_eq!(task.optimum(), other.optimum());
            other.step("up left down")?;
            assert_eq!(tasks.played(index, "up left down")?, Some(other.reward()));
            assert!(tasks.drawn(index, "up left down")?.unwrap().contains('@'));
        }
        // Practice has other episodes, those of its seed
        let practice = Tasks::practice(&judge, &[], Path::new(""), (1, 6))?;
        let shown = |tasks: &Tasks| -> Vec<String> { tasks.tasks.iter().map(|t| t.row.prompt.clone()).collect() };
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
        assert_eq!((all.tasks.len(), &all.tasks[4].row.columns["answer"]), (9, &4.into()));
        assert_eq!(all.played(4, "4")?, None);
        let practice = |seed| -> Result<Vec<String>> {
            let tasks = Tasks::practice(&judge, &judge.prompts, dir.path(), (seed, 4))?.tasks;
            Ok(tasks.into_iter().map(|task| task.row.prompt).collect())
        };
        assert_eq!(practice(1)?.len(), 4);
        assert_eq!(practice(1)?, practice(1)?);
        assert!((2..6).any(|seed| practice(seed).unwrap() != practice(1).unwrap()));
        Ok(())
    }
}
