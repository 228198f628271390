//! Comparisons, very small: figures follow from the verdicts, a stop changes nothing, what is done is not done again, mistakes cost nothing.

mod judging;
mod mistakes;

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hone_pipeline::compare::{CompareOptions, CompareResult, Compared, MethodResult, compare};
use hone_run::{Event, ExitStatus, Observer, Shutdown, Silent};
use serde_json::Value;

/// A model that reads and imitates a player of 3x3 mazes.
const START: &str = r#"
[[stage]]
name = "words"
kind = "demonstrations"
config = { environment = { kind = "maze", size = 3 }, episodes = 40, form = "words" }

[[stage]]
name = "tokens"
kind = "tokenizer"
config = { files = ["{out}/words/demonstrations.jsonl"], vocab_size = 330 }

[[stage]]
name = "texts"
kind = "demonstrations"
config = { environment = { kind = "maze", size = 3 }, episodes = 80, most_per_row = 2, form = "text" }

[[stage]]
name = "played"
kind = "demonstrations"
config = { environment = { kind = "maze", size = 3 }, episodes = 60, most_per_row = 2 }

[[stage]]
name = "base"
kind = "pretrain"

[stage.config]
model = { tokenizer = "{out}/tokens", new = { width = 32, layers = 1, heads = 2, context = 256 } }
data = { train = ["{out}/texts/demonstrations.jsonl"], max_length = 128 }
train = { steps = 30, batch = 8, learning_rate = 1e-2 }
eval = { every = 0 }

[[stage]]
name = "sft"
kind = "sft"

[stage.config]
model = { path = "{out}/base/model" }
data = { train = ["{out}/played/demonstrations.jsonl"], max_length = 250 }
train = { steps = 20, batch = 8, learning_rate = 5e-3 }
eval = { every = 0, samples = 0 }

[compare]
start = "{out}/sft/model"
seeds = [1, 2]
samples = 2
max_new_tokens = 8
resamples = 100
shown = 2
"#;

const MAZE: &str = r#"
[judge]
environment = { kind = "maze", size = 3 }
episodes = 14

[[method]]
name = "start"
kind = "start"

[[method]]
name = "best-of-4"
kind = "best-of"
n = 4

[[method]]
name = "few-shot"
kind = "few-shot"
shots = 2
samples = 6

[[method]]
name = "more"
kind = "sft"
minutes = 5.0

[method.config]
data = { train = ["{out}/played/demonstrations.jsonl"], max_length = 250 }
train = { steps = 6, batch = 8, learning_rate = 5e-3 }
eval = { every = 0, samples = 0 }

[[method]]
name = "once-more"
kind = "sft"
control = true

[method.config]
data = { train = ["{out}/played/demonstrations.jsonl"], max_length = 250 }
train = { steps = 3, batch = 8, learning_rate = 5e-3 }
eval = { every = 0, samples = 0 }
"#;

fn options(dir: &Path, recipe: &str) -> std::io::Result<CompareOptions> {
    std::fs::write(dir.join("mazes.toml"), recipe)?;
    Ok(CompareOptions {
        path: dir.join("mazes.toml"),
        out: Some(dir.join("out")),
        base: dir.into(),
        set: Vec::new(),
        threads: Some(1),
        allow_isa_change: false,
    })
}

fn run(options: &CompareOptions) -> hone_pipeline::Result<Compared> {
    compare(options, Arc::new(Silent), Shutdown::default())
}

/// Keeps what began, and asks for a stop there once.
#[derive(Default)]
struct Watcher {
    started: Mutex<Vec<String>>,
    stop_at: &'static str,
    shutdown: Shutdown,
    stopped: AtomicBool,
}

impl Observer for Watcher {
    fn event(&self, event: &Event) {
        if let Event::Started { stage, .. } = event {
            self.started.lock().unwrap().push(stage.clone());
            if stage == self.stop_at && !self.stopped.swap(true, Ordering::Relaxed) {
                self.shutdown.request();
            }
        }
    }
}

fn json(dir: &Path) -> Result<String, Box<dyn Error>> {
    Ok(std::fs::read_to_string(dir.join("out/compare.json"))?)
}

fn method<'a>(result: &'a CompareResult, name: &str) -> Result<&'a MethodResult, String> {
    let found = result.methods.iter().find(|method| method.name == name);
    found.ok_or_else(|| format!("no method {name}"))
}

fn start_result(result: &CompareResult) -> Result<&MethodResult, String> {
    method(result, "start")
}

/// The verdicts of a method and seed.
fn verdicts(dir: &Path, method: &str, seed: u64) -> Result<Vec<Value>, Box<dyn Error>> {
    let path = dir.join(format!("out/judged/{method}/seed-{seed}/verdicts.jsonl"));
    let lines = std::fs::read_to_string(path)?;
    Ok(lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn rewards(verdicts: &[Value]) -> Vec<f64> {
    verdicts.iter().filter_map(|v| v["reward"].as_f64()).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn methods_are_compared_and_figures_follow_from_the_verdicts() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let options = options(dir.path(), &format!("{START}{MAZE}{EXPECTED}"))?;
    let compared = run(&options)?;
    assert!(compared.expectation_missed());
    let holds: Vec<bool> = compared.expectations.iter().map(|e| e.holds).collect();
    assert_eq!(holds, [true, false], "{:?}", compared.expectations);
    let Compared { result, times, out, .. } = compared;
    assert_eq!(serde_json::from_str::<CompareResult>(&json(dir.path())?)?, result);
    assert_eq!(
        (result.prompts, result.samples, result.start.as_str()),
        (14, 2, "{out}/sft/model")
    );

    // 1. Rewards, differences and win rates by hand
    let base: Vec<Vec<f64>> = [1, 2]
        .iter()
        .map(|&s| Ok(rewards(&verdicts(dir.path(), "start", s)?)))
        .collect::<Result<_, Box<dyn Error>>>()?;
    for name in ["start", "best-of-4", "few-shot", "more", "once-more"] {
        let found = method(&result, name)?;
        let mut means = Vec::new();
        let mut wins = Vec::new();
        for (seed, base) in found.seeds.iter().zip(&base) {
            let own = rewards(&verdicts(dir.path(), name, seed.seed)?);
            assert_eq!(own.len(), 28);
            assert!((seed.measures.reward.mean - mean(&own)).abs() < 1e-12);
            assert!((seed.measures.difference.mean - (mean(&own) - mean(base))).abs() < 1e-12);
            for (own, base) in own.chunks(2).zip(base.chunks(2)) {
                let pairs = own.iter().flat_map(|a| base.iter().map(move |b| (a, b)));
                let won: f64 = pairs
                    .map(|(a, b)| {
                        if a > b {
                            1.0
                        } else if a == b {
                            0.5
                        } else {
                            0.0
                        }
                    })
                    .sum();
                wins.push(won / 4.0);
            }
            means.push(mean(&own));
        }
        assert!((found.measures.reward.mean - mean(&means)).abs() < 1e-12, "{name}");
        assert!((found.measures.win_rate.mean - mean(&wins)).abs() < 1e-12, "{name}");
        let m = &found.measures;
        assert!(m.reward.low <= m.reward.mean && m.reward.mean <= m.reward.high);
        assert!(m.share_of_optimum.is_some_and(|share| (0.0..=1.0).contains(&share)));
        assert_eq!(m.proxy, None);
    }
    // 2. The start is at no distance from itself, to the bit; the others are where they say
    let start = &method(&result, "start")?.measures;
    assert_eq!(start.kl.map(|kl| (kl.mean, kl.high)), Some((0.0, 0.0)));
    assert_eq!(
        (start.win_rate.low, start.win_rate.high, start.difference.high),
        (0.5, 0.5, 0.0)
    );
    assert_eq!((start.tokens_sampled, start.tokens_trained), (Some(0.0), Some(0.0)));
    let best = &method(&result, "best-of-4")?.measures;
    assert!(
        best.kl_is_bound
            && best
                .kl
                .is_some_and(|kl| (kl.mean - 0.636_294_361_119_890_6).abs() < 1e-12)
    );
    let best_of = method(&result, "best-of-4")?;
    assert!(best_of.is_upper_bound() && best_of.picked_by.as_deref() == Some("judge"));
    assert_eq!(method(&result, "few-shot")?.picked_by.as_deref(), Some("judge"));
    assert_eq!(
        (
            &start_result(&result)?.picked_by,
            start_result(&result)?.is_upper_bound()
        ),
        (&None, false)
    );
    // What was played elsewhere of what is judged: stages and few-shot practice of other seeds
    let overlaps: Vec<(&str, u64)> = result.overlaps.iter().map(|o| (o.by.as_str(), o.practised)).collect();
    assert_eq!(overlaps, [("words", 40), ("texts", 80), ("played", 60)]);
    assert!(result.overlaps.iter().all(|o| o.judged <= 14));
    assert!(best.difference.mean > 0.0 && best.tokens_per_answer > 3.0 * best.mean_length);
    let few = &method(&result, "few-shot")?.measures;
    assert!(few.kl.is_none() && few.tokens_sampled.is_some_and(|tokens| tokens > 6.0));
    let more = method(&result, "more")?;
    assert!(
        more.trains
            && more
                .measures
                .kl
                .is_some_and(|kl| kl.mean != 0.0 && !more.measures.kl_is_bound)
    );
    assert!(more.measures.tokens_trained > Some(100.0) && more.measures.tokens_sampled == Some(0.0));
    assert!(more.reward_seed_deviation.is_some() && method(&result, "once-more")?.control);
    // 3. Updates: the same method is nearest to itself
    let updates = result.updates.as_ref().ok_or("no updates")?;
    assert_eq!(updates.names, ["more/1", "more/2", "once-more/1", "once-more/2"]);
    assert!(
        updates.cosines[0][1] > Some(0.2) && updates.cosines[0][0] == Some(1.0),
        "{:?}",
        updates.cosines
    );
    assert!(
        updates
            .parts
            .iter()
            .any(|part| part.block == Some(0) && part.kind == "q_proj")
    );
    assert!(
        updates.norms[0] > updates.norms[2],
        "twice the steps go further: {:?}",
        updates.norms
    );
    // 4. The page, and what was planned
    let page = std::fs::read_to_string(out.join("compare.html"))?;
    for part in [
        "KL to the start",
        "once-more (control)",
        "How alike the weights moved",
        "Examples that few-shot shows",
        "of 5.0 planned",
        "best-of-4 *",
        "* The judge itself chose among the samples",
        "What is practised on of what is judged",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(times.len(), 4);
    assert!(times.iter().all(|took| took.minutes > 0.0));
    Ok(())
}

#[test]
fn a_stop_changes_nothing_and_what_is_done_is_not_done_again() -> Result<(), Box<dyn Error>> {
    let (whole, parts) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let recipe = format!("{START}{MAZE}");
    run(&options(whole.path(), &recipe)?)?;
    let options = options(parts.path(), &recipe)?;
    for stop_at in [
        "pretrain",
        "sft",
        "answers of best-of-4, seed 2",
        "practice of few-shot, seed 1",
        "answers of once-more, seed 1",
    ] {
        let shutdown = Shutdown::default();
        let watcher = Watcher {
            stop_at,
            shutdown: shutdown.clone(),
            ..Watcher::default()
        };
        match compare(&options, Arc::new(watcher), shutdown) {
            Ok(_) => return Err(format!("was not stopped at {stop_at}").into()),
            Err(error) => assert_eq!(error.exit_status(), ExitStatus::Resumable, "{stop_at}: {error}"),
        }
        assert!(!parts.path().join("out/compare.json").exists());
    }
    run(&options)?;
    assert_eq!(json(parts.path())?, json(whole.path())?);
    // Once more: nothing begins
    let watcher = Arc::new(Watcher::default());
    compare(&options, Arc::clone(&watcher) as Arc<dyn Observer>, Shutdown::default())?;
    assert_eq!(*watcher.started.lock().unwrap(), Vec::<String>::new());
    assert_eq!(json(parts.path())?, json(whole.path())?);
    // A method more costs no more than itself, and another figure no sampling
    let more = recipe.replace(
        "[[method]]\nname = \"best-of-4\"",
        "[[method]]\nname = \"best-of-2\"\nkind = \"best-of\"\nn = 2\n\n[[method]]\nname = \"best-of-4\"",
    );
    std::fs::write(&options.path, more.replace("resamples = 100", "resamples = 50"))?;
    let watcher = Arc::new(Watcher::default());
    let result = compare(&options, Arc::clone(&watcher) as Arc<dyn Observer>, Shutdown::default())?.result;
    assert_eq!(result.methods.len(), 6);
    let begun = watcher.started.lock().unwrap().clone();
    assert_eq!(begun, ["answers of best-of-2, seed 1", "answers of best-of-2, seed 2"]);
    // Other answers than were judged are refused with the key
    let mut other = options.clone();
    other.set = vec!["compare.temperature=0.5".into()];
    match run(&other) {
        Ok(_) => return Err("other settings were accepted".into()),
        Err(error) => {
            assert_eq!(error.exit_status(), ExitStatus::Usage, "{error}");
            assert!(error.to_string().contains("changed: compare.temperature"), "{error}");
        }
    }
    // So are other episodes, before the list of those that were judged is written over, and other ways to play them
    let tasks = parts.path().join("out/judged/tasks.jsonl");
    let before = std::fs::read_to_string(&tasks)?;
    for (set, changed) in [
        ("judge.episodes=5", "changed: tasks"),
        ("judge.max_turns=3", "changed: judge.plays.max_turns"),
    ] {
        other.set = vec![set.into()];
        match run(&other) {
            Ok(_) => return Err(format!("{set} was accepted").into()),
            Err(error) => assert!(error.to_string().contains(changed), "{error}"),
        }
        assert_eq!(std::fs::read_to_string(&tasks)?, before);
    }
    Ok(())
}

const EXPECTED: &str = r#"
[[expect]]
that = "more samples are worth more"
stage = "compare"
value = "methods.best-of-4.reward.mean"
above = "compare:methods.start.reward.mean"

[[expect]]
that = "twenty steps make a perfect player"
stage = "compare"
value = "methods.start.share_of_optimum"
above = 0.99
"#;

/// Prompts instead of episodes, a reward model that the methods can see, and a rule that counts.
const PROMPTS: &str = r#"
[[stage]]
name = "reward"
kind = "reward"

[stage.config]
model = { path = "{out}/sft/model" }
data = { train = ["pairs.jsonl"], held_out = 0.2, max_length = 128 }
train = { epochs = 1, batch = 8 }
eval = { every = 0, samples = 0 }

[judge]
prompts = ["held-out.jsonl"]
rewards = [{ kind = "expression", expression = "if(contains(response, answer), 1, 0)" }, { kind = "length", max = 2, slope = 4, weight = 0.5 }]

[proxy]
reward = "{out}/reward/model"

[[method]]
name = "start"
kind = "start"

[[method]]
name = "best-of-3"
kind = "best-of"
n = 3

[[method]]
name = "few-shot"
kind = "few-shot"
shots = 1
samples = 4
prompts = ["prompts.jsonl"]

[[method]]
name = "grpo"
kind = "grpo"

[method.config]
reward = { path = "{out}/reward/model" }
data = { prompts = ["prompts.jsonl"], max_prompt_length = 64 }
grpo = { updates = 2, rollout_batch = 8, samples_per_prompt = 4, minibatch = 8, epochs = 2, max_new_tokens = 8 }
train = { learning_rate = 1e-3 }
eval = { every = 0, samples = 2 }
"#;

/// A method whose prompts have no answer that the judge's rule could read, and that holds out what is judged.
const OPEN: &str = r#"
[[method]]
name = "open"
kind = "grpo"

[method.config]
reward = { path = "{out}/reward/model" }
data = { prompts = ["open.jsonl"], held_out = 0.5, max_prompt_length = 64 }
grpo = { updates = 1, rollout_batch = 8, samples_per_prompt = 4, minibatch = 8, max_new_tokens = 8 }
train = { learning_rate = 1e-3 }
eval = { every = 1, samples = 8 }
"#;

fn write_prompts(dir: &Path) -> std::io::Result<()> {
    let words = ["up", "down", "left", "right"];
    let rows = |from: usize| -> String {
        (from..from + 12)
            .map(|i| {
                format!(
                    "{{\"prompt\":\"Say {} for {i}.\",\"answer\":\"{}\"}}\n",
                    words[i % 4],
                    words[i % 4]
                )
            })
            .collect()
    };
    std::fs::write(dir.join("prompts.jsonl"), rows(0))?;
    std::fs::write(dir.join("held-out.jsonl"), rows(20))?;
    let open = (rows(40) + &rows(20)).replace("\"answer\"", "\"hint\"");
    std::fs::write(dir.join("open.jsonl"), open)?;
    let pairs: String = (0..30)
        .map(|i| {
            format!(
                "{{\"prompt\":\"Say {0} for {i}.\",\"chosen\":\"{0}\",\"rejected\":\"up up up down\"}}\n",
                words[1 + i % 3]
            )
        })
        .collect();
    std::fs::write(dir.join("pairs.jsonl"), pairs)
}

#[test]
fn a_proxy_chooses_and_the_judge_counts() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    write_prompts(dir.path())?;
    // Stages go before [compare]
    let (stages, compare_section) = START.split_at(START.find("[compare]").ok_or("no [compare]")?);
    let (more, rest) = PROMPTS.split_at(PROMPTS.find("[judge]").ok_or("no [judge]")?);
    let recipe = format!("{stages}{more}{compare_section}{rest}{OPEN}");
    let options = options(dir.path(), &recipe)?;
    let result = run(&options)?.result;
    assert_eq!((result.judge.as_str(), result.prompts), ("rewards", 12));
    let proxy = |name: &str| -> Result<f64, Box<dyn Error>> {
        Ok(method(&result, name)?.measures.proxy.ok_or("no proxy")?.mean)
    };
    let best = method(&result, "best-of-3")?;
    assert!(best.picked_by.as_deref() == Some("proxy") && !best.is_upper_bound());
    // Chosen by the proxy, so above the start in it, whatever the judge says
    assert!(proxy("best-of-3")? > proxy("start")?);
    let grpo = &method(&result, "grpo")?.measures;
    let sampled = grpo.tokens_sampled.ok_or("no tokens")?;
    // 2 updates of 8 responses with 1 to 8 tokens each, passed over twice
    assert!(
        (16.0..=128.0).contains(&sampled) && grpo.tokens_trained == Some(2.0 * sampled),
        "{grpo:?}"
    );
    assert!(grpo.kl.is_some() && grpo.share_of_optimum.is_none());
    let few = std::fs::read_to_string(dir.path().join("out/judged/few-shot/seed-1/practice.json"))?;
    let few: Value = serde_json::from_str(&few)?;
    assert!(
        few["examples"][0][0]
            .as_str()
            .is_some_and(|prompt| prompt.starts_with("Say ")),
        "{few}"
    );
    // What is not judged on its way is told of, and costs no more than that
    let found = result.overoptimisation.as_ref().ok_or("no proxy")?;
    let reason = |name: &str| {
        let mut found = found.left_out.iter().filter(|left_out| left_out.name == name);
        found.next().map(|left_out| left_out.reason.as_str())
    };
    assert!(found.courses.is_empty() && found.left_out.len() == 2, "{found:?}");
    assert!(reason("grpo").is_some_and(|reason| reason.contains("eval.every or eval.samples is 0")));
    let open = reason("open").ok_or("open is not left out")?;
    assert!(
        open.contains("the judge can read none of its prompts") && open.contains("answer"),
        "{open}"
    );
    let page = std::fs::read_to_string(dir.path().join("out/compare.html"))?;
    assert!(page.contains("Not looked at on its way: open") && !page.contains("none loses in what counts"));
    // Methods that train, with two seeds: they are compared with each other
    assert_eq!(
        result.updates.map(|updates| updates.names),
        Some(["grpo/1", "grpo/2", "open/1", "open/2"].map(String::from).to_vec())
    );
    let overlap = |name: &str| {
        result
            .overlaps
            .iter()
            .find(|o| o.by == name)
            .map(|o| (o.practised, o.judged))
    };
    // A row in twenty is held out, at least one
    assert_eq!(overlap("grpo/1"), Some((11, 0)));
    // The judged ones are what it holds out itself
    assert_eq!(overlap("open/1"), Some((12, 0)));
    // What is judged is no practice, neither for a stage nor for few-shot prompting
    let practised = recipe.replace(
        "data = { prompts = [\"prompts.jsonl\"]",
        "data = { prompts = [\"held-out.jsonl\"]",
    );
    std::fs::write(&options.path, practised)?;
    match run(&options) {
        Ok(_) => return Err("judged prompts were practised on".into()),
        Err(error) => {
            let said = "method grpo: data.prompts: holds 11 of the 12 judged prompts";
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.exit_status(), ExitStatus::Usage);
        }
    }
    let few = recipe.replace(
        "samples = 4\nprompts = [\"prompts.jsonl\"]",
        "samples = 4\nprompts = [\"held-out.jsonl\"]",
    );
    std::fs::write(&options.path, few)?;
    match run(&options) {
        Ok(_) => return Err("judged prompts were shown".into()),
        Err(error) => assert!(
            error.to_string().contains("few-shot: has 0 things to practise on"),
            "{error}"
        ),
    }
    // Nor does a method choose its model by what is judged
    let chosen = recipe.replacen(
        "eval = { every = 0, samples = 2 }",
        "eval = { every = 0, samples = 2 }\njudge = { prompts = [\"held-out.jsonl\"], reward = \"{out}/reward/model\" }",
        1,
    );
    std::fs::write(&options.path, &chosen)?;
    match run(&options) {
        Ok(_) => return Err("a model was chosen by judged prompts".into()),
        Err(error) => {
            let said = "method grpo: judge.prompts: holds 12 of the 12 judged prompts";
            assert!(error.to_string().contains(said), "{error}");
        }
    }
    // Of its prompts those count that it looks at, the first `limit`
    let other = "{\"prompt\":\"Say up.\",\"answer\":\"up\"}\n".repeat(3);
    let held_out = std::fs::read_to_string(dir.path().join("held-out.jsonl"))?;
    std::fs::write(dir.path().join("mixed.jsonl"), other + &held_out)?;
    let limited = |limit: usize| {
        let judge = format!("judge = {{ prompts = [\"mixed.jsonl\"], limit = {limit}, ");
        let longer = chosen.replace("max_prompt_length = 64", "max_prompt_length = 128");
        longer.replacen("judge = { prompts = [\"held-out.jsonl\"], ", &judge, 1)
    };
    std::fs::write(&options.path, limited(4))?;
    match run(&options) {
        Ok(_) => return Err("a model was chosen by a judged prompt".into()),
        Err(error) => {
            let said = "method grpo: judge.prompts: holds 1 of the 12 judged prompts";
            assert!(error.to_string().contains(said), "{error}");
        }
    }
    std::fs::write(&options.path, limited(3))?;
    match run(&options) {
        Ok(_) => return Err("practice under another configuration was gone on with".into()),
        Err(error) => assert!(!error.to_string().contains("judged prompts"), "{error}"),
    }
    // A row that the judge cannot read is told before anything is sampled
    let rows = std::fs::read_to_string(dir.path().join("held-out.jsonl"))?;
    std::fs::write(
        dir.path().join("held-out.jsonl"),
        rows.replacen("\"answer\"", "\"reply\"", 1),
    )?;
    std::fs::write(&options.path, &recipe)?;
    match run(&options) {
        Ok(_) => return Err("a row without an answer was accepted".into()),
        Err(error) => {
            let said = error.to_string();
            assert!(
                said.contains("judge.prompts: held-out.jsonl: row 1: ") && said.contains("answer"),
                "{said}"
            );
        }
    }
    Ok(())
}

/// The bundled comparison, so small that its figures mean nothing, with the kinds of method that need no rollouts.
#[test]
fn the_bundled_comparison_runs() -> Result<(), Box<dyn Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/compare-maze.toml");
    let mut recipe: toml::Table = toml::from_str(&std::fs::read_to_string(path)?)?;
    recipe.remove("expect");
    let methods = recipe
        .get_mut("method")
        .and_then(toml::Value::as_array_mut)
        .ok_or("no methods")?;
    methods.retain(|method| {
        let kind = method.get("kind").and_then(toml::Value::as_str);
        kind.is_some_and(|kind| ["start", "best-of", "few-shot", "sft"].contains(&kind))
    });
    let dir = tempfile::tempdir()?;
    let mut options = options(dir.path(), &toml::to_string(&recipe)?)?;
    options.set = [
        "words.episodes=200",
        "texts.episodes=200",
        "conversations.episodes=200",
        "base.train.steps=2",
        "imitator.train.epochs=",
        "imitator.train.steps=2",
        "imitator.eval.samples=0",
        "compare.seeds=[1]",
        "compare.samples=1",
        "judge.episodes=3",
        "few-shot.samples=4",
        "more-imitation.train.steps=1",
    ]
    .map(String::from)
    .to_vec();
    let result = run(&options)?.result;
    let names: Vec<&str> = result.methods.iter().map(|method| method.name.as_str()).collect();
    assert_eq!(names, ["start", "few-shot", "best-of-16", "more-imitation"]);
    let few = verdicts(dir.path(), "few-shot", 1)?;
    assert_eq!((few.len(), result.prompts), (3, 3));
    Ok(())
}

#[test]
fn overrides_reach_what_they_name() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let recipe = format!("{START}{MAZE}");
    let mut options = options(dir.path(), &recipe)?;
    options.set = [
        "compare.seeds=[3]",
        "judge.episodes=5",
        "best-of-4.n=2",
        "more.train.steps=2",
        "base.train.steps=10",
    ]
    .map(String::from)
    .to_vec();
    let result = run(&options)?.result;
    assert_eq!(
        (
            result.prompts,
            result.methods[0].seeds.len(),
            result.methods[0].seeds[0].seed
        ),
        (5, 1, 3)
    );
    assert!(
        (method(&result, "best-of-4")?.measures.kl.map_or(0.0, |kl| kl.mean) - 0.193_147_180_559_945_3).abs() < 1e-12
    );
    let finished = |path: &str| -> Result<Value, Box<dyn Error>> {
        Ok(serde_json::from_str(&std::fs::read_to_string(
            dir.path().join("out").join(path),
        )?)?)
    };
    assert_eq!(finished("methods/more/seed-3/finished.json")?["steps"], 2);
    assert_eq!(finished("base/finished.json")?["steps"], 10);
    let settings = std::fs::read_to_string(dir.path().join("out/methods/more/seed-3/run.toml"))?;
    assert!(settings.contains("seed = 3"), "{settings}");
    Ok(())
}
