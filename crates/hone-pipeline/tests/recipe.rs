//! Recipes: stages hand on their results by folder, expectations are checked, mistakes are named.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use hone_pipeline::recipe::{RecipeOptions, RecipeResult, run_recipe};
use hone_run::{ExitStatus, Shutdown, Silent};

const RECIPE: &str = r#"
[[stage]]
name = "tokens"
kind = "tokenizer"
config = { files = ["text.txt"], vocab_size = 280 }

[[stage]]
name = "base"
kind = "pretrain"
config = "base.toml"
set = ["train.steps=4"]

[[stage]]
name = "more"
kind = "pretrain"

[stage.config]
model = { path = "{runs}/base/model" }
data = { train = ["text.txt"], max_length = 32 }
train = { steps = 2, batch = 2 }

[[expect]]
that = "training goes on from where it was"
stage = "more"
metric = "train/loss"
at = "first"
below = "base:steps"

[[expect]]
that = "four steps make a perfect model"
stage = "base"
metric = "eval/loss"
below = 0.01
"#;

const BASE: &str = r#"
model = { tokenizer = "{runs}/tokens", new = { width = 32, layers = 1, heads = 2, context = 32 } }
data = { train = ["text.txt"], max_length = 32 }
train = { steps = 100, batch = 2 }
"#;

fn write(dir: &Path, recipe: &str) -> std::io::Result<RecipeOptions> {
    let text: String = (0..200).map(|i| format!("The {i}. line of a short text.\n")).collect();
    std::fs::write(dir.join("text.txt"), text)?;
    std::fs::write(dir.join("base.toml"), BASE)?;
    std::fs::write(dir.join("recipe.toml"), recipe)?;
    let (path, runs) = (dir.join("recipe.toml"), dir.join("runs"));
    Ok(RecipeOptions {
        path,
        runs,
        base: dir.into(),
        set: Vec::new(),
        threads: Some(1),
        allow_isa_change: false,
    })
}

fn run(options: &RecipeOptions) -> hone_pipeline::Result<RecipeResult> {
    run_recipe(options, Arc::new(Silent), Shutdown::default())
}

#[test]
fn stages_run_in_order_and_expectations_are_checked() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let mut options = write(dir.path(), RECIPE)?;
    options.set = vec!["base.train.steps=5".into()];
    let result = run(&options)?;
    let names: Vec<&str> = result.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["tokens", "base", "more"]);
    // The command line comes after the recipe, the recipe after the file
    assert_eq!(result.stages[1].summary["steps"], 5);
    assert!(dir.path().join("runs/more/model/model.safetensors").is_file());
    let holds: Vec<bool> = result.expectations.iter().map(|e| e.holds).collect();
    assert_eq!((holds[1], result.expectation_missed()), (false, true));
    // Again: every stage is done, with the same result
    assert_eq!(run(&options)?, result);
    // Another override than the run was made with
    options.set = vec!["base.train.steps=6".into()];
    match run(&options) {
        Ok(_) => Err("another configuration was accepted".into()),
        Err(error) => {
            assert_eq!(error.exit_status(), ExitStatus::Usage, "{error}");
            assert!(error.to_string().contains("train.steps"), "{error}");
            Ok(())
        }
    }
}

/// Everything is checked before the first stage: a mistake in the last line costs no training.
#[test]
fn a_mistake_anywhere_stops_the_recipe_before_its_first_stage() -> Result<(), Box<dyn Error>> {
    let expect = "\n[[expect]]\nthat = \"t\"\nstage = \"more\"\n";
    let bare = |kind: &str, settings: &str| {
        format!("{RECIPE}\n[[stage]]\nname = \"last\"\nkind = \"{kind}\"\n[stage.config]\n{settings}\n")
    };
    let last = |kind: &str, settings: &str| {
        bare(
            kind,
            &format!("model = {{ path = \"{{runs}}/base/model\" }}\n{settings}"),
        )
    };
    for (recipe, set, parts) in [
        (
            format!("{RECIPE}{}", expect.replace("more", "mroe")) + "value = \"steps\"\nabove = 1\n",
            "",
            [
                "expect[2].stage",
                "there is no stage `mroe`; expected one of tokens, base, more",
            ],
        ),
        (
            format!("{RECIPE}{expect}above = 1\n"),
            "",
            ["expect[2]", "neither value nor metric"],
        ),
        (
            format!("{RECIPE}{expect}value = \"steps\"\n"),
            "",
            ["expect[2]", "neither above nor below"],
        ),
        (
            RECIPE.replace("\"base:steps\"", "\"base.steps\""),
            "",
            ["expect[0].below", "STAGE:VALUE"],
        ),
        (
            RECIPE.replace("steps = 2, batch", "stesp = 2, batch"),
            "",
            ["stage more", "did you mean `train.steps`?"],
        ),
        (
            RECIPE.to_owned(),
            "more.train.batch=many",
            ["recipe.toml, stage more: ", "train.batch"],
        ),
        // Values out of their range, and such that cannot go together, without the models and data of the stage
        (
            RECIPE.to_owned(),
            "more.train.batch=0",
            ["stage more: ", "train.batch: is 0; expected at least 1"],
        ),
        (
            RECIPE.to_owned(),
            "more.train.shards=3",
            ["stage more: ", "train.shards: is 3; expected a power of two"],
        ),
        (
            last(
                "grpo",
                "grpo = { minibatch = 12 }\nrewards = [{ kind = \"length\", max = 3 }]",
            ),
            "",
            [
                "stage last: ",
                "grpo.minibatch: is 12, which does not divide grpo.rollout_batch = 64",
            ],
        ),
        (
            last("ppo", "ppo = { clip_range = -1.0 }\nreward = { path = \"r\" }"),
            "",
            ["stage last: ", "ppo.clip_range: is -1"],
        ),
        (
            last("expert-iteration", "rewards = [{ kind = \"length\" }]"),
            "",
            ["stage last: ", "data.prompts: is empty; expected at least one source"],
        ),
        (
            last(
                "online-preference",
                "reward = { path = \"r\" }\njudge = { prompts = [\"p.jsonl\"] }",
            ),
            "",
            ["stage last: ", "judge: judges by nothing"],
        ),
        (
            last("preference", "preference = { beta = -1.0 }"),
            "",
            ["stage last: ", "preference.beta: is -1; expected a number above 0"],
        ),
        (
            last("sft", "keep = \"best\"\ndata = { held_out = 0.0 }"),
            "",
            ["stage last: ", "keep: is \"best\", and data.held_out is 0"],
        ),
        (
            last("reward", "data = { train = [\"r.jsonl\"] }\ntrain = { epochs = -1.0 }"),
            "",
            ["stage last: ", "train.epochs: is -1; expected a number above 0"],
        ),
        (
            last("sft", "data = { train = [] }"),
            "",
            ["stage last: ", "data.train: is empty; expected at least one source"],
        ),
        (
            last("reward", "data = { train = [\"r.jsonl\"], held_out = 1.0 }"),
            "",
            [
                "stage last: ",
                "`held_out` is 1, expected a share of at least 0 and below 1",
            ],
        ),
        (
            last("preference", "data = { train = [\"r.jsonl\"] }\nlora = { rank = 0 }"),
            "",
            ["stage last: ", "lora.rank: is 0; expected at least 1"],
        ),
        (
            bare("pretrain", "data = { train = [\"t.txt\"] }"),
            "",
            [
                "stage last: ",
                "model: expected either path, or [model.new] with tokenizer",
            ],
        ),
        (
            bare("sft", "data = { train = [\"d.jsonl\"] }"),
            "",
            [
                "stage last: ",
                "model.path: is missing; supervised tuning starts from a model",
            ],
        ),
        (
            bare(
                "grpo",
                "data = { prompts = [\"p.jsonl\"] }\nrewards = [{ kind = \"length\", max = 3 }]",
            ),
            "",
            ["stage last: ", "model.path: is missing; grpo starts from a model"],
        ),
        (
            last(
                "ppo",
                "data = { prompts = [\"p.jsonl\"], held_out = -0.5 }\nreward = { path = \"r\" }",
            ),
            "",
            [
                "stage last: ",
                "`held_out` is -0.5, expected a share of at least 0 and below 1",
            ],
        ),
        (
            last(
                "expert-iteration",
                "data = { prompts = [\"p.jsonl\"] }\nreward = { path = \"r\" }\nlora = { rank = 0 }",
            ),
            "",
            ["stage last: ", "lora.rank: is 0; expected at least 1"],
        ),
        (
            last(
                "grpo",
                "data = { prompts = [\"p.jsonl\"] }\nenvironment = { kind = \"maze\" }",
            ),
            "",
            ["stage last: ", "data.prompts: stands beside [environment]"],
        ),
        (
            last("ppo", "environment = { kind = \"maze\", max_turns = 0 }"),
            "",
            ["stage last: ", "environment.max_turns: is 0; expected at least 1"],
        ),
        (
            format!("{RECIPE}\n[[stage]]\nname = \"quick\"\nkind = \"quickstart\"\nset = [\"world.answers=1\"]\n"),
            "",
            ["stage quick: world.answers", "at least 2"],
        ),
        (
            RECIPE.replace("set = [\"train.steps=4\"]", "seed = 4"),
            "",
            ["stage[1].seed", "is a quickstart's"],
        ),
        (
            format!("{RECIPE}\n[compare]\nstart = \"{{runs}}/base/model\"\n"),
            "",
            ["`compare` is no key here", "`hone compare RECIPE` runs"],
        ),
        (
            RECIPE.replace("kind = \"tokenizer\"", "kind = \"split\"").replace(
                "files = [\"text.txt\"], vocab_size = 280",
                "file = \"rows.jsonl\", held_out = 1.5",
            ),
            "",
            ["stage tokens: held_out", "is 1.5; expected a share above 0 and below 1"],
        ),
    ] {
        let dir = tempfile::tempdir()?;
        let mut options = write(dir.path(), &recipe)?;
        options.set = set.split_whitespace().map(String::from).collect();
        match run(&options) {
            Ok(_) => return Err(format!("accepted: {parts:?}").into()),
            Err(error) => {
                let text = error.to_string();
                assert!(parts.iter().all(|part| text.contains(part)), "{text}\n{parts:?}");
                assert_eq!(error.exit_status(), ExitStatus::Usage, "{text}");
            }
        }
        assert!(!dir.path().join("runs").exists(), "{parts:?}: something ran");
    }
    Ok(())
}

/// Keeps what is said.
#[derive(Default)]
struct Listener(std::sync::Mutex<Vec<String>>);

impl hone_run::Observer for Listener {
    fn event(&self, event: &hone_run::Event) {
        if let hone_run::Event::Message(text) = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}

#[test]
fn a_tokenizer_takes_paths_as_stages_do_and_reads_no_further_than_its_bytes() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let recipe = "[[stage]]\nname = \"tokens\"\nkind = \"tokenizer\"\nconfig = \"settings/tokens.toml\"\n";
    let options = write(dir.path(), recipe)?;
    let settings = dir.path().join("settings");
    std::fs::create_dir(&settings)?;
    let config = "files = [{ path = \"mine.txt\", split = \"lines\" }, \"absent.txt\"]\nvocab_size = 270\nbytes = 60\n";
    std::fs::write(settings.join("tokens.toml"), config)?;
    // The limit ends the reading inside the first file; what follows there is not even text
    let mut text = b"a line of words, a line of words\n".repeat(2);
    text.extend(b"\xff\n");
    std::fs::write(dir.path().join("mine.txt"), text)?;
    let listener = Arc::new(Listener::default());
    let result = run_recipe(
        &options,
        Arc::clone(&listener) as Arc<dyn hone_run::Observer>,
        Shutdown::default(),
    )?;
    assert!(result.stages[0].summary["vocab_size"].as_u64() <= Some(270));
    let said = listener.0.lock().unwrap().join("\n");
    assert!(said.contains("mine.txt: 2 documents"), "{said}");

    // Rows that could not be used are told of
    let options = write(
        dir.path(),
        &recipe
            .replace("\"tokens\"", "\"others\"")
            .replace("tokens.toml", "others.toml"),
    )?;
    let config = "files = [{ path = \"rows.jsonl\", max_bad_share = 0.5 }]\nvocab_size = 270\n";
    std::fs::write(settings.join("others.toml"), config)?;
    std::fs::write(
        dir.path().join("rows.jsonl"),
        "{\"text\": \"some words\"}\n{\"text\": 7}\n",
    )?;
    run_recipe(
        &options,
        Arc::clone(&listener) as Arc<dyn hone_run::Observer>,
        Shutdown::default(),
    )?;
    let said = listener.0.lock().unwrap().join("\n");
    assert!(
        said.contains("rows.jsonl: 1 of 2 rows could not be used; line 2: "),
        "{said}"
    );
    Ok(())
}

#[test]
fn mistakes_are_named() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let head = "[[stage]]\nname = \"a\"\nkind = ";
    let sft = format!("{head}\"sft\"\nconfig = {{ model = {{ path = \"m\" }}, data = {{ train = [\"d.jsonl\"] }} }}\n");
    for (recipe, set, message) in [
        (format!("{head}\"pretraim\"\n"), "", "pretrain"),
        (format!("{head}\"pretrain\"\n"), "", "stage[0].config: is missing"),
        (
            format!("{head}\"pretrain\"\nconfig = \"nowhere.toml\"\n"),
            "",
            "nowhere.toml: cannot be read",
        ),
        (
            format!("{head}\"sft\"\nconfig = {{ trian = {{}} }}\n"),
            "",
            "unknown key `trian`; did you mean `train`?",
        ),
        (
            format!("{head}\"quickstart\"\nconfig = {{}}\n"),
            "",
            "takes scale, seed and set",
        ),
        (sft.replace("\"a\"", "\"../a\""), "", "letters, digits"),
        (format!("{sft}{sft}"), "", "stands twice"),
        (
            sft.clone(),
            "b.train.seed=1",
            "names no stage of this recipe; expected STAGE.KEY",
        ),
    ] {
        let mut options = write(dir.path(), &recipe)?;
        options.set = if set.is_empty() { Vec::new() } else { vec![set.into()] };
        match run(&options) {
            Ok(_) => return Err(format!("accepted: {recipe}").into()),
            Err(error) => assert!(error.to_string().contains(message), "{recipe}: {error}"),
        }
    }
    Ok(())
}

/// The control recipes, so small that their figures mean nothing: every stage runs, every expected value is there.
#[test]
fn the_bundled_recipes_find_what_they_expect() -> Result<(), Box<dyn Error>> {
    const TINY: [&str; 12] = [
        "world.corpus_bytes=60000",
        "world.demonstrations=60",
        "world.prompts=60",
        "world.ranked_prompts=40",
        "world.held_out_prompts=20",
        "pretrain.train.steps=12",
        "sft.train.steps=60",
        "sft.train.learning_rate=3e-3",
        "ppo.updates=1",
        "ppo.rollout_batch=4",
        "ppo.minibatch=4",
        "judge.max_new_tokens=16",
    ];
    let dir = tempfile::tempdir()?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let recipe = std::fs::read_to_string(&path)?;
        assert!(
            recipe.starts_with("# ")
                && ["# cost:", "# time:", "# result:"]
                    .iter()
                    .all(|line| recipe.contains(line))
        );
        // Comparisons and the human loop have tests of their own
        let others = ["\n[compare]\n", "kind = \"annotate\""];
        if !recipe.contains("kind = \"quickstart\"") || others.iter().any(|other| recipe.contains(other)) {
            continue;
        }
        let small = recipe.replace("kind = \"quickstart\"", "kind = \"quickstart\"\nscale = \"smoke\"");
        let mut options = write(dir.path(), &small)?;
        let stages: Vec<&str> = recipe
            .lines()
            .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
            .collect();
        options.set = stages
            .iter()
            .flat_map(|stage| TINY.map(|key| format!("{stage}.{key}")))
            .collect();
        options.set.push(format!("{}.reward.data.held_out=0.5", stages[1]));
        let result = run(&options)?;
        assert_eq!(result.stages.len(), 2, "{}", path.display());
        assert!(!result.expectations.is_empty(), "{}", path.display());
        seen += 1;
    }
    assert_eq!(seen, 4);
    Ok(())
}
