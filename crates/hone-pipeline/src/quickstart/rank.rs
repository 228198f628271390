//! Step 5: several answers a prompt, ranked by the labeler.

use hone_math::Key;
use hone_run::{Error as RunError, Event, publish_dir};
use hone_world::{Labeler, Question, RankingRow, read_rankings, write_rows};

use super::Steps;
use super::answer::Answerer;
use super::config::{RankingsSetting, folder};
use super::world::questions;
use crate::error::{PipelineError, Result};

/// The file of rankings in its folder.
pub(super) const FILE: &str = "rankings.jsonl";

/// Writes rankings, unless they are there.
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
    let (config, section) = (&steps.config, &steps.config.world);
    let mut asked = questions(steps, "prompts.jsonl")?;
    asked.truncate(section.ranked_prompts);
    let answers = answers(steps, &asked)?;
    let labeler = Labeler::new(section.preferences.preferences(), config.seed);
    let shuffle = Key::new(config.seed, "quickstart/shuffled rankings", 0);
    let mut rows = Vec::with_capacity(asked.len());
    for ((question, responses), index) in asked.iter().zip(answers).zip(0_u64..) {
        let mut row = RankingRow::new(&labeler, question, responses, index);
        if section.rankings == RankingsSetting::Shuffled {
            row.ranking = row.ranking.shuffled(shuffle.child(index));
        }
        rows.push(row);
    }
    publish_dir(&dir, &mut |dir| {
        write_rows(&dir.join(FILE), &rows).map_err(RunError::caller)
    })?;
    steps.event(&Event::Finished {
        step: 1,
        stopped: false,
    });
    Ok(())
}

/// The tuned model's answers, or those that another quickstart had ranked.
fn answers(steps: &Steps, asked: &[Question]) -> Result<Vec<Vec<String>>> {
    let section = &steps.config.world;
    if steps.reused.is_some() {
        let path = steps.shared(folder::RANKINGS).join(FILE);
        let rows = read_rankings(&path)?;
        let same = |(row, question): (&RankingRow, &Question)| {
            row.prompt.last().is_some_and(|m| m.content == question.text) && row.responses.len() == section.answers
        };
        if rows.len() < asked.len() || !rows.iter().zip(asked).all(same) {
            let reason = "its prompts or number of answers are others than those of [world]; give the same settings";
            return Err(PipelineError::file(&path, reason));
        }
        return Ok(rows.into_iter().take(asked.len()).map(|row| row.responses).collect());
    }
    let model = Answerer::load(&steps.engine, &steps.shared(folder::SFT))?;
    let key = Key::new(steps.config.seed, "quickstart/answers to rank", 0);
    let limits = (section.answers, steps.config.judge.max_new_tokens);
    let answers = model.chat(&steps.engine, asked, limits, key)?;
    Ok(answers
        .chunks(section.answers)
        .map(|chunk| chunk.iter().map(|a| a.text.clone()).collect())
        .collect())
}
