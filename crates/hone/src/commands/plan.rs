//! `hone plan CONFIG.toml`: memory and time of a stage before it starts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use hone_data::{Kind, Source, inspect};
use hone_run::{Configuration, Resolved, Shutdown, Silent, config};
use hone_train::plan::{Bytes, Plan};
use hone_train::{Job, TrainError, expert_iteration, grpo, online_preference, ppo, preference, pretrain, reward, sft};

use crate::failure::Failure;
use crate::output::Output;

/// Smaller parts are in the sum and in `--json` only.
const SHOWN: u64 = 50_000;

/// Say what a stage will need of memory and time, without starting it
#[derive(Args)]
pub struct Arguments {
    /// The configuration of a stage
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// The stage that it configures [default: the one that takes its keys and the kind of its data]
    #[arg(long)]
    stage: Option<Stage>,
    /// Set a key of the configuration, such as train.microbatch_tokens=2048; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Threads
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,
    /// Leaves out the time, for which the machine's speed is measured
    #[arg(long)]
    quick: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stage {
    Pretrain,
    Sft,
    Reward,
    Preference,
    Ppo,
    Grpo,
    ExpertIteration,
    OnlinePreference,
}

/// Plans a stage.
pub fn run(arguments: &Arguments) -> Result<()> {
    let path = &arguments.config;
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()));
    let text = text.map_err(|e| Failure::usage(format!("{e:#}")))?;
    let file = File { path, text, arguments };
    let stage = match arguments.stage {
        Some(stage) => stage,
        None => file.stage()?,
    };
    let plan = match stage {
        Stage::Pretrain => file.plan(pretrain::plan),
        Stage::Sft => file.plan(sft::plan),
        Stage::Reward => file.plan(reward::plan),
        Stage::Preference => file.plan(preference::plan),
        Stage::Ppo => file.plan(ppo::plan),
        Stage::Grpo => file.plan(grpo::plan),
        Stage::ExpertIteration => file.plan(expert_iteration::plan),
        Stage::OnlinePreference => file.plan(online_preference::plan),
    }?;
    let mut out = Output::new();
    if arguments.json {
        out.json(&plan)?;
    } else {
        print(&plan, &mut out)?;
    }
    Ok(out.finish()?)
}

/// A file and what is to be done with it.
struct File<'a> {
    path: &'a Path,
    text: String,
    arguments: &'a Arguments,
}

impl File<'_> {
    fn resolve<T: Configuration>(&self) -> Result<Resolved<T>, hone_run::Error> {
        config::parse(&self.path.display().to_string(), &self.text, &self.arguments.set)
    }

    fn plan<T: Configuration>(&self, stage: fn(&Job, &Resolved<T>, bool) -> Result<Plan, TrainError>) -> Result<Plan> {
        let resolved = self.resolve()?;
        let job = Job {
            dir: PathBuf::new(),
            base: PathBuf::new(),
            observer: Arc::new(Silent),
            shutdown: Shutdown::default(),
            allow_isa_change: false,
            threads: self.arguments.threads.map(|threads| threads as usize),
        };
        Ok(stage(&job, &resolved, !self.arguments.quick)?)
    }

    /// The stage that takes the keys of the file, or of several the one that takes its data.
    fn stage(&self) -> Result<Stage> {
        let mut takes: Vec<(Stage, Option<Source>)> = Vec::new();
        if let Ok(resolved) = self.resolve::<pretrain::PretrainConfig>() {
            takes.push((Stage::Pretrain, resolved.config.data.train.first().cloned()));
        }
        if let Ok(resolved) = self.resolve::<sft::SftConfig>() {
            takes.push((Stage::Sft, resolved.config.data.train.first().cloned()));
        }
        if let Ok(resolved) = self.resolve::<reward::RewardConfig>() {
            takes.push((Stage::Reward, resolved.config.data.train.first().cloned()));
        }
        if let Ok(resolved) = self.resolve::<preference::PreferenceConfig>() {
            takes.push((Stage::Preference, resolved.config.data.train.first().cloned()));
        }
        if let Ok(resolved) = self.resolve::<ppo::PpoConfig>() {
            takes.push((Stage::Ppo, resolved.config.data.prompts.first().cloned()));
        }
        if let Ok(resolved) = self.resolve::<grpo::GrpoConfig>() {
            takes.push((Stage::Grpo, resolved.config.data.prompts.first().cloned()));
        }
        if let Ok(resolved) = self.resolve::<expert_iteration::ExpertIterationConfig>() {
            takes.push((Stage::ExpertIteration, resolved.config.data.prompts.first().cloned()));
        }
        if let Ok(resolved) = self.resolve::<online_preference::OnlinePreferenceConfig>() {
            takes.push((Stage::OnlinePreference, resolved.config.data.prompts.first().cloned()));
        }
        match &takes[..] {
            [] => {
                let message = format!("{}: no stage takes all of its keys", self.path.display());
                Err(Failure::usage(message)
                    .hint("name the stage, as in --stage sft, to hear what is wrong; a recipe's stages are planned one by one, each by its own file")
                    .into())
            }
            [(stage, _)] => Ok(*stage),
            [(_, source), ..] => {
                let unclear = || {
                    let names: Vec<_> = takes.iter().map(|(stage, _)| stage.name()).collect();
                    let message = format!(
                        "{}: may be the configuration of {}",
                        self.path.display(),
                        names.join(" or ")
                    );
                    Failure::usage(message).hint("name the stage, as in --stage sft")
                };
                let source = source.as_ref().ok_or_else(unclear)?;
                let kind = inspect(source).map_err(TrainError::from)?.kind;
                let stage = match kind.ok_or_else(unclear)? {
                    Kind::Text => Stage::Pretrain,
                    Kind::Conversations => Stage::Sft,
                    // Without [preference] a file that both take is a reward model's
                    Kind::Preferences if takes.iter().any(|(other, _)| *other == Stage::Reward) => Stage::Reward,
                    Kind::Preferences => Stage::Preference,
                    Kind::Prompts => Stage::Ppo,
                };
                let known = takes.iter().any(|(other, _)| *other == stage);
                known.then_some(stage).ok_or_else(|| unclear().into())
            }
        }
    }
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Sft => "sft",
            Self::Reward => "reward",
            Self::Preference => "preference",
            Self::Ppo => "ppo",
            Self::Grpo => "grpo",
            Self::ExpertIteration => "expert-iteration",
            Self::OnlinePreference => "online-preference",
        }
    }
}

fn print(plan: &Plan, out: &mut Output) -> Result<()> {
    let (isa, precision, threads) = (plan.isa, plan.precision, plan.threads);
    out.line(&format!("{}, {isa}, {precision}, {threads} threads", plan.stage))?;
    for model in &plan.models {
        let trained = match model.trained {
            0 => "frozen".to_string(),
            trained if trained == model.parameters => "all trained".to_string(),
            trained => format!("{} trained", grouped(trained as u64)),
        };
        let parameters = grouped(model.parameters as u64);
        out.line(&format!("{:<16} {parameters} parameters, {trained}", model.name))?;
    }
    let (what, most) = match plan.stage {
        "ppo" | "grpo" | "online-preference" => ("updates", " at most"),
        "expert-iteration" => ("rounds", " at most"),
        _ => ("steps", ""),
    };
    let steps = grouped(plan.steps);
    out.line(&format!("{what:<16} {steps}, {} tokens{most}", grouped(plan.tokens)))?;
    for source in &plan.sources {
        let items = grouped(source.items);
        out.line(&format!(
            "{:<16} {items} {}, {:.2} epochs",
            source.name, source.unit, source.epochs
        ))?;
    }
    for what in &plan.assumed {
        out.line(&format!("{:<16} {what}", "assumed"))?;
    }
    out.line("\nmemory")?;
    for part in plan.memory.iter().filter(|part| part.bytes >= SHOWN) {
        out.line(&format!("  {:>9}  {}", Bytes(part.bytes).to_string(), part.what))?;
    }
    out.line(&format!("  {:>9}  at most in all", Bytes(plan.peak_bytes).to_string()))?;
    if let (Some(machine), Some(fits)) = (plan.machine, plan.fits) {
        let of = if machine.limited {
            "the control group's limit"
        } else {
            "this machine's"
        };
        let verdict = if fits { "it fits" } else { "it does not fit" };
        let (available, total) = (Bytes(machine.available).to_string(), Bytes(machine.total));
        out.line(&format!("  {available:>9}  available of {of} {total}: {verdict}"))?;
    }
    if let Some(time) = plan.time {
        let (all, step) = (duration(time.seconds), duration(time.seconds_a_step));
        let one = what.trim_end_matches('s');
        out.line(&format!(
            "\ntime             about {all}, {step} a {one}: {:.3e} operations at the speed measured now",
            time.operations
        ))?;
    }
    Ok(())
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds for people.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        let seconds = [1.26, 64.0, 600.0, 36_000.0, 864_000.0];
        assert_eq!(
            seconds.map(duration),
            ["1.3 s", "64 s", "10 min", "10.0 h", "10.0 days"]
        );
    }
}
