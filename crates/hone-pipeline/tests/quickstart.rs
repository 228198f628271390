//! The whole arc, very small: it runs, resumes where it was stopped, refuses other settings, and shuffles on request.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hone_pipeline::quickstart::{QuickstartOptions, QuickstartResult, Scale, quickstart};
use hone_run::{Event, ExitStatus, Observer, Shutdown, Silent};
use serde_json::Value;

/// Settings that make it a matter of seconds.
const TINY: [&str; 12] = [
    "world.corpus_bytes=60000",
    "world.demonstrations=60",
    "world.prompts=60",
    "world.ranked_prompts=24",
    "world.held_out_prompts=30",
    "pretrain.train.steps=12",
    "sft.train.steps=6",
    "ppo.updates=2",
    "ppo.rollout_batch=8",
    "ppo.minibatch=4",
    "judge.max_new_tokens=16",
    "judge.resamples=50",
];

fn options(out: &Path, extra: &[&str], threads: usize) -> QuickstartOptions {
    QuickstartOptions {
        out: out.to_path_buf(),
        scale: Scale::Smoke,
        seed: 3,
        set: TINY.iter().chain(extra).map(ToString::to_string).collect(),
        threads: Some(threads),
        allow_isa_change: false,
    }
}

/// Asks for a stop at the first step of the n-th stage that begins.
struct StopAt {
    shutdown: Shutdown,
    stage: &'static str,
    seen: AtomicBool,
}

impl Observer for StopAt {
    fn event(&self, event: &Event) {
        if let Event::Started { stage, .. } = event
            && stage == self.stage
            && !self.seen.swap(true, Ordering::Relaxed)
        {
            self.shutdown.request();
        }
    }
}

fn figures(result: &QuickstartResult) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(result)?;
    for key in ["seconds", "out"] {
        value[key] = Value::Null;
    }
    Ok(value)
}

#[test]
fn an_interrupted_arc_has_the_results_of_an_uninterrupted_one() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let whole = quickstart(
        &options(&dir.path().join("a"), &[], 2),
        Arc::new(Silent),
        Shutdown::default(),
    )?;
    let names: Vec<&str> = whole.rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["base", "few-shot", "sft", "best-of-4", "ppo", "ppo-ptx"]);
    let kl: Vec<bool> = whole.rows.iter().map(|row| row.kl.is_some()).collect();
    assert_eq!(kl, [false, false, true, true, true, true]);
    // The tuned model is at no distance from itself, to the bit
    assert_eq!(whole.rows[2].kl, Some(0.0));
    assert!(
        whole
            .rows
            .iter()
            .all(|row| row.low <= row.win_rate && row.win_rate <= row.high)
    );
    assert!(!whole.order_promised && !whole.expectation_missed());

    let interrupted = options(&dir.path().join("b"), &[], 1);
    for stage in ["pretrain", "rankings", "ppo", "judge"] {
        let shutdown = Shutdown::default();
        let observer = StopAt {
            shutdown: shutdown.clone(),
            stage,
            seen: AtomicBool::new(false),
        };
        match quickstart(&interrupted, Arc::new(observer), shutdown) {
            Ok(_) => return Err(format!("{stage}: was not stopped").into()),
            Err(error) => assert_eq!(error.exit_status(), ExitStatus::Resumable, "{stage}: {error}"),
        }
        // What a stopped call took is noted
        let timings = std::fs::read_to_string(interrupted.out.join("timings.jsonl"))?;
        let last: Value = serde_json::from_str(timings.lines().last().unwrap_or_default())?;
        assert_eq!(last["step"], stage);
    }
    let resumed = quickstart(&interrupted, Arc::new(Silent), Shutdown::default())?;
    assert_eq!(figures(&resumed)?, figures(&whole)?);

    // The difference to sft is that of the win rates, 0 with certainty for sft itself
    for row in &whole.rows {
        let of_rates = row.win_rate - whole.rows[2].win_rate;
        assert!((row.difference - of_rates).abs() < 1e-12, "{row:?}");
        assert!(row.difference_low <= row.difference && row.difference <= row.difference_high);
        assert_eq!(row.difference_low == row.difference_high, row.name == "sft", "{row:?}");
    }

    // results.json has the fixed shape, and a finished quickstart says what it found
    let text = std::fs::read_to_string(dir.path().join("b/results.json"))?;
    let value: Value = serde_json::from_str(&text)?;
    let row = value["rows"][4].as_object().ok_or("no row")?;
    assert_eq!(
        row.keys().collect::<Vec<_>>(),
        [
            "name",
            "win_rate",
            "low",
            "high",
            "difference",
            "difference_low",
            "difference_high",
            "kl",
            "bits_per_byte"
        ]
    );
    assert!(value["seconds"].as_f64().is_some_and(|s| s > 0.0));
    let again = quickstart(&interrupted, Arc::new(Silent), Shutdown::default())?;
    assert_eq!(again.rows, whole.rows);
    let page = std::fs::read_to_string(dir.path().join("b/report.html"))?;
    for text in [
        "less sft&#39;s",
        "a row beats sft where it lies above 0",
        "best-of-4",
        "What the labeler thinks of them",
        "Answers side by side: prompt 12",
        "new phrasing",
    ] {
        assert!(page.contains(text), "{text}");
    }

    // Other settings are refused with their keys
    match quickstart(
        &options(&dir.path().join("b"), &["ppo.kl_coef=0"], 1),
        Arc::new(Silent),
        Shutdown::default(),
    ) {
        Ok(_) => return Err("other settings were accepted".into()),
        Err(error) => {
            assert_eq!(error.exit_status(), ExitStatus::Usage);
            assert!(error.to_string().contains("ppo.ppo.kl_coef"), "{error}");
        }
    }

    // A control takes the tuned model and its answers from a finished quickstart, and ranks them otherwise
    let reuse = format!("world.reuse={}", dir.path().join("a").display());
    let control = options(&dir.path().join("c"), &[&reuse, "world.rankings=shuffled"], 2);
    let shuffled = quickstart(&control, Arc::new(Silent), Shutdown::default())?;
    assert_eq!(shuffled.rows[..3], whole.rows[..3]);
    assert!(!dir.path().join("c/sft").exists());
    let text = |run: &str, file: &str| std::fs::read_to_string(dir.path().join(run).join("rankings").join(file));
    assert_eq!(text("a", "answers.jsonl")?, text("c", "answers.jsonl")?);
    let lines = |run: &str| -> Result<Vec<Value>, Box<dyn Error>> {
        text(run, "rankings.jsonl")?
            .lines()
            .map(|line| Ok(serde_json::from_str(line)?))
            .collect()
    };
    let (theirs, own) = (lines("a")?, lines("c")?);
    assert_eq!(theirs.len(), own.len());
    let moved = theirs
        .iter()
        .zip(&own)
        .filter(|(a, b)| a["ranking"] != b["ranking"])
        .count();
    assert!(moved > own.len() / 2, "{moved} of {}", own.len());
    Ok(())
}

#[test]
fn one_folder_has_one_writer() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let held = hone_run::Lock::acquire(dir.path())?;
    match quickstart(&options(dir.path(), &[], 1), Arc::new(Silent), Shutdown::default()) {
        Ok(_) => return Err("two wrote into one folder".into()),
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.contains("another process") && text.contains("is writing into this run"),
                "{text}"
            );
            assert_eq!(error.exit_status(), ExitStatus::Failed);
        }
    }
    assert!(!dir.path().join("quickstart.toml").exists());
    drop(held);
    Ok(())
}
