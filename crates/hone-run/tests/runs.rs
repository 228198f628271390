//! Run directories that were damaged, changed, locked or stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hone_math::Key;
use hone_run::{
    Checkpoint, CheckpointWriter, Error, Event, ExitStatus, Observer, OpenOptions, Opened, Resolved, Result, Run,
    publish_dir, verify_dir,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Config {
    seed: u64,
}

impl hone_run::Configuration for Config {}

#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Observer for Told {
    fn event(&self, event: &Event) {
        if let Event::Message(text) = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}

fn open_with(dir: &Path, seed: u64, options: OpenOptions) -> Result<Opened> {
    Run::open(dir, &Resolved::from_config(Config { seed })?, options)
}

fn open(dir: &Path, seed: u64) -> Result<Opened> {
    open_with(dir, seed, OpenOptions::default())
}

fn fresh(dir: &Path) -> Run {
    match open(dir, 1).unwrap() {
        Opened::Fresh(run) => run,
        _ => panic!("expected a fresh run"),
    }
}

fn resumed(opened: Opened) -> (Run, Checkpoint) {
    match opened {
        Opened::Resumed { run, checkpoint } => (run, *checkpoint),
        _ => panic!("expected a resumed run"),
    }
}

fn write(step: u64) -> impl FnMut(&mut CheckpointWriter) -> Result<()> {
    move |writer| {
        writer.bytes("model.weights", &[step as u8; 900])?;
        writer.bytes("model/moments", &[step as u8 + 1; 300])
    }
}

fn save(run: &mut Run, step: u64) {
    run.save_checkpoint(step, &mut write(step), json!({ "cursor": step }))
        .unwrap();
}

fn steps(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("checkpoints")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Damages a file somewhere: a bit is flipped, or the end is missing.
fn damage(path: &Path, key: Key, cut: bool) {
    let mut bytes = fs::read(path).unwrap();
    let place = key.below(0, bytes.len() as u64) as usize;
    if cut {
        bytes.truncate(place);
    } else {
        bytes[place] ^= 1 << key.below(1, 8);
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_file_of_a_checkpoint_is_named_and_the_one_before_is_used() {
    for file in ["model.weights", "model/moments", "MANIFEST.json"] {
        for trial in 0..8 {
            let folder = tempfile::tempdir().unwrap();
            let dir = folder.path();
            let mut run = fresh(dir);
            save(&mut run, 3);
            save(&mut run, 6);
            drop(run);
            damage(
                &dir.join("checkpoints/step-000006").join(file),
                Key::new(trial, file, 1),
                trial % 2 == 0,
            );
            let told = Arc::new(Told::default());
            let options = OpenOptions {
                observer: told.clone(),
                ..OpenOptions::default()
            };
            let (_, checkpoint) = resumed(open_with(dir, 1, options).unwrap());
            assert_eq!(checkpoint.step(), 3);
            assert_eq!(checkpoint.read("model.weights").unwrap(), [3; 900]);
            let said = told.0.lock().unwrap().join("\n");
            assert!(said.contains(file) && said.contains("set aside as"), "{said}");
            assert_eq!(steps(dir), ["step-000003", "step-000006.bad"]);
        }
    }
}

#[test]
fn a_missing_file_and_damage_everywhere_begin_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let mut run = fresh(dir);
    save(&mut run, 3);
    save(&mut run, 6);
    drop(run);
    for step in ["step-000003", "step-000006"] {
        fs::remove_file(dir.join("checkpoints").join(step).join("model.weights")).unwrap();
    }
    assert!(matches!(open(dir, 1).unwrap(), Opened::Fresh(_)));
    assert_eq!(steps(dir), ["step-000003.bad", "step-000006.bad"]);
    // Bad ones may still be of use to somebody: another configuration does not take over the run
    let error = open(dir, 2).err().unwrap();
    assert!(matches!(error, Error::ConfigChanged { .. }), "{error}");
}

#[test]
fn a_damaged_result_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    for file in ["model.safetensors", "config.json", "MANIFEST.json"] {
        for trial in 0..8 {
            publish_dir(&path, &mut |dir| {
                fs::write(dir.join("model.safetensors"), [7; 500]).map_err(Error::caller)?;
                fs::write(dir.join("config.json"), "{}").map_err(Error::caller)
            })
            .unwrap();
            assert!(verify_dir(&path).unwrap().is_some());
            damage(&path.join(file), Key::new(trial, file, 1), trial % 2 == 0);
            let error = verify_dir(&path).unwrap_err();
            assert!(matches!(error, Error::DamagedResult { .. }), "{error}");
            assert_eq!(error.exit_status(), ExitStatus::Failed);
            let said = error.to_string();
            assert!(
                said.contains(file) && said.contains("delete the MANIFEST.json"),
                "{said}"
            );
        }
    }
    fs::remove_file(path.join("MANIFEST.json")).unwrap();
    assert!(verify_dir(&path).unwrap().is_none());
}

#[test]
fn another_configuration_is_refused_once_something_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    drop(fresh(dir));
    // Nothing is lost by starting with a corrected configuration
    let Opened::Fresh(mut run) = open(dir, 2).unwrap() else {
        panic!("not fresh")
    };
    assert!(fs::read_to_string(dir.join("run.toml")).unwrap().contains("seed = 2"));
    save(&mut run, 1);
    drop(run);
    let error = open(dir, 1).err().unwrap();
    assert_eq!(error.exit_status(), ExitStatus::Usage);
    assert!(error.to_string().contains("changed: seed"), "{error}");
    let (run, _) = resumed(open(dir, 2).unwrap());
    run.finish(json!({})).unwrap();
    assert!(matches!(open(dir, 1), Err(Error::ConfigChanged { .. })));
    assert!(matches!(open(dir, 2), Ok(Opened::Finished { .. })));
}

/// A run in `dir/run` made from a file, a folder with a manifest and one without.
fn made_from(dir: &Path) -> OpenOptions {
    let inputs = ["data.jsonl", "model", "tokenizer", "absent"];
    OpenOptions {
        inputs: inputs
            .map(|name| (name.to_owned(), dir.join(name)))
            .into_iter()
            .collect(),
        expects_model: true,
        ..OpenOptions::default()
    }
}

#[test]
fn a_changed_input_is_refused_on_resume_and_when_finished() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, run_dir) = (folder.path(), folder.path().join("run"));
    let publish = |text: &str| {
        publish_dir(&dir.join("model"), &mut |to| {
            fs::write(to.join("weights"), text).map_err(Error::caller)
        })
        .unwrap();
    };
    let start = || open_with(&run_dir, 1, made_from(dir));
    fs::write(dir.join("data.jsonl"), "first").unwrap();
    fs::create_dir(dir.join("tokenizer")).unwrap();
    fs::write(dir.join("tokenizer/tokenizer.json"), "{}").unwrap();
    publish("one");
    let Opened::Fresh(mut run) = start().unwrap() else {
        panic!("not fresh")
    };
    save(&mut run, 1);
    drop(run);
    let refused = |name: &str| {
        let error = start().err().unwrap_or_else(|| panic!("{name} was not noticed"));
        assert_eq!(error.exit_status(), ExitStatus::Usage);
        let said = error.to_string();
        assert!(said.contains(&format!("other contents of {name}. Restore")), "{said}");
    };
    let each_change_is_refused = || {
        fs::write(dir.join("data.jsonl"), "other").unwrap();
        refused("data.jsonl");
        fs::write(dir.join("data.jsonl"), "first").unwrap();
        publish("two");
        refused("model");
        publish("one");
        fs::write(dir.join("tokenizer/tokenizer.json"), "[]").unwrap();
        refused("tokenizer");
        fs::write(dir.join("tokenizer/tokenizer.json"), "{}").unwrap();
    };
    each_change_is_refused();
    let (run, checkpoint) = resumed(start().unwrap());
    assert_eq!(checkpoint.manifest().inputs.len(), 3);
    run.publish("model", &mut |to| {
        fs::write(to.join("weights"), "result").map_err(Error::caller)
    })
    .unwrap();
    run.finish(json!({ "steps": 1 })).unwrap();
    each_change_is_refused();
    let Opened::Finished { summary, .. } = start().unwrap() else {
        panic!("not finished")
    };
    assert_eq!(summary, json!({ "steps": 1 }));
    // An input that is gone contradicts nothing that is done
    fs::remove_file(dir.join("data.jsonl")).unwrap();
    assert!(matches!(start(), Ok(Opened::Finished { .. })));
}

#[test]
fn a_finished_run_without_its_result_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let start = |observer: Arc<Told>| {
        let options = OpenOptions {
            expects_model: true,
            observer,
            ..OpenOptions::default()
        };
        open_with(folder.path(), 1, options)
    };
    let told = Arc::new(Told::default());
    let Opened::Fresh(mut run) = start(told.clone()).unwrap() else {
        panic!("not fresh")
    };
    save(&mut run, 1);
    let publish = |run: &Run| {
        run.publish("model", &mut |to| {
            fs::write(to.join("weights"), "result").map_err(Error::caller)
        })
        .unwrap()
    };
    let model = publish(&run);
    run.finish(json!({})).unwrap();
    assert!(matches!(start(told.clone()), Ok(Opened::Finished { .. })));
    fs::remove_dir_all(&model).unwrap();
    let (run, checkpoint) = resumed(start(told.clone()).unwrap());
    assert_eq!(checkpoint.step(), 1);
    assert!(told.0.lock().unwrap().concat().contains("its model/ is gone"));
    publish(&run);
    run.finish(json!({})).unwrap();
    fs::write(model.join("weights"), "resulT").unwrap();
    assert!(matches!(start(told), Err(Error::DamagedResult { .. })));
}

#[test]
fn a_second_writer_is_refused_with_the_first_ones_id() {
    let folder = tempfile::tempdir().unwrap();
    let run = fresh(folder.path());
    let error = open(folder.path(), 1).err().unwrap();
    let said = error.to_string();
    assert!(said.contains(&format!("(pid {})", std::process::id())), "{said}");
    drop(run);
    assert!(open(folder.path(), 1).is_ok());
}

#[test]
fn another_instruction_set_is_refused_unless_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let under = |isa: &str, allow_isa_change| {
        let environment = [("isa".to_owned(), isa.to_owned())].into_iter().collect();
        let options = OpenOptions {
            environment,
            allow_isa_change,
            ..OpenOptions::default()
        };
        open_with(folder.path(), 1, options)
    };
    let Opened::Fresh(mut run) = under("avx2", false).unwrap() else {
        panic!("not fresh")
    };
    save(&mut run, 1);
    drop(run);
    let error = under("amx", false).err().unwrap();
    assert_eq!(error.exit_status(), ExitStatus::Usage);
    let said = error.to_string();
    assert!(
        said.contains("HONE_ISA=avx2") && said.contains("--allow-isa-change"),
        "{said}"
    );
    assert!(under("amx", true).is_ok());
}

#[test]
fn what_an_interruption_saved_goes_with_the_next_checkpoint_that_is_due() {
    let finished = |stops: &[u64]| -> (Vec<String>, PathBuf, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_path_buf();
        let mut run = fresh(&dir);
        for step in 1..=9 {
            if stops.contains(&step) {
                // What is due at a step may know more than what an interruption leaves there
                run.save_interruption(step, &mut write(step), json!({ "cursor": step - 1 }))
                    .unwrap();
                drop(run);
                let (again, checkpoint) = resumed(open(&dir, 1).unwrap());
                assert_eq!(checkpoint.step(), step);
                run = again;
            }
            if step % 3 == 0 {
                save(&mut run, step);
            }
        }
        (steps(&dir), dir, folder)
    };
    let (expected, dir, _whole) = finished(&[]);
    assert_eq!(expected, ["step-000006", "step-000009"]);
    for stops in [&[1][..], &[7, 8], &[1, 2, 4, 5, 7, 8], &[6], &[9]] {
        let (got, other, _folder) = finished(stops);
        assert_eq!(got, expected, "{stops:?}");
        for name in &expected {
            let manifest = |dir: &Path| fs::read(dir.join("checkpoints").join(name).join("MANIFEST.json")).unwrap();
            assert_eq!(manifest(&dir), manifest(&other));
        }
    }
}

#[test]
fn somebodys_folder_is_no_run() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.txt"), "do not touch").unwrap();
    let error = open(folder.path(), 1).err().unwrap();
    assert_eq!(error.exit_status(), ExitStatus::Usage);
    assert!(error.to_string().contains("thesis.txt"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
