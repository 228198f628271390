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
    assert!(
        result.closing().contains("NO  four steps make a perfect model"),
        "{}",
        result.closing()
    );
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

#[test]
fn mistakes_are_named() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let head = "[[stage]]\nname = \"a\"\nkind = ";
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
        (
            format!("{head}\"sft\"\nconfig = {{}}\n").replace("\"a\"", "\"../a\""),
            "",
            "letters, digits",
        ),
        (
            format!("{head}\"sft\"\nconfig = {{}}\n{head}\"sft\"\nconfig = {{}}\n"),
            "",
            "stands twice",
        ),
        (
            format!("{head}\"sft\"\nconfig = {{}}\n"),
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
        if !recipe.contains("kind = \"quickstart\"") {
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
