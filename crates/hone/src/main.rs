//! The `hone` program: arguments in, work done by the libraries, results on stdout, everything else on stderr.
#![forbid(unsafe_code)]

mod bulk;
mod commands;
mod failure;
mod input;
mod machine;
mod model;
mod output;
mod progress;
mod reach;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hone_run::Shutdown;

use commands::{
    annotate, bench, best_of, chat, compare, config, dashboard, data, doctor, eval, export, logprobs, plan, prompt,
    quickstart, recipe, sample, score, serve, stage, tokenizer, world,
};
use failure::Failure;

/// From raw text to a model people prefer, on the machine you own.
#[derive(Parser)]
#[command(name = "hone", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Quickstart(quickstart::Arguments),
    /// Pre-train on texts
    Pretrain(stage::Arguments),
    /// Tune on demonstrations
    Sft(stage::Arguments),
    /// Train a reward model on rankings
    Reward(stage::Arguments),
    /// Tune on preferences without a reward model: DPO, IPO, KTO, ORPO, SimPO
    Preference(stage::Arguments),
    /// Improve a policy against a reward model
    Ppo(stage::Arguments),
    /// Improve a policy by comparing its responses to a prompt with one another: GRPO, Dr. GRPO, DAPO, RLOO, REINFORCE++
    Grpo(stage::Arguments),
    /// Improve a model by tuning it on the best of its own responses, round after round
    ExpertIteration(stage::Arguments),
    /// Tune a policy on pairs of its own responses, which a reward model judges: online DPO, IPO, ORPO, SimPO
    OnlinePreference(stage::Arguments),
    Run(recipe::Arguments),
    Compare(compare::Arguments),
    Plan(plan::Arguments),
    Config(config::Arguments),
    Sample(sample::Arguments),
    Prompt(prompt::Arguments),
    BestOf(best_of::Arguments),
    Chat(chat::Arguments),
    Logprobs(logprobs::Arguments),
    Score(score::Arguments),
    Serve(serve::Arguments),
    Dashboard(dashboard::Arguments),
    Eval(eval::Arguments),
    Export(export::Arguments),
    Tokenizer(tokenizer::Arguments),
    Data(data::Arguments),
    Annotate(annotate::Arguments),
    World(world::Arguments),
    Bench(bench::Arguments),
    Doctor(doctor::Arguments),
}

impl Command {
    /// Whether it stops in good order when it is asked to; all but the servers go on when they are called again.
    fn stops_in_order(&self) -> bool {
        match self {
            Self::Quickstart(_)
            | Self::Pretrain(_)
            | Self::Sft(_)
            | Self::Reward(_)
            | Self::Preference(_)
            | Self::Ppo(_)
            | Self::Grpo(_)
            | Self::ExpertIteration(_)
            | Self::OnlinePreference(_)
            | Self::Run(_)
            | Self::Annotate(_)
            | Self::Compare(_)
            | Self::Serve(_)
            | Self::Dashboard(_) => true,
            Self::Sample(arguments) => arguments.out.is_some(),
            Self::Prompt(arguments) => arguments.out.is_some(),
            Self::BestOf(arguments) => arguments.out.is_some(),
            _ => false,
        }
    }
}

fn main() -> ExitCode {
    // First of all, so that a signal that comes while arguments, settings and data are read is obeyed, too
    let shutdown = match Shutdown::install() {
        Ok(shutdown) => shutdown,
        Err(error) => return failure::exit(Err(error.into())),
    };
    let command = Cli::parse().command;
    if !command.stops_in_order() {
        shutdown.stand_down();
        if shutdown.requested() {
            return failure::exit(Err(Failure::failed("interrupted").into()));
        }
    }
    let result = match command {
        Command::Quickstart(arguments) => quickstart::run(&arguments, shutdown),
        Command::Pretrain(arguments) => stage::run(&arguments, shutdown, hone_train::pretrain::run),
        Command::Sft(arguments) => stage::run(&arguments, shutdown, hone_train::sft::run),
        Command::Reward(arguments) => stage::run(&arguments, shutdown, hone_train::reward::run),
        Command::Preference(arguments) => stage::run(&arguments, shutdown, hone_train::preference::run),
        Command::Ppo(arguments) => stage::run(&arguments, shutdown, hone_train::ppo::run),
        Command::Grpo(arguments) => stage::run(&arguments, shutdown, hone_train::grpo::run),
        Command::ExpertIteration(arguments) => stage::run(&arguments, shutdown, hone_train::expert_iteration::run),
        Command::OnlinePreference(arguments) => stage::run(&arguments, shutdown, hone_train::online_preference::run),
        Command::Run(arguments) => recipe::run(&arguments, shutdown),
        Command::Compare(arguments) => compare::run(&arguments, shutdown),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Config(arguments) => config::run(&arguments),
        Command::Sample(arguments) => sample::run(&arguments, &shutdown),
        Command::Prompt(arguments) => prompt::run(&arguments, &shutdown),
        Command::BestOf(arguments) => best_of::run(&arguments, &shutdown),
        Command::Chat(arguments) => chat::run(&arguments),
        Command::Logprobs(arguments) => logprobs::run(&arguments),
        Command::Score(arguments) => score::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments, &shutdown),
        Command::Dashboard(arguments) => dashboard::run(&arguments, &shutdown),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Tokenizer(arguments) => tokenizer::run(&arguments),
        Command::Data(arguments) => data::run(&arguments),
        Command::Annotate(arguments) => annotate::run(&arguments, shutdown),
        Command::World(arguments) => world::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
    };
    failure::exit(result)
}
