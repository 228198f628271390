//! What makes no sense is told before anything runs.

use super::*;

#[test]
fn mistakes_are_told_before_anything_runs() -> Result<(), Box<dyn Error>> {
    let good = format!("{START}{MAZE}");
    let changed = |from: &str, to: &str| good.replacen(from, to, 1);
    let practice =
        |config: &str| format!("{good}\n[[method]]\nname = \"practice\"\nkind = \"ppo\"\n[method.config]\n{config}\n");
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
            practice("reward = { path = \"no/such/model\" }"),
            "",
            ".config.reward.path: ",
        ),
        (
            practice("rewards = [{ kind = \"length\" }, { kind = \"model\", path = \"{out}/rewrd/model\" }]"),
            "",
            ".config.rewards[1].path: is ",
        ),
        (
            practice("ptx = { train = [{ path = \"absent.txt\", weight = 1.0 }] }"),
            "",
            ".config.ptx.train: ",
        ),
        (
            practice("judge = { prompts = [\"absent.jsonl\"] }"),
            "",
            ".config.judge.prompts: ",
        ),
        (
            practice("judge = { reward = \"no/such/model\" }"),
            "",
            ".config.judge.reward: ",
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
            "judge: has several of environment, rewards, reward and labeler",
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
            changed("episodes = 14", "labeler = \"standard\""),
            "",
            "judge: has several of environment, rewards, reward and labeler",
        ),
        (
            changed("episodes = 14", "episodes = 14\nmax_turns = 0"),
            "",
            "judge.max_turns: is 0",
        ),
        (
            changed("episodes = 14", "episodes = 14\nseed = 77").replacen(
                "episodes = 40,",
                "episodes = 40, seed = 77,",
                1,
            ),
            "",
            "judge.seed: is 77, with which stage words plays the same environment",
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
