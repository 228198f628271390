//! Episodes by players that are no models: demonstrations that a model can begin with.
//!
//! A player of some skill does what leads on with that probability and otherwise anything at all, so that what a model learns from it is
//! neither useless nor as good as it can be: reinforcement has something to begin with and something to gain.

use hone_math::Key;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::maze::{solver, wanderer};
use super::{Environment, EnvironmentSetting, Episode, Maze, Status, Turn, WordGame};
use crate::{BadSetting, Error};

/// Who plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Player {
    /// Plays as well as can be: in the maze a way with the most coins, in the word game a word that fits all hints.
    Solver,
    /// With the probability of its skill a step on a shortest way to a coin, or a word that fits all hints; otherwise any direction, any
    /// word.
    #[default]
    Wanderer,
    /// Any direction, any word.
    Random,
}

impl Player {
    /// How often it does what leads on.
    fn skill(self, given: f64) -> f64 {
        match self {
            Self::Solver => 1.0,
            Self::Wanderer => given,
            Self::Random => 0.0,
        }
    }
}

/// An episode that was played.
#[derive(Clone, Debug, PartialEq)]
pub struct Demonstration {
    /// The environment's rules.
    pub rules: String,
    /// What was shown and done.
    pub episode: Episode,
    /// The most that could be earned, where that is known.
    pub optimum: Option<f64>,
}

/// Has a player play episode `index` of `seed`. `skill` is the probability with which a [`Player::Wanderer`] does what leads on; what it
/// draws follows from `key`.
///
/// # Errors
/// Settings of the environment that make no sense; a skill that is no probability.
pub fn demonstrate(
    setting: &EnvironmentSetting,
    (player, skill): (Player, f64),
    (seed, index): (u64, u64),
    key: Key,
) -> Result<Demonstration, Error> {
    if !(0.0..=1.0).contains(&skill) {
        return Err(Error::Environment {
            environment: setting.name(),
            source: BadSetting::new("skill", skill, "a probability, 0 to 1"),
        });
    }
    let skill = player.skill(skill);
    match setting {
        EnvironmentSetting::Maze(config) => {
            let most = config.moves_per_turn.unwrap_or(usize::MAX);
            let act = |maze: &Maze, key| match player {
                Player::Solver => solver(maze.grid(), most, key),
                _ => wanderer(maze.grid(), most, skill, key),
            };
            play(Maze::new(config.clone())?, (seed, index), key, act)
        }
        EnvironmentSetting::WordGame(config) => {
            let act = |game: &WordGame, key: Key| {
                let fitting = game.possible();
                let draw = |count: usize| key.below(1, count as u64) as usize;
                if key.uniform(0) < skill {
                    fitting[draw(fitting.len())].to_owned()
                } else {
                    game.words()[draw(game.words().len())].clone()
                }
            };
            play(WordGame::new(config.clone())?, (seed, index), key, act)
        }
    }
}

/// Plays to the end; `act` is given the environment and the turn's own key.
fn play<E: Environment>(
    mut environment: E,
    (seed, index): (u64, u64),
    key: Key,
    act: impl Fn(&E, Key) -> String,
) -> Result<Demonstration, Error> {
    environment.reset(seed, index)?;
    let mut turns = Vec::new();
    while environment.status() == Status::Running {
        let observation = environment.observe();
        let action = act(&environment, key.child(turns.len() as u64));
        environment.step(&action)?;
        turns.push(Turn {
            observation,
            action,
            reward: environment.reward(),
        });
    }
    Ok(Demonstration {
        rules: environment.rules(),
        episode: Episode {
            turns,
            status: environment.status(),
        },
        optimum: environment.optimum(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(text: &str) -> EnvironmentSetting {
        toml::from_str(text).unwrap()
    }

    fn played(setting: &EnvironmentSetting, player: (Player, f64), index: u64) -> Demonstration {
        demonstrate(setting, player, (4, index), Key::new(1, "players", index)).unwrap()
    }

    /// Mean reward over episodes.
    fn mean(setting: &EnvironmentSetting, player: (Player, f64)) -> f64 {
        let total: f64 = (0..60).map(|i| played(setting, player, i).episode.total_reward()).sum();
        total / 60.0
    }

    const SETTINGS: [&str; 4] = [
        "kind = 'maze'\nsize = 4",
        "kind = 'maze'\nsize = 5\ndifficulty = 'hard'\nmoves_per_turn = 2",
        "kind = 'word-game'",
        "kind = 'word-game'\nhints = 'alphabet'\nturns = 9",
    ];

    #[test]
    fn skill_pays_and_no_player_beats_the_optimum() {
        for text in SETTINGS {
            let setting = setting(text);
            let means = [
                (Player::Random, 1.0),
                (Player::Wanderer, 0.5),
                (Player::Wanderer, 1.0),
                (Player::Solver, 0.0),
            ]
            .map(|player| mean(&setting, player));
            assert!(means[0] < means[1] && means[1] < means[2], "{text}: {means:?}");
            assert!(means[2] <= means[3] + 0.2, "{text}: {means:?}");
            for index in 0..60 {
                let best = played(&setting, (Player::Solver, 0.0), index);
                if text.contains("maze") {
                    assert_eq!(Some(best.episode.total_reward()), best.optimum, "{text} {index}");
                }
                let wanderer = played(&setting, (Player::Wanderer, 0.8), index);
                assert!(
                    wanderer.episode.total_reward() <= wanderer.optimum.unwrap(),
                    "{text} {index}"
                );
                assert_eq!(wanderer.episode.turns[0].observation, best.episode.turns[0].observation);
            }
        }
    }

    #[test]
    fn an_episode_is_a_function_of_its_start_and_key() {
        for text in SETTINGS {
            let setting = setting(text);
            let player = (Player::Wanderer, 0.6);
            assert_eq!(played(&setting, player, 3), played(&setting, player, 3));
            let same = |i: &u64| {
                let other = demonstrate(&setting, player, (4, *i), Key::new(2, "players", *i)).unwrap();
                other == played(&setting, player, *i)
            };
            assert!(!(0..20).all(|i| same(&i)), "{text}: the key says nothing");
        }
    }

    #[test]
    fn a_way_keeps_to_its_moves_and_is_never_empty() {
        let setting = setting("kind = 'maze'\nsize = 4\nmoves = 3\nmoves_per_turn = 2");
        for index in 0..40 {
            for player in [(Player::Solver, 0.0), (Player::Wanderer, 0.7), (Player::Random, 0.0)] {
                let turns = played(&setting, player, index).episode.turns;
                let moves: Vec<usize> = turns.iter().map(|t| t.action.split_whitespace().count()).collect();
                assert!(moves.iter().all(|moves| (1..=2).contains(moves)), "{moves:?}");
                assert!(moves.iter().sum::<usize>() <= 3, "{moves:?}");
            }
        }
    }

    #[test]
    fn a_skill_that_is_no_probability_is_refused() {
        for skill in [-0.1, 1.5, f64::NAN] {
            let setting = setting("kind = 'maze'");
            let refused = demonstrate(&setting, (Player::Wanderer, skill), (1, 0), Key::new(1, "players", 0));
            let error = refused.unwrap_err();
            assert!(
                error.is_configuration() && error.to_string().contains("`skill` is"),
                "{error}"
            );
        }
    }
}
