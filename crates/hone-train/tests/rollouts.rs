//! Practice on rewards that a configuration writes down, on programs that judge, and in environments.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{CopyAfter, Listening, Place, REWARD, StopAfter, assert_same_results, parsed, pretrain_toml, with};
use hone_run::ExitStatus;
use hone_text::{TrainOptions, train_bpe};
use hone_train::expert_iteration::{self, ExpertIterationConfig};
use hone_train::grpo::{self, GrpoConfig};
use hone_train::online_preference::{self, OnlinePreferenceConfig};
use hone_train::ppo::{self, PpoConfig};
use hone_train::{Job, Outcome, TrainError};
use serde_json::{Value, json};

const MAZE: &str = "[environment]\nkind = \"maze\"\nsize = 3\nmoves = 6\n";
const TURNS: &str = "[environment]\nkind = \"maze\"\nsize = 3\nmoves = 6\nmoves_per_turn = 2\nmax_turns = 4\n";
const LETTERS: &str =
    "[[rewards]]\nkind = \"expression\"\nname = \"letters\"\nexpression = 'min(count(response, \"e\"), 6) / 6'\n";
const PROMPTS: &str = "[data]\nprompts = [\"prompts.jsonl\"]\nmax_prompt_length = 60\nheld_out = 0.0\n";

/// A judge that remembers how often it was asked: two that are asked in the same order give the same, and one that is asked
/// twice for anything goes astray.
const COUNTING: &str = r#"while read -r line; do
    id=$(printf '%s' "$line" | sed 's/.*"id":"\([^"]*\)".*/\1/')
    printf '%s\n' "$line" >> asked
    n=$(wc -l < asked)
    sleep PAUSE
    echo "{\"id\": \"$id\", \"reward\": $((n % 7)).25}"
done
"#;

/// A place with a small model that knows the words of a maze.
fn place() -> Place {
    let place = Place::new();
    let text: String = (0..300)
        .map(|i| {
            let word = |k: usize| ["up", "down", "left", "right"][(i * (k + 3) + k * k) % 4];
            format!(
                "{} {} {}.\nThe way: {} {}\n",
                word(0),
                word(1),
                word(2),
                word(3),
                word(4)
            )
        })
        .collect();
    place.write("text.txt", &text);
    let rules = "Collect as many coins (o) as you can. You are @, walls are #. Write up to 2 moves at a time, or the whole way, \
                 with the words up, down, left and right; every word takes a move. user assistant 6 moves left What is the?";
    let texts = text.lines().map(String::from).chain((0..20).map(|_| rules.to_owned()));
    let options = TrainOptions {
        vocab_size: 420,
        threads: 1,
        ..TrainOptions::default()
    };
    train_bpe(texts, &options).unwrap().save(place.path("mazes")).unwrap();
    let base = with(&pretrain_toml(8), "tokenizer", "\"mazes\"");
    let base = with(&base, "context", "320");
    place.pretrain("base", &base).unwrap();
    let rows = (0..24).map(|i| json!({"prompt": format!("Which way, {i}?"), "answer": i % 4}));
    place.write_rows("prompts.jsonl", rows);
    place
}

/// Six updates of eight responses, four to a prompt.
fn grpo_toml(maximised: &str, data: &str) -> String {
    format!(
        r#"
        [model]
        path = "base/model"
        [grpo]
        updates = 6
        rollout_batch = 8
        samples_per_prompt = 4
        minibatch = 8
        max_new_tokens = 6
        missing_eos = "keep"
        [train]
        learning_rate = 3e-3
        microbatch_tokens = 512
        checkpoint_every = 4
        warmup_steps = 0
        [eval]
        every = 3
        samples = 4
        {data}
        {maximised}"#
    )
}

fn ppo_toml(maximised: &str, data: &str) -> String {
    let toml = grpo_toml(maximised, data).replace("[grpo]", "[ppo]");
    toml.replace("minibatch = 8", "minibatch = 4\n        ppo_epochs = 2")
}

fn expert_iteration_toml(maximised: &str, data: &str) -> String {
    let toml = grpo_toml(maximised, data).replace("[grpo]", "[expert_iteration]");
    toml.replace("updates = 6", "rounds = 6")
}

fn online_preference_toml(maximised: &str, data: &str) -> String {
    grpo_toml(maximised, data).replace("[grpo]", "[online_preference]")
}

fn judge(place: &Place, pause: &str) -> String {
    let script = place.path("judge.sh");
    fs::write(&script, COUNTING.replace("PAUSE", pause)).unwrap();
    // The program's second word is a file beside the configuration
    "[[rewards]]\nkind = \"program\"\ncommand = [\"/bin/sh\", \"judge.sh\"]\nname = \"judge\"\ntime_limit = 30.0\n\
     [[rewards]]\nkind = \"length\"\nunit = \"tokens\"\nmax = 3\nslope = 4\nweight = 0.5\n"
        .to_owned()
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

fn finish(place: &Place, run: &str, toml: &str) {
    let outcome = start(&place.job(run), toml);
    assert!(
        matches!(outcome, Ok(Outcome::Done { before: false, .. })),
        "{outcome:?}"
    );
}

fn assert_interruptions_change_nothing(place: &Place, toml: &str) {
    finish(place, "whole", toml);
    // Asked to stop, between two checkpoints
    let mut job = place.job("stopped");
    job.observer = Arc::new(StopAfter {
        step: 2,
        shutdown: job.shutdown.clone(),
    });
    let outcome = start(&job, toml);
    assert!(matches!(outcome, Ok(Outcome::Stopped { step: 2 })), "{outcome:?}");
    finish(place, "stopped", toml);
    assert_same_results(&place.path("whole"), &place.path("stopped"));
    // Dead after some step, before the first checkpoint and behind it
    for step in [3, 5] {
        let (dying, dead) = (format!("dying-{step}"), format!("dead-{step}"));
        let mut job = place.job(&dying);
        job.observer = Arc::new(CopyAfter {
            step,
            run: place.path(&dying),
            copy: place.path(&dead),
        });
        start(&job, toml).unwrap();
        finish(place, &dead, toml);
        assert_same_results(&place.path("whole"), &place.path(&dead));
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn column(place: &Place, run: &str, key: &str) -> Vec<f64> {
    let value = |line: &Value| line[key].as_f64().unwrap_or_else(|| panic!("{run}: {key} in {line}"));
    lines(&place.path(run).join("metrics.jsonl"))
        .iter()
        .map(value)
        .collect()
}

#[test]
fn an_interrupted_run_in_an_environment_gives_the_same_bytes() {
    let place = place();
    for toml in [
        grpo_toml(MAZE, ""),
        grpo_toml(TURNS, ""),
        ppo_toml(TURNS, ""),
        expert_iteration_toml(TURNS, ""),
        online_preference_toml(TURNS, ""),
    ] {
        assert_interruptions_change_nothing(&place, &toml);
        for run in ["whole", "stopped", "dying-3", "dead-3", "dying-5", "dead-5"] {
            fs::remove_dir_all(place.path(run)).unwrap();
        }
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_of_every_stage_asks_its_judge_for_nothing_twice() {
    let place = place();
    for toml in [expert_iteration_toml, online_preference_toml, ppo_toml] {
        assert_interruptions_change_nothing(&place, &toml(&judge(&place, "0"), PROMPTS));
        for run in ["whole", "stopped", "dying-3", "dead-3", "dying-5", "dead-5"] {
            let asked = lines(&place.path(run).join("rewards/judge/asked")).len();
            assert_eq!(asked, 6 * 8, "{run}");
            fs::remove_dir_all(place.path(run)).unwrap();
        }
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_asks_its_judge_for_nothing_twice() {
    let place = place();
    let toml = grpo_toml(&judge(&place, "0"), PROMPTS);
    assert_interruptions_change_nothing(&place, &toml);
    let asked = |run: &str| lines(&place.path(run).join("rewards/judge/asked")).len();
    let journal = |run: &str| fs::read(place.path(run).join("rewards/judge.jsonl")).unwrap();
    for run in ["whole", "stopped", "dead-3", "dead-5"] {
        assert_eq!(asked(run), 6 * 8, "{run}");
        assert_eq!(journal(run), journal("whole"), "{run}");
    }
    // Prompts with their other columns reach it
    let first = &lines(&place.path("whole/rewards/judge/asked"))[0];
    assert!(first["prompt"].as_str().unwrap().starts_with("Which way, "), "{first}");
    assert!(first["columns"]["answer"].is_u64() && first["id"] == "1-0", "{first}");
    // What each entry gave is written down
    let sample = &lines(&place.path("whole/samples.jsonl"))[0];
    let parts = &sample["parts"];
    let sum = parts["judge"].as_f64().unwrap() + 0.5 * parts["length"].as_f64().unwrap();
    assert_eq!(sample["score"].as_f64().unwrap() as f32, sum as f32, "{sample}");
    let means = column(&place, "whole", "rewards/judge_mean");
    assert_eq!(means.len(), 6);
    assert!(
        column(&place, "whole", "rewards/length_mean")
            .iter()
            .all(|mean| (0.0..=1.0).contains(mean))
    );
}

/// Between two answers of a slow judge, too, a stop is heard, and what was answered is not lost.
#[cfg(unix)]
#[test]
fn a_stop_inside_a_rollout_waits_for_one_answer() {
    let place = place();
    for (which, toml) in [
        ("grpo", grpo_toml as fn(&str, &str) -> String),
        ("ppo", ppo_toml),
        ("expert-iteration", expert_iteration_toml),
        ("online-preference", online_preference_toml),
    ] {
        // In the middle of the third rollout of eight
        let toml = toml(&judge(&place, "0.02"), PROMPTS);
        assert_a_stop_inside_changes_nothing(&place, (which, &toml), (19..24, 2), 6 * 8);
    }
}

/// With dynamic sampling an update has several rollouts; one that is given up in its second begins again with its first.
#[cfg(unix)]
#[test]
fn a_stop_inside_a_further_rollout_of_an_update_changes_nothing() {
    let place = place();
    let alone = judge(&place, "0.02");
    let alone = alone.split("[[rewards]]\nkind = \"length\"").next().unwrap();
    // Of two rollouts the first teaches nothing
    let script = fs::read_to_string(place.path("judge.sh")).unwrap();
    let script = script.replace("$((n % 7)).25", "$(((n - 1) / 8 % 2 * (1 + n % 7)))");
    fs::write(place.path("judge.sh"), script).unwrap();
    let toml = with_grpo(&grpo_toml(alone, PROMPTS), "dynamic_sampling = true");
    // In the second rollout of the third update
    assert_a_stop_inside_changes_nothing(&place, ("dynamic", &toml), (43..48, 2), 6 * 16);
    assert_eq!(column(&place, "whole-dynamic", "objective/left_out"), [8.0; 6]);
}

/// Asks a run to stop when its judge gave `answered.start` answers of `all`, sees that it stops before `answered.end` after so
/// many steps, and goes on: to the bytes of a run that was not stopped, with nothing asked twice.
#[cfg(unix)]
fn assert_a_stop_inside_changes_nothing(
    place: &Place,
    (which, toml): (&str, &str),
    (answered, steps): (std::ops::Range<usize>, u64),
    all: usize,
) {
    let (whole, stopped) = (format!("whole-{which}"), format!("stopped-{which}"));
    finish(place, &whole, toml);
    let job = place.job(&stopped);
    let (shutdown, journal) = (job.shutdown.clone(), job.dir.join("rewards/judge.jsonl"));
    let enough = answered.start;
    let watch = std::thread::spawn(move || {
        for _ in 0..4000 {
            let given = fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
            if given >= enough {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        shutdown.request();
    });
    let outcome = start(&job, toml);
    watch.join().unwrap();
    assert!(
        matches!(outcome, Ok(Outcome::Stopped { step }) if step == steps),
        "{which}: {outcome:?}"
    );
    let given = lines(&place.path(&stopped).join("rewards/judge.jsonl")).len();
    assert!(answered.contains(&given), "{which}: {given}");
    finish(place, &stopped, toml);
    assert_same_results(&place.path(&whole), &place.path(&stopped));
    for run in [whole, stopped] {
        assert_eq!(lines(&place.path(&run).join("rewards/judge/asked")).len(), all, "{run}");
    }
}

#[test]
fn threads_change_no_byte_and_micro_batches_only_rounding() {
    let place = place();
    for (name, toml) in [
        ("turns", grpo_toml(TURNS, "")),
        ("letters", grpo_toml(LETTERS, PROMPTS)),
    ] {
        let toml = with(&toml, "updates", "3");
        for threads in [1, 2] {
            let job = Job {
                threads: Some(threads),
                ..place.job(&format!("{name}-{threads}"))
            };
            start(&job, &toml).unwrap();
        }
        assert_same_results(&place.path(&format!("{name}-1")), &place.path(&format!("{name}-2")));
        // A group fits no micro-batch of one token, and stays whole
        let cut = format!("{name}-cut");
        finish(&place, &cut, &with(&toml, "microbatch_tokens", "1"));
        for key in ["objective/scores", "loss/policy_avg", "grad_norm"] {
            let (a, b) = (
                column(&place, &format!("{name}-1"), key)[0],
                column(&place, &cut, key)[0],
            );
            assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{name}, {key}: {a} and {b}");
        }
    }
}

#[test]
fn what_is_earned_in_an_environment_is_measured() {
    let place = place();
    for (run, toml, most) in [
        ("whole-way", grpo_toml(MAZE, ""), 1.0),
        ("turns", grpo_toml(TURNS, ""), 4.0),
        ("ppo", ppo_toml(TURNS, ""), 4.0),
    ] {
        finish(&place, run, &toml);
        // Every sampled token of every turn had the log-probability that the first step computed
        assert!(
            column(&place, run, "policy/first_ratio")
                .iter()
                .all(|&ratio| ratio == 1.0)
        );
        assert!(
            column(&place, run, "policy/first_ratio_var")
                .iter()
                .all(|&var| var == 0.0)
        );
        let turns = column(&place, run, "environment/turns_mean");
        assert!(turns.iter().all(|&turns| (1.0..=most).contains(&turns)), "{turns:?}");
        assert_eq!(turns.iter().any(|&turns| turns > 1.0), most > 1.0, "{turns:?}");
        let share = column(&place, run, "environment/share_of_optimum");
        assert!(share.iter().all(|share| (0.0..=1.0).contains(share)), "{share:?}");
        assert_eq!(column(&place, run, "environment/reward_mean").len(), 6);
        let (tokens, length) = (
            column(&place, run, "rollout/tokens"),
            column(&place, run, "completions/mean_length"),
        );
        for ((tokens, length), turns) in tokens.iter().zip(length).zip(turns) {
            assert_eq!(*tokens, length * 8.0);
            assert!(length <= 6.0 * turns, "of an action at most six: {length} in {turns}");
        }
        // A group plays the same maze
        let samples = lines(&place.path(run).join("samples.jsonl"));
        for group in samples.chunks(4) {
            assert!(group.iter().all(|sample| sample["prompt"] == group[0]["prompt"]));
            assert!(group.iter().all(|sample| sample["optimum"] == group[0]["optimum"]));
        }
        assert_ne!(samples[0]["prompt"], samples[4]["prompt"]);
        let (turns, response) = (&samples[0]["turns"], samples[0]["response"].as_str().unwrap());
        assert_eq!(turns.as_u64().unwrap() as usize, 1 + response.matches("\n> ").count());
    }
}

#[test]
fn the_score_rises_on_a_rule() {
    let place = place();
    let toml = grpo_toml(LETTERS, PROMPTS);
    let toml = with(&with(&toml, "updates", "36"), "rollout_batch", "32");
    finish(&place, "run", &with(&toml, "minibatch", "32"));
    let scores = column(&place, "run", "objective/scores");
    // The entry's own mean is of doubles, the score's of what the update works with
    let own = column(&place, "run", "rewards/letters_mean");
    assert!(own.iter().zip(&scores).all(|(own, score)| (own - score).abs() < 1e-6));
    let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len() as f64;
    let (early, late) = (mean(&scores[..4]), mean(&scores[32..]));
    assert!(late > early + 0.1, "{early} to {late}: {scores:?}");
}

/// A sum of one reward model, once, is that reward model.
#[test]
fn a_reward_model_in_the_list_is_the_same_as_alone() {
    let place = place();
    place.reward("reward", &with(REWARD, "steps", "4")).unwrap();
    let alone = "[reward]\npath = \"reward/model\"\n";
    let listed = "[[rewards]]\nkind = \"model\"\npath = \"reward/model\"\n";
    for stage in [grpo_toml, ppo_toml] {
        let read = |run: &str| {
            let model = fs::read(place.path(run).join("model/model.safetensors")).unwrap();
            (model, column(&place, run, "objective/scores"))
        };
        finish(&place, "alone", &stage(alone, PROMPTS));
        finish(&place, "listed", &stage(listed, PROMPTS));
        assert!(read("alone") == read("listed"));
        assert_eq!(
            column(&place, "listed", "objective/scores").len(),
            column(&place, "listed", "rewards/model_mean").len()
        );
        for run in ["alone", "listed"] {
            fs::remove_dir_all(place.path(run)).unwrap();
        }
    }
}

/// A response that was cut is not judged where its score is replaced.
#[cfg(unix)]
#[test]
fn a_judge_is_not_asked_for_what_is_replaced() {
    let place = place();
    let toml = with(&grpo_toml(&judge(&place, "0"), PROMPTS), "missing_eos", "\"replace\"");
    finish(&place, "run", &toml);
    let ended: f64 = column(&place, "run", "completions/ended")
        .iter()
        .map(|share| share * 8.0)
        .sum();
    let path = place.path("run/rewards/judge.jsonl");
    assert_eq!(lines(&path).len(), ended as usize);
    assert!(ended < 48.0, "some responses are cut");
}

fn refused(place: &Place, toml: &str) -> String {
    let error = start(&place.job("refused"), toml).unwrap_err();
    assert_eq!(error.exit_status(), ExitStatus::Usage, "{error}");
    assert!(!place.path("refused").exists(), "{error}");
    error.to_string()
}

#[test]
fn what_is_maximised_must_be_one_thing() {
    let place = place();
    let alone = "[reward]\npath = \"base/model\"\n";
    let all = "maximises exactly one of [reward] with a path, [[rewards]] and [environment]";
    for (stage, toml) in [("grpo", grpo_toml as fn(&str, &str) -> String), ("ppo", ppo_toml)] {
        for (maximised, key) in [
            (String::new(), "reward.path: is missing".to_owned()),
            (
                format!("{alone}{LETTERS}"),
                "rewards: stands beside reward.path".to_owned(),
            ),
            (
                format!("{alone}{MAZE}"),
                "environment: stands beside reward.path".to_owned(),
            ),
            (
                format!("{LETTERS}{MAZE}"),
                "environment: stands beside rewards".to_owned(),
            ),
        ] {
            let message = refused(&place, &toml(&maximised, PROMPTS));
            assert!(message.contains(&format!("{key}; {stage} {all}")), "{message}");
        }
    }
    let message = refused(&place, &grpo_toml(MAZE, PROMPTS));
    assert!(
        message.contains("data.prompts: stands beside [environment]"),
        "{message}"
    );
}

#[test]
fn rewards_and_environments_that_make_no_sense_are_refused_with_their_key() {
    let place = place();
    let of = |maximised: &str| {
        grpo_toml(
            maximised,
            if maximised.contains("[environment]") {
                ""
            } else {
                PROMPTS
            },
        )
    };
    for (maximised, said) in [
        (
            "[[rewards]]\nkind = \"regex\"\npattern = \"(\"\n",
            "rewards[0] (regex): `pattern` is \"(\"",
        ),
        (
            "[[rewards]]\nkind = \"exact\"\ncolumn = \"solution\"\n",
            "data.prompts: prompts.jsonl: rewards[0] (exact) cannot judge answers to \"Which way, ",
        ),
        // By its place among all of them, those that are no rules counted, too
        (
            "[[rewards]]\nkind = \"program\"\ncommand = [\"true\"]\n[[rewards]]\nkind = \"exact\"\ncolumn = \"solution\"\n",
            "data.prompts: prompts.jsonl: rewards[1] (exact) cannot judge answers to \"Which way, ",
        ),
        (
            "[environment]\nkind = \"maze\"\nsize = 1\n",
            "environment maze: `size` is 1; expected 2 to 20",
        ),
        (&format!("{MAZE}max_turns = 0\n"), "environment.max_turns: is 0"),
    ] {
        let message = refused(&place, &of(maximised));
        assert!(message.contains(said), "{message}");
        // With the line of the key
        assert!(
            message.starts_with("test.toml:") || message.contains("prompts.jsonl"),
            "{message}"
        );
    }
    let message = refused(&place, &with(&of(MAZE), "max_new_tokens", "310"));
    assert!(
        message.contains("grpo.max_new_tokens: is 310, which with the")
            && message.contains("the model's context is 320"),
        "{message}"
    );
    let long = with_grpo(&of(MAZE), "overlong_cache = 2");
    assert!(refused(&place, &long).contains("grpo.overlong_cache: is 2, and an environment's episodes"));
    // DAPO's own soft limit is left out there
    finish(
        &place,
        "dapo",
        &with_grpo(&with(&of(MAZE), "updates", "1"), "method = \"dapo\""),
    );
}

fn with_grpo(toml: &str, setting: &str) -> String {
    toml.replacen("[grpo]", &format!("[grpo]\n{setting}"), 1)
}

#[test]
fn a_plan_says_what_it_takes_for_granted() {
    let place = place();
    for toml in [grpo_toml(TURNS, ""), ppo_toml(TURNS, "")] {
        let job = place.job("planned");
        let plan = match toml.contains("[ppo]") {
            true => ppo::plan(&job, &parsed::<PpoConfig>(&toml), false).unwrap(),
            false => grpo::plan(&job, &parsed::<GrpoConfig>(&toml), false).unwrap(),
        };
        assert_eq!(plan.sources[0].name, "maze");
        assert_eq!((plan.sources[0].items, plan.sources[0].unit), (6 * 2, "episodes"));
        assert!(
            plan.assumed[0].starts_with("maze: every episode has 4 turns, "),
            "{:?}",
            plan.assumed
        );
        assert!(plan.assumed[0].contains("6 in each"), "{:?}", plan.assumed);
        // As many tokens as were said, and no more
        finish(&place, "planned", &toml);
        let longest = plan.tokens / (6 * 8);
        let read: f64 = column(&place, "planned", "rollout/tokens").iter().sum();
        assert!(
            (read as u64) < plan.tokens && longest <= 320,
            "{read} of {}",
            plan.tokens
        );
        fs::remove_dir_all(place.path("planned")).unwrap();
    }
    let toml = grpo_toml(LETTERS, PROMPTS);
    let plan = grpo::plan(&place.job("planned"), &parsed::<GrpoConfig>(&toml), false).unwrap();
    assert!(plan.assumed.is_empty() && plan.models.iter().all(|model| model.name != "reward model"));
    assert!(!place.path("planned").exists());
}

/// Where nothing is said, prompts have the room that a small model leaves them, and that is told.
#[test]
fn prompts_get_what_responses_leave_of_a_small_context() {
    let place = Place::new();
    place
        .pretrain("base", &with(&pretrain_toml(4), "context", "96"))
        .unwrap();
    place.write_rows(
        "prompts.jsonl",
        (0..8).map(|i| json!({ "prompt": format!("Which way, {i}?") })),
    );
    let data = PROMPTS.replace("max_prompt_length = 60\n", "");
    for stage in [grpo_toml, ppo_toml, expert_iteration_toml, online_preference_toml] {
        let listening = Arc::new(Listening::default());
        let mut job = place.job("run");
        job.observer = Arc::clone(&listening) as _;
        start(&job, &stage(LETTERS, &data)).unwrap();
        let said = listening.0.lock().unwrap().join("\n");
        assert!(said.contains("data.max_prompt_length: 90, which is what "), "{said}");
        assert!(
            said.contains("max_new_tokens = 6 leaves of the model's context of 96"),
            "{said}"
        );
        fs::remove_dir_all(place.path("run")).unwrap();
        // What is asked for is not changed
        let asked = refused(
            &place,
            &stage(LETTERS, &data.replacen("[data]", "[data]\nmax_prompt_length = 256", 1)),
        );
        assert!(
            asked.contains("max_new_tokens: is 6, which with data.max_prompt_length = 256"),
            "{asked}"
        );
    }
}

#[test]
fn an_episode_that_outgrows_the_context_is_cut_off_and_said() {
    let place = place();
    let heard = Arc::new(Listening::default());
    let job = Job {
        observer: heard.clone(),
        ..place.job("run")
    };
    let toml = with(&with(&grpo_toml(TURNS, ""), "max_new_tokens", "90"), "updates", "2");
    start(&job, &toml).unwrap();
    let said = heard.0.lock().unwrap().clone();
    let told = said.iter().find(|text| text.contains("episodes are cut off there"));
    let told = told.unwrap_or_else(|| panic!("{said:?}"));
    assert!(
        told.starts_with("maze: an episode may take up to 4 turns and ") && told.contains("context is 320"),
        "{told}"
    );
    assert!(
        column(&place, "run", "policy/first_ratio")
            .iter()
            .all(|&ratio| ratio == 1.0)
    );
}

/// The configurations that the pages show are read, and say one thing that is maximised.
#[test]
fn the_examples_of_the_pages_are_configurations() {
    let pages = [
        include_str!("../../../docs/rewards.md"),
        include_str!("../../../docs/environments.md"),
        include_str!("../../../docs/grpo.md"),
        include_str!("../../../docs/ppo.md"),
    ];
    let place = place();
    let mut seen = 0;
    for page in pages {
        let blocks = page
            .split("```toml\n")
            .skip(1)
            .filter_map(|rest| rest.split("```\n").next());
        for block in blocks.filter(|block| block.contains("[model]")) {
            // They are read, and fail because their models are not there
            let error = start(&place.job("page"), block).unwrap_err();
            assert!(error.to_string().contains("runs/"), "{error}: {block}");
            seen += 1;
        }
    }
    assert_eq!(seen, 5);
}
