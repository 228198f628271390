//! Comparisons, very small: figures follow from the verdicts, a stop changes nothing, what is done is not done again, mistakes cost nothing.

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
        Ok(_) => Err("other settings were accepted".into()),
        Err(error) => {
            assert_eq!(error.exit_status(), ExitStatus::Usage, "{error}");
            assert!(error.to_string().contains("changed: compare.temperature"), "{error}");
            Ok(())
        }
    }
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
    let recipe = format!("{stages}{more}{compare_section}{rest}");
    let options = options(dir.path(), &recipe)?;
    let result = run(&options)?.result;
    assert_eq!((result.judge.as_str(), result.prompts), ("rewards", 12));
    let proxy = |name: &str| -> Result<f64, Box<dyn Error>> {
        Ok(method(&result, name)?.measures.proxy.ok_or("no proxy")?.mean)
    };
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
    assert!(result.overoptimisation.is_some());
    // One training method with two seeds: they are compared with each other
    assert_eq!(
        result.updates.map(|updates| updates.names),
        Some(vec!["grpo/1".into(), "grpo/2".into()])
    );
    Ok(())
}

#[test]
fn mistakes_are_told_before_anything_runs() -> Result<(), Box<dyn Error>> {
    let good = format!("{START}{MAZE}");
    let changed = |from: &str, to: &str| good.replacen(from, to, 1);
    for (recipe, set, message) in [
        (
            changed("kind = \"few-shot\"", "kind = \"few-shots\""),
            "",
            "method[2].kind: is `few-shots`; expected start, best-of, few-shot",
        ),
        (
            changed("kind = \"start\"", "kind = \"pretrain\""),
            "",
            "a stage that tunes no model",
        ),
        (changed("n = 4", "n = 1"), "", "method[1].n: is 1; expected at least 2"),
        (
            changed("n = 4", "shots = 4"),
            "",
            "method[1].shots: is a few-shot method's; this is best-of",
        ),
        (
            changed("samples = 6", "samples = 1"),
            "",
            "method[2].samples: is 1; expected at least 2",
        ),
        (
            changed("samples = 6", "samples = 6\nprompts = [\"p.jsonl\"]"),
            "",
            "method[2].prompts: the judge is an environment",
        ),
        (
            changed("minutes = 5.0", "minutes = -1.0"),
            "",
            "method[3].minutes: is -1",
        ),
        (
            changed("name = \"best-of-4\"", "name = \"few-shot\""),
            "",
            "method[2].name: `few-shot` stands twice",
        ),
        (
            changed("name = \"best-of-4\"", "name = \"../x\""),
            "",
            "method[1].name: is `../x`; expected letters, digits",
        ),
        (
            changed("steps = 6, batch", "stesp = 6, batch"),
            "",
            "did you mean `train.steps`?",
        ),
        (
            changed("train = { steps = 6,", "train = { seed = 4, steps = 6,"),
            "",
            "method[3].config.train.seed: is the comparison's",
        ),
        (
            changed("[method.config]\n", "[method.config]\nmodel = { path = \"x\" }\n"),
            "",
            "method[3].config.model.path: is the comparison's",
        ),
        (
            good.replace(
                "[method.config]\ndata = { train = [\"{out}/played/demonstrations.jsonl\"]",
                "[method.config]\ndata = { train = [\"absent.jsonl\"]",
            ),
            "",
            "method[3].config.data.train: ",
        ),
        (
            changed("start = \"{out}/sft/model\"", "start = \"{out}/sftt/model\""),
            "",
            "there is no stage `sftt`; there are: words, tokens",
        ),
        (
            changed("start = \"{out}/sft/model\"", "start = \"no/such/model\""),
            "",
            "compare.start: ",
        ),
        (changed("seeds = [1, 2]", "seeds = []"), "", "compare.seeds: is empty"),
        (
            changed("seeds = [1, 2]", "seeds = [2, 2]"),
            "",
            "compare.seeds: 2 stands twice",
        ),
        (changed("samples = 2", "samples = 0"), "", "compare.samples: is 0"),
        (
            changed("samples = 2", "samples = 2\ntemperature = 0.0"),
            "",
            "compare.temperature: is 0",
        ),
        (
            changed("samples = 2", "samples = 2\nbaseline = \"sft\""),
            "",
            "compare.baseline: there is no method `sft`; expected one of start",
        ),
        (
            changed("episodes = 14", "episodes = 14\nseed = 2"),
            "",
            "judge.seed: is 2, with which a method practises",
        ),
        (changed("episodes = 14", "episodes = 0"), "", "judge.episodes: is 0"),
        (
            changed("episodes = 14", "reward = \"{out}/sft/model\""),
            "",
            "judge: has several of environment, rewards and reward",
        ),
        (
            changed(
                "environment = { kind = \"maze\", size = 3 }\nepisodes = 14",
                "episodes = 14",
            ),
            "",
            "judge: has none of environment",
        ),
        (
            changed(
                "environment = { kind = \"maze\", size = 3 }\nepisodes = 14",
                "reward = \"{out}/sft/model\"\nprompts = [\"absent.jsonl\"]",
            ),
            "",
            "judge.prompts: ",
        ),
        (
            changed(
                "size = 3 }\nepisodes = 14",
                "size = 3, moves_per_turn = 1 }\nepisodes = 14",
            ),
            "",
            "judge.environment: has several turns",
        ),
        (
            changed("size = 3 }\nepisodes = 14", "size = 1 }\nepisodes = 14"),
            "",
            "judge.environment: environment maze: `size` is 1",
        ),
        (
            changed("[judge]", "[proxy]\n[judge]"),
            "",
            "proxy: expected exactly one of rewards and reward",
        ),
        (
            changed(
                "[judge]",
                "[proxy]\nrewards = [{ kind = \"length\", min = 9, max = 2 }]\n[judge]",
            ),
            "",
            "proxy: rewards[0] (length)",
        ),
        (
            format!(
                "{good}{}",
                EXPECTED.replacen("stage = \"compare\"", "stage = \"comprae\"", 1)
            ),
            "",
            "expect[0].stage: there is no stage `comprae`; expected one of words",
        ),
        (
            changed("episodes = 14", "episods = 14"),
            "",
            "did you mean `judge.episodes`?",
        ),
        (
            changed("episodes = 40, form", "episodes = 0, form"),
            "",
            "stage words: episodes: is 0",
        ),
        (
            good.clone(),
            "mroe.train.steps=1",
            "names no part of this comparison; expected NAME.KEY=VALUE with one of compare, judge, proxy, words",
        ),
        (good.clone(), "best-of-4.n=1", "method[1].n: is 1"),
        (good.clone(), "more.train.steps=many", "train.steps"),
    ] {
        let dir = tempfile::tempdir()?;
        let mut options = options(dir.path(), &recipe)?;
        options.set = if set.is_empty() { Vec::new() } else { vec![set.into()] };
        match run(&options) {
            Ok(_) => return Err(format!("accepted: {message}").into()),
            Err(error) => {
                assert!(error.to_string().contains(message), "{error}\nexpected: {message}");
                assert_eq!(error.exit_status(), ExitStatus::Usage, "{error}");
            }
        }
        assert!(!dir.path().join("out").exists(), "{message}: something ran");
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
