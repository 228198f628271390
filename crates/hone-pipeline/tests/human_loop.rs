//! The bundled recipe of the human loop: three rounds through the store and its queue, a control at equal labeling time, a table.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use hone_pipeline::recipe::{RecipeOptions, RecipeResult, run_recipe};
use hone_run::{Event, ExitStatus, Observer, Shutdown, Silent};
use serde_json::Value;

/// The recipe as its head says that it is tried, so small that its figures mean nothing.
fn options(dir: &Path) -> Result<RecipeOptions, Box<dyn Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/human-loop.toml");
    let text = std::fs::read_to_string(path)?;
    let smoke = text.lines().filter_map(|line| line.strip_prefix("# smoke: "));
    let mut set: Vec<String> = smoke
        .flat_map(|line| line.split("--set "))
        .map(|set| set.trim().to_owned())
        .filter(|set| !set.is_empty())
        .collect();
    assert!(set.len() > 30, "{set:?}");
    set.extend(
        [
            "start.world.corpus_bytes=60000",
            "start.pretrain.train.steps=12",
            "start.sft.train.steps=6",
        ]
        .map(String::from),
    );
    let mut recipe: toml::Table = toml::from_str(&text)?;
    // What is expected of a real run means nothing here
    recipe.remove("expect");
    let path = dir.join("human-loop.toml");
    std::fs::write(&path, toml::to_string(&recipe)?)?;
    Ok(RecipeOptions {
        path,
        runs: dir.join("runs"),
        base: dir.into(),
        set,
        threads: Some(1),
        allow_isa_change: false,
    })
}

/// Asks for a stop when the answers of the second round have begun.
struct StopInSecondRound(Shutdown);

impl Observer for StopInSecondRound {
    fn event(&self, event: &Event) {
        if let Event::Started { stage, .. } = event
            && stage == "round-2-labels: answers"
        {
            self.0.request();
        }
    }
}

fn summary<'a>(result: &'a RecipeResult, name: &str) -> Result<&'a Value, String> {
    let stage = result.stages.iter().find(|stage| stage.name == name);
    stage
        .map(|stage| &stage.summary)
        .ok_or_else(|| format!("there is no {name}"))
}

#[test]
fn the_bundled_recipe_of_the_human_loop_runs() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let options = options(dir.path())?;
    let shutdown = Shutdown::default();
    match run_recipe(&options, Arc::new(StopInSecondRound(shutdown.clone())), shutdown) {
        Ok(_) => return Err("it was not stopped".into()),
        Err(error) => {
            assert_eq!(error.exit_status(), ExitStatus::Resumable, "{error}");
            assert!(error.to_string().contains("round-2-labels"), "{error}");
        }
    }
    let result = run_recipe(&options, Arc::new(Silent), Shutdown::default())?;

    // Every round ranks what the newest model says, at the assumed minute each
    let mut seconds = 0.0;
    for round in 1..=3 {
        let labels = summary(&result, &format!("round-{round}-labels"))?;
        let (items, cost) = (labels["items"].as_u64().ok_or("no items")?, &labels["cost"]);
        assert!((1..=40).contains(&items));
        assert_eq!(items + labels["left_out"].as_u64().ok_or("none")?, 40);
        assert_eq!(cost["judgements"], items);
        assert_eq!(
            (cost["assumed"].as_bool(), cost["task"].as_str()),
            (Some(true), Some("rank"))
        );
        assert!(cost["comparisons"].as_u64().is_some_and(|n| n > 0));
        assert_eq!(cost["seconds"].as_f64(), Some(items as f64 * 60.0));
        seconds += items as f64 * 60.0;
    }
    let first = std::fs::read_to_string(dir.path().join("runs/round-1-labels/answers.jsonl"))?;
    let second = std::fs::read_to_string(dir.path().join("runs/round-2-labels/answers.jsonl"))?;
    let asked = |text: &str| -> Vec<Value> {
        let row = |line| serde_json::from_str::<Value>(line).unwrap_or_default();
        text.lines().map(|line| row(line)["prompt"].clone()).collect()
    };
    let first = asked(&first);
    assert_eq!(first.len(), 40);
    assert!(
        asked(&second).iter().all(|prompt| !first.contains(prompt)),
        "prompts come twice"
    );

    // The control has as many demonstrations as that time pays for
    let judged = summary(&result, "judged")?;
    let row = |name: &str| {
        let mut rows = judged["rows"].as_array().into_iter().flatten();
        rows.find(|row| row["name"] == name).cloned().unwrap_or_default()
    };
    for name in ["expert-demonstrations", "careful-demonstrations"] {
        let control = row(name);
        assert_eq!(
            control["demonstrations"].as_f64(),
            Some((seconds / 300.0).floor()),
            "{control}"
        );
        let spent = control["seconds"].as_f64().ok_or("no time")?;
        assert!(spent <= seconds && spent > seconds - 300.0, "{spent} of {seconds}");
    }
    assert_eq!(row("start")["judgements"], 0);
    assert!(row("start")["gain_an_hour"].is_null());
    assert_eq!(row("round-3")["seconds"].as_f64(), Some(seconds));
    assert!(row("round-3")["gain_an_hour"].is_number());
    for i in 1..=3 {
        let row = row(&format!("round-{i}"));
        let (low, rate, high) = (row["low"].as_f64(), row["win_rate"].as_f64(), row["high"].as_f64());
        assert!(low <= rate && rate <= high && rate.is_some(), "{row}");
    }
    let report = std::fs::read_to_string(dir.path().join("runs/judged/report.md"))?;
    for part in [
        "| round-3 |",
        "- round-1-labels: ",
        "- careful-labels: ",
        "assumed, not measured",
    ] {
        assert!(report.contains(part), "{part}\n{report}");
    }
    // Again: all of it is done
    assert_eq!(run_recipe(&options, Arc::new(Silent), Shutdown::default())?, result);
    Ok(())
}

/// The recipe as it stands, with its expectations: all of it is checked before the first stage, in which it is stopped.
#[test]
fn the_recipe_makes_sense_for_people_as_well() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    for annotators in ["simulated", "people"] {
        let mut options = options(dir.path())?;
        options.path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/human-loop.toml");
        options.set = (1..=3)
            .map(|round| format!("round-{round}-labels.annotators={annotators}"))
            .collect();
        let shutdown = Shutdown::default();
        shutdown.request();
        match run_recipe(&options, Arc::new(Silent), shutdown) {
            Ok(_) => return Err("it was not stopped".into()),
            Err(error) => assert_eq!(error.exit_status(), ExitStatus::Resumable, "{error}"),
        }
    }
    Ok(())
}
