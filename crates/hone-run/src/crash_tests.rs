//! Stops a run between any two operations on the disk and looks at what the next start finds.

use std::fs;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::durable::fault::{self, Fault};
use crate::{
    Checkpoint, Error, ExitStatus, OpenOptions, Opened, Resolved, Result, Run, Sample, publish_dir, recover_dir,
};

#[derive(Serialize, Deserialize, JsonSchema)]
struct Config {
    seed: u64,
}

impl crate::Configuration for Config {}

fn open(dir: &Path) -> Result<Opened> {
    let config = Resolved::from_config(Config { seed: 1 })?;
    Run::open(dir, &config, OpenOptions::default())
}

/// What the weights are after a step: a small function, so that equality means something.
fn weights(step: u64) -> Vec<u8> {
    (0..3000_u64)
        .map(|index| (index.wrapping_mul(31) ^ step.wrapping_mul(17)) as u8)
        .collect()
}

fn save(run: &mut Run, step: u64) -> Result<Checkpoint> {
    run.save_checkpoint(
        step,
        &mut |writer| {
            writer.bytes("weights.bin", &weights(step))?;
            writer.file("optimizer/moments.bin", |sink| sink.write_all(&[step as u8; 100]))?;
            fs::write(writer.folder().join("by_path.txt"), format!("step {step}")).map_err(Error::caller)
        },
        json!({ "cursor": step * 10, "mean": 0.1 + 0.2 }),
    )
}

/// Steps `from + 1 ..= to`, a checkpoint after each second one.
fn train(run: &mut Run, from: u64, to: u64) -> Result<()> {
    for step in from + 1..=to {
        run.record(step, &[("loss", 1.0 / step as f64)])?;
        run.record_samples(&[Sample {
            step,
            prompt: "p".into(),
            response: format!("r{step}"),
            ..Sample::default()
        }])?;
        if step % 2 == 0 {
            save(run, step)?;
        }
    }
    Ok(())
}

/// Opens, whatever is there, and goes on to step `to`.
fn start(dir: &Path, to: u64) -> Result<u64> {
    match open(dir)? {
        Opened::Fresh(mut run) => train(&mut run, 0, to).map(|()| 0),
        Opened::Resumed { mut run, checkpoint } => {
            let step = checkpoint.step();
            assert_eq!(checkpoint.read("weights.bin")?, weights(step));
            assert_eq!(checkpoint.read("optimizer/moments.bin")?, [step as u8; 100]);
            assert_eq!(checkpoint.read("by_path.txt")?, format!("step {step}").into_bytes());
            assert_eq!(checkpoint.state()["cursor"], step * 10);
            assert_eq!(
                checkpoint.state()["mean"].as_f64().unwrap().to_bits(),
                (0.1_f64 + 0.2).to_bits()
            );
            train(&mut run, step, to).map(|()| step)
        }
        Opened::Finished { .. } => panic!("nothing finished this run"),
    }
}

/// Relative names and bytes of everything that equal runs must have equal.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    fn walk(dir: &Path, prefix: &str, found: &mut Vec<(String, Vec<u8>)>) {
        for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else if name != "lock" && !name.starts_with("events.") {
                found.push((name, fs::read(entry.path()).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, "", &mut found);
    found.sort();
    found
}

#[test]
fn a_crash_between_any_two_operations_loses_nothing() {
    let reference = tempfile::tempdir().unwrap();
    assert_eq!(start(reference.path(), 8).unwrap(), 0);
    let expected = contents(reference.path());
    assert!(
        expected
            .iter()
            .any(|(name, _)| name == "checkpoints/step-000008/MANIFEST.json")
    );
    assert!(
        expected
            .iter()
            .any(|(name, _)| name == "checkpoints/step-000006/MANIFEST.json")
    );
    assert!(
        !expected
            .iter()
            .any(|(name, _)| name.starts_with("checkpoints/step-000004"))
    );

    let mut resumed_from = Vec::new();
    for operations in 0.. {
        let dir = tempfile::tempdir().unwrap();
        fault::after(operations, Fault::Crash);
        let result = start(dir.path(), 8);
        fault::clear();
        if result.is_ok() {
            assert!(operations > 60, "only {operations} operations were interrupted");
            break;
        }
        // A second crash during recovery, at a place that varies with the first.
        fault::after(operations % 17, Fault::Crash);
        let _ = start(dir.path(), 8);
        fault::clear();
        let from = start(dir.path(), 8).unwrap();
        resumed_from.push(from);
        let (got, names) = (contents(dir.path()), |list: &[(String, Vec<u8>)]| -> Vec<String> {
            list.iter().map(|(name, _)| name.clone()).collect()
        });
        assert_eq!(names(&got), names(&expected), "after {operations} operations");
        assert!(got == expected, "bytes differ after a crash at operation {operations}");
    }
    // Crashes late in the run were resumed late: nothing acknowledged was thrown away.
    assert!(resumed_from.is_sorted(), "{resumed_from:?}");
    for step in [0, 2, 4, 6, 8] {
        assert!(
            resumed_from.contains(&step),
            "no crash was resumed from {step}: {resumed_from:?}"
        );
    }
}

#[test]
fn a_crash_inside_a_save_leaves_the_one_before() {
    for operations in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let Opened::Fresh(mut run) = open(dir.path()).unwrap() else {
            panic!("not fresh")
        };
        save(&mut run, 2).unwrap();
        fault::after(operations, Fault::Crash);
        let result = save(&mut run, 4);
        fault::clear();
        drop(run);
        let Opened::Resumed { checkpoint, .. } = open(dir.path()).unwrap() else {
            panic!("not resumed")
        };
        match result {
            Ok(_) => {
                assert_eq!(checkpoint.step(), 4);
                assert!(operations >= 12, "a save has more than {operations} operations");
                break;
            }
            // The rename may have happened; its durability was then not acknowledged, but it is complete.
            Err(_) => assert!([2, 4].contains(&checkpoint.step())),
        }
        assert_eq!(checkpoint.read("weights.bin").unwrap(), weights(checkpoint.step()));
    }
}

#[test]
fn a_full_disk_at_any_operation_keeps_the_last_checkpoint_and_says_what_is_needed() {
    let whole = weights(4).len() as u64 + 100 + 6;
    let mut refused = 0;
    for operations in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let Opened::Fresh(mut run) = open(dir.path()).unwrap() else {
            panic!("not fresh")
        };
        save(&mut run, 2).unwrap();
        fault::after(operations, Fault::DiskFull);
        let result = save(&mut run, 4);
        let happened = fault::clear();
        if let Err(error) = &result {
            assert_eq!(error.exit_status(), ExitStatus::Resumable, "{error}");
            if let Error::NoSpace { needed, .. } = error
                && *needed > 0
            {
                assert!((whole..whole + 2000).contains(needed), "{needed} for {whole}");
                refused += 1;
            }
            let leftovers = fs::read_dir(dir.path().join("checkpoints")).unwrap().count();
            assert!(leftovers <= 2, "the failed save was cleaned up");
            // The same run may try again once there is room.
            assert_eq!(save(&mut run, 4).unwrap().step(), 4);
        }
        drop(run);
        let Opened::Resumed { checkpoint, .. } = open(dir.path()).unwrap() else {
            panic!("not resumed")
        };
        assert_eq!(checkpoint.step(), 4);
        if !happened {
            break;
        }
    }
    assert!(refused >= 5, "{refused}");
}

#[test]
fn publishing_is_all_or_nothing_at_every_operation() {
    let write = |text: &'static str| {
        move |folder: &Path| fs::write(folder.join("model.safetensors"), text).map_err(Error::caller)
    };
    let (mut old_seen, mut new_seen) = (0, 0);
    for operations in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        publish_dir(&path, &mut write("old")).unwrap();
        fault::after(operations, Fault::Crash);
        let result = publish_dir(&path, &mut write("new"));
        fault::clear();
        recover_dir(&path).unwrap();
        assert!(crate::verify_dir(&path).unwrap().is_some());
        match fs::read_to_string(path.join("model.safetensors")).unwrap().as_str() {
            "old" => old_seen += 1,
            "new" => new_seen += 1,
            other => panic!("neither old nor new: {other}"),
        }
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "leftovers after {operations} operations"
        );
        if result.is_ok() {
            break;
        }
    }
    assert!(old_seen > 5 && new_seen > 1, "{old_seen} {new_seen}");
}

/// Folders that somebody made beside a result, under names that look like leftovers.
#[test]
fn what_is_not_ours_survives_publishing_and_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = [
        "model.old",
        "model.tmp.mine",
        "model.tmp.1-2",
        "model.tmp.hone-notes",
        "notes.tmp.txt",
    ];
    drop(open(dir.path()).unwrap());
    for name in foreign {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("kept.txt"), name).unwrap();
    }
    // A leftover of ours goes
    fs::create_dir(dir.path().join("model.tmp.hone-71-0")).unwrap();
    let write = |folder: &Path| fs::write(folder.join("model.safetensors"), "weights").map_err(Error::caller);
    for _ in 0..2 {
        let Opened::Fresh(run) = open(dir.path()).unwrap() else {
            panic!("not fresh")
        };
        run.publish("model", &mut { write }).unwrap();
        publish_dir(&dir.path().join("model"), &mut { write }).unwrap();
        drop(run);
        for name in foreign {
            let text = fs::read_to_string(dir.path().join(name).join("kept.txt"));
            assert_eq!(text.ok().as_deref(), Some(name));
        }
        assert!(!dir.path().join("model.tmp.hone-71-0").exists());
    }
}
