//! What the pages under `docs/` show is so.

use hone_task::{EnvironmentSetting, RewardEntry, Rewards};
use serde::Deserialize;

const REWARDS: &str = include_str!("../../../docs/rewards.md");
const ENVIRONMENTS: &str = include_str!("../../../docs/environments.md");

/// The contents of a page's fenced blocks of this kind. Configurations of whole stages are left to the stages.
fn blocks<'a>(page: &'a str, kind: &str) -> Vec<&'a str> {
    let open = format!("```{kind}\n");
    page.split(&open)
        .skip(1)
        .filter_map(|rest| rest.split("```\n").next())
        .filter(|block| !block.contains("[model]"))
        .collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default)]
    rewards: Vec<RewardEntry>,
    environment: Option<EnvironmentSetting>,
}

#[test]
fn the_examples_of_rewards_are_good() {
    let blocks = blocks(REWARDS, "toml");
    assert_eq!(blocks.len(), 4);
    for block in blocks {
        let whole = block.starts_with("rewards") || block.contains("[[rewards]]");
        let text = if whole {
            block.to_owned()
        } else {
            format!("rewards = [{block}]")
        };
        let page: Page = toml::from_str(&text).unwrap_or_else(|error| panic!("{block}: {error}"));
        Rewards::check(&page.rewards).unwrap_or_else(|error| panic!("{block}: {error}"));
    }
}

#[test]
fn every_kind_and_key_has_its_row() {
    let kinds = [
        "{kind = 'exact', normalization = 'verbatim'}",
        "{kind = 'numeric'}",
        "{kind = 'regex', pattern = 'a'}",
        "{kind = 'format', sections = ['a']}",
        "{kind = 'length', max = 1}",
        "{kind = 'json-schema', schema = {type = 'null'}}",
        "{kind = 'similarity'}",
        "{kind = 'expression', expression = '1'}",
        "{kind = 'program', command = ['a'], memory_limit_mib = 1}",
        "{kind = 'model', path = 'a'}",
    ];
    let schema = schemars::schema_for!(RewardEntry);
    assert_eq!(
        schema.get("oneOf").and_then(|kinds| kinds.as_array()).unwrap().len(),
        kinds.len()
    );
    for entry in kinds {
        let page: Page = toml::from_str(&format!("rewards = [{entry}]")).unwrap();
        let written = serde_json::to_value(&page.rewards[0]).unwrap();
        let kind = written["kind"].as_str().unwrap();
        let row = REWARDS
            .lines()
            .find(|line| line.starts_with(&format!("| `{kind}` |")))
            .unwrap_or_else(|| panic!("{kind}: no row"));
        for key in written
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "kind" && *key != "weight")
        {
            assert!(row.contains(&format!("`{key}`")), "{kind}: {key} is not in its row");
        }
    }
}

#[test]
fn the_examples_of_environments_are_what_a_player_sees() {
    let blocks_of = blocks(ENVIRONMENTS, "toml");
    assert_eq!(blocks_of.len(), 2);
    let shown = blocks(ENVIRONMENTS, "text");
    for (block, shown) in blocks_of.into_iter().zip(shown) {
        let page: Page = toml::from_str(block).unwrap_or_else(|error| panic!("{block}: {error}"));
        let mut environment = page.environment.unwrap().build().unwrap();
        let mut seen = false;
        for index in 0..200 {
            environment.reset(1, index).unwrap();
            let mut dialogue = environment.observe();
            for action in shown.lines().filter_map(|line| line.strip_prefix("> ")) {
                environment.step(action).unwrap();
                dialogue += &format!("> {action}\n{}", environment.observe());
            }
            seen |= dialogue == shown;
            if environment.name() == "maze" {
                // The first maze of all
                assert_eq!(dialogue, shown);
                break;
            }
        }
        assert!(seen, "no episode goes as the page shows: {shown}");
    }
}
