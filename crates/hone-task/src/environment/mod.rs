//! Tasks of several turns in text.
//!
//! An episode is a function of its start and of the actions taken since: nothing else is state. So a saved episode is its start with its
//! actions ([`Saved`]), and restoring one is playing it again.

mod episode;
pub mod maze;
mod players;
pub mod words;

pub use episode::{Episode, SingleTurn, Turn, run_episode};
pub use maze::{Maze, MazeConfig};
pub use players::{Demonstration, Player, demonstrate};
pub use words::{WordGame, WordGameConfig};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Where an episode stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It goes on.
    Running,
    /// It came to its end by the environment's rules.
    Ended,
    /// It was cut off by a limit on turns.
    CutOff,
}

/// An episode as it is kept in a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// What [`Environment::reset`] was given.
    pub seed: u64,
    /// What [`Environment::reset`] was given.
    pub index: u64,
    /// All actions since, as they were given.
    pub actions: Vec<String>,
}

/// A task that shows an observation, takes an action, gives a reward, in turn until its end.
///
/// An episode is `reset`, then `observe`, `step`, `reward` in turn until [`Environment::status`] is no longer [`Status::Running`].
/// Everything random in it is a function of (seed, index), so that the same start and actions give the same episode, whatever ran before.
pub trait Environment: Send {
    /// Its name in metrics and messages.
    fn name(&self) -> &'static str;

    /// The rules, in words that a model can be told once, before the first observation.
    fn rules(&self) -> String;

    /// Begins episode `index` of `seed`, whatever became of the last one.
    ///
    /// # Errors
    /// An episode that cannot be set up.
    fn reset(&mut self, seed: u64, index: u64) -> Result<(), Error>;

    /// What the policy is shown now. Calling it changes nothing.
    fn observe(&self) -> String;

    /// Takes an action, which is whatever the policy wrote. An action that the rules do not know is part of the episode (it may cost, or do
    /// nothing) and not an error.
    ///
    /// # Errors
    /// [`Error::NotRunning`] where no episode is running.
    fn step(&mut self, action: &str) -> Result<Status, Error>;

    /// What the last step earned; 0 before the first.
    fn reward(&self) -> f64;

    /// Where the episode stands. Before the first reset it is [`Status::Ended`].
    fn status(&self) -> Status;

    /// The most that an episode with this start can earn in sum, where that is known exactly.
    fn optimum(&self) -> Option<f64>;

    /// The episode so far.
    fn save(&self) -> Saved;

    /// Takes up a saved episode.
    ///
    /// # Errors
    /// [`Error::State`] where the episode ends before its last action, so that it was another environment's; what `reset` refuses.
    fn restore(&mut self, saved: &Saved) -> Result<(), Error> {
        self.reset(saved.seed, saved.index)?;
        for (done, action) in saved.actions.iter().enumerate() {
            if self.status() != Status::Running {
                return Err(Error::State {
                    environment: self.name(),
                    what: format!(
                        "it has {} actions, but the episode ends after {done}; was it saved with other settings?",
                        saved.actions.len()
                    ),
                });
            }
            self.step(action)?;
        }
        Ok(())
    }
}

/// `[environment]` of a configuration: one of those built in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum EnvironmentSetting {
    /// Gold coins in a maze.
    Maze(MazeConfig),
    /// Guessing a word in several turns.
    WordGame(WordGameConfig),
}

impl EnvironmentSetting {
    /// The environment's name, as its own [`Environment::name`].
    pub fn name(&self) -> &'static str {
        match self {
            Self::Maze(_) => "maze",
            Self::WordGame(_) => "word-game",
        }
    }

    /// The environment.
    ///
    /// # Errors
    /// Settings that make no sense, with the key.
    pub fn build(&self) -> Result<Box<dyn Environment>, Error> {
        Ok(match self {
            Self::Maze(config) => Box::new(Maze::new(config.clone())?),
            Self::WordGame(config) => Box::new(WordGame::new(config.clone())?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    fn setting(text: &str) -> Result<EnvironmentSetting, toml::de::Error> {
        toml::from_str(text)
    }

    const BOTH: [&str; 2] = [
        "kind = 'maze'\nsize = 5\nmoves_per_turn = 2",
        "kind = 'word-game'\nhints = 'alphabet'",
    ];

    #[test]
    fn settings_are_read_and_wrong_ones_refused_by_key() {
        for text in BOTH {
            let read = setting(text).unwrap();
            let again: EnvironmentSetting = toml::from_str(&toml::to_string(&read).unwrap()).unwrap();
            assert_eq!(read, again);
            read.build().unwrap();
        }
        assert!(
            setting("kind = 'chess'")
                .unwrap_err()
                .to_string()
                .contains("unknown variant `chess`")
        );
        assert!(
            setting("kind = 'maze'\nsizes = 5")
                .unwrap_err()
                .to_string()
                .contains("unknown field `sizes`")
        );
        let error = setting("kind = 'maze'\nsize = 1").unwrap().build().err().unwrap();
        assert_eq!(error.to_string(), "environment maze: `size` is 1; expected 2 to 20");
        assert!(error.is_configuration());
    }

    /// Something between sense and nonsense.
    fn action(key: Key, turn: u64) -> String {
        let words = [
            "up",
            "down left",
            "right",
            "crane",
            "slate",
            "I say house.",
            "",
            "up up up",
        ];
        words[key.below(turn, words.len() as u64) as usize].to_owned()
    }

    #[test]
    fn a_saved_episode_goes_on_as_if_it_had_never_stopped() {
        for text in BOTH {
            let (mut whole, mut other) = (
                setting(text).unwrap().build().unwrap(),
                setting(text).unwrap().build().unwrap(),
            );
            assert_eq!(whole.status(), Status::Ended);
            assert!(matches!(whole.step("up"), Err(Error::NotRunning { .. })));
            for index in 0..20 {
                let key = Key::new(5, "action", index);
                whole.reset(9, index).unwrap();
                let mut turn = 0;
                while whole.status() == Status::Running {
                    // Stopped here, and taken up by another process
                    let saved: Saved = serde_json::from_str(&serde_json::to_string(&whole.save()).unwrap()).unwrap();
                    assert_eq!(saved.actions.len() as u64, turn);
                    other.restore(&saved).unwrap();
                    assert_eq!((other.observe(), other.reward()), (whole.observe(), whole.reward()));
                    assert_eq!(other.status(), Status::Running);
                    whole.step(&action(key, turn)).unwrap();
                    turn += 1;
                }
                let mut saved = whole.save();
                other.restore(&saved).unwrap();
                assert_eq!(
                    (other.observe(), other.reward(), other.status()),
                    (whole.observe(), whole.reward(), Status::Ended)
                );
                saved.actions.push("up".to_owned());
                let message = other.restore(&saved).unwrap_err().to_string();
                assert!(
                    message.contains(&format!(
                        "it has {} actions, but the episode ends after {turn}",
                        turn + 1
                    )),
                    "{message}"
                );
            }
        }
    }
}
