//! Sums over the episodes of an update, for its metrics.

use hone_generate::Played;

use super::collect::Episode;

/// Sums over all episodes that were sampled for an update.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// Tokens that the policy sampled.
    tokens: u64,
    /// By entry of `[[rewards]]`: its name, how many it scored, and the sum of that.
    parts: Vec<(String, u64, f64)>,
    played: Option<PlayedSums>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct PlayedSums {
    episodes: u64,
    turns: u64,
    reward: f64,
    /// None where the environment does not know it.
    optimum: Option<f64>,
}

impl Figures {
    /// Of responses with what each entry gave, `[responses][entries]`; a response without any was not scored.
    pub fn of_parts(names: &[String], parts: &[Vec<f64>]) -> Self {
        let sum = |(i, name): (usize, &String)| {
            let given = parts.iter().filter_map(|parts| parts.get(i));
            (name.clone(), given.clone().count() as u64, given.sum::<f64>())
        };
        Self {
            parts: names.iter().enumerate().map(sum).collect(),
            ..Self::default()
        }
    }

    /// Of episodes of an environment.
    pub fn of_played(played: &[Played]) -> Self {
        Self {
            played: Some(PlayedSums {
                episodes: played.len() as u64,
                turns: played.iter().map(|episode| episode.turns.len() as u64).sum(),
                reward: played.iter().map(|episode| episode.reward).sum(),
                optimum: played.iter().map(|episode| episode.optimum).sum(),
            }),
            ..Self::default()
        }
    }

    /// The same with the tokens of these episodes.
    pub fn with_tokens(self, episodes: &[Episode]) -> Self {
        Self {
            tokens: episodes.iter().map(|episode| episode.length() as u64).sum(),
            ..self
        }
    }

    /// These and those of another rollout of the same update.
    pub fn and(mut self, other: &Self) -> Self {
        self.tokens += other.tokens;
        for ((_, count, sum), (_, more, further)) in self.parts.iter_mut().zip(&other.parts) {
            *count += more;
            *sum += further;
        }
        if let (Some(all), Some(more)) = (&mut self.played, &other.played) {
            all.episodes += more.episodes;
            all.turns += more.turns;
            all.reward += more.reward;
            all.optimum = all.optimum.zip(more.optimum).map(|(a, b)| a + b);
        }
        self
    }

    /// Names and values for `metrics.jsonl`.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let mut metrics = vec![("rollout/tokens".to_string(), self.tokens as f64)];
        for (name, count, sum) in self.parts.iter().filter(|(_, count, _)| *count > 0) {
            metrics.push((format!("rewards/{name}_mean"), sum / *count as f64));
        }
        if let Some(played) = self.played.filter(|played| played.episodes > 0) {
            let episodes = played.episodes as f64;
            metrics.push(("environment/reward_mean".into(), played.reward / episodes));
            metrics.push(("environment/turns_mean".into(), played.turns as f64 / episodes));
            if let Some(optimum) = played.optimum.filter(|&optimum| optimum > 0.0) {
                metrics.push(("environment/share_of_optimum".into(), played.reward / optimum));
            }
        }
        metrics
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hone_task::environment::{Status, Turn};

    use super::*;

    fn named(metrics: &[(String, f64)]) -> Vec<(&str, f64)> {
        metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect()
    }

    #[test]
    fn means_are_over_what_was_scored_in_all_rollouts() {
        let names = ["a".to_string(), "b".to_string()];
        let first = Figures::of_parts(&names, &[vec![1.0, -2.0], vec![], vec![0.0, 4.0]]);
        let second = Figures::of_parts(&names, &[vec![5.0, 1.0]]);
        let metrics = first.and(&second).metrics();
        assert_eq!(
            named(&metrics),
            [
                ("rollout/tokens", 0.0),
                ("rewards/a_mean", 2.0),
                ("rewards/b_mean", 1.0)
            ]
        );
        // Where nothing was scored there is no mean
        assert_eq!(Figures::of_parts(&names, &[vec![]]).metrics().len(), 1);
    }

    #[test]
    fn the_share_of_the_optimum_is_that_of_the_sums() {
        let played = |turns: usize, reward: f64, optimum: Option<f64>| Played {
            ids: Arc::from([1, 2]),
            spans: vec![],
            logprobs: vec![],
            turns: vec![
                Turn {
                    observation: String::new(),
                    action: String::new(),
                    reward: 0.0
                };
                turns
            ],
            status: Status::Ended,
            reward,
            optimum,
        };
        let figures = Figures::of_played(&[played(1, 1.0, Some(4.0)), played(4, 2.0, Some(2.0))]);
        assert_eq!(
            named(&figures.metrics()),
            [
                ("rollout/tokens", 0.0),
                ("environment/reward_mean", 1.5),
                ("environment/turns_mean", 2.5),
                ("environment/share_of_optimum", 0.5),
            ]
        );
        let unknown = Figures::of_played(&[played(1, 1.0, None)]);
        assert_eq!(figures.and(&unknown).metrics().len(), 3);
    }
}
