//! `hone config`: the configuration of a stage as a JSON Schema or as a commented file.

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use hone_run::config;
use hone_train::{
    expert_iteration::ExpertIterationConfig, grpo::GrpoConfig, online_preference::OnlinePreferenceConfig,
    ppo::PpoConfig, preference::PreferenceConfig, pretrain::PretrainConfig, reward::RewardConfig, sft::SftConfig,
};

use crate::output::Output;

/// Show what can be configured
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Print a JSON Schema of a stage's configuration, with the stage's defaults
    Schema {
        /// The stage
        stage: Stage,
    },
    /// Print a configuration of a stage with every key, its default and a comment; its file names stand for yours
    Init {
        /// The stage
        stage: Stage,
    },
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

/// Prints it.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut out = Output::new();
    match arguments.what {
        What::Schema { stage } => {
            let schema = match stage {
                Stage::Pretrain => config::schema::<PretrainConfig>(),
                Stage::Sft => config::schema::<SftConfig>(),
                Stage::Reward => config::schema::<RewardConfig>(),
                Stage::Preference => config::schema::<PreferenceConfig>(),
                Stage::Ppo => config::schema::<PpoConfig>(),
                Stage::Grpo => config::schema::<GrpoConfig>(),
                Stage::ExpertIteration => config::schema::<ExpertIterationConfig>(),
                Stage::OnlinePreference => config::schema::<OnlinePreferenceConfig>(),
            };
            out.line(&serde_json::to_string_pretty(&schema)?)?;
        }
        What::Init { stage } => {
            let text = match stage {
                Stage::Pretrain => config::commented(&PretrainConfig::example())?,
                Stage::Sft => config::commented(&SftConfig::example())?,
                Stage::Reward => config::commented(&RewardConfig::example())?,
                Stage::Preference => config::commented(&PreferenceConfig::example())?,
                Stage::Ppo => config::commented(&PpoConfig::example())?,
                Stage::Grpo => config::commented(&GrpoConfig::example())?,
                Stage::ExpertIteration => config::commented(&ExpertIterationConfig::example())?,
                Stage::OnlinePreference => config::commented(&OnlinePreferenceConfig::example())?,
            };
            out.stream(&text)?;
        }
    }
    Ok(out.finish()?)
}
