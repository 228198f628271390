//! `hone best-of`: several samples a prompt, a judge, and what is kept of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{ArgGroup, Args, ValueEnum};
use hone_eval::{BestOfRow, Estimate};
use hone_pipeline::PipelineError;
use hone_pipeline::best_of::{
    Drawing, JudgePlan, JudgeSetting, Keep, Kept, Policy, Question, Report, RewardsFile, Store, Threshold, write_kept,
};
use hone_run::{BulkFile, Shutdown, config, side_folder};
use hone_task::{FinalAnswer, RewardEntry, RewardRule, Rewards};
use serde::Serialize;

use super::sample::parse_temperature;
use super::shared::{DecodingArguments, RowArguments};
use crate::bulk::{Plan, find_model};
use crate::failure::Failure;
use crate::model::{EngineArguments, ModelArguments};
use crate::output::{self, Output};
use crate::progress::Progress;

/// The growing file in the side folder of --out.
const SAMPLES: &str = "samples.jsonl";

/// Sample several answers to each prompt, judge them, and keep the best or those that pass
///
/// Judged by a reward model, by rules and programs, by another model's likelihood, or by a vote on the final answer. Prints,
/// for the best of 1, 2, 4 .. N, what they are worth; --out takes the kept ones as demonstrations for hone sft.
#[derive(Args)]
#[command(group(ArgGroup::new("judge").required(true).multiple(true).args(["reward", "rewards", "likelihood", "majority"])))]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    engine: EngineArguments,
    /// Prompts, or conversations whose reply is taken off, in any format that hone reads; other columns reach the judge
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    #[command(flatten)]
    rows: RowArguments,
    /// Samples a prompt
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..=1000))]
    n: u32,
    #[command(flatten)]
    judge: JudgeArguments,
    /// Several temperatures, such as 0.5,0.7,1.0: N samples and a table each
    #[arg(long, value_name = "T,T,..", value_delimiter = ',', value_parser = parse_temperature, conflicts_with = "temperature")]
    temperatures: Vec<f32>,
    /// Which samples --out takes
    #[arg(long, value_enum, default_value = "best", requires = "out")]
    keep: KeepArgument,
    /// From which score a sample passes [default: where rules alone judge, all of them right]
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    threshold: Option<f64>,
    /// Where kept samples go, as demonstrations; the same command again goes on where it was stopped
    #[arg(long, value_name = "FILE.jsonl")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    decoding: DecodingArguments,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What judges.
#[derive(Args)]
struct JudgeArguments {
    /// A reward model's directory, or a hub id
    #[arg(long, value_name = "DIR", conflicts_with_all = ["rewards", "likelihood"])]
    reward: Option<String>,
    /// A file of [[rewards]]: rules, programs and reward models as a weighted sum
    #[arg(long, value_name = "FILE.toml", conflicts_with = "likelihood")]
    rewards: Option<PathBuf>,
    /// Another model: its mean log-probability a token
    #[arg(long, value_name = "DIR")]
    likelihood: Option<String>,
    /// A vote on the final answer; beside another judge only for the table
    #[arg(long)]
    majority: bool,
    /// What the final answer of a vote is: the group `answer` of the last match [default: the number after the last ####, else the
    /// last number]
    #[arg(long, value_name = "REGEX", requires = "majority")]
    answer_pattern: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeepArgument {
    /// The best of each prompt; with --threshold only where it passes
    Best,
    /// Those that pass, equal ones of a prompt once
    Passing,
    /// All
    All,
}

#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    report: &'a Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<Kept>,
    finished_before: bool,
}

/// Runs the command.
pub fn run(arguments: &Arguments, shutdown: &Shutdown) -> Result<()> {
    let setting = setting(&arguments.judge)?;
    let vote = vote(&arguments.judge)?;
    let threshold = threshold(arguments, &setting)?;
    let questions = questions(arguments)?;
    let drawing = drawing(arguments);
    let engine = arguments.engine.engine()?;
    let mut store = match &arguments.out {
        None => Store::Memory(Vec::new()),
        Some(out) => {
            let plan = plan(arguments, &engine, (&setting, questions.len()))?;
            Store::File(Box::new(BulkFile::open_beside(out, SAMPLES, plan.of_file())?))
        }
    };
    let begun = match &store {
        Store::File(file) => file.rows(),
        Store::Memory(_) => 0,
    };
    let total = questions.len() as u64;
    let before = begun == total;
    if !before {
        if begun > 0 {
            output::note(&format!("going on after {begun} of {total} prompts"));
        }
        let loaded = arguments.model.load(&engine)?;
        let chat = match loaded.tokenizer.chat_template() {
            Some(_) => Some(loaded.chat()?),
            None => None,
        };
        let policy = Policy {
            engine: &engine,
            model: &loaded.model,
            tokenizer: &loaded.tokenizer,
            chat: chat.as_ref(),
        };
        let per_prompt = drawing.per_prompt() as u64;
        let mut progress = Progress::from("completions", total * per_prompt, begun * per_prompt);
        // A folder of its own, so that no entry's name meets that of another file
        let folder = arguments
            .out
            .as_deref()
            .map(side_folder)
            .unwrap_or_default()
            .join("rewards");
        let plan = JudgePlan {
            setting: &setting,
            vote,
            folder: &folder,
            resolve: &find_model,
            shutdown,
        };
        let all = policy
            .best_of(
                &questions[begun as usize..],
                &drawing,
                plan,
                &mut store,
                &mut |done, tokens| {
                    progress.set(begun * per_prompt + done, tokens);
                    !shutdown.requested()
                },
            )
            .with_context(|| arguments.input.display().to_string())?;
        drop(progress);
        if !all {
            return Err(stopped(arguments.out.as_deref()));
        }
    }
    let report = Report::of(&store, &drawing, threshold, arguments.judge.majority)?;
    let kept = match &arguments.out {
        None => None,
        Some(out) => Some(write_kept(
            out,
            (&store, &questions),
            &drawing,
            (keep(arguments.keep), threshold),
        )?),
    };
    tell(arguments, &report, (threshold, kept), before)
}

fn stopped(out: Option<&Path>) -> anyhow::Error {
    match out {
        None => Failure::failed("interrupted; with --out the same command could go on").into(),
        Some(out) => {
            let text = format!(
                "{}: stopped; the same command goes on from there",
                side_folder(out).display()
            );
            Failure::resumable(text).into()
        }
    }
}

fn setting(judge: &JudgeArguments) -> Result<JudgeSetting> {
    if let Some(path) = &judge.rewards {
        let file = config::load::<RewardsFile>(path, &[])?.config;
        Rewards::check(&file.rewards).map_err(PipelineError::from)?;
        return Ok(JudgeSetting::Rewards(file.rewards));
    }
    if let Some(path) = &judge.reward {
        return Ok(JudgeSetting::Rewards(vec![RewardEntry {
            weight: 1.0,
            name: Some("reward".to_string()),
            rule: RewardRule::Model { path: path.clone() },
        }]));
    }
    Ok(match &judge.likelihood {
        Some(path) => JudgeSetting::Likelihood(PathBuf::from(path)),
        None => JudgeSetting::Majority,
    })
}

fn vote(judge: &JudgeArguments) -> Result<Option<FinalAnswer>> {
    if !judge.majority {
        return Ok(None);
    }
    Ok(Some(match &judge.answer_pattern {
        None => FinalAnswer::number(),
        Some(pattern) => {
            let found = FinalAnswer::pattern(pattern);
            found.map_err(|error| Failure::usage(format!("--answer-pattern: {error}")))?
        }
    }))
}

/// From which score a sample passes; refuses to keep what passes where nobody says what that is.
fn threshold(arguments: &Arguments, setting: &JudgeSetting) -> Result<Threshold> {
    if setting.has_programs() && arguments.out.is_none() {
        let text = "a program judges, and there is no --out beside which its answers are kept";
        return Err(Failure::usage(text).hint("add --out FILE.jsonl").into());
    }
    match arguments.threshold {
        Some(threshold) if threshold.is_finite() => Ok(Threshold::Stated(threshold)),
        Some(threshold) => Err(Failure::usage(format!("--threshold {threshold}: expected a finite number")).into()),
        None => {
            let implied = setting.default_threshold();
            let told = implied.is_some() || matches!(setting, JudgeSetting::Majority);
            if matches!(arguments.keep, KeepArgument::Passing) && !told {
                let text = "--keep passing: nothing says which score passes";
                return Err(Failure::usage(text).hint("add --threshold SCORE").into());
            }
            Ok(Threshold::Implied(implied))
        }
    }
}

fn questions(arguments: &Arguments) -> Result<Vec<Question>> {
    let prompts = arguments.rows.read(&arguments.input)?;
    let questions = prompts.into_iter().zip(0..).map(|(prompt, row)| Question {
        row,
        input: prompt.input,
        extra: prompt.extra,
    });
    Ok(questions.collect())
}

fn drawing(arguments: &Arguments) -> Drawing {
    let temperatures = match arguments.temperatures.as_slice() {
        [] => vec![arguments.decoding.sampling.temperature],
        several => several.to_vec(),
    };
    Drawing {
        n: arguments.n as usize,
        temperatures,
        parameters: arguments.decoding.sampling.parameters(),
        stop: arguments.decoding.sampling.stop.clone(),
        max_new_tokens: arguments.decoding.sampling.max_new_tokens as usize,
        seed: arguments.decoding.sampling.seed,
        batch: arguments.decoding.batch(),
    }
}

fn keep(keep: KeepArgument) -> Keep {
    match keep {
        KeepArgument::Best => Keep::Best,
        KeepArgument::Passing => Keep::Passing,
        KeepArgument::All => Keep::All,
    }
}

/// What the samples and their scores depend on. What is kept of them does not belong to it, so that may change.
fn plan(arguments: &Arguments, engine: &hone_compute::Engine, (setting, rows): (&JudgeSetting, usize)) -> Result<Plan> {
    let drawing = drawing(arguments);
    let mut plan = Plan::new("best-of", rows as u64, drawing.per_prompt() as u64);
    plan.model(&arguments.model, engine)?;
    plan.settings.extend(arguments.decoding.sampling.settings());
    let temperatures: Vec<String> = drawing.temperatures.iter().map(f32::to_string).collect();
    plan.set("--temperature", temperatures.join(","));
    plan.set("--n", arguments.n);
    arguments.rows.tell(&mut plan);
    plan.set("--majority", arguments.judge.majority);
    plan.set(
        "--answer-pattern",
        arguments.judge.answer_pattern.as_deref().unwrap_or_default(),
    );
    plan.file("--input", &arguments.input)?;
    if let Some(rewards) = &arguments.judge.rewards {
        plan.file("--rewards", rewards)?;
    }
    let judge = match setting {
        JudgeSetting::Rewards(_) => "rewards",
        JudgeSetting::Likelihood(_) => "likelihood",
        JudgeSetting::Majority => "majority",
    };
    plan.set("judge", judge);
    for (i, name) in setting.models().iter().enumerate() {
        plan.file(&format!("judging model {}", i + 1), &find_model(name)?)?;
    }
    Ok(plan)
}

fn tell(
    arguments: &Arguments,
    report: &Report,
    (threshold, kept): (Threshold, Option<Kept>),
    finished_before: bool,
) -> Result<()> {
    let mut output = Output::new();
    let threshold = match threshold {
        Threshold::Stated(threshold) => Some(threshold),
        Threshold::Implied(threshold) => threshold,
    };
    if arguments.json {
        output.json(&Told {
            report,
            threshold,
            out: arguments.out.as_deref(),
            kept,
            finished_before,
        })?;
        return Ok(output.finish()?);
    }
    for (i, sweep) in report.temperatures.iter().enumerate() {
        if i > 0 {
            output.line("")?;
        }
        output.line(&format!(
            "temperature {}: {} prompts, {} samples each, {:.1} tokens a sample, {:.0}% ended by themselves",
            sweep.temperature,
            report.prompts,
            report.n,
            sweep.mean_tokens,
            100.0 * sweep.ended
        ))?;
        table(&mut output, &sweep.rows)?;
    }
    if let (Some(out), Some(kept)) = (&arguments.out, kept) {
        let passing = threshold.map_or_else(String::new, |threshold| format!("; a sample passes from {threshold}"));
        output.line("")?;
        output.line(&format!(
            "{}: {} rows, for {} of {} prompts{passing}",
            out.display(),
            kept.rows,
            kept.prompts,
            report.prompts
        ))?;
    }
    Ok(output.finish()?)
}

fn table(output: &mut Output, rows: &[BestOfRow]) -> Result<()> {
    let with = |has: fn(&BestOfRow) -> bool| rows.iter().all(has);
    let (pass, majority) = (with(|row| row.pass.is_some()), with(|row| row.majority.is_some()));
    let mut head = format!("{:>5} {:>28}", "k", "best of k (95% interval)");
    if pass {
        head += &format!(" {:>26}", "pass@k (95% interval)");
    }
    if majority {
        head += &format!(" {:>26}", "majority@k (95% interval)");
    }
    output.line(&format!("{head} {:>9} {:>9}", "kl bound", "distinct"))?;
    let shown = |e: &Estimate| format!("{:.4} ({:.4} to {:.4})", e.mean, e.low, e.high);
    for row in rows {
        let mut line = format!("{:>5} {:>28}", row.k, shown(&row.best));
        for estimate in [row.pass.filter(|_| pass), row.majority.filter(|_| majority)]
            .iter()
            .flatten()
        {
            line += &format!(" {:>26}", shown(estimate));
        }
        output.line(&format!("{line} {:>9.3} {:>9.3}", row.kl_bound, row.distinct))?;
    }
    Ok(())
}
