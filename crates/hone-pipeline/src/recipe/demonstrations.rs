//! The stage `demonstrations`: episodes of a player that is no model, as texts or conversations for a model to begin with.

use std::path::Path;

use hone_math::Key;
use hone_run::{Configuration, Error as RunError, Resolved, publish_dir};
use hone_task::EnvironmentSetting;
use hone_task::environment::{Demonstration, Player, demonstrate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{PipelineError, Result};
use crate::files::{read_json, write_json, write_lines};

/// The file of rows in the stage's folder.
const ROWS: &str = "demonstrations.jsonl";
/// What the stage came to.
const RECORD: &str = "demonstrations.run.json";

/// Settings of demonstrations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DemonstrationsConfig {
    /// What is played.
    pub environment: EnvironmentSetting,
    /// Who plays.
    #[serde(default)]
    pub player: Player,
    /// Of a wanderer: with at least this probability it does what leads on.
    #[serde(default = "half")]
    pub lowest_skill: f64,
    /// And with at most this. Each row has one player, whose skill is drawn between the two.
    #[serde(default = "half")]
    pub highest_skill: f64,
    /// Episodes in all.
    pub episodes: u64,
    /// A row has one to so many episodes, by chance.
    #[serde(default = "one")]
    pub most_per_row: u64,
    /// The environment's seed, from which the player's draws follow, too.
    #[serde(default = "one")]
    pub seed: u64,
    /// What a row is.
    #[serde(default)]
    pub form: Form,
}

/// What a row is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// The user shows rules and observation, the assistant acts.
    #[default]
    Conversations,
    /// All of it as one text, to pre-train on.
    Text,
    /// Rules and actions without what was observed: a text to train a tokenizer on that leaves the signs of observations apart.
    Words,
}

fn half() -> f64 {
    0.5
}

fn one() -> u64 {
    1
}

impl Configuration for DemonstrationsConfig {}

impl DemonstrationsConfig {
    /// Refuses what cannot be played.
    pub(super) fn check(&self) -> Result<()> {
        self.environment.build()?;
        for (key, value) in [("episodes", self.episodes), ("most_per_row", self.most_per_row)] {
            if value == 0 {
                return Err(PipelineError::setting(key, "is 0; expected at least 1"));
            }
        }
        if !(0.0..=self.highest_skill).contains(&self.lowest_skill) || self.highest_skill > 1.0 {
            let reason = format!(
                "is {}, and highest_skill is {}; expected 0 <= lowest_skill <= highest_skill <= 1",
                self.lowest_skill, self.highest_skill
            );
            return Err(PipelineError::setting("lowest_skill", reason));
        }
        Ok(())
    }
}

/// What a policy with a chat template is first told of an episode.
pub(crate) fn opening(rules: &str, observation: &str) -> String {
    format!("{rules}\n\n{observation}")
}

/// The text with a line's end.
pub(crate) fn line(text: &str) -> String {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}")
}

/// Writes the rows, unless they are there; gives the summary.
pub(super) fn run(resolved: &Resolved<DemonstrationsConfig>, dir: &Path) -> Result<Value> {
    let record = dir.join(RECORD);
    if dir.exists() {
        let before = read_json(&record)?;
        if before["digest"] != resolved.digest() {
            return Err(RunError::ConfigChanged {
                dir: dir.to_path_buf(),
                keys: vec!["config".into()],
            }
            .into());
        }
        return Ok(before);
    }
    let c = &resolved.config;
    c.check()?;
    let mut rows = Vec::new();
    let (mut reward, mut optimum, mut played) = (0.0, 0.0, 0);
    while played < c.episodes {
        let row = row_of(c, rows.len() as u64, played)?;
        played += row.len() as u64;
        reward += row.iter().map(|d| d.episode.total_reward()).sum::<f64>();
        optimum += row.iter().filter_map(|d| d.optimum).sum::<f64>();
        rows.push(written(&row, c.form));
    }
    let summary = json!({
        "rows": rows.len(),
        "episodes": played,
        "reward_mean": reward / played as f64,
        "share_of_optimum": (optimum > 0.0).then(|| reward / optimum),
        "digest": resolved.digest(),
    });
    publish_dir(dir, &mut |dir| {
        write_lines(&dir.join(ROWS), &rows).map_err(RunError::caller)?;
        write_json(&dir.join(RECORD), &summary).map_err(RunError::caller)
    })?;
    Ok(summary)
}

/// The episodes of a row, the first of which is the `first` of all.
fn row_of(c: &DemonstrationsConfig, row: u64, first: u64) -> Result<Vec<Demonstration>> {
    let key = Key::new(c.seed, "demonstrations", row);
    let count = (1 + key.below(0, c.most_per_row)).min(c.episodes - first);
    let skill = c.lowest_skill + (c.highest_skill - c.lowest_skill) * key.uniform(1);
    (0..count)
        .map(|i| {
            let start = (c.seed, first + i);
            Ok(demonstrate(&c.environment, (c.player, skill), start, key.child(i))?)
        })
        .collect()
}

/// The row as JSON: one dialogue, whose first turn tells the rules.
fn written(episodes: &[Demonstration], form: Form) -> Value {
    let turns = || episodes.iter().flat_map(|demonstration| &demonstration.episode.turns);
    let rules = episodes.first().map_or("", |demonstration| &demonstration.rules);
    let mut text = line(rules);
    match form {
        Form::Conversations => {
            let mut messages = Vec::new();
            for (i, turn) in turns().enumerate() {
                let shown = match i {
                    0 => opening(rules, &turn.observation),
                    _ => turn.observation.clone(),
                };
                messages.push(json!({ "role": "user", "content": shown }));
                messages.push(json!({ "role": "assistant", "content": turn.action }));
            }
            return json!({ "messages": messages });
        }
        Form::Text => turns().for_each(|turn| text += &(line(&turn.observation) + &line(&turn.action))),
        Form::Words => turns().for_each(|turn| text += &line(&turn.action)),
    }
    json!({ "text": text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_run::config::parse;

    fn config(more: &str) -> Result<Resolved<DemonstrationsConfig>> {
        let text = format!("environment = {{ kind = \"maze\", size = 4 }}\nepisodes = 40\n{more}");
        Ok(parse("config", &text, &[])?)
    }

    fn rows(more: &str) -> Result<(Value, Vec<Value>)> {
        let dir = tempfile::tempdir().map_err(|e| PipelineError::file(Path::new("."), e.to_string()))?;
        let folder = dir.path().join("d");
        let summary = run(&config(more)?, &folder)?;
        assert_eq!(run(&config(more)?, &folder)?, summary, "done before");
        let other = run(&config(&format!("{more}\nseed = 9"))?, &folder);
        assert!(other.is_err(), "another configuration");
        Ok((summary, crate::files::read_lines(&folder.join(ROWS))?))
    }

    #[test]
    fn a_conversation_shows_what_a_player_sees_and_how_it_answers() -> Result<()> {
        let (summary, rows) = rows("player = \"solver\"")?;
        assert_eq!((rows.len(), &summary["share_of_optimum"]), (40, &json!(1.0)));
        let Value::Array(messages) = &rows[3]["messages"] else {
            panic!("{}", rows[3]);
        };
        assert_eq!(messages.len(), 2);
        let mut maze = config("")?.config.environment.build()?;
        maze.reset(1, 3)?;
        assert_eq!(messages[0]["content"], opening(&maze.rules(), &maze.observe()));
        maze.step(messages[1]["content"].as_str().unwrap_or_default())?;
        assert_eq!(Some(maze.reward()), maze.optimum());
        Ok(())
    }

    #[test]
    fn rows_hold_as_many_episodes_as_they_may_and_no_episode_twice() -> Result<()> {
        let (summary, rows) = rows("most_per_row = 3\nlowest_skill = 0.2\nhighest_skill = 0.9")?;
        let mut seen = std::collections::HashSet::new();
        let mut counts = [0; 4];
        for row in &rows {
            let messages = row["messages"].as_array().cloned().unwrap_or_default();
            counts[messages.len() / 2] += 1;
            for shown in messages.iter().step_by(2) {
                assert!(seen.insert(shown["content"].to_string()));
            }
        }
        assert_eq!((seen.len(), summary["episodes"].as_u64()), (40, Some(40)));
        assert!(counts[0] == 0 && counts[1..].iter().all(|&n| n > 0), "{counts:?}");
        Ok(())
    }

    #[test]
    fn texts_have_observations_and_words_have_none() -> Result<()> {
        let (_, text) = rows("form = \"text\"\nmost_per_row = 2")?;
        let (_, words) = rows("form = \"words\"\nmost_per_row = 2")?;
        assert_eq!(text.len(), words.len());
        let of = |row: &Value| row["text"].as_str().unwrap_or_default().to_owned();
        for (text, words) in text.iter().zip(&words) {
            assert!(of(text).contains("moves left\n") && !of(words).contains("moves left"));
            // Without the lines of observations the one is the other
            let kept = of(text);
            let kept: Vec<&str> = kept
                .lines()
                .filter(|line| !line.ends_with("moves left") && line.contains(|c: char| c.is_alphabetic() && c != 'o'))
                .collect();
            assert_eq!(kept.join("\n") + "\n", of(words));
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_played_is_refused_by_key() {
        for (more, message) in [
            ("lowest_skill = 0.8", "lowest_skill: is 0.8, and highest_skill is 0.5"),
            (
                "highest_skill = 1.5",
                "expected 0 <= lowest_skill <= highest_skill <= 1",
            ),
            ("most_per_row = 0", "most_per_row: is 0; expected at least 1"),
            ("player = \"chess\"", "player"),
        ] {
            match rows(more) {
                Ok(_) => panic!("{more}"),
                Err(error) => assert!(error.to_string().contains(message), "{error}"),
            }
        }
    }
}
