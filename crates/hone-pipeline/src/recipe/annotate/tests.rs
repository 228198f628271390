use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hone_data::annotations::{Judgement, Rewrite, Role, Submission, content_digest};
use hone_data::{Source, load_demonstrations};
use hone_run::config::parse;
use hone_run::{Event, ExitStatus, Observer, Shutdown, Silent};
use hone_world::{Split, World};

use super::*;

type Test = std::result::Result<(), Box<dyn Error>>;

fn kitchen(base: &Path, observer: Arc<dyn Observer>, shutdown: Shutdown) -> Kitchen {
    Kitchen {
        base: base.into(),
        threads: Some(1),
        allow_isa_change: false,
        observer,
        shutdown,
    }
}

/// A folder with twelve prompts of the small world.
fn folder() -> std::result::Result<tempfile::TempDir, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    World::new(1).write_prompts(&dir.path().join("prompts.jsonl"), 12, Split::Training)?;
    Ok(dir)
}

fn config(more: &str) -> Result<Resolved<AnnotateConfig>> {
    let text = format!("task = \"write\"\nprompts = [\"prompts.jsonl\"]\n{more}");
    let resolved: Resolved<AnnotateConfig> = parse("config", &text, &[])?;
    resolved.config.check()?;
    Ok(resolved)
}

const SIMULATED: &str = "count = 10\nskip = 2\noverlap = 2\nannotators = \"simulated\"\n";

/// Asks for a stop at the n-th step.
struct StopAfter {
    shutdown: Shutdown,
    left: AtomicU64,
}

impl Observer for StopAfter {
    fn event(&self, event: &Event) {
        if let Event::Step { .. } = event
            && self.left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            self.shutdown.request();
        }
    }
}

#[test]
fn simulated_annotators_share_the_queue_and_what_they_write_is_learned_from() -> Test {
    let dir = folder()?;
    let kitchen = kitchen(dir.path(), Arc::new(Silent), Shutdown::default());
    let stage = dir.path().join("labels");
    let resolved = config(SIMULATED)?;
    let summary = run(&kitchen, "labels", &resolved, &stage)?;
    assert_eq!(
        (summary["items"].as_u64(), summary["annotators"].as_u64()),
        (Some(10), Some(3))
    );
    // Twenty at an assumed five minutes each
    let cost = cost_of(&kitchen, Path::new("labels"))?;
    assert_eq!((cost.judgements, cost.demonstrations, cost.comparisons), (20, 20, 0));
    assert_eq!((cost.seconds, cost.measured, cost.assumed), (Some(6000.0), 20, true));
    let store = Store::open_to_read(&stage.join(STORE))?;
    let project = store.project("labels")?;
    let progress = store.progress(&project)?;
    assert_eq!((progress.complete, progress.open), (10, 0));
    let shares: Vec<u64> = progress.annotators.iter().map(|a| a.judged).collect();
    assert!(shares.iter().all(|n| (6..=7).contains(n)), "{shares:?}");
    // Each item has two, of different people
    let records = store.records(&project)?;
    for item in records.iter().map(|record| record.item) {
        let of: Vec<&str> = records
            .iter()
            .filter(|record| record.item == item)
            .map(|record| record.annotator.as_str())
            .collect();
        assert!(of.len() == 2 && of[0] != of[1], "{of:?}");
    }
    // The store is a source; the first two prompts were passed over
    let learned = load_demonstrations(&Source::new(stage.join(STORE)))?.items;
    assert_eq!(learned.len(), 20);
    let asked = prompts(&kitchen, &resolved.config.prompts)?;
    let passed_over = asked[0].input.to_messages();
    assert!(
        learned
            .iter()
            .all(|demonstration| demonstration.messages[0] != passed_over[0])
    );
    // Again: the same, and nothing is added
    assert_eq!(run(&kitchen, "labels", &resolved, &stage)?, summary);
    // Other settings are another stage
    match run(
        &kitchen,
        "labels",
        &config(&SIMULATED.replace("skip = 2", "skip = 1"))?,
        &stage,
    ) {
        Ok(_) => return Err("other settings were accepted".into()),
        Err(error) => assert!(error.to_string().contains("skip"), "{error}"),
    }
    Ok(())
}

#[test]
fn a_stage_that_was_stopped_ends_with_the_same_judgements() -> Test {
    let dir = folder()?;
    let resolved = config(SIMULATED)?;
    let whole = kitchen(dir.path(), Arc::new(Silent), Shutdown::default());
    run(&whole, "labels", &resolved, &dir.path().join("whole"))?;
    let stage = dir.path().join("halves");
    for left in [7, 6] {
        let shutdown = Shutdown::default();
        let observer = StopAfter {
            shutdown: shutdown.clone(),
            left: AtomicU64::new(left),
        };
        let stopped = kitchen(dir.path(), Arc::new(observer), shutdown);
        match run(&stopped, "labels", &resolved, &stage) {
            Ok(_) => return Err("it was not stopped".into()),
            Err(error) => assert_eq!(error.exit_status(), ExitStatus::Resumable, "{error}"),
        }
        // A task that was taken and not handed in, as after a kill, goes on with who took it
        let store = Store::open(&stage.join(STORE))?;
        let project = store.project("labels")?;
        let progress = store.progress(&project)?;
        let next = progress.annotators.iter().min_by_key(|a| a.judged).ok_or("nobody")?;
        let known = store.annotators()?;
        let next_id = known.iter().find(|a| a.name == next.name).ok_or("unknown")?.id;
        let at = next.judged as i64 * 300_000;
        assert!(store.claim(&project, next_id, at)?.is_some());
    }
    run(&whole, "labels", &resolved, &stage)?;
    let digest = |folder: &str| content_digest(&dir.path().join(folder).join(STORE));
    assert_eq!(digest("halves")?, digest("whole")?);
    Ok(())
}

#[test]
fn careful_writers_are_right_and_experts_err() -> Test {
    let dir = tempfile::tempdir()?;
    World::new(1).write_prompts(&dir.path().join("prompts.jsonl"), 120, Split::Training)?;
    let kitchen = kitchen(dir.path(), Arc::new(Silent), Shutdown::default());
    let mut right = Vec::new();
    for writing in ["careful", "experts"] {
        let text = format!("count = 120\nannotators = \"simulated\"\nsimulated = {{ writing = \"{writing}\" }}\n");
        let resolved = config(&text)?;
        let stage = dir.path().join(writing);
        run(&kitchen, writing, &resolved, &stage)?;
        let questions = questions(&resolved.config, &prompts(&kitchen, &resolved.config.prompts)?)?;
        let written = load_demonstrations(&Source::new(stage.join(STORE)))?.items;
        assert_eq!(written.len(), 120);
        let is_right = |demonstration: &&hone_data::Demonstration| {
            let asked = hone_data::identity_of(&demonstration.messages[..1]);
            questions
                .get(&asked)
                .is_some_and(|q| hone_world::is_right(q, &demonstration.messages[1].content))
        };
        right.push(written.iter().filter(is_right).count());
    }
    assert_eq!(right[0], 120);
    // 15% of the experts' answers are wrong: of 120 that is 18, give or take four standard deviations
    assert!((86..=118).contains(&right[1]), "{right:?}");
    Ok(())
}

#[test]
fn the_time_of_earlier_labels_says_how_many_tasks_there_are() -> Test {
    let dir = folder()?;
    let kitchen = kitchen(dir.path(), Arc::new(Silent), Shutdown::default());
    // Four tasks of 300 s
    let first = config("count = 4\nannotators = \"simulated\"\n")?;
    run(&kitchen, "first", &first, &dir.path().join("first"))?;
    let of = |seconds: u32| {
        let simulated = format!("simulated = {{ seconds_a_demonstration = {seconds} }}");
        config(&format!(
            "count = 12\nannotators = \"simulated\"\ntime_of = [\"first\"]\n{simulated}\n"
        ))
    };
    // 1,200 s pay for 8 tasks of 150 s and for 3 of 350 s
    let summary = run(&kitchen, "more", &of(150)?, &dir.path().join("more"))?;
    assert_eq!(summary["cost"]["judgements"], 8);
    assert_eq!(summary["cost"]["seconds"], 1200.0);
    let summary = run(&kitchen, "fewer", &of(350)?, &dir.path().join("fewer"))?;
    assert_eq!(summary["cost"]["judgements"], 3);
    for (seconds, message) in [(10, "pays for 120 tasks"), (1201, "pays for 0 tasks")] {
        let name = format!("refused-{seconds}");
        match run(&kitchen, &name, &of(seconds)?, &dir.path().join(&name)) {
            Ok(_) => return Err(message.into()),
            Err(error) => assert!(error.to_string().contains(message), "{error}"),
        }
    }
    Ok(())
}

/// Writes an answer to every task of a store, as the pages would, once there is something in it.
fn people(path: &Path, name: &str) -> std::result::Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let told = |error: hone_data::DataError| error.to_string();
    let filled = || {
        let store = Store::open_to_read(path).ok()?;
        let project = store.project(name).ok()?;
        (store.progress(&project).ok()?.items > 0).then_some(())
    };
    while filled().is_none() {
        if Instant::now() > deadline {
            return Err("nothing came".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let store = Store::open(path).map_err(told)?;
    let project = store.project(name).map_err(told)?;
    let person = store.put_annotator("ann", Role::Annotator, "digest", 1).map_err(told)?;
    while let Some(task) = store.claim(&project, person.id, 1000).map_err(told)? {
        let text = format!("What I know about {}.", task.item);
        let submission = Submission {
            lease: task.lease,
            annotator: person.id,
            judgement: Judgement {
                rewrite: Some(Rewrite { of: None, text }),
                ..Judgement::default()
            },
            started: 1000,
            // Attention to the first was not measured
            active: (task.item > 1).then_some(45_000),
        };
        store.submit(submission, 61_000).map_err(told)?;
    }
    Ok(())
}

#[test]
fn the_stage_waits_for_people_and_measures_their_time() -> Test {
    let dir = folder()?;
    let resolved = config("count = 5\n")?;
    let stage = dir.path().join("labels");
    // Asked to stop while nobody has come: the same call waits again
    let shutdown = Shutdown::default();
    shutdown.request();
    match run(
        &kitchen(dir.path(), Arc::new(Silent), shutdown),
        "labels",
        &resolved,
        &stage,
    ) {
        Ok(_) => return Err("it did not wait".into()),
        Err(error) => assert_eq!(error.exit_status(), ExitStatus::Resumable, "{error}"),
    }
    let path = stage.join(STORE);
    let judging = std::thread::spawn(move || people(&path, "labels"));
    let waiting = kitchen(dir.path(), Arc::new(Silent), Shutdown::default());
    let summary = run(&waiting, "labels", &resolved, &stage)?;
    judging.join().map_err(|_| "the judging ended early")??;
    let cost = cost_of(&waiting, Path::new("labels"))?;
    assert_eq!((cost.judgements, cost.measured, cost.assumed), (5, 4, false));
    // The one that was not measured counts with the mean of the others
    assert_eq!((cost.seconds_each, cost.seconds), (Some(45.0), Some(225.0)));
    assert_eq!(summary["annotators"], 1);
    Ok(())
}

#[test]
fn what_cannot_be_annotated_is_refused_by_key() -> Test {
    for (more, message) in [
        ("count = 0", "count: is 0"),
        ("count = 1\nmodel = \"m\"", "model: answers nothing where people write"),
        ("count = 1\nanswers = 10", "answers: is 10; expected 2 to 9"),
        (
            "count = 1\noverlap = 4\nannotators = \"simulated\"",
            "overlap: is 4, and there are 3 simulated annotators",
        ),
        ("count = 1\ntime_of = [\"a\"]", "time_of: is for simulated annotators"),
        (
            "count = 1\nsimulated = { seconds_a_ranking = 0 }",
            "simulated.seconds_a_ranking: is 0; expected 1 to 86400",
        ),
    ] {
        match config(more) {
            Ok(_) => return Err(more.into()),
            Err(error) => {
                assert!(error.to_string().contains(message), "{error}");
                assert_eq!(error.exit_status(), ExitStatus::Usage, "{error}");
            }
        }
    }
    for (text, message) in [
        ("prompts = [\"p\"]\ncount = 1", "model: is missing"),
        (
            "prompts = [\"p\"]\ncount = 1\ntask = \"pair\"",
            "task: is `pair`; expected rank or write",
        ),
    ] {
        let resolved: Resolved<AnnotateConfig> = parse("config", text, &[])?;
        match resolved.config.check() {
            Ok(()) => return Err(text.into()),
            Err(error) => assert!(error.to_string().contains(message), "{error}"),
        }
    }
    // What only the prompts can tell
    let dir = folder()?;
    std::fs::write(dir.path().join("own.jsonl"), "{\"prompt\": \"Why?\"}\n")?;
    let kitchen = kitchen(dir.path(), Arc::new(Silent), Shutdown::default());
    let own = |annotators: &str| {
        let text = format!("task = \"write\"\nprompts = [\"own.jsonl\"]\ncount = 1\nannotators = \"{annotators}\"");
        parse::<AnnotateConfig>("config", &text, &[])
    };
    for (name, resolved, message) in [
        (
            "few",
            config("count = 10\nskip = 3")?,
            "count: is 10 behind the 3 that `skip` passes over, and there are 12",
        ),
        ("own", own("simulated")?, "row 1: simulated annotators cannot read it"),
    ] {
        match run(&kitchen, name, &resolved, &dir.path().join(name)) {
            Ok(_) => return Err(name.into()),
            Err(error) => assert!(error.to_string().contains(message), "{error}"),
        }
    }
    Ok(())
}
