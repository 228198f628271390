use super::{Environment, Saved, Status};
use crate::{BadSetting, Error, Problem, PromptRow, Sample, Verifier};
use hone_math::Key;

/// One turn of an episode.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// What the policy was shown.
    pub observation: String,
    /// What it wrote.
    pub action: String,
    /// What that earned.
    pub reward: f64,
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
        self.turns.iter().map(|turn| turn.reward).sum()
    }
}

/// Runs the episode that the environment has begun, for at most `max_turns` more turns. The policy sees the turns so far and the
/// observation, and writes the action.
///
/// # Errors
/// What the environment or the policy refuses; a reward that is not finite.
pub fn run_episode(
    environment: &mut dyn Environment,
    max_turns: usize,
    mut policy: impl FnMut(&[Turn], &str) -> Result<String, Error>,
) -> Result<Episode, Error> {
    let mut turns = Vec::new();
    while environment.status() == Status::Running && turns.len() < max_turns {
        let observation = environment.observe();
        let action = policy(&turns, &observation)?;
        environment.step(&action)?;
        let reward = environment.reward();
        if !reward.is_finite() {
            return Err(Error::Sample {
                entry: format!("environment {}", environment.name()),
                place: format!("turn {}", turns.len()),
                source: Problem::NotFinite { got: reward },
            });
        }
        turns.push(Turn {
            observation,
            action,
            reward,
        });
    }
    let status = match environment.status() {
        Status::Running => Status::CutOff,
        other => other,
    };
    Ok(Episode { turns, status })
}

/// A question, one response, a verifier's score: the environment of a single turn. Which row it is follows from (seed, index).
pub struct SingleTurn<V> {
    rows: Vec<PromptRow>,
    verifier: V,
    row: usize,
    reward: f64,
    status: Status,
    saved: Saved,
}

impl<V: Verifier> SingleTurn<V> {
    /// An environment over these rows.
    ///
    /// # Errors
    /// No row.
    pub fn new(rows: Vec<PromptRow>, verifier: V) -> Result<Self, Error> {
        if rows.is_empty() {
            return Err(Error::Environment {
                environment: "single_turn",
                source: BadSetting::new("rows", "empty", "one row or more"),
            });
        }
        Ok(Self {
            rows,
            verifier,
            row: 0,
            reward: 0.0,
            status: Status::Ended,
            saved: Saved::default(),
        })
    }
}

impl<V: Verifier> Environment for SingleTurn<V> {
    fn name(&self) -> &'static str {
        "single_turn"
    }

    fn rules(&self) -> String {
        String::new()
    }

    fn reset(&mut self, seed: u64, index: u64) -> Result<(), Error> {
        self.row = Key::new(seed, "single_turn", index).below(0, self.rows.len() as u64) as usize;
        self.reward = 0.0;
        self.status = Status::Running;
        self.saved = Saved {
            seed,
            index,
            actions: Vec::new(),
        };
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
        let verdict = self.verifier.verify(&Sample::new(&self.rows[self.row], action));
        let verdict = verdict.map_err(|source| Error::Sample {
            entry: "environment single_turn".to_owned(),
            place: format!("row {}", self.row),
            source,
        })?;
        self.reward = verdict.score;
        self.status = Status::Ended;
        self.saved.actions.push(action.to_owned());
        Ok(self.status)
    }

    fn reward(&self) -> f64 {
        self.reward
    }

    fn status(&self) -> Status {
        self.status
    }

    fn optimum(&self) -> Option<f64> {
        None
    }

    fn save(&self) -> Saved {
        self.saved.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verifier::Numeric;

    #[test]
    fn a_verifier_is_an_environment_of_one_turn() {
        let rows: Vec<PromptRow> = (0..4)
            .map(|i| PromptRow::new(format!("1 + {i} =")).with("answer", 1 + i))
            .collect();
        let verifier = || Numeric {
            column: "answer".to_owned(),
            marker: String::new(),
            fallback: true,
        };
        let mut environment = SingleTurn::new(rows, verifier()).unwrap();
        assert!(environment.step("1").is_err());
        let mut seen = std::collections::BTreeSet::new();
        for index in 0..40 {
            environment.reset(2, index).unwrap();
            let out = run_episode(&mut environment, 5, |_, prompt| {
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
        assert!(SingleTurn::new(vec![], verifier()).is_err());
        let mut without = SingleTurn::new(vec![PromptRow::new("?")], verifier()).unwrap();
        without.reset(0, 0).unwrap();
        let message = without.step("1").unwrap_err().to_string();
        assert!(
            message.starts_with("environment single_turn, row 0: the prompt's row has no column"),
            "{message}"
        );
    }
}
