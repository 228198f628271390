//! A held-out judge on the way of a stage that practises.

mod common;

use std::fs;
use std::sync::Arc;

use common::{CopyAfter, Listening, Place, StopAfter, assert_same_results, parsed, with};
use hone_run::ExitStatus;
use hone_train::expert_iteration::{self, ExpertIterationConfig};
use hone_train::grpo::{self, GrpoConfig};
use hone_train::online_preference::{self, OnlinePreferenceConfig};
use hone_train::plan::Plan;
use hone_train::ppo::{self, PpoConfig};
use hone_train::{Job, Outcome, TrainError};
use serde_json::{Value, json};

/// What is practised: as many "e" as there may be.
const PRACTICE: &str =
    "[[rewards]]\nkind = \"expression\"\nname = \"letters\"\nexpression = 'min(count(response, \"e\"), 8) / 8'\n";
/// What is judged: two of them, and no more.
const TWO: &str = "[[judge.rewards]]\nkind = \"expression\"\nname = \"two\"\n\
                   expression = '1 - max(count(response, \"e\") - 2, 2 - count(response, \"e\")) / 4'\n";
const STAGES: [&str; 4] = ["grpo", "ppo", "expert_iteration", "online_preference"];

fn place() -> Place {
    let place = Place::with_base();
    place.write_rows(
        "prompts.jsonl",
        (0..24).map(|i| json!({ "prompt": format!("Which way, {i}?") })),
    );
    place.write_rows(
        "held-out.jsonl",
        (0..20).map(|i| json!({ "prompt": format!("And now, {i}?") })),
    );
    place
}

/// Updates of eight responses, four to a prompt, with a judge.
fn toml(stage: &str, updates: u64, judge: &str) -> String {
    let updates_key = if stage == "expert_iteration" {
        "rounds"
    } else {
        "updates"
    };
    // Pairs of extremes move a policy less
    let rate = if stage == "online_preference" { "8e-3" } else { "3e-3" };
    let minibatch = if stage == "ppo" {
        "minibatch = 4\nppo_epochs = 2"
    } else {
        "minibatch = 8"
    };
    format!(
        "[model]\npath = \"base/model\"\n\
         [data]\nprompts = [\"prompts.jsonl\"]\nmax_prompt_length = 40\nheld_out = 0.0\n\
         [{stage}]\n{updates_key} = {updates}\nrollout_batch = 8\nsamples_per_prompt = 4\n{minibatch}\n\
         max_new_tokens = 8\nmissing_eos = \"keep\"\n\
         [train]\nlearning_rate = {rate}\nschedule = \"constant\"\nmicrobatch_tokens = 512\ncheckpoint_every = 4\nwarmup_steps = 0\n\
         [eval]\nevery = 3\nsamples = 4\n{PRACTICE}{judge}"
    )
}

fn judge(settings: &str) -> String {
    format!("[judge]\nprompts = [\"held-out.jsonl\"]\nevery = 2\nlimit = 16\n{settings}\n{TWO}")
}

fn start(job: &Job, toml: &str) -> Result<Outcome, TrainError> {
    if toml.contains("[ppo]") {
        ppo::run(job, &parsed::<PpoConfig>(toml))
    } else if toml.contains("[expert_iteration]") {
        expert_iteration::run(job, &parsed::<ExpertIterationConfig>(toml))
    } else if toml.contains("[online_preference]") {
        online_preference::run(job, &parsed::<OnlinePreferenceConfig>(toml))
    } else {
        grpo::run(job, &parsed::<GrpoConfig>(toml))
    }
}

fn plan(place: &Place, toml: &str) -> Plan {
    let job = place.job("planned");
    if toml.contains("[ppo]") {
        ppo::plan(&job, &parsed(toml), false).unwrap()
    } else if toml.contains("[expert_iteration]") {
        expert_iteration::plan(&job, &parsed(toml), false).unwrap()
    } else if toml.contains("[online_preference]") {
        online_preference::plan(&job, &parsed(toml), false).unwrap()
    } else {
        grpo::plan(&job, &parsed(toml), false).unwrap()
    }
}

fn finish(place: &Place, run: &str, toml: &str) -> Value {
    match start(&place.job(run), toml) {
        Ok(Outcome::Done {
            summary, before: false, ..
        }) => summary,
        other => panic!("{run}: {other:?}"),
    }
}

fn weights(place: &Place, run: &str) -> Vec<u8> {
    fs::read(place.path(run).join("model/model.safetensors")).unwrap()
}

/// The looks of a run: updates behind the model, and the judge's mean.
fn looks(place: &Place, run: &str, summary: &Value) -> Vec<(u64, f64)> {
    let metrics = place.metrics(run);
    let seen = metrics["judge/scores"].iter().map(|&(line, score)| (line - 1, score));
    let last = &summary["judge"];
    seen.chain([(last["last_step"].as_u64().unwrap(), last["last"].as_f64().unwrap())])
        .collect()
}

/// The result is the model of the best look: that of a run that was as long.
#[test]
fn the_result_is_the_model_that_the_judge_found_best() {
    let place = place();
    for stage in STAGES {
        let (run, until, last) = (
            format!("{stage}-best"),
            format!("{stage}-until"),
            format!("{stage}-last"),
        );
        let summary = finish(&place, &run, &toml(stage, 13, &judge("")));
        let looks = looks(&place, &run, &summary);
        let steps: Vec<u64> = looks.iter().map(|look| look.0).collect();
        assert_eq!(steps, [0, 2, 4, 6, 8, 10, 12, 13], "{stage}");
        let best = looks
            .iter()
            .copied()
            .reduce(|best, look| if look.1 > best.1 { look } else { best })
            .unwrap();
        let said = &summary["judge"];
        assert_eq!(
            (said["best_step"].as_u64(), said["best"].as_f64()),
            (Some(best.0), Some(best.1)),
            "{stage}"
        );
        assert_eq!(
            (said["looks"].as_u64(), said["stopped_early"].as_bool()),
            (Some(8), Some(false))
        );
        assert!(
            (1..13).contains(&best.0),
            "{stage}: the best is one on the way: {looks:?}"
        );
        finish(&place, &until, &toml(stage, best.0, ""));
        assert!(weights(&place, &run) == weights(&place, &until), "{stage}");
        // A judge that keeps the last changes nothing, and neither does looking
        let kept = finish(&place, &last, &toml(stage, 13, &judge("keep = \"last\"")));
        assert_eq!(kept["judge"]["best_step"], said["best_step"]);
        let alone = format!("{stage}-alone");
        finish(&place, &alone, &toml(stage, 13, ""));
        assert!(weights(&place, &last) == weights(&place, &alone) && weights(&place, &last) != weights(&place, &run));
        let scores = |run: &str| place.metrics(run)["objective/scores"].clone();
        assert_eq!(scores(&run), scores(&alone));
    }
}

/// So many looks in a row without a better one end a run, at the same update after any interruption.
#[test]
fn patience_ends_a_run_and_interruptions_change_nothing() {
    let place = place();
    for stage in STAGES {
        let names = ["whole", "stopped", "ending", "dying", "dead", "long"].map(|name| format!("{stage}-{name}"));
        let [whole, stopped, ending, dying, dead, long] = &names;
        // No checkpoint and no record of samples is due where it ends
        let patient = toml(stage, 40, &judge("patience = 3"));
        let patient = patient.replacen("[eval]\nevery = 3", "[eval]\nevery = 0", 1);
        let patient = with(&patient, "checkpoint_every", "13");
        let summary = finish(&place, whole, &patient);
        let said = &summary["judge"];
        let (best, ended) = (said["best_step"].as_u64().unwrap(), said["last_step"].as_u64().unwrap());
        assert_eq!(
            (ended, said["stopped_early"].as_bool()),
            (best + 6, Some(true)),
            "{stage}: {summary}"
        );
        let counted = &summary[if stage == "expert_iteration" {
            "rounds"
        } else {
            "updates"
        }];
        assert_eq!(
            (counted.as_u64(), summary["episodes"].as_u64()),
            (Some(ended), Some(8 * ended)),
            "{stage}"
        );
        assert_eq!(place.metrics(whole)["objective/scores"].len() as u64, ended);
        assert!(!ended.is_multiple_of(13), "{stage}: a checkpoint is due after {ended}");
        let samples = fs::read_to_string(place.path(whole).join("samples.jsonl")).unwrap();
        let steps = samples
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64());
        let last = steps.filter(|&step| step == Some(ended)).count();
        assert!((1..=4).contains(&last), "{stage}: {last} samples of the last update");
        // The first so many updates are those of a run that goes on, and its best model until then is the result
        finish(&place, long, &toml(stage, best, ""));
        assert!(weights(&place, whole) == weights(&place, long), "{stage}");
        // Asked to stop between two looks and behind the best one, and before the look that ends the run
        for (run, after) in [(stopped, ended - 1), (ending, ended)] {
            let mut job = place.job(run);
            job.observer = Arc::new(StopAfter {
                step: after,
                shutdown: job.shutdown.clone(),
            });
            let outcome = start(&job, &patient);
            assert!(
                matches!(outcome, Ok(Outcome::Stopped { step }) if step == after),
                "{outcome:?}"
            );
            finish(&place, run, &patient);
            assert_same_results(&place.path(whole), &place.path(run));
        }
        // Dead after the last update, before the look that ends the run
        let mut job = place.job(dying);
        job.observer = Arc::new(CopyAfter {
            step: ended,
            run: place.path(dying),
            copy: place.path(dead),
        });
        start(&job, &patient).unwrap();
        finish(&place, dead, &patient);
        assert_same_results(&place.path(whole), &place.path(dead));
    }
}

/// With an adapter the best adapter is the result, and with a moving average the judge looks at the average, which a run gives.
#[test]
fn what_is_judged_is_what_a_run_would_give() {
    let place = place();
    for (which, file, settings) in [
        ("lora", "adapter_model.safetensors", "[lora]\nrank = 2\n"),
        ("average", "model.safetensors", ""),
    ] {
        let of = |updates: u64, judge: &str| {
            let toml = toml("grpo", updates, judge) + settings;
            match which {
                "average" => toml.replacen("[grpo]", "[grpo]\nema_decay = 0.5", 1),
                _ => with(&toml, "learning_rate", "2e-2"),
            }
        };
        let summary = finish(&place, which, &of(12, &judge("")));
        let best = summary["judge"]["best_step"].as_u64().unwrap();
        assert!((1..12).contains(&best), "{which}: {summary}");
        let until = format!("{which}-until");
        finish(&place, &until, &of(best, ""));
        let read = |run: &str| fs::read(place.path(run).join("model").join(file)).unwrap();
        assert!(read(which) == read(&until), "{which}");
    }
}

/// A program that judges is asked once for every answer of every look, whatever happened on the way.
#[cfg(unix)]
#[test]
fn a_program_that_judges_is_asked_for_nothing_twice() {
    let place = place();
    place.write(
        "judge.sh",
        "while read -r line; do\n  id=$(printf '%s' \"$line\" | sed 's/.*\"id\":\"\\([^\"]*\\)\".*/\\1/')\n  \
         printf '%s\\n' \"$line\" >> asked\n  n=$(wc -l < asked)\n  \
         echo \"{\\\"id\\\": \\\"$id\\\", \\\"reward\\\": $((n % 7)).25}\"\ndone\n",
    );
    let program = "[judge]\nprompts = [\"held-out.jsonl\"]\nevery = 2\nlimit = 5\n[[judge.rewards]]\nkind = \"program\"\n\
                   command = [\"/bin/sh\", \"judge.sh\"]\nname = \"judge\"\ntime_limit = 30.0\n";
    let toml = toml("grpo", 6, program);
    finish(&place, "whole", &toml);
    let mut job = place.job("stopped");
    job.observer = Arc::new(StopAfter {
        step: 3,
        shutdown: job.shutdown.clone(),
    });
    start(&job, &toml).unwrap();
    finish(&place, "stopped", &toml);
    let mut job = place.job("dying");
    job.observer = Arc::new(CopyAfter {
        step: 5,
        run: place.path("dying"),
        copy: place.path("dead"),
    });
    start(&job, &toml).unwrap();
    finish(&place, "dead", &toml);
    for run in ["whole", "stopped", "dead"] {
        let asked = fs::read_to_string(place.path(run).join("judge/judge/asked")).unwrap();
        // Looks at 0, 2, 4 and 6 updates
        assert_eq!(asked.lines().count(), 4 * 5, "{run}");
        assert_same_results(&place.path("whole"), &place.path(run));
    }
}

#[test]
fn what_a_judge_finds_is_said() {
    let place = place();
    let listening = Arc::new(Listening::default());
    let mut job = place.job("said");
    job.observer = Arc::clone(&listening) as _;
    let judge = with(&judge("patience = 2"), "limit", "20");
    let Outcome::Done { summary, .. } = start(&job, &toml("grpo", 30, &judge)).unwrap() else {
        panic!("not done");
    };
    let said = listening.0.lock().unwrap().join("\n");
    let found = &summary["judge"];
    let ended = format!(
        "ended after {} of 30 updates: at 2 looks in a row the held-out judge found none better than after {}",
        found["last_step"], found["best_step"]
    );
    assert!(said.contains(&ended), "{said}");
    assert!(said.contains("the result is the best one"), "{said}");
    assert_eq!(found["questions"], 20);
    let since = &found["since_best"];
    let mean = since["mean"].as_f64().unwrap();
    let expected = found["last"].as_f64().unwrap() - found["best"].as_f64().unwrap();
    assert!((mean - expected).abs() < 1e-12 && mean <= 0.0);
    let metrics = place.metrics("said");
    for key in [
        "judge/scores",
        "judge/standard_error",
        "judge/mean_length",
        "judge/ended",
    ] {
        assert!(metrics.contains_key(key), "{key}");
    }
}

/// Several files are asked by their shares, and what is practised in an environment may be judged by prompts.
#[test]
fn every_source_of_a_judge_is_asked() {
    let place = place();
    place.write_rows(
        "more.jsonl",
        (0..20).map(|i| json!({ "prompt": format!("And then, {i}?") })),
    );
    let judge = with(&judge(""), "limit", "6");
    let of = |more: &str| judge.replace("[\"held-out.jsonl\"]", &format!("[\"held-out.jsonl\", {more}]"));
    for (run, more, expected) in [
        (
            "alike",
            "\"more.jsonl\"",
            "judge.prompts: a look asks 3 of held-out.jsonl, 3 of more.jsonl",
        ),
        (
            "less",
            "{ path = \"more.jsonl\", weight = 0.5 }",
            "judge.prompts: a look asks 4 of held-out.jsonl, 2 of more.jsonl",
        ),
    ] {
        let listening = Arc::new(Listening::default());
        let mut job = place.job(run);
        job.observer = Arc::clone(&listening) as _;
        let Outcome::Done { summary, .. } = start(&job, &toml("grpo", 1, &of(more))).unwrap() else {
            panic!("not done");
        };
        let said = listening.0.lock().unwrap().join("\n");
        assert!(said.contains(expected), "{said}");
        assert_eq!(summary["judge"]["questions"], 6);
        // Too few for an interval
        let since = &summary["judge"]["since_best"];
        assert!(since["mean"].is_f64() && since["low"].is_null() && since["high"].is_null());
        assert_eq!(summary["max_prompt_length"], 40);
    }
    // What is not asked need not fit: the prompt that is practised on is the fourth
    let rows = (0..3)
        .map(|i| format!("And now, {i}?"))
        .chain(["Which way, 0?".to_owned()]);
    place.write_rows("mixed.jsonl", rows.map(|prompt| json!({ "prompt": prompt })));
    let mixed = judge.replace("held-out.jsonl", "mixed.jsonl");
    assert!(refused(&place, &toml("grpo", 1, &mixed)).contains("judge.prompts: 1 of the prompts"));
    let summary = finish(&place, "three", &toml("grpo", 1, &with(&mixed, "limit", "3")));
    assert_eq!(summary["judge"]["questions"], 3);
}

/// An environment judges on episodes that are not practised on.
#[test]
fn an_environment_judges_other_episodes() {
    let place = place();
    let maze = "kind = \"maze\", size = 3, moves = 6";
    let practice = format!("[environment]\n{}\n", maze.replace(", ", "\n"));
    let of = |seed: u64| {
        let judge = format!("[judge]\nenvironment = {{ {maze} }}\nseed = {seed}\nevery = 2\nlimit = 6\nsamples = 2\n");
        let toml = toml("grpo", 3, &judge).replace(PRACTICE, &practice);
        toml.replace(
            "[data]\nprompts = [\"prompts.jsonl\"]\nmax_prompt_length = 40\nheld_out = 0.0\n",
            "",
        )
    };
    let place_has_room = with(&common::pretrain_toml(6), "context", "512");
    place.pretrain("roomy", &place_has_room).unwrap();
    let roomy = |seed| of(seed).replace("base/model", "roomy/model");
    let summary = finish(&place, "acted", &roomy(2_000_003));
    assert_eq!(summary["judge"]["questions"], 6);
    assert_eq!(place.metrics("acted")["judge/scores"].len(), 2);
    assert!(refused(&place, &roomy(1)).contains("judge.seed: is 1, as train.seed is"));
    // Episodes are practised on, and prompts judged: these fit the model's context, too
    let asked = toml("grpo", 1, &with(&judge(""), "limit", "4")).replace("base/model", "roomy/model");
    let asked = asked
        .replace(PRACTICE, &practice)
        .replace("prompts = [\"prompts.jsonl\"]\n", "");
    let summary = finish(&place, "asked", &asked);
    assert_eq!(
        (&summary["judge"]["questions"], &summary["max_prompt_length"]),
        (&json!(4), &json!(40))
    );
    let said = refused(&place, &with(&asked, "max_prompt_length", "600"));
    let expected = "grpo.max_new_tokens: is 8, which with data.max_prompt_length = 600 makes 608 tokens; the model's context is 512";
    assert!(said.contains(expected), "{said}");
}

fn refused(place: &Place, toml: &str) -> String {
    let error = start(&place.job("refused"), toml).unwrap_err();
    assert_eq!(error.exit_status(), ExitStatus::Usage, "{error}");
    assert!(!place.path("refused").exists(), "{error}");
    error.to_string()
}

#[test]
fn judges_that_make_no_sense_are_refused_with_their_key() {
    let place = place();
    let one = "[judge]\nprompts = [\"held-out.jsonl\"]\n";
    for (judge, expected) in [
        (
            one.to_owned(),
            "judge: judges by nothing; expected exactly one of judge.reward",
        ),
        (
            format!("[judge]\n{TWO}"),
            "judge.prompts: is empty; expected prompts that are not practised on",
        ),
        (
            format!("{one}reward = \"base/model\"\n{TWO}"),
            "judge.rewards: stands beside judge.reward",
        ),
        (
            format!("[judge]\nprompts = [\"prompts.jsonl\"]\nlimit = 7\n{TWO}"),
            "judge.prompts: 7 of the prompts that it looks at are in data.prompts, too, such as \"Which way, 0?\" of",
        ),
        (judge("patience = 0"), "judge.patience: is 0; expected at least 1"),
        (with(&judge(""), "every", "0"), "judge.every: is 0"),
        (with(&judge(""), "limit", "0"), "judge.limit: is 0"),
        (judge("samples = 0"), "judge.samples: is 0"),
        (
            format!("{one}environment = {{ kind = \"maze\" }}\n"),
            "judge.prompts: stands beside judge.environment",
        ),
        (
            format!("{one}[[judge.rewards]]\nkind = \"numeric\"\ncolumn = \"answer\"\n"),
            "judge.prompts: ",
        ),
        (format!("{one}reward = \"nowhere\"\n"), "nowhere"),
        (
            format!("{one}[[judge.rewards]]\nkind = \"regex\"\npattern = \"(\"\n"),
            ": judge.rewards[0] (regex): ",
        ),
        (
            format!("{one}{}", TWO.replace("expression = '", "expression = '(")),
            "judge.rewards[0] (expression): ",
        ),
    ] {
        for stage in STAGES {
            let said = refused(&place, &toml(stage, 4, &judge));
            assert!(said.contains(expected), "{stage}: {said}");
        }
    }
}

/// The copy of the best weights is in a plan, where it is kept.
#[test]
fn a_plan_counts_the_best_weights() {
    let place = place();
    for stage in STAGES {
        let of = |settings: &str| plan(&place, &toml(stage, 4, &judge(settings)));
        let (best, last) = (of(""), of("keep = \"last\""));
        let what = "the weights that the judge found best, f32";
        let part = best.memory.iter().find(|part| part.what == what).unwrap();
        let policy = best.models.iter().find(|model| model.name == "policy").unwrap();
        assert_eq!(part.bytes, 4 * policy.trained as u64, "{stage}");
        assert!(last.memory.iter().all(|part| part.what != what), "{stage}");
    }
}
