//! Step 5: several answers a prompt, ranked by the labeler.

use hone_math::Key;
use hone_run::{Error as RunError, Event, publish_dir};
use hone_world::{Labeler, Question, Ranking, RankingRow, write_rows};
use serde::{Deserialize, Serialize};

use super::Steps;
use super::answer::{Answered, Answerer};
use super::config::{QuickstartConfig, RankingsSetting, folder};
use super::world::questions;
use crate::error::{PipelineError, Result};
use crate::files::read_lines;

/// The answers of all prompts.
const ANSWERS: &str = "answers.jsonl";
/// The rankings that say something.
const RANKINGS: &str = "rankings.jsonl";

/// A prompt and what was answered: a line of `answers.jsonl`.
#[derive(Serialize, Deserialize)]
struct AnswersRow {
    prompt: String,
    responses: Vec<String>,
}

/// Writes answers and rankings, unless they are there.
pub(super) fn write(steps: &Steps) -> Result<()> {
    let dir = steps.out.join(folder::RANKINGS);
    if dir.exists() {
        return Ok(());
    }
    steps.event(&Event::Started {
        stage: folder::RANKINGS.into(),
        step: 0,
        total: 1,
    });
    let section = &steps.config.world;
    let mut asked = questions(steps, "prompts.jsonl")?;
    asked.truncate(section.ranked_prompts);
    let answers = answers(steps, &asked)?;
    let rows = rank(&steps.config, &asked, &answers)?;
    steps.say(format!("{} of {} rankings tell answers apart", rows.len(), asked.len()));
    if rows.is_empty() {
        let reason = "the labeler finds all answers to every prompt alike; there is nothing to learn from";
        return Err(PipelineError::setting("world.preferences", reason));
    }
    publish_dir(&dir, &mut |dir| {
        write_rows(&dir.join(ANSWERS), &answers).map_err(RunError::caller)?;
        write_rows(&dir.join(RANKINGS), &rows).map_err(RunError::caller)
    })?;
    steps.event(&Event::Finished {
        step: 1,
        stopped: false,
    });
    Ok(())
}

/// The rankings, without those in which all answers are alike.
fn rank(config: &QuickstartConfig, asked: &[Question], answers: &[AnswersRow]) -> Result<Vec<RankingRow>> {
    let labeler = Labeler::new(config.world.preferences.preferences(), config.seed);
    let key = Key::new(config.seed, "quickstart/shuffled rankings", 0);
    let mut rows = Vec::with_capacity(asked.len());
    for ((question, row), index) in asked.iter().zip(answers).zip(0_u64..) {
        let mut row = RankingRow::new(&labeler, question, row.responses.clone(), index);
        if config.world.rankings == RankingsSetting::Shuffled {
            row.ranking = shuffled(&row.responses, key.child(index))?;
        }
        if row.ranking.groups().len() > 1 {
            rows.push(row);
        }
    }
    Ok(rows)
}

/// A ranking by chance, in which equal answers tie.
fn shuffled(responses: &[String], key: Key) -> Result<Ranking> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (i, response) in responses.iter().enumerate() {
        match groups
            .iter_mut()
            .find(|group| responses[group[0]].trim() == response.trim())
        {
            Some(group) => group.push(i),
            None => groups.push(vec![i]),
        }
    }
    let order = key.permutation(groups.len()).into_iter();
    Ok(Ranking::new(
        order.map(|i| groups[i].clone()).collect(),
        responses.len(),
    )?)
}

/// The tuned model's answers, or those that another quickstart had ranked.
fn answers(steps: &Steps, asked: &[Question]) -> Result<Vec<AnswersRow>> {
    let section = &steps.config.world;
    if steps.reused.is_some() {
        let path = steps.shared(folder::RANKINGS).join(ANSWERS);
        let mut rows: Vec<AnswersRow> = read_lines(&path)?;
        let same = |(row, question): (&AnswersRow, &Question)| {
            row.prompt == question.text && row.responses.len() == section.answers
        };
        if rows.len() < asked.len() || !rows.iter().zip(asked).all(same) {
            let reason = "its prompts or number of answers are others than those of [world]; give the same settings";
            return Err(PipelineError::file(&path, reason));
        }
        rows.truncate(asked.len());
        return Ok(rows);
    }
    let model = Answerer::load(&steps.engine, &steps.shared(folder::SFT))?;
    let key = Key::new(steps.config.seed, "quickstart/answers to rank", 0);
    let limits = (section.answers, steps.config.judge.max_new_tokens);
    let answers = model.chat(&steps.engine, asked, limits, key)?;
    let row = |(question, answers): (&Question, &[Answered])| AnswersRow {
        prompt: question.text.clone(),
        responses: answers.iter().map(|answer| answer.text.clone()).collect(),
    };
    Ok(asked.iter().zip(answers.chunks(section.answers)).map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffled_rankings_know_nothing_and_keep_equal_answers_together() -> Result<()> {
        let responses = ["a", "b", "c", " a"].map(String::from);
        let (mut first, mut together) = ([0; 3], 0);
        for i in 0..600 {
            let ranking = shuffled(&responses, Key::new(1, "test", 0).child(i))?;
            assert_eq!(ranking.groups().len(), 3);
            together += usize::from(ranking.groups().contains(&vec![0, 3]));
            first[ranking.groups()[0][0].min(2)] += 1;
        }
        assert_eq!(together, 600);
        // Each of three texts comes first in a third of 600, give or take four standard deviations
        assert!(first.iter().all(|&n| (154..=246).contains(&n)), "{first:?}");
        Ok(())
    }

    #[test]
    fn rankings_without_a_difference_are_left_out() -> Result<()> {
        let mut config = QuickstartConfig::new(super::super::Scale::Smoke, 1);
        config.world.preferences = super::super::PreferencesSetting::Planted;
        let asked = hone_world::World::new(1).questions(2, hone_world::Split::Training)?;
        let row = |responses: [&str; 2]| AnswersRow {
            prompt: String::new(),
            responses: responses.map(String::from).to_vec(),
        };
        let answers = [row(["Happy to help!", "No."]), row(["Yes.", "No."])];
        let rows = rank(&config, &asked, &answers)?;
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].ranking.groups(), [vec![0], vec![1]]);
        Ok(())
    }
}
