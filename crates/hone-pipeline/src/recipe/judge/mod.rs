//! The stage `judge`: several models answer held-out prompts, the small world's labeler without its noise compares each with one of them,
//! and what each model's labels cost stands beside what they brought.
//!
//! Definitions:
//! 1. Win rate: the share of prompts on which the judge prefers the model's answer to the opponent's, ties a half. The opponent's answers
//!    are a sample of their own, so its own row is a second, independent one.
//! 2. Difference: the win rate less that of the row before, prompt by prompt.
//! 3. Labels of a model: those of all stages `annotate` that it names, whether simulated or of people.
//! 4. All models sample one answer at temperature 1 with the same maximum length.

mod page;

use std::path::{Path, PathBuf};

use hone_compute::Engine;
use hone_data::{Prompt, Source};
use hone_eval::{Bootstrap, Outcome, win_rate, win_rate_difference};
use hone_math::Key;
use hone_run::{Configuration, Resolved};
use hone_world::{Labeler, Question};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Kitchen;
use super::annotate::{Labels, cost_of};
use super::config::check_name;
use super::ongoing::Ongoing;
use super::sampled::{SampledRow, Sampling, engine, prompts, sample};
use crate::error::{PipelineError, Result};
use crate::quickstart::PreferencesSetting;
use crate::rows::labeler_question;

/// What the stage came to.
const RECORD: &str = "judge.run.json";
/// The same for people.
const REPORT: &str = "report.md";
/// The opponent's answers; no model can have this name.
const OPPONENT: &str = "opponent.answers";

/// Settings of judging.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeConfig {
    /// The name of the model to which all are compared.
    pub against: String,
    /// Prompts of the small world, or others with `answer`, `kind` and `group`.
    pub prompts: Vec<Source>,
    /// What the judge values: `standard`, `exchanged` or `planted`.
    #[serde(default)]
    pub labeler: PreferencesSetting,
    /// Most tokens of an answer.
    #[serde(default = "sixty_four")]
    pub max_new_tokens: usize,
    /// Times the prompts are drawn again for an interval.
    #[serde(default = "thousand")]
    pub resamples: u32,
    /// Of the answers and the intervals.
    #[serde(default = "one")]
    pub seed: u64,
    /// The models, in the order in which their differences are taken.
    pub models: Vec<JudgedModel>,
}

/// A model that is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgedModel {
    /// Its name in the table.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// Folders of the stages `annotate` that it has learned from, beyond what the opponent has.
    #[serde(default)]
    pub labels: Vec<PathBuf>,
}

fn sixty_four() -> usize {
    64
}

fn thousand() -> u32 {
    1000
}

fn one() -> u64 {
    1
}

impl Configuration for JudgeConfig {}

impl JudgeConfig {
    /// Refuses what cannot be judged.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |key: String, reason: String| Err(PipelineError::setting(key, reason));
        for source in &self.prompts {
            source.validate()?;
        }
        for (key, value) in [
            ("prompts", self.prompts.len()),
            ("max_new_tokens", self.max_new_tokens),
            ("resamples", self.resamples as usize),
        ] {
            if value == 0 {
                return refuse(key.into(), "is 0, or empty; expected at least 1".into());
            }
        }
        for (i, model) in self.models.iter().enumerate() {
            let key = format!("models[{i}]");
            check_name(&model.name, &key)?;
            if self.models[..i].iter().any(|earlier| earlier.name == model.name) {
                return refuse(format!("{key}.name"), format!("`{}` stands twice", model.name));
            }
        }
        if !self.models.iter().any(|model| model.name == self.against) {
            let names: Vec<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
            let reason = format!(
                "there is no model `{}`; expected one of {}",
                self.against,
                names.join(", ")
            );
            return refuse("against".into(), reason);
        }
        Ok(())
    }
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    name: String,
    /// Share of prompts on which the judge prefers it to the opponent, ties a half.
    win_rate: f64,
    /// Ends of its 95% interval.
    low: f64,
    high: f64,
    /// Its win rate less that of the row before; nothing in the first row.
    difference: Option<f64>,
    /// Ends of its 95% interval.
    difference_low: Option<f64>,
    difference_high: Option<f64>,
    /// What its answers are worth to the judge, the mean.
    utility: f64,
    /// Judgements, pairs told apart and answers written in all of its labels.
    judgements: u64,
    comparisons: u64,
    demonstrations: u64,
    /// Time of all of its labels, in seconds; nothing where some of them were not measured.
    seconds: Option<f64>,
    /// The win rate less the opponent's own.
    gain: f64,
    /// The gain for an hour of labeling.
    gain_an_hour: Option<f64>,
}

/// Labels of one stage, as the table's notes tell of them.
#[derive(Clone, Debug, PartialEq)]
struct Bought {
    /// The stage's folder.
    stage: String,
    labels: Labels,
}

/// Runs the stage called `name` in its folder, or goes on with it; gives its summary.
///
/// # Errors
/// [`PipelineError::Stopped`] when it was asked to stop; a prompt that the labeler cannot read; whatever stops sampling.
pub(super) fn run(kitchen: &Kitchen, name: &str, resolved: &Resolved<JudgeConfig>, dir: &Path) -> Result<Value> {
    let ongoing = Ongoing::open(dir, RECORD, resolved)?;
    if let Some(before) = ongoing.finished()? {
        return Ok(before);
    }
    let c = &resolved.config;
    let prompts = prompts(kitchen, &c.prompts)?;
    let questions = questions(&prompts)?;
    let bought = bought(kitchen, c)?;
    let bench = Bench {
        kitchen,
        name,
        config: c,
        engine: engine(kitchen, dir)?,
        dir,
        prompts: &prompts,
    };
    let against = c.models.iter().find(|model| model.name == c.against);
    let against = against.ok_or_else(|| PipelineError::setting("against", "is no model of the list"))?;
    let opponent = bench.answers(OPPONENT, &against.path)?;
    let judge = Labeler::new(c.labeler.preferences(), 0);
    let mut outcomes: Vec<Vec<Outcome>> = Vec::new();
    let mut utilities = Vec::new();
    for model in &c.models {
        let own = bench.answers(&model.name, &model.path)?;
        let compared = questions.iter().zip(own.iter().zip(&opponent));
        let outcome = compared.map(|(question, (own, other))| {
            let preference = judge.prefers(question, text(own), text(other));
            Outcome::of_scores(preference, 0.5).unwrap_or(Outcome::Tie)
        });
        outcomes.push(outcome.collect());
        let worth = questions.iter().zip(&own).map(|(q, own)| judge.utility(q, text(own)));
        utilities.push(worth.sum::<f64>() / questions.len() as f64);
    }
    let rows = rows(c, &outcomes, &utilities, &bought)?;
    let text = page::text(c, prompts.len(), &rows, &bought);
    hone_run::write_atomic(&dir.join(REPORT), text.as_bytes())?;
    kitchen.say(format!("{name}: {}", dir.join(REPORT).display()));
    let summary = json!({
        "against": c.against,
        "prompts": prompts.len(),
        "rows": rows,
        "report": dir.join(REPORT),
    });
    ongoing.finish(&summary)
}

/// What answering needs.
struct Bench<'a> {
    kitchen: &'a Kitchen,
    name: &'a str,
    config: &'a JudgeConfig,
    engine: Engine,
    dir: &'a Path,
    prompts: &'a [Prompt],
}

impl Bench<'_> {
    /// One answer of a model to each prompt; `name` tells it from the others.
    fn answers(&self, name: &str, model: &Path) -> Result<Vec<SampledRow>> {
        let model = self.kitchen.base.join(model);
        let sampling = Sampling {
            stage: self.name,
            model: &model,
            prompts: self.prompts,
            n: 1,
            max_new_tokens: self.config.max_new_tokens,
            key: Key::new(self.config.seed, &format!("recipe/judge/{name}"), 0),
            file: self.dir.join(format!("{name}.jsonl")),
        };
        sample(self.kitchen, &self.engine, &sampling)
    }
}

/// The one answer of a row.
fn text(row: &SampledRow) -> &str {
    row.responses.first().map_or("", String::as_str)
}

fn questions(prompts: &[Prompt]) -> Result<Vec<Question>> {
    let read = |(prompt, row): (&Prompt, u64)| {
        labeler_question(&prompt.input, &prompt.extra).map_err(|e| {
            let reason = format!(
                "the labeler cannot read it: {e}; expected `answer`, `kind` and `group`, as in the prompts of hone world"
            );
            PipelineError::Unscorable { row, reason }
        })
    };
    if prompts.is_empty() {
        return Err(PipelineError::setting("prompts", "hold no prompt; expected at least 1"));
    }
    prompts.iter().zip(1..).map(read).collect()
}

/// For each model what its labels cost.
fn bought(kitchen: &Kitchen, c: &JudgeConfig) -> Result<Vec<Vec<Bought>>> {
    let one = |dir: &PathBuf| -> Result<Bought> {
        let stage = dir
            .file_name()
            .unwrap_or(dir.as_os_str())
            .to_string_lossy()
            .into_owned();
        let labels = cost_of(kitchen, dir)?;
        Ok(Bought { stage, labels })
    };
    c.models
        .iter()
        .map(|model| model.labels.iter().map(one).collect())
        .collect()
}

fn rows(c: &JudgeConfig, outcomes: &[Vec<Outcome>], utilities: &[f64], bought: &[Vec<Bought>]) -> Result<Vec<Row>> {
    let draws = |purpose: &str, row: usize| Bootstrap {
        resamples: c.resamples,
        ..Bootstrap::new(Key::new(c.seed, purpose, row as u64))
    };
    let mut rates = Vec::new();
    for (i, own) in outcomes.iter().enumerate() {
        rates.push(win_rate(own, &draws("recipe/judge bootstrap", i))?);
    }
    let start = c.models.iter().position(|model| model.name == c.against).unwrap_or(0);
    let start = rates[start].win_rate;
    let mut rows = Vec::new();
    for (i, (model, rate)) in c.models.iter().zip(&rates).enumerate() {
        let difference = match i {
            0 => None,
            _ => {
                let draws = draws("recipe/judge paired bootstrap", i);
                Some(win_rate_difference(&outcomes[i], &outcomes[i - 1], &draws)?)
            }
        };
        let labels = || bought[i].iter().map(|bought| &bought.labels);
        let seconds = labels().try_fold(0.0, |sum, labels| labels.seconds.map(|seconds| sum + seconds));
        let hours = seconds.map(|seconds| seconds / 3600.0).filter(|&hours| hours > 0.0);
        rows.push(Row {
            name: model.name.clone(),
            win_rate: rate.win_rate,
            low: rate.low,
            high: rate.high,
            difference: difference.as_ref().map(|d| d.difference),
            difference_low: difference.as_ref().map(|d| d.low),
            difference_high: difference.as_ref().map(|d| d.high),
            utility: utilities[i],
            judgements: labels().map(|labels| labels.judgements).sum(),
            comparisons: labels().map(|labels| labels.comparisons).sum(),
            demonstrations: labels().map(|labels| labels.demonstrations).sum(),
            seconds,
            gain: rate.win_rate - start,
            gain_an_hour: hours.map(|hours| (rate.win_rate - start) / hours),
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_data::annotations::TaskKind;
    use hone_run::config::parse;

    fn config(models: &str, against: &str) -> Result<JudgeConfig> {
        let text = format!("against = \"{against}\"\nprompts = [\"p.jsonl\"]\nresamples = 50\nmodels = [{models}]");
        let resolved: Resolved<JudgeConfig> = parse("config", &text, &[])?;
        resolved.config.check()?;
        Ok(resolved.config)
    }

    const TWO: &str = "{ name = \"start\", path = \"a\" }, { name = \"round-1\", path = \"b\", labels = [\"l\"] }";

    #[test]
    fn what_cannot_be_judged_is_refused_by_key() {
        for (models, against, message) in [
            (
                TWO,
                "strat",
                "against: there is no model `strat`; expected one of start, round-1",
            ),
            (
                "{ name = \"a\", path = \"a\" }, { name = \"a\", path = \"b\" }",
                "a",
                "models[1].name: `a` stands twice",
            ),
            ("{ name = \"a/b\", path = \"a\" }", "a/b", "models[0].name: is `a/b`"),
            ("", "a", "against: there is no model `a`"),
        ] {
            match config(models, against) {
                Ok(_) => panic!("{models}"),
                Err(error) => assert!(error.to_string().contains(message), "{error}"),
            }
        }
    }

    #[test]
    fn gains_are_set_against_the_hours_they_took() -> Result<()> {
        let c = config(TWO, "start")?;
        let (win, loss) = (Outcome::Win, Outcome::Loss);
        let outcomes = [vec![win, loss, win, loss], vec![win, win, win, loss]];
        let labels = Labels {
            task: TaskKind::Rank,
            judgements: 120,
            comparisons: 600,
            demonstrations: 0,
            seconds: Some(7200.0),
            seconds_each: Some(60.0),
            seconds_a_comparison: Some(12.0),
            measured: 120,
            assumed: true,
        };
        let stage = "l".to_string();
        let bought = [Vec::new(), vec![Bought { stage, labels }]];
        let found = rows(&c, &outcomes, &[1.0, 2.0], &bought)?;
        assert_eq!((found[0].win_rate, found[1].win_rate), (0.5, 0.75));
        assert_eq!((found[0].difference, found[1].difference), (None, Some(0.25)));
        // A quarter in two hours; the start has cost nothing and so has no gain an hour
        assert_eq!((found[0].gain_an_hour, found[1].gain_an_hour), (None, Some(0.125)));
        assert_eq!((found[0].seconds, found[1].seconds), (Some(0.0), Some(7200.0)));
        let page = page::text(&c, 4, &found, &bought);
        assert!(!page.contains("| start | comparisons"), "{page}");
        for part in [
            "| start | 50.0%",
            "| round-1 | 75.0%",
            "| 120 | 600 | 0 | 2.0 |",
            // A quarter for 600 comparisons of 12 s
            "| round-1 | comparisons | 600 | 12.0 | 2.0 | +25.0 | +4.2 | +12.5 |",
            "- l: 120 rankings, which tell 600 pairs apart; 2.0 hours of labeling, 60.0 s each (assumed)",
            "assumed, not measured",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        Ok(())
    }
}
