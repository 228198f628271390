//! `[[rewards]]` and `[environment]` inside a stage's file, read as strictly as all configuration.

use hone_run::Configuration;
use hone_run::config::parse;
use hone_task::{EnvironmentSetting, RewardEntry, RewardRule, Rewards};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A stage that has both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Stage {
    /// What is maximised.
    rewards: Vec<RewardEntry>,
    /// What is acted in.
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<EnvironmentSetting>,
}

impl Configuration for Stage {
    fn defaults() -> Option<Self> {
        Some(Self::default())
    }
}

const GOOD: &str = r#"
rewards = [
    { kind = "numeric", column = "answer", weight = 1.0 },
    { kind = "length", unit = "tokens", max = 200, slope = 50, weight = 0.1 },
    { kind = "json-schema", schema = { type = "object", required = ["city"] } },
    { kind = "expression", expression = 'if(contains(response, "please"), 1, 0) - 0.01 * words(response)' },
    { kind = "program", command = ["python3", "judge.py"], memory_limit_mib = 512, name = "judge" },
    { kind = "model", path = "runs/reward/model", weight = 0.5 },
]

[environment]
kind = "word-game"
turns = 4
"#;

fn refused(text: &str) -> String {
    parse::<Stage>("grpo.toml", text, &[])
        .expect_err("must be refused")
        .to_string()
}

#[test]
fn a_stage_reads_rewards_and_writes_every_default_out() {
    let resolved = parse::<Stage>("grpo.toml", GOOD, &[]).unwrap();
    Rewards::check(&resolved.config.rewards).unwrap();
    resolved.config.environment.as_ref().unwrap().build().unwrap();
    for line in [
        "marker = \"####\"",
        "fallback = false",
        "time_limit = 10.0",
        "restarts = 1",
        "hints = \"letters\"",
    ] {
        assert!(resolved.text().contains(line), "{line} in\n{}", resolved.text());
    }
    let again = parse::<Stage>("run.toml", resolved.text(), &[]).unwrap();
    assert_eq!(again.config, resolved.config);
    assert_eq!(again.digest(), resolved.digest());
}

#[test]
fn a_reward_can_be_overridden_by_its_key() {
    let overrides = ["rewards[0].weight=2.5".to_owned(), "environment.turns=9".to_owned()];
    let resolved = parse::<Stage>("grpo.toml", GOOD, &overrides).unwrap();
    assert_eq!(resolved.config.rewards[0].weight, 2.5);
    let RewardRule::Numeric { fallback, .. } = &resolved.config.rewards[0].rule else {
        panic!("still numeric");
    };
    assert!(!fallback);
}

#[test]
fn wrong_keys_and_values_are_named_with_their_entry() {
    let message = refused("rewards = [{ kind = 'exact' }, { kind = 'numeric', fallbak = true }]");
    assert!(
        message.contains("rewards[1].fallbak") && message.contains("rewards[1].fallback"),
        "{message}"
    );
    let message = refused("rewards = [{ kind = 'exact', pattern = 'a' }]");
    assert!(message.contains("rewards[0].pattern"), "{message}");
    let message = refused("rewards = [{ kind = 'numerc' }]");
    assert!(
        message.contains("rewards[0].kind") && message.contains("numeric"),
        "{message}"
    );
    let message = refused("rewards = [{ kind = 'numeric', weight = 'much' }]");
    assert!(message.contains("rewards[0].weight"), "{message}");
    let message = refused("environment = { kind = 'maze', sise = 3 }");
    assert!(
        message.contains("environment.sise") && message.contains("environment.size"),
        "{message}"
    );
    let message = refused("environment = { kind = 'chess' }");
    assert!(
        message.contains("environment.kind") && message.contains("word-game"),
        "{message}"
    );
}
