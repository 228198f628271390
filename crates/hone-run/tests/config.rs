//! Configuration files as a user writes them, right and wrong.

use std::collections::BTreeMap;

use hone_run::config::{changed_keys, commented, load, markdown, parse, schema};
use hone_run::{Configuration, Error, ExitStatus, Resolved};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Supervised fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Sft {
    /// The model to start from.
    model: Model,
    /// What to read.
    data: Data,
    /// How to train.
    #[serde(default)]
    train: Train,
    /// Low-rank adapters; absent for full fine-tuning.
    #[serde(skip_serializing_if = "Option::is_none")]
    lora: Option<Lora>,
}

impl Configuration for Sft {
    fn defaults() -> Option<Self> {
        None
    }

    fn refused(key: &str) -> Option<&'static str> {
        (key == "train.beam").then_some("nothing is searched for here; see train.schedule")
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Model {
    /// A directory or a hub id.
    path: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Data {
    /// Files and their weights.
    train: Vec<Source>,
    /// Renames columns: what hone calls them = what the file calls them.
    #[serde(default)]
    columns: BTreeMap<String, String>,
    #[serde(flatten)]
    limits: Limits,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Limits {
    /// Longest sequence, in tokens.
    #[serde(default = "max_length")]
    max_length: usize,
}

fn max_length() -> usize {
    512
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Source {
    /// The file.
    path: String,
    /// Its share.
    #[serde(default = "one")]
    weight: f64,
}

fn one() -> f64 {
    1.0
}

/// How to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Train {
    /// Passes over the data.
    epochs: u32,
    /// Step size at its peak.
    learning_rate: f32,
    /// Arithmetic.
    precision: Precision,
    /// How the step size falls.
    schedule: Schedule,
    /// Stops here, if given.
    #[schemars(example = 40)]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_steps: Option<u64>,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            epochs: 3,
            learning_rate: 1e-4,
            precision: Precision::Bf16,
            schedule: Schedule::Constant,
            max_steps: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Precision {
    F32,
    Bf16,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Schedule {
    Constant,
    Cosine {
        /// Share of the peak at the end.
        floor: f64,
    },
    Linear {
        /// Steps of decay.
        decay_steps: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Lora {
    /// Rank of the update.
    rank: usize,
    /// Which matrices.
    targets: Vec<String>,
}

const GOOD: &str = r#"
[model]
path = "runs/pretrain/model"

[data]
train = [{ path = "alpaca.json" }, { path = "b.json", weight = 2 }]
columns = { prompt = "q" }

[train]
learning_rate = 1e-3
schedule = { kind = "cosine", floor = 0.1 }
"#;

fn read(text: &str, overrides: &[&str]) -> Result<Resolved<Sft>, Error> {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    parse("sft.toml", text, &overrides)
}

fn message(text: &str, overrides: &[&str]) -> String {
    let error = read(text, overrides).expect_err("must be refused");
    assert_eq!(error.exit_status(), ExitStatus::Usage, "{error}");
    error.to_string()
}

#[test]
fn defaults_are_written_out_and_read_back_equal() {
    let resolved = read(GOOD, &[]).unwrap();
    assert_eq!(resolved.config.data.limits.max_length, 512);
    assert_eq!(resolved.config.data.train[1].weight, 2.0);
    assert_eq!(resolved.config.train.schedule, Schedule::Cosine { floor: 0.1 });
    let text = resolved.text();
    for line in [
        "epochs = 3",
        "precision = \"bf16\"",
        "max_length = 512",
        "learning_rate = 0.001",
        "weight = 1.0",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    let again = read(text, &[]).unwrap();
    assert_eq!(again.config, resolved.config);
    assert_eq!(again.text(), text);
    assert_eq!(again.digest(), resolved.digest());
}

#[test]
fn the_digest_is_of_values_not_of_order() {
    let reordered = r#"
        train = { schedule = { floor = 0.1, kind = "cosine" }, learning_rate = 0.001 }
        data = { columns = { prompt = "q" }, train = [{ path = "alpaca.json" }, { weight = 2.0, path = "b.json" }] }
        model.path = "runs/pretrain/model"
    "#;
    assert_eq!(
        read(reordered, &[]).unwrap().digest(),
        read(GOOD, &[]).unwrap().digest()
    );
    assert_ne!(
        read(GOOD, &["train.epochs=4"]).unwrap().digest(),
        read(GOOD, &[]).unwrap().digest()
    );
}

#[test]
fn unknown_keys_are_named_with_line_and_nearest_key() {
    let text = GOOD.replace("learning_rate", "learning_rat");
    assert_eq!(
        message(&text, &[]),
        "sft.toml:10: unknown key `train.learning_rat`; did you mean `train.learning_rate`?"
    );
    // In an array of tables, on its own line.
    let text = GOOD.replace(
        "{ path = \"b.json\", weight = 2 }",
        "\n { path = \"b.json\", wieght = 2 }",
    );
    assert_eq!(
        message(&text, &[]),
        "sft.toml:7: unknown key `data.train[1].wieght`; did you mean `data.train[1].weight`?"
    );
    // Flattened keys are valid, and suggested.
    let text = GOOD.replace("columns =", "max_lenght = 3\ncolumns =");
    assert!(
        message(&text, &[]).ends_with("did you mean `data.max_length`?"),
        "{}",
        message(&text, &[])
    );
    // The right name in the wrong table.
    let text = format!("learning_rate = 1.0\n{GOOD}");
    assert!(
        message(&text, &[]).contains("sft.toml:1: unknown key `learning_rate`; did you mean `train.learning_rate`?")
    );
    // A table that is optional.
    let text = format!("{GOOD}\n[lora]\nrank = 8\ntarget = [\"q\"]");
    assert!(message(&text, &[]).contains("`lora.target`; did you mean `lora.targets`?"));
    // Nothing near.
    let text = format!("{GOOD}\n[xyzzy]\nrank = 8");
    assert!(
        message(&text, &[]).contains("`xyzzy`; valid here: model, data, train, lora"),
        "{}",
        message(&text, &[])
    );
    // From the command line.
    assert!(
        message(GOOD, &["train.epoch=1"])
            .starts_with("--set train.epoch=1: unknown key `train.epoch`; did you mean `train.epochs`?")
    );
    // All of them at once.
    let text = GOOD
        .replace("learning_rate", "learning_rat")
        .replace("path = \"runs", "pth = \"runs");
    assert_eq!(message(&text, &[]).lines().count(), 2);
}

#[test]
fn keys_of_another_variant_are_unknown() {
    let text = GOOD.replace("floor = 0.1", "floor = 0.1, decay_steps = 3");
    assert!(
        message(&text, &[]).contains("unknown key `train.schedule.decay_steps`"),
        "{}",
        message(&text, &[])
    );
    let text = GOOD.replace(
        "{ kind = \"cosine\", floor = 0.1 }",
        "{ kind = \"linear\", decay_steps = 3 }",
    );
    assert_eq!(
        read(&text, &[]).unwrap().config.train.schedule,
        Schedule::Linear { decay_steps: 3 }
    );
}

#[test]
fn maps_take_any_key() {
    let resolved = read(GOOD, &["data.columns.response=a"]).unwrap();
    assert_eq!(resolved.config.data.columns["response"], "a");
}

#[test]
fn overrides_are_toml_or_plain_text() {
    let resolved = read(
        GOOD,
        &[
            "train.learning_rate=0.5",
            "model.path=runs/x y/model",
            "data.train[1].weight=7",
            "train.precision=f32",
            "lora={rank = 4, targets = [\"q\"]}",
            "lora.rank=5",
            "train.max_steps=9",
        ],
    )
    .unwrap()
    .config;
    assert_eq!(resolved.train.learning_rate, 0.5);
    assert_eq!(resolved.model.path, "runs/x y/model");
    assert_eq!(resolved.data.train[1].weight, 7.0);
    assert_eq!(resolved.train.precision, Precision::F32);
    assert_eq!(
        resolved.lora,
        Some(Lora {
            rank: 5,
            targets: vec!["q".into()]
        })
    );
    assert_eq!(resolved.train.max_steps, Some(9));
    // Text stays text where the key holds text, and no second key can be smuggled in.
    assert_eq!(read(GOOD, &["model.path=123"]).unwrap().config.model.path, "123");
    assert_eq!(read(GOOD, &["model.path=\"a b\""]).unwrap().config.model.path, "a b");
    let smuggled = "model.path=\"a\"\nother = 1";
    assert_eq!(read(GOOD, &[smuggled]).unwrap().config.model.path, "\"a\"\nother = 1");
}

#[test]
fn overrides_of_the_wrong_type_name_key_and_origin() {
    let text = message(GOOD, &["train.epochs=many"]);
    assert!(
        text == "--set train.epochs=many: train.epochs: is \"many\"; expected a whole number of at least 0, as in epochs = 3",
        "{text}"
    );
    let text = message(GOOD, &["train.epochs=-1"]);
    assert!(
        text.contains("train.epochs: is -1; expected a whole number of at least 0"),
        "{text}"
    );
    let text = message(GOOD, &["train.precision=f16"]);
    assert!(
        text.contains("train.precision: is \"f16\"; expected one of \"f32\", \"bf16\""),
        "{text}"
    );
    assert!(message(GOOD, &["train.epochs"]).contains("expected KEY=VALUE"));
    assert!(message(GOOD, &["train..epochs=1"]).contains("not a dotted key"));
    assert!(message(GOOD, &["model.path.x=1"]).contains("so it has no key `x`"));
    assert!(message(GOOD, &["data.train[7].path=a"]).contains("has 2 elements"));
}

#[test]
fn wrong_values_in_the_file_name_line_and_key() {
    let text = message(&GOOD.replace("1e-3", "\"fast\""), &[]);
    assert!(
        text.starts_with("sft.toml:10: train.learning_rate: is \"fast\"; expected a number, as in learning_rate = "),
        "{text}"
    );
    let text = message(&GOOD.replace("weight = 2", "weight = \"x\""), &[]);
    assert!(
        text.starts_with("sft.toml:6: data.train[1].weight: is \"x\"; expected a number"),
        "{text}"
    );
    let text = message(&GOOD.replace("path = \"runs/pretrain/model\"", ""), &[]);
    assert!(
        text.starts_with("sft.toml:2: model.path: is missing; expected text in quotes"),
        "{text}"
    );
    // A section that is none, a list that is none; nothing speaks of types of the program
    for (from, to, said) in [
        (
            "[model]\npath = \"runs/pretrain/model\"",
            "model = 3",
            "model: is 3; expected a table, as in [model]",
        ),
        (
            "train = [{ path = \"alpaca.json\" }, { path = \"b.json\", weight = 2 }]",
            "train = \"a.json\"",
            "data.train: is \"a.json\"; expected a list",
        ),
        (
            "learning_rate = 1e-3",
            "learning_rate = true",
            "is true; expected a number",
        ),
        (
            "learning_rate = 1e-3",
            "epochs = 2.5",
            "train.epochs: is 2.5; expected a whole number",
        ),
        (
            "floor = 0.1",
            "floor = [1]",
            "train.schedule.floor: is a list; expected a number",
        ),
    ] {
        let text = message(&GOOD.replace(from, to), &[]);
        assert!(text.contains(said), "{text}");
        assert!(!text.contains("struct") && !text.contains("invalid type"), "{text}");
    }
    let text = message("a = 1\nb = = 2\n", &[]);
    assert!(text.starts_with("sft.toml:2:5: not valid TOML"), "{text}");
    let resolved = read(GOOD, &[]).unwrap();
    let error = resolved.invalid("train.learning_rate", "got -1, expected a number above 0");
    assert_eq!(
        error.to_string(),
        "sft.toml:10: train.learning_rate: got -1, expected a number above 0"
    );
}

#[test]
fn files_that_are_not_text_are_refused_with_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.toml");
    std::fs::write(&path, b"a = 1\n\xff").unwrap();
    let error = load::<Sft>(&path, &[]).unwrap_err().to_string();
    assert!(error.contains("bad.toml:2: not valid TOML: not UTF-8"), "{error}");
    let error = load::<Sft>(&dir.path().join("absent.toml"), &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("absent.toml: cannot read the configuration"), "{error}");
}

#[test]
fn changed_keys_are_listed_by_dotted_name() {
    let before = read(GOOD, &[]).unwrap();
    let after = read(
        GOOD,
        &["train.epochs=4", "data.train[0].weight=3", "lora={rank=1, targets=[]}"],
    )
    .unwrap();
    assert_eq!(
        changed_keys(before.table(), after.table()),
        ["data.train[0].weight", "lora.rank", "lora.targets", "train.epochs"]
    );
    let shorter = read(
        GOOD,
        &["data.train=[{path=\"a\"}]", "train.schedule={kind=\"constant\"}"],
    )
    .unwrap();
    assert_eq!(
        changed_keys(before.table(), shorter.table()),
        ["data.train", "train.schedule.floor", "train.schedule.kind"]
    );
    assert!(changed_keys(before.table(), before.table()).is_empty());
}

#[test]
fn the_commented_file_reads_back_as_the_defaults() {
    let defaults = read(GOOD, &[]).unwrap().config;
    let text = commented(&defaults).unwrap();
    assert_eq!(read(&text, &[]).unwrap().config, defaults, "{text}");
    for line in [
        "# Step size at its peak.\nlearning_rate = 0.001\n",
        "# Stops here, if given.\n# max_steps = 40\n",
        "# Low-rank adapters; absent for full fine-tuning.\n# [lora]\n# Rank of the update.\n# rank = 1\n",
        "# Arithmetic. One of \"f32\", \"bf16\".\n",
        "# - weight (number): Its share.\n",
        "[train.schedule]\nkind = \"cosine\"\n",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[test]
fn the_reference_page_lists_every_key() {
    let page = markdown("hone sft", &read(GOOD, &[]).unwrap().config).unwrap();
    for line in [
        "| `train.learning_rate` | number | `0.001` | Step size at its peak. |",
        "| `data.train[].weight` | number | | Its share. |",
        "| `train.max_steps` | whole number | unset | Stops here, if given. |",
        "## `[lora]` (absent by default)",
        "| `lora.targets` | list of text | unset | Which matrices. |",
    ] {
        assert!(page.contains(line), "{line} in\n{page}");
    }
    assert_eq!(schema::<Sft>()["properties"]["train"]["description"], "How to train.");
}

#[test]
fn integers_beyond_toml_are_refused_not_wrapped() {
    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Seed {
        seed: u64,
    }
    impl Configuration for Seed {}
    assert!(matches!(
        Resolved::from_config(Seed { seed: u64::MAX }),
        Err(Error::Unwritable(_))
    ));
    assert_eq!(
        Resolved::from_config(Seed { seed: i64::MAX as u64 }).unwrap().text(),
        "seed = 9223372036854775807\n"
    );
}

#[test]
fn an_override_without_a_value_takes_the_key_out() {
    let text = GOOD.replace("learning_rate", "max_steps = 7\nepochs = 9\nlearning_rate");
    let resolved = read(&text, &["train.max_steps=", "train.epochs=", "data.train[0]="]).unwrap();
    assert_eq!(resolved.config.train.max_steps, None);
    assert_eq!(resolved.config.train.epochs, 3, "the default again");
    assert_eq!(resolved.config.data.train.len(), 1);
    assert_eq!(resolved.config.data.train[0].path, "b.json");
    assert!(!resolved.text().contains("max_steps"), "{}", resolved.text());
    // Set again behind it, absent from the start, and whole sections
    let resolved = read(&text, &["train.max_steps=", "train.max_steps=8", "lora.rank="]).unwrap();
    assert_eq!((resolved.config.train.max_steps, resolved.config.lora), (Some(8), None));
    assert_eq!(read(&text, &["train="]).unwrap().config.train, Train::default());
    // A needed key, and one that is none
    assert!(message(&text, &["model.path="]).starts_with("--set model.path=: model.path: is missing"));
    assert!(message(&text, &["train.epoch="]).contains("unknown key `train.epoch`; did you mean `train.epochs`?"));
    // Empty text is written out
    assert_eq!(read(GOOD, &["model.path=\"\""]).unwrap().config.model.path, "");
}

#[test]
fn a_key_of_others_is_refused_with_the_reason() {
    assert_eq!(
        message(GOOD, &["train.beam=4"]),
        "--set train.beam=4: `train.beam` is no key here: nothing is searched for here; see train.schedule"
    );
}

/// Two configurations with one section type and different defaults; what follows from other values is filled in.
#[test]
fn defaults_of_a_configuration_lie_beneath_its_keys() {
    #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default)]
    struct Practice {
        train: Train,
        #[serde(skip_serializing_if = "Option::is_none")]
        twice: Option<u32>,
    }
    impl Configuration for Practice {
        fn defaults() -> Option<Self> {
            let train = Train {
                learning_rate: 0.5,
                schedule: Schedule::Cosine { floor: 0.25 },
                ..Train::default()
            };
            Some(Self { train, twice: None })
        }

        fn resolve(&mut self) {
            self.twice.get_or_insert(2 * self.train.epochs);
        }
    }
    let read = |text: &str| parse::<Practice>("practice.toml", text, &[]).unwrap();
    let resolved = read("[train]\nepochs = 4\n");
    assert_eq!(
        (resolved.config.train.learning_rate, resolved.config.twice),
        (0.5, Some(8))
    );
    assert_eq!(resolved.config.train.schedule, Schedule::Cosine { floor: 0.25 });
    assert_eq!(read(resolved.text()).text(), resolved.text());
    assert_eq!(
        read("").digest(),
        Resolved::from_config(Practice::defaults().unwrap()).unwrap().digest()
    );
    let schema = schema::<Practice>();
    let train = &schema["$defs"]["Train"]["properties"];
    assert_eq!(
        (&train["learning_rate"]["default"], &train["epochs"]["default"]),
        (&0.5.into(), &3.into())
    );
    assert_eq!(schema["properties"]["twice"]["default"], 6);
    assert!(schema["properties"]["train"].get("default").is_none());
}

/// A section that has kinds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Kinds {
    /// How the step size falls, if it does.
    #[schemars(example = serde_json::json!({"kind": "cosine", "floor": 0.5}))]
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<Schedule>,
}

impl Configuration for Kinds {}

#[test]
fn of_an_absent_section_with_kinds_the_keys_of_its_example_are_shown() {
    let text = commented(&Kinds::default()).unwrap();
    assert!(
        text.contains("# [schedule]\n") && !text.contains("decay_steps"),
        "{text}"
    );
    // Taken in, it is the example
    let all: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.contains(" = ") || line.starts_with('['))
        .map(|line| format!("{line}\n"))
        .collect();
    let read = parse::<Kinds>("kinds.toml", &all, &[]).unwrap();
    assert_eq!(read.config.schedule, Some(Schedule::Cosine { floor: 0.5 }));
    assert!(
        parse::<Kinds>("kinds.toml", &text, &[])
            .unwrap()
            .config
            .schedule
            .is_none()
    );
}
