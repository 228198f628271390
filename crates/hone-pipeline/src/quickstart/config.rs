//! What can be set of the quickstart: one table with a section a stage, written to `quickstart.toml`.

use hone_data::Source;
use hone_model::NewModel;
use hone_run::{Configuration, Resolved, config as strict};
use hone_train::ppo::{PpoConfig, PpoSection, PtxSection};
use hone_train::pretrain::{PretrainConfig, PretrainData, PretrainModel};
use hone_train::reward::{RewardConfig, RewardData, RewardSection as RewardMethod};
use hone_train::rollout::{Maximised, PromptData};
use hone_train::sections::{EvalSection, ModelSection, PassesSection, ScheduleSetting, ShownSection, TrainSection};
use hone_train::sft::{SftConfig, SftData, SftEval};
use hone_world::{Preferences, Source as Corpus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{PipelineError, Result};

/// How large everything is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// Half a minute: shows that everything runs; its figures mean nothing.
    Smoke,
    /// At most five minutes on two cores.
    #[default]
    Default,
}

/// Configuration of the quickstart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuickstartConfig {
    /// Every random number follows from it, the world included.
    pub seed: u64,
    /// How far it goes: `table`, or `reward` for all up to the reward model, as a start for comparisons.
    #[serde(default, skip_serializing_if = "Until::is_table")]
    pub until: Until,
    /// Text, demonstrations, prompts and the labeler.
    pub world: WorldSection,
    /// The tokenizer.
    pub tokenizer: TokenizerSection,
    /// Pre-training.
    pub pretrain: PretrainConfig,
    /// Supervised tuning.
    pub sft: SftConfig,
    /// The reward model.
    pub reward: RewardConfig,
    /// PPO, with and without the pre-training term.
    pub ppo: PpoConfig,
    /// The pre-training term.
    pub ptx: PtxSection,
    /// Judging.
    pub judge: JudgeSection,
}

/// How far a quickstart goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Until {
    /// To the table of all ways to answer.
    #[default]
    Table,
    /// To the reward model.
    Reward,
}

impl Until {
    // Serde asks by reference
    #[allow(clippy::trivially_copy_pass_by_ref)]
    fn is_table(&self) -> bool {
        *self == Self::Table
    }
}

/// A stage's section, and why a key in it is none of that stage.
type Refusal = (&'static str, fn(&str) -> Option<&'static str>);

impl Configuration for QuickstartConfig {
    fn resolve(&mut self) {
        self.pretrain.resolve();
        self.sft.resolve();
        self.reward.resolve();
        self.ppo.resolve();
    }

    fn refused(key: &str) -> Option<&'static str> {
        let stages: [Refusal; 4] = [
            ("pretrain", PretrainConfig::refused),
            ("sft", SftConfig::refused),
            ("reward", RewardConfig::refused),
            ("ppo", PpoConfig::refused),
        ];
        let (stage, inner) = key.split_once('.')?;
        stages.into_iter().find(|(name, _)| *name == stage)?.1(inner)
    }
}

/// `[world]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorldSection {
    /// Bytes of text to pre-train on.
    pub corpus_bytes: usize,
    /// Demonstrations.
    pub demonstrations: usize,
    /// Prompts for rankings and practice.
    pub prompts: usize,
    /// Held-out prompts.
    pub held_out_prompts: usize,
    /// Of the prompts, so many are answered and ranked.
    pub ranked_prompts: usize,
    /// Answers to a ranked prompt.
    pub answers: usize,
    /// What the labeler who ranks values: `standard`, `exchanged` or `planted`. The judge is always the standard one.
    pub preferences: PreferencesSetting,
    /// `labeler`, or `shuffled`: the answers of each ranking dealt out at random.
    pub rankings: RankingsSetting,
    /// The folder of a finished quickstart whose world, tokenizer, models and answers are used, up to supervised tuning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reuse: Option<String>,
}

/// What the labeler values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PreferencesSetting {
    /// Right, in the asked form, polite, short.
    #[default]
    Standard,
    /// Long and rude instead of short and polite.
    Exchanged,
    /// The word `happy` and nothing else, without noise.
    Planted,
}

impl PreferencesSetting {
    /// The labeler's preferences.
    pub fn preferences(self) -> Preferences {
        match self {
            Self::Standard => Preferences::standard(),
            Self::Exchanged => Preferences::exchanged(),
            Self::Planted => Preferences::planted(),
        }
    }
}

/// Where rankings come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RankingsSetting {
    /// The labeler.
    #[default]
    Labeler,
    /// Chance.
    Shuffled,
}

/// `[tokenizer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSection {
    /// Tokens.
    pub vocab_size: usize,
    /// Bytes of the corpus that it is trained on.
    pub bytes: usize,
}

/// `[judge]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeSection {
    /// Most tokens of an answer, for every row.
    pub max_new_tokens: usize,
    /// Answers of which the reward model picks one.
    pub best_of: usize,
    /// Worked examples before a question in the few-shot row.
    pub worked_examples: usize,
    /// Times the prompts are drawn again for an interval.
    pub resamples: u32,
}

/// Folders of the stages, under the quickstart's.
pub(super) mod folder {
    pub const WORLD: &str = "world";
    pub const TOKENIZER: &str = "tokenizer";
    pub const PRETRAIN: &str = "pretrain";
    pub const SFT: &str = "sft";
    pub const RANKINGS: &str = "rankings";
    pub const REWARD: &str = "reward";
    pub const PPO: &str = "ppo";
    pub const PPO_PTX: &str = "ppo-ptx";
    pub const JUDGE: &str = "judge";
}

/// Sizes that differ between scales.
struct Sizes {
    corpus_bytes: usize,
    demonstrations: usize,
    prompts: usize,
    held_out_prompts: usize,
    ranked_prompts: usize,
    model: (usize, usize, usize),
    pretrain: (u64, usize),
    sft: (u64, usize),
    reward: usize,
    ppo: (u64, usize, usize),
    windows: usize,
}

impl Scale {
    fn sizes(self) -> Sizes {
        match self {
            Self::Smoke => Sizes {
                corpus_bytes: 300_000,
                demonstrations: 400,
                prompts: 300,
                held_out_prompts: 120,
                ranked_prompts: 120,
                model: (64, 2, 2),
                pretrain: (60, 16),
                sft: (30, 16),
                reward: 8,
                ppo: (6, 32, 32),
                windows: 2,
            },
            Self::Default => Sizes {
                corpus_bytes: 6_000_000,
                demonstrations: 4_000,
                prompts: 4_000,
                held_out_prompts: 1_000,
                ranked_prompts: 1_500,
                model: (192, 4, 6),
                pretrain: (600, 16),
                sft: (350, 32),
                reward: 16,
                ppo: (60, 128, 64),
                windows: 4,
            },
        }
    }
}

impl QuickstartConfig {
    /// The settings of a scale.
    pub fn new(scale: Scale, seed: u64) -> Self {
        let sizes = scale.sizes();
        let file = |name: &str| Source::new(format!("{}/{name}", folder::WORLD));
        let model = |stage: &str| ModelSection::at(format!("{stage}/model"));
        let corpora: Vec<Source> = Corpus::ALL.iter().map(|s| corpus_source(*s)).collect();
        let train = |learning_rate| TrainSection {
            seed,
            learning_rate,
            ..TrainSection::default()
        };
        let (width, layers, heads) = sizes.model;
        let new = NewModel {
            family: "llama".into(),
            width,
            layers,
            heads,
            kv_heads: None,
            head_dim: None,
            intermediate: None,
            context: 256,
            tied: true,
            rope_theta: 10_000.0,
        };
        Self {
            seed,
            until: Until::Table,
            world: WorldSection {
                corpus_bytes: sizes.corpus_bytes,
                demonstrations: sizes.demonstrations,
                prompts: sizes.prompts,
                held_out_prompts: sizes.held_out_prompts,
                ranked_prompts: sizes.ranked_prompts,
                answers: 4,
                preferences: PreferencesSetting::Standard,
                rankings: RankingsSetting::Labeler,
                reuse: None,
            },
            tokenizer: TokenizerSection {
                vocab_size: 1024,
                bytes: 1_000_000,
            },
            pretrain: PretrainConfig {
                model: PretrainModel {
                    new: Some(new),
                    tokenizer: Some(folder::TOKENIZER.into()),
                    ..PretrainModel::default()
                },
                data: PretrainData {
                    train: corpora.clone(),
                    held_out: 0.05,
                    max_length: 256,
                    ..PretrainData::default()
                },
                train: PassesSection {
                    epochs: None,
                    steps: Some(sizes.pretrain.0),
                    batch: sizes.pretrain.1,
                    common: TrainSection {
                        weight_decay: 0.1,
                        warmup_steps: 30,
                        ..train(3e-3)
                    },
                },
                eval: EvalSection { every: 0 },
            },
            sft: SftConfig {
                model: model(folder::PRETRAIN),
                data: SftData {
                    train: vec![file("demonstrations.jsonl")],
                    held_out: 0.05,
                    max_length: 192,
                    ..SftData::default()
                },
                train: PassesSection {
                    epochs: None,
                    steps: Some(sizes.sft.0),
                    batch: sizes.sft.1,
                    common: train(4e-4),
                },
                eval: SftEval {
                    every: 0,
                    samples: 8,
                    max_new_tokens: 64,
                },
                ..SftConfig::default()
            },
            reward: RewardConfig {
                model: model(folder::SFT),
                data: RewardData {
                    train: vec![Source::new(format!("{}/rankings.jsonl", folder::RANKINGS))],
                    held_out: 0.1,
                    max_length: 192,
                },
                train: PassesSection {
                    epochs: Some(1.0),
                    steps: None,
                    batch: sizes.reward,
                    common: train(3e-4),
                },
                reward: RewardMethod {
                    centre_on: Some(vec![Source {
                        max_rows: Some(500),
                        ..file("demonstrations.jsonl")
                    }]),
                    ..RewardMethod::default()
                },
                eval: ShownSection { every: 0, samples: 8 },
                ..RewardConfig::default()
            },
            ppo: PpoConfig {
                model: model(folder::SFT),
                maximised: Maximised::model(format!("{}/model", folder::REWARD)),
                data: PromptData {
                    prompts: vec![file("prompts.jsonl")],
                    held_out: 0.02,
                    max_prompt_length: Some(128),
                },
                ppo: PpoSection {
                    updates: sizes.ppo.0,
                    rollout_batch: sizes.ppo.1,
                    minibatch: sizes.ppo.2,
                    ppo_epochs: 1,
                    kl_coef: 0.2,
                    ..PpoSection::default()
                },
                ptx: None,
                // A constant rate goes on wandering where the rewards say little, as the control of shuffled rankings shows
                train: TrainSection {
                    seed,
                    learning_rate: 1e-4,
                    schedule: ScheduleSetting::Linear,
                    final_fraction: 0.0,
                    ..PpoConfig::default().train
                },
                lora: None,
                eval: ShownSection { every: 1, samples: 64 },
                judge: None,
            },
            ptx: PtxSection {
                train: corpora,
                ptx_coef: 1.0,
                max_length: 256,
                windows: sizes.windows,
                ..PtxSection::default()
            },
            judge: JudgeSection {
                max_new_tokens: 64,
                best_of: 4,
                worked_examples: 3,
                resamples: 1000,
            },
        }
    }

    /// The settings of a scale with overrides.
    ///
    /// `STAGE.KEY=VALUE` sets a key of a stage: `sft.train.learning_rate=1e-4`, `world.preferences=exchanged`,
    /// `judge.best_of=8`. What follows `ppo.` and is no section of PPO's configuration is a key of its `[ppo]` section,
    /// so that `ppo.kl_coef=0` is `ppo.ppo.kl_coef=0`. Both PPO runs have the same settings; `ptx.` sets the
    /// pre-training term that only the second has.
    ///
    /// # Errors
    /// As [`hone_run::config::parse`], with keys as they stand in `quickstart.toml`.
    pub fn with_overrides(scale: Scale, seed: u64, overrides: &[String]) -> Result<Resolved<Self>> {
        // Not resolved yet: what follows from an overridden value has to follow it
        let unwritable = |error: String| PipelineError::setting("quickstart", error);
        let base = toml::to_string(&Self::new(scale, seed)).map_err(|e| unwritable(e.to_string()))?;
        let table: toml::Table = toml::from_str(&base).map_err(|e| unwritable(e.to_string()))?;
        let overrides: Vec<String> = overrides.iter().map(|text| full_key(text, &table)).collect();
        let resolved: Resolved<Self> = strict::parse("quickstart.toml", &base, &overrides)?;
        resolved.config.check()?;
        Ok(resolved)
    }

    fn check(&self) -> Result<()> {
        let positive = [
            ("world.held_out_prompts", self.world.held_out_prompts),
            ("world.ranked_prompts", self.world.ranked_prompts),
            ("judge.max_new_tokens", self.judge.max_new_tokens),
            ("judge.best_of", self.judge.best_of),
            ("judge.resamples", self.judge.resamples as usize),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(PipelineError::setting(key, "is 0; expected at least 1"));
            }
        }
        if self.world.ranked_prompts > self.world.prompts {
            let (got, most) = (self.world.ranked_prompts, self.world.prompts);
            return Err(PipelineError::setting(
                "world.ranked_prompts",
                format!("is {got}; world.prompts is {most}"),
            ));
        }
        if self.world.answers < 2 {
            let reason = format!(
                "is {}; expected at least 2, since one answer makes no ranking",
                self.world.answers
            );
            return Err(PipelineError::setting("world.answers", reason));
        }
        Ok(())
    }

    /// PPO's configuration with the pre-training term, which leaves out what pre-training held out, or more.
    pub fn ppo_ptx(&self) -> PpoConfig {
        let ptx = PtxSection {
            held_out: self.ptx.held_out.max(self.pretrain.data.held_out),
            ..self.ptx.clone()
        };
        PpoConfig {
            ptx: Some(ptx),
            ..self.ppo.clone()
        }
    }
}

/// A corpus in the mixture, at its share.
fn corpus_source(source: Corpus) -> Source {
    let path = format!("{}/{}.jsonl", folder::WORLD, source.name());
    Source {
        weight: source.weight(),
        ..Source::new(path)
    }
}

/// `ppo.kl_coef=0` as `ppo.ppo.kl_coef=0`; other keys as they are.
fn full_key(text: &str, table: &toml::Table) -> String {
    let Some((key, value)) = text.split_once('=') else {
        return text.to_owned();
    };
    let Some(inner) = key.trim().strip_prefix("ppo.") else {
        return text.to_owned();
    };
    let first = inner.split(['.', '[']).next().unwrap_or(inner);
    // `lora` is absent where it is not set
    let section = first == "lora"
        || table
            .get("ppo")
            .and_then(|ppo| ppo.get(first))
            .is_some_and(toml::Value::is_table);
    if section && inner != first {
        text.to_owned()
    } else {
        format!("ppo.ppo.{inner}={value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_reach_the_stage_they_name() -> Result<()> {
        let texts = [
            "sft.train.learning_rate=0.25",
            "ppo.kl_coef=0",
            "ppo.train.learning_rate=0.5",
            "ptx.ptx_coef=3",
        ];
        let overrides: Vec<String> = texts.map(String::from).to_vec();
        let config = QuickstartConfig::with_overrides(Scale::Smoke, 7, &overrides)?.config;
        assert_eq!(config.sft.train.learning_rate, 0.25);
        assert_eq!((config.ppo.ppo.kl_coef, config.ppo.train.learning_rate), (0.0, 0.5));
        assert_eq!(config.ppo.ppo.value_learning_rate, Some(0.5), "it follows the policy's");
        let ptx = config.ppo_ptx();
        assert_eq!((ptx.ppo.kl_coef, ptx.ptx.map(|p| p.ptx_coef)), (0.0, Some(3.0)));
        assert_eq!(config.pretrain.train.seed, 7);
        let world = [
            "world.preferences=exchanged".to_string(),
            "world.rankings=shuffled".into(),
        ];
        let world = QuickstartConfig::with_overrides(Scale::Default, 1, &world)?
            .config
            .world;
        assert_eq!(
            (world.preferences, world.rankings),
            (PreferencesSetting::Exchanged, RankingsSetting::Shuffled)
        );
        Ok(())
    }

    #[test]
    fn the_pre_training_term_leaves_out_what_pre_training_held_out() -> Result<()> {
        let held_out = |set: &[&str]| -> Result<Option<f64>> {
            let set: Vec<String> = set.iter().map(ToString::to_string).collect();
            let config = QuickstartConfig::with_overrides(Scale::Smoke, 1, &set)?.config;
            Ok(config.ppo_ptx().ptx.map(|ptx| ptx.held_out))
        };
        assert_eq!(held_out(&["pretrain.data.held_out=0.2"])?, Some(0.2));
        assert_eq!(
            held_out(&["pretrain.data.held_out=0.2", "ptx.held_out=0.3"])?,
            Some(0.3)
        );
        Ok(())
    }

    #[test]
    fn unknown_keys_and_senseless_values_are_refused() {
        let fails = |text: &str| match QuickstartConfig::with_overrides(Scale::Smoke, 1, &[text.to_string()]) {
            Ok(_) => panic!("{text} was accepted"),
            Err(error) => (error.exit_status().code(), error.to_string()),
        };
        let (code, message) = fails("ppo.kl_coeff=0");
        assert!(code == 2 && message.contains("kl_coef`"), "{message}");
        let (code, message) = fails("world.preference=planted");
        assert!(code == 2 && message.contains("world.preferences"), "{message}");
        let (code, message) = fails("world.answers=1");
        assert!(code == 2 && message.contains("at least 2"), "{message}");
        let (code, message) = fails("world.ranked_prompts=100000");
        assert!(code == 2 && message.contains("world.prompts is"), "{message}");
    }
}
