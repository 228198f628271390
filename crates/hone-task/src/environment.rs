use crate::{Error, PromptRow, Verifier};
use hone_math::Key;

/// Where an episode stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It goes on.
    Running,
    /// It came to its end by the environment's rules.
    Ended,
    /// It was cut off by a limit on steps.
    CutOff,
}

/// A task of several turns, in text: it shows an observation, takes an action, gives a reward.
///
/// An episode is `reset`, then `observe`, `step`, `reward` in turn until [`Environment::status`] is no longer
/// [`Status::Running`]. Everything random in it is a function of the key given to `reset`, so that the same key and actions give the same
/// episode, whatever ran before.
pub trait Environment: Send {
    /// Its name in metrics and messages.
    fn name(&self) -> &'static str;

    /// Begins an episode, whatever became of the last one.
    ///
    /// # Errors
    /// An episode that cannot be set up.
    fn reset(&mut self, key: Key) -> Result<(), Error>;

    /// What the policy is shown now: the task at first, then what its last action led to. Calling it changes nothing.
    fn observe(&self) -> String;

    /// Takes an action, which is whatever the policy wrote. An action that the rules do not know is part of the episode (it may cost, or do
    /// nothing) and not an error.
    ///
    /// # Errors
    /// [`Error::NotRunning`] where no episode is running.
    fn step(&mut self, action: &str) -> Result<Status, Error>;

    /// What the last step earned; 0 before the first.
    fn reward(&self) -> f32;

    /// Where the episode stands. Before the first reset it is [`Status::Ended`].
    fn status(&self) -> Status;
}

/// One turn of an episode.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// What the policy was shown.
    pub observation: String,
    /// What it wrote.
    pub action: String,
    /// What that earned.
    pub reward: f32,
}

/// An episode from its start.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// Its turns.
    pub turns: Vec<Turn>,
    /// How it stopped.
    pub status: Status,
}

impl Episode {
    /// The sum of its rewards.
    pub fn total_reward(&self) -> f64 {
        self.turns.iter().map(|turn| f64::from(turn.reward)).sum()
    }
}

/// Runs one episode of at most `max_turns` turns. The policy sees the turns so far and the observation, and writes the action.
///
/// # Errors
/// What the environment or the policy refuses; a reward that is not finite.
pub fn run_episode(
    environment: &mut dyn Environment,
    key: Key,
    max_turns: usize,
    mut policy: impl FnMut(&[Turn], &str) -> Result<String, Error>,
) -> Result<Episode, Error> {
    environment.reset(key)?;
    let mut turns = Vec::new();
    while environment.status() == Status::Running && turns.len() < max_turns {
        let observation = environment.observe();
        let action = policy(&turns, &observation)?;
        environment.step(&action)?;
        let reward = environment.reward();
        if !reward.is_finite() {
            let reward_of = environment.name().to_owned();
            return Err(Error::BadScore {
                reward: reward_of,
                index: turns.len(),
                got: reward,
                expected: "a finite number",
            });
        }
        turns.push(Turn {
            observation,
            action,
            reward,
        });
    }
    let status = if environment.status() == Status::Running {
        Status::CutOff
    } else {
        environment.status()
    };
    Ok(Episode { turns, status })
}

/// A question, one response, a verifier's score: the environment of a single turn. The key picks the row.
pub struct SingleTurn<V> {
    rows: Vec<PromptRow>,
    verifier: V,
    row: usize,
    reward: f32,
    status: Status,
}

impl<V: Verifier> SingleTurn<V> {
    /// An environment over these rows.
    ///
    /// # Errors
    /// No row.
    pub fn new(rows: Vec<PromptRow>, verifier: V) -> Result<Self, Error> {
        if rows.is_empty() {
            return Err(Error::Setting {
                of: "environment single_turn",
                name: "rows",
                got: "empty".to_owned(),
                expected: "one row or more",
            });
        }
        Ok(Self {
            rows,
            verifier,
            row: 0,
            reward: 0.0,
            status: Status::Ended,
        })
    }
}

impl<V: Verifier> Environment for SingleTurn<V> {
    fn name(&self) -> &'static str {
        "single_turn"
    }

    fn reset(&mut self, key: Key) -> Result<(), Error> {
        self.row = key.below(0, self.rows.len() as u64) as usize;
        self.reward = 0.0;
        self.status = Status::Running;
        Ok(())
    }

    fn observe(&self) -> String {
        self.rows[self.row].prompt.clone()
    }

    fn step(&mut self, action: &str) -> Result<Status, Error> {
        if self.status != Status::Running {
            return Err(Error::NotRunning {
                environment: self.name(),
            });
        }
        self.reward = self.verifier.verify(&self.rows[self.row], action)?.score;
        self.status = Status::Ended;
        Ok(self.status)
    }

    fn reward(&self) -> f32 {
        self.reward
    }

    fn status(&self) -> Status {
        self.status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verifier::NumericAnswer;

    /// Guess a number below 10; each guess is answered with "higher" or "lower" and costs a tenth.
    struct Guess {
        secret: u64,
        hint: &'static str,
        reward: f32,
        status: Status,
    }

    impl Environment for Guess {
        fn name(&self) -> &'static str {
            "guess"
        }

        fn reset(&mut self, key: Key) -> Result<(), Error> {
            *self = Self {
                secret: key.below(0, 10),
                hint: "guess",
                reward: 0.0,
                status: Status::Running,
            };
            Ok(())
        }

        fn observe(&self) -> String {
            self.hint.to_owned()
        }

        fn step(&mut self, action: &str) -> Result<Status, Error> {
            if self.status != Status::Running {
                return Err(Error::NotRunning {
                    environment: self.name(),
                });
            }
            self.reward = -0.125;
            match action.parse::<u64>() {
                Ok(guess) if guess == self.secret => (self.reward, self.status) = (1.0, Status::Ended),
                Ok(guess) => self.hint = if guess < self.secret { "higher" } else { "lower" },
                Err(_) => self.hint = "a number, please",
            }
            Ok(self.status)
        }

        fn reward(&self) -> f32 {
            self.reward
        }

        fn status(&self) -> Status {
            self.status
        }
    }

    fn fresh() -> Guess {
        Guess {
            secret: 0,
            hint: "",
            reward: 0.0,
            status: Status::Ended,
        }
    }

    fn upwards(turns: &[Turn], _: &str) -> Result<String, Error> {
        Ok(turns.len().to_string())
    }

    #[test]
    fn an_episode_runs_to_its_end_and_is_a_function_of_its_key() {
        let key = Key::new(1, "episode", 0);
        let secret = key.below(0, 10) as usize;
        let episode = run_episode(&mut fresh(), key, 20, upwards).unwrap();
        assert_eq!(episode.turns.len(), secret + 1);
        assert_eq!(episode.status, Status::Ended);
        assert_eq!(episode.total_reward(), 1.0 - 0.125 * secret as f64);
        assert_eq!(episode.turns[0].observation, "guess");
        assert!(episode.turns[1..].iter().all(|turn| turn.observation == "higher"));
        // An environment that was left in the middle starts afresh
        let mut used = fresh();
        run_episode(&mut used, key, 1, |_, _| Ok("12".to_owned())).unwrap();
        assert_eq!(run_episode(&mut used, key, 20, upwards).unwrap(), episode);
    }

    #[test]
    fn a_limit_cuts_off_and_steps_outside_an_episode_are_refused() {
        let episode = run_episode(&mut fresh(), Key::new(1, "episode", 0), 3, |_, _| Ok("?".to_owned())).unwrap();
        assert_eq!((episode.turns.len(), episode.status), (3, Status::CutOff));
        assert_eq!(episode.turns[2].observation, "a number, please");
        let message = fresh().step("1").unwrap_err().to_string();
        assert_eq!(
            message,
            "environment guess: no episode is running; reset it before the next step"
        );
        let none = run_episode(&mut fresh(), Key::new(1, "episode", 0), 0, upwards).unwrap();
        assert_eq!((none.turns.len(), none.status), (0, Status::CutOff));
    }

    #[test]
    fn a_verifier_is_an_environment_of_one_turn() {
        let rows = (0..4)
            .map(|i| PromptRow::new(format!("1 + {i} =")).with("answer", 1 + i))
            .collect();
        let mut environment = SingleTurn::new(rows, NumericAnswer::default()).unwrap();
        assert!(environment.step("1").is_err());
        let mut seen = std::collections::BTreeSet::new();
        for episode in 0..40 {
            let out = run_episode(&mut environment, Key::new(2, "episode", episode), 5, |_, prompt| {
                Ok(if prompt == "1 + 2 =" { "3" } else { "1" }.to_owned())
            })
            .unwrap();
            assert_eq!((out.turns.len(), out.status), (1, Status::Ended));
            let prompt = &out.turns[0].observation;
            assert_eq!(
                out.total_reward(),
                f64::from(u8::from(prompt == "1 + 2 =" || prompt == "1 + 0 ="))
            );
            seen.insert(prompt.clone());
        }
        assert_eq!(seen.len(), 4);
        assert!(SingleTurn::new(vec![], NumericAnswer::default()).is_err());
    }
}
