//! Stages that are killed at any moment and started again leave the bytes of one that was not; signals are obeyed.
#![cfg(unix)]

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hone_math::Key;

use crate::stages::{PRACTISING, STAGES, Stages, promised, unfinished};

const SIGKILL: i32 = 9;
/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kills the child after a while, or, without one, as soon as something is being saved.
fn kill(stages: &Stages, name: &str, mut child: Child, after: Option<Duration>) -> ExitStatus {
    let started = Instant::now();
    loop {
        let due = match after {
            Some(after) => started.elapsed() >= after,
            None => !unfinished(&stages.dir(name)).is_empty(),
        };
        if due || child.try_wait().unwrap().is_some() {
            let _ = child.kill();
            return child.wait().unwrap();
        }
        assert!(started.elapsed() < PATIENCE, "{name} hangs");
        if after.is_some() {
            sleep(Duration::from_micros(500));
        }
    }
}

/// Fails unless a run, gone on with to its end, has what `expected` has.
fn compare(stages: &Stages, stage: &str, name: &str, expected: &[(String, Vec<u8>)]) {
    let ran = stages.run(stage, name, &[]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    let got = promised(&stages.dir(name));
    let names = |list: &[(String, Vec<u8>)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&got), names(expected), "{stage}");
    for ((name, got), (_, expected)) in got.iter().zip(expected) {
        assert!(
            got == expected,
            "{stage}: {name} differs from that of the run that was not killed"
        );
    }
}

/// Kills a stage six times, every other time inside a save, and compares what it leaves in the end. A run that is done
/// before it is killed is compared too, and the next one begins. Returns how many kills cut a save.
fn kills(stages: &Stages, stage: &str) -> usize {
    let begun = Instant::now();
    let whole = stages.run(stage, "whole", &[]);
    assert_eq!(whole.code(), 0, "{}", whole.stderr());
    let (took, expected) = (begun.elapsed(), promised(&stages.dir("whole")));
    let key = Key::new(8, stage, 0);
    let (mut killed, mut inside, mut run) = (0, 0, 0);
    for trial in 0..40 {
        let name = format!("killed-{run}");
        let after = (killed % 2 == 0).then(|| took.mul_f64(key.uniform(trial)));
        let status = kill(stages, &name, stages.start(stage, &name, &[]), after);
        if status.signal() == Some(SIGKILL) {
            killed += 1;
            inside += usize::from(!unfinished(&stages.dir(&name)).is_empty());
        } else {
            assert_eq!(status.code(), Some(0));
            compare(stages, stage, &name, &expected);
            run += 1;
        }
        if killed == 6 {
            break;
        }
    }
    assert_eq!(killed, 6, "{stage}");
    compare(stages, stage, &format!("killed-{run}"), &expected);
    inside
}

#[test]
fn killed_at_any_moment_every_stage_ends_with_the_same_bytes() {
    for stage in STAGES.into_iter().chain(PRACTISING) {
        let inside = kills(&Stages::new(), stage);
        assert!(inside >= 1, "{stage}: no kill came inside a save");
    }
}

fn signal(child: &Child, name: &str) {
    let done = Command::new("sh")
        .args(["-c", &format!("kill -{name} {}", child.id())])
        .status()
        .unwrap();
    assert!(done.success());
}

/// Starts a stage and waits until it has done a step, so that it is in its loop.
fn started(stages: &Stages, stage: &str, name: &str, more: &[&str]) -> Child {
    // What is recorded there is never cut back
    let timings = stages.dir(name).join("timings.jsonl");
    let bytes = || timings.metadata().map_or(0, |m| m.len());
    let (before, begun) = (bytes(), Instant::now());
    let mut child = stages.start(stage, name, more);
    while bytes() == before {
        assert!(
            begun.elapsed() < PATIENCE && child.try_wait().unwrap().is_none(),
            "{name} does not start"
        );
        sleep(Duration::from_millis(1));
    }
    child
}

fn stderr(mut child: Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_signal_saves_and_ends_with_75_and_the_same_command_goes_on() {
    // Under nohup, SIGHUP is ignored here and in what is started from here
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let hangup = if mask.is_some_and(|mask| mask & 1 == 0) {
        "HUP"
    } else {
        "TERM"
    };
    for (stage, name) in [("pretrain", "TERM"), ("sft", "INT"), ("reward", hangup), ("ppo", "INT")] {
        let stages = Stages::new();
        assert_eq!(stages.run(stage, "whole", &[]).code(), 0);
        let mut codes = Vec::new();
        // Some of the runs may be done before the signal comes; the first is not
        for _ in 0..3 {
            let mut child = if codes.is_empty() {
                started(&stages, stage, "stopped", &[])
            } else {
                let child = stages.start(stage, "stopped", &[]);
                sleep(Duration::from_millis(30));
                child
            };
            signal(&child, name);
            let asked = Instant::now();
            let code = child.wait().unwrap().code();
            assert!(
                asked.elapsed() < Duration::from_secs(10),
                "{stage} took {:?} to stop",
                asked.elapsed()
            );
            let said = stderr(child);
            if code == Some(75) {
                assert!(
                    said.contains("stopped ") && said.contains("the same command goes on"),
                    "{said}"
                );
                assert!(stages.dir("stopped/checkpoints").read_dir().unwrap().count() > 0);
            } else {
                // After the work is done
                assert_eq!(code, Some(0), "{stage}: {said}");
                assert!(!codes.is_empty(), "{stage}: {code:?} {said}");
            }
            codes.push(code);
        }
        let again = stages.run(stage, "stopped", &[]);
        assert_eq!(again.code(), 0, "{}", again.stderr());
        assert!(
            promised(&stages.dir("stopped")) == promised(&stages.dir("whole")),
            "{stage}: bytes differ"
        );
        let finished = stages.run(stage, "stopped", &[]);
        assert_eq!(finished.code(), 0);
        assert!(
            finished.stdout().contains("was finished before"),
            "{}",
            finished.stdout()
        );
    }
}

#[test]
fn a_second_signal_ends_at_once_and_harms_nothing() {
    let stages = Stages::new();
    // Long updates, so that the first signal alone would take its time
    let long = [
        "--set",
        "ppo.rollout_batch=256",
        "--set",
        "ppo.minibatch=256",
        "--set",
        "ppo.updates=50",
    ];
    let mut at_once = 0;
    for _ in 0..5 {
        let mut child = started(&stages, "ppo", "stopped", &long);
        signal(&child, "TERM");
        sleep(Duration::from_millis(10));
        signal(&child, "TERM");
        let asked = Instant::now();
        assert_eq!(child.wait().unwrap().code(), Some(75));
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        // A first signal just before the end of an update is obeyed before the second comes
        at_once += usize::from(!stderr(child).contains("stopped after step"));
        if at_once == 2 {
            break;
        }
    }
    assert!(at_once > 0, "no signal came inside an update");
    // It goes on from what was saved, and is stopped in good order by one signal
    let mut child = started(&stages, "ppo", "stopped", &long);
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let said = stderr(child);
    assert!(
        said.contains("stopped after step") && !said.contains("set aside"),
        "{said}"
    );
}

/// A signal that comes before anything is read is not lost, and harms nothing. The configuration comes through a pipe, so
/// that it is known that the stage waits for it.
#[test]
fn a_signal_before_the_first_step_ends_with_75_too() {
    for stage in STAGES {
        let stages = Stages::new();
        assert_eq!(stages.run(stage, "whole", &[]).code(), 0);
        let pipe = stages.fixture.path("pipe.toml");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let mut child = Command::new(env!("CARGO_BIN_EXE_hone"))
            .args([stage, "pipe.toml", "--name", "early"])
            .current_dir(stages.fixture.folder.path())
            .env("HONE_THREADS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Opening a pipe for writing waits until somebody reads it
        let mut config = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        signal(&child, "TERM");
        sleep(Duration::from_millis(50));
        let text = std::fs::read(stages.fixture.path(&format!("{stage}.toml"))).unwrap();
        config.write_all(&text).unwrap();
        drop(config);
        let code = child.wait().unwrap().code();
        let said = stderr(child);
        assert_eq!(code, Some(75), "{stage}: {said}");
        assert!(said.contains("the same command goes on"), "{stage}: {said}");
        let ran = stages.run(stage, "early", &[]);
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        assert!(
            promised(&stages.dir("early")) == promised(&stages.dir("whole")),
            "{stage}: bytes differ"
        );
    }
}

/// Commands that have nothing to save end as any program does.
#[test]
fn a_signal_ends_other_commands_as_usual() {
    let stages = Stages::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_hone"))
        .args(["logprobs", "--model", "model", "--input", "-", "--json"])
        .current_dir(stages.fixture.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It waits for rows; until it handles signals its own way it may be asked early, which ends it, too
    sleep(Duration::from_millis(300));
    signal(&child, "TERM");
    let asked = Instant::now();
    let status = child.wait().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert_eq!(status.signal(), Some(15), "{status:?}");
}
