//! The bundled recipe for worked answers: problems are divided, read, imitated, practised on and judged.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use hone_pipeline::compare::{CompareOptions, compare};
use hone_run::{Shutdown, Silent};

/// The bundled recipe for worked answers on problems made here, so small that its figures mean nothing.
#[test]
fn the_bundled_recipe_for_maths_runs() -> Result<(), Box<dyn Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/gsm8k.toml");
    let mut recipe: toml::Table = toml::from_str(&std::fs::read_to_string(path)?)?;
    recipe.remove("expect");
    let dir = tempfile::tempdir()?;
    let problem = |i: usize| {
        let working = "Two numbers are added here. ".repeat(1 + i % 9);
        format!("{{\"question\":\"What is {i} plus 1,000?\",\"answer\":\"{working}#### 1,{i:03}\"}}\n")
    };
    std::fs::write(dir.path().join("maths.jsonl"), (0..80).map(problem).collect::<String>())?;
    std::fs::write(dir.path().join("maths.toml"), toml::to_string(&recipe)?)?;
    let set = [
        "rows.file=maths.jsonl",
        "easy.file=maths.jsonl",
        "tokens.vocab_size=280",
        "base.model.new.width=24",
        "base.model.new.layers=1",
        "base.train.steps=2",
        "imitator.train.epochs=",
        "imitator.train.steps=2",
        "imitator.eval.samples=0",
        "compare.samples=2",
        "compare.max_new_tokens=4",
        "expert-iteration.expert_iteration.rounds=1",
        "expert-iteration.expert_iteration.rollout_batch=4",
        "expert-iteration.expert_iteration.samples_per_prompt=2",
        "expert-iteration.expert_iteration.max_new_tokens=4",
        "expert-iteration.eval.samples=0",
        "grpo.grpo.updates=1",
        "grpo.grpo.rollout_batch=4",
        "grpo.grpo.samples_per_prompt=2",
        "grpo.grpo.minibatch=4",
        "grpo.grpo.max_new_tokens=4",
        "grpo.eval.samples=0",
        "more-imitation.train.epochs=",
        "more-imitation.train.steps=1",
    ];
    let options = CompareOptions {
        path: dir.path().join("maths.toml"),
        out: Some(dir.path().join("out")),
        base: dir.path().into(),
        set: set.map(String::from).to_vec(),
        threads: Some(1),
        allow_isa_change: false,
    };
    let result = compare(&options, Arc::new(Silent), Shutdown::default())?.result;
    let names: Vec<&str> = result.methods.iter().map(|method| method.name.as_str()).collect();
    assert_eq!(names, ["start", "expert-iteration", "grpo", "more-imitation"]);
    let rows = |name: &str| {
        Ok::<_, std::io::Error>(
            std::fs::read_to_string(dir.path().join("out").join(name))?
                .lines()
                .count(),
        )
    };
    let (train, held_out) = (rows("rows/train.jsonl")?, rows("rows/held-out.jsonl")?);
    assert_eq!(
        (train + held_out, rows("easy/held-out.jsonl")?, result.prompts),
        (80, held_out, held_out as u64)
    );
    // The short ones are fewer, and there are some
    assert!((1..train).contains(&rows("easy/train.jsonl")?));
    Ok(())
}
