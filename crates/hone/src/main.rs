//! The `hone` program: arguments in, work done by the libraries, results on stdout, everything else on stderr.
#![forbid(unsafe_code)]

mod commands;
mod failure;
mod hub;
mod input;
mod machine;
mod model;
mod output;
mod progress;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{
    bench, chat, config, data, doctor, eval, export, logprobs, plan, quickstart, recipe, sample, score, stage,
    tokenizer, world,
};

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
    /// Improve a policy against a reward model
    Ppo(stage::Arguments),
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
    World(world::Arguments),
    Bench(bench::Arguments),
    Doctor(doctor::Arguments),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Quickstart(arguments) => quickstart::run(&arguments),
        Command::Pretrain(arguments) => stage::run(&arguments, hone_train::pretrain::run),
        Command::Sft(arguments) => stage::run(&arguments, hone_train::sft::run),
        Command::Reward(arguments) => stage::run(&arguments, hone_train::reward::run),
        Command::Ppo(arguments) => stage::run(&arguments, hone_train::ppo::run),
        Command::Run(arguments) => recipe::run(&arguments),
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
        Command::World(arguments) => world::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
    };
    failure::exit(result)
}
