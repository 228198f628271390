//! The `hone` program: arguments in, work done by the libraries, results on stdout, everything else on stderr.
#![forbid(unsafe_code)]

mod commands;
mod failure;
mod input;
mod machine;
mod model;
mod output;
mod progress;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hone_run::Shutdown;

use commands::{
    annotate, bench, chat, config, data, doctor, eval, export, logprobs, plan, quickstart, recipe, sample, score,
    stage, tokenizer, world,
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
    Run(recipe::Arguments),
    Plan(plan::Arguments),
    Config(config::Arguments),
    Sample(sample::Arguments),
    Chat(chat::Arguments),
    Logprobs(logprobs::Arguments),
    Score(score::Arguments),
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
    /// Whether it stops in good order when it is asked to, and goes on when it is called again.
    fn is_resumable(&self) -> bool {
        matches!(
            self,
            Self::Quickstart(_)
                | Self::Pretrain(_)
                | Self::Sft(_)
                | Self::Reward(_)
                | Self::Preference(_)
                | Self::Ppo(_)
                | Self::Grpo(_)
                | Self::Run(_)
                | Self::Annotate(_)
        )
    }
}

fn main() -> ExitCode {
    // First of all, so that a signal that comes while arguments, settings and data are read is obeyed, too
    let shutdown = match Shutdown::install() {
        Ok(shutdown) => shutdown,
        Err(error) => return failure::exit(Err(error.into())),
    };
    let command = Cli::parse().command;
    if !command.is_resumable() {
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
        Command::Run(arguments) => recipe::run(&arguments, shutdown),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Config(arguments) => config::run(&arguments),
        Command::Sample(arguments) => sample::run(&arguments),
        Command::Chat(arguments) => chat::run(&arguments),
        Command::Logprobs(arguments) => logprobs::run(&arguments),
        Command::Score(arguments) => score::run(&arguments),
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
