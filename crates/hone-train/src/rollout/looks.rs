//! What a held-out judge saw of a policy on its way, and what that comes to.

use hone_compute::Engine;
use hone_model::Transformer;
use hone_run::{Checkpoint, CheckpointWriter};
use serde_json::{Value, json};

use super::collect::Episode;
use super::record::mean;
use crate::error::{Result, TrainError};
use crate::learner::Ema;

/// Under this name a checkpoint's state holds what was seen, and its files the best weights.
pub(super) const SEEN: &str = "judge";
/// Half of a normal distribution's central 95%, in standard errors.
const NORMAL_95: f64 = 1.96;
/// Questions from which on a mean has an interval; the normal distribution's is far too narrow for fewer.
const LEAST_QUESTIONS: usize = 8;

/// What was seen of a policy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Look {
    /// Updates that it had behind it.
    pub step: u64,
    /// Mean of the answers' scores, by what was asked.
    by_question: Vec<f64>,
    /// The mean of these.
    pub mean: f64,
    /// Tokens of an answer, and the share that ended.
    answers: (f64, f64),
    /// Answers that could not be scored.
    pub unscorable: u64,
    /// What it took.
    pub seconds: f64,
}

impl Look {
    /// So many answers to each question. One that could not be scored counts as `lowest`.
    ///
    /// # Errors
    /// A mean that is no number, which would pass for a good one.
    pub fn of(step: u64, episodes: &[Episode], samples: usize, lowest: f64) -> Result<Self> {
        let score = |episode: &Episode| match episode.unscorable {
            true => lowest,
            false => f64::from(episode.score),
        };
        let of_group = |group: &[Episode]| mean(group.iter().map(score));
        let by_question: Vec<f64> = episodes.chunks(samples).map(of_group).collect();
        let all = mean(by_question.iter().copied());
        if !all.is_finite() {
            return Err(TrainError::Objective(hone_objective::Error::NotFinite {
                op: "judge",
                name: "mean score",
                got: all,
            }));
        }
        Ok(Self {
            step,
            mean: all,
            by_question,
            answers: (
                mean(episodes.iter().map(|episode| episode.length() as f64)),
                mean(episodes.iter().map(|episode| f64::from(u8::from(episode.ended)))),
            ),
            unscorable: episodes.iter().filter(|episode| episode.unscorable).count() as u64,
            seconds: 0.0,
        })
    }

    /// What was asked.
    pub fn questions(&self) -> usize {
        self.by_question.len()
    }

    /// Names and values for `metrics.jsonl`.
    pub fn metrics(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let error = standard_error(&self.by_question);
        [
            ("judge/scores", Some(self.mean)),
            ("judge/standard_error", error),
            ("judge/mean_length", Some(self.answers.0)),
            ("judge/ended", Some(self.answers.1)),
            ("judge/unscorable", Some(self.unscorable as f64)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }

    /// How much more it found than another one, over the same questions.
    pub fn since(&self, other: &Self) -> Since {
        let pairs = self.by_question.iter().zip(&other.by_question);
        let differences: Vec<f64> = pairs.map(|(a, b)| a - b).collect();
        let error = standard_error(&differences).filter(|_| differences.len() >= LEAST_QUESTIONS);
        Since {
            mean: mean(differences.iter().copied()),
            reach: error.map(|error| NORMAL_95 * error),
        }
    }

    /// As bits, which are read back as they are.
    fn state(&self) -> Value {
        json!({
            "step": self.step,
            "by_question": self.by_question.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            "length": self.answers.0.to_bits(),
            "ended": self.answers.1.to_bits(),
            "unscorable": self.unscorable,
        })
    }

    fn from_state(state: &Value) -> Option<Self> {
        let number = |value: &Value| value.as_u64().map(f64::from_bits);
        let by_question: Vec<f64> = state["by_question"].as_array()?.iter().filter_map(number).collect();
        Some(Self {
            step: state["step"].as_u64()?,
            mean: mean(by_question.iter().copied()),
            by_question,
            answers: (number(&state["length"])?, number(&state["ended"])?),
            unscorable: state["unscorable"].as_u64().unwrap_or(0),
            seconds: 0.0,
        })
    }
}

/// A difference of two looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Since {
    /// The mean over questions.
    pub mean: f64,
    /// Half of its 95% interval; none of few questions.
    reach: Option<f64>,
}

impl Since {
    /// What is to be said of it, where it is a fall beyond chance.
    pub fn warning(&self, (best, last): (u64, u64)) -> Option<String> {
        let reach = self.reach.filter(|reach| self.mean + reach < 0.0)?;
        let fall = -self.mean;
        Some(format!(
            "look here: from update {best} to {last} the held-out judge fell by {fall:.4} +- {reach:.4} on the same questions; compare \
             objective/scores and judge/scores"
        ))
    }

    /// With its interval, for a run's summary.
    pub fn described(&self) -> Value {
        json!({
            "mean": self.mean,
            "low": self.reach.map(|reach| self.mean - reach),
            "high": self.reach.map(|reach| self.mean + reach),
        })
    }
}

/// Of a mean: the root of the variance, with n - 1, over n; none of fewer than two.
fn standard_error(numbers: &[f64]) -> Option<f64> {
    let count = numbers.len() as f64;
    if numbers.len() < 2 {
        return None;
    }
    let centre = mean(numbers.iter().copied());
    let squares: f64 = numbers.iter().map(|x| (x - centre) * (x - centre)).sum();
    Some((squares / (count - 1.0) / count).sqrt())
}

/// What a judge saw on the way.
#[derive(Default)]
pub(crate) struct Looks {
    /// So many.
    pub count: u64,
    /// The mean of the first.
    pub start: Option<f64>,
    pub last: Option<Look>,
    /// The first of the highest mean.
    pub best: Option<Look>,
    /// Looks behind the best one.
    pub since_best: u64,
    /// The lowest score of an answer.
    lowest: Option<f64>,
    /// Whether it was said that an answer could not be scored.
    pub told_of_unscorable: bool,
    weights: Option<Ema>,
}

impl Looks {
    /// Takes up what was saved; nothing at the start of a run.
    ///
    /// # Errors
    /// If the saved weights do not fit the model.
    pub fn load(engine: &Engine, model: &Transformer, checkpoint: Option<&Checkpoint>) -> Result<Self> {
        let Some(checkpoint) = checkpoint else {
            return Ok(Self::default());
        };
        let state = &checkpoint.state()[SEEN];
        let number = |key: &str| state[key].as_u64();
        let weights = match checkpoint.path_of(&format!("{SEEN}.weights.safetensors")) {
            Ok(_) => {
                let mut weights = Ema::new(engine, model, 0.0);
                weights.load(engine, SEEN, checkpoint)?;
                Some(weights)
            }
            Err(_) => None,
        };
        Ok(Self {
            count: number("count").unwrap_or(0),
            start: number("start").map(f64::from_bits),
            last: Look::from_state(&state["last"]),
            best: Look::from_state(&state["best"]),
            since_best: number("since_best").unwrap_or(0),
            lowest: number("lowest").map(f64::from_bits),
            told_of_unscorable: false,
            weights,
        })
    }

    /// The look at the policy with so many updates behind it, if there was one.
    pub fn at(&self, done: u64) -> Option<&Look> {
        self.last.as_ref().filter(|look| look.step == done)
    }

    /// Updates that the last one had behind it.
    pub fn last_step(&self) -> Option<u64> {
        self.last.as_ref().map(|look| look.step)
    }

    /// The model of the best look, where it is kept.
    pub fn best_model(&self) -> Option<&Transformer> {
        self.weights.as_ref().map(|weights| &weights.model)
    }

    /// The lowest score of an answer at any look, these answers' included; none if nothing could be scored.
    pub fn lowest(&self, episodes: &[Episode]) -> Option<f64> {
        let scored = episodes.iter().filter(|episode| !episode.unscorable);
        let scores = scored.map(|episode| f64::from(episode.score));
        self.lowest.into_iter().chain(scores).reduce(f64::min)
    }

    /// Takes in a look after which the lowest score is `lowest`, and a copy of the model, if it is given and the best.
    pub fn offer(&mut self, (look, lowest): (Look, f64), model: Option<(&Engine, &Transformer)>) {
        self.count += 1;
        self.start.get_or_insert(look.mean);
        self.lowest = Some(lowest);
        if self.best.as_ref().is_none_or(|best| look.mean > best.mean) {
            self.best = Some(look.clone());
            self.since_best = 0;
            // Those of before go first, so that there is one copy at any time
            self.weights = None;
            self.weights = model.map(|(engine, model)| Ema::new(engine, model, 0.0));
        } else {
            self.since_best += 1;
        }
        self.last = Some(look);
    }

    /// For a checkpoint.
    pub fn state(&self) -> Value {
        json!({
            "count": self.count,
            "start": self.start.map(f64::to_bits),
            "last": self.last.as_ref().map(Look::state),
            "best": self.best.as_ref().map(Look::state),
            "since_best": self.since_best,
            "lowest": self.lowest.map(f64::to_bits),
        })
    }

    /// Writes the best weights into a checkpoint.
    ///
    /// # Errors
    /// If writing fails.
    pub fn write(&self, engine: &Engine, writer: &mut CheckpointWriter) -> Result<(), hone_run::Error> {
        let weights = self.weights.as_ref();
        weights.map_or(Ok(()), |weights| weights.save(engine, SEEN, writer))
    }
}

#[cfg(test)]
mod tests {
    use super::super::practice::made;
    use super::*;

    fn episodes(scores: &[f32]) -> Vec<Episode> {
        let made = |(i, &score)| made(i, (&[1], &[2, 3]), (-1.0, -1.0), score);
        scores.iter().enumerate().map(made).collect()
    }

    fn look(step: u64, samples: usize, scores: &[f32]) -> Look {
        Look::of(step, &episodes(scores), samples, 0.0).unwrap()
    }

    #[test]
    fn the_first_of_the_highest_means_is_best() {
        let mut looks = Looks::default();
        for (step, scores) in [
            (0, [0.0, 1.0, 0.0, 1.0]),
            (4, [1.0, 1.0, 0.0, 1.0]),
            (8, [0.0, 1.0, 1.0, 1.0]),
            (9, [0.0, 0.0, 0.0, 1.0]),
        ] {
            looks.offer((look(step, 2, &scores), 0.0), None);
        }
        let best = looks.best.as_ref().unwrap();
        assert_eq!((best.step, best.mean, looks.since_best, looks.count), (4, 0.75, 2, 4));
        assert_eq!((looks.start, looks.last_step()), (Some(0.5), Some(9)));
        assert!(looks.at(8).is_none() && looks.at(9).is_some());
        // What is saved is what was seen
        let state = looks.state();
        assert_eq!(Look::from_state(&state["best"]).unwrap(), *best);
        assert_eq!(Look::from_state(&state["last"]), looks.last);
    }

    #[test]
    fn an_answer_that_cannot_be_scored_counts_as_the_worst_so_far() {
        let mut looks = Looks::default();
        let mut seen = |step: u64, mut episodes: Vec<Episode>, unscorable: &[usize]| {
            for &i in unscorable {
                episodes[i].unscorable = true;
            }
            let lowest = looks.lowest(&episodes).unwrap();
            let look = Look::of(step, &episodes, 1, lowest).unwrap();
            looks.offer((look.clone(), lowest), None);
            (look.mean, look.unscorable)
        };
        // What stands in its place for practice has no part, be it the best or the worst
        assert_eq!(seen(0, episodes(&[3.0, 1.0, 9.0, 5.0]), &[2]), (2.5, 1));
        assert_eq!(seen(2, episodes(&[-9.0, 2.0, 2.0, 3.0]), &[0]), (2.0, 1));
        // Where nothing can be read any more, that is the worst there is
        assert_eq!(seen(4, episodes(&[9.0; 4]), &[0, 1, 2, 3]), (1.0, 4));
        assert_eq!((looks.best.as_ref().unwrap().step, looks.since_best), (0, 2));
        let mut none = episodes(&[7.0]);
        none[0].unscorable = true;
        assert!(Looks::default().lowest(&none).is_none());
    }

    #[test]
    fn a_mean_that_is_no_number_ends_the_run() {
        for score in [f32::NAN, f32::INFINITY] {
            let error = Look::of(3, &episodes(&[1.0, score]), 1, 0.0).unwrap_err();
            assert_eq!(error.exit_status().code(), 4, "{error}");
        }
    }

    #[test]
    fn differences_are_those_of_the_same_questions() {
        // Means by question 1, 0 against 0.5, 0.5: differences 0.5 and -0.5
        let (a, b) = (look(3, 2, &[1.0, 1.0, 0.0, 0.0]), look(1, 2, &[0.5; 4]));
        assert_eq!(a.since(&b), Since { mean: 0.0, reach: None });
        let metrics: Vec<_> = a.metrics().collect();
        assert_eq!(
            metrics,
            [
                ("judge/scores", 0.5),
                ("judge/standard_error", 0.5),
                ("judge/mean_length", 2.0),
                ("judge/ended", 1.0),
                ("judge/unscorable", 0.0),
            ]
        );
        // One question has no standard error
        let one = look(3, 2, &[1.0, 0.0]);
        assert!(one.metrics().all(|(name, _)| name != "judge/standard_error"));
    }

    #[test]
    fn a_fall_is_said_where_it_is_beyond_chance() {
        let best = look(4, 1, &[1.0; 8]);
        let of = |scores: &[f32]| look(9, 1, scores).since(&best);
        // Differences of -1 at half of the questions: mean -0.5, standard error 0.19, so from -0.87 to -0.13
        let fell = of(&[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        let said = fell.warning((4, 9)).unwrap();
        assert!(
            said.starts_with("look here: from update 4 to 9 the held-out judge fell by 0.5000 +- 0.3704 on the same"),
            "{said}"
        );
        let described = fell.described();
        assert!(
            (described["low"].as_f64().unwrap() + 0.870_4).abs() < 1e-4,
            "{described}"
        );
        assert!(
            (described["high"].as_f64().unwrap() + 0.129_6).abs() < 1e-4,
            "{described}"
        );
        // One question of eight may be chance; so may be anything of seven
        assert!(of(&[0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]).warning((4, 9)).is_none());
        let few = look(9, 1, &[0.0; 7]).since(&look(4, 1, &[1.0; 7]));
        assert!(few.warning((4, 9)).is_none());
        assert_eq!(few.described(), json!({ "mean": -1.0, "low": null, "high": null }));
        // A best look that is the last is no fall
        assert!(best.since(&best).warning((4, 4)).is_none());
    }
}
