//! Judges that are slow, environments of several turns, and the small world's labeler.

use super::*;

/// A judging program whose answers take a while.
#[cfg(unix)]
#[test]
fn a_stop_is_looked_for_while_judging_and_what_was_said_is_not_asked_again() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    write_prompts(dir.path())?;
    let asked = dir.path().join("asked");
    let script = format!(
        "while read line; do echo x >> {}; sleep 0.1; id=${{line#*\\\"id\\\":\\\"}}; id=${{id%%\\\"*}}; \
         echo \"{{\\\"id\\\":\\\"$id\\\",\\\"reward\\\":0.5}}\"; done\n",
        asked.display()
    );
    std::fs::write(dir.path().join("judge.sh"), script)?;
    let judge = r#"
[judge]
prompts = ["held-out.jsonl"]
rewards = [{ kind = "program", command = ["sh", "{recipe}/judge.sh"] }]

[[method]]
name = "start"
kind = "start"
"#;
    let recipe = format!("{}{judge}", START.replace("seeds = [1, 2]", "seeds = [1]"));
    let options = options(dir.path(), &recipe)?;
    let count = || std::fs::read_to_string(&asked).unwrap_or_default().lines().count();
    let shutdown = Shutdown::default();
    let stopped = std::thread::scope(|scope| {
        scope.spawn(|| {
            while count() < 3 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            shutdown.request();
        });
        compare(&options, Arc::new(Silent), shutdown.clone())
    });
    match stopped {
        Ok(_) => return Err("it went on to the end".into()),
        Err(error) => assert_eq!(error.exit_status(), ExitStatus::Resumable, "{error}"),
    }
    // 12 prompts with two answers each
    assert!((3..24).contains(&count()), "asked {} times", count());
    let judged = dir.path().join("out/judged/start");
    assert!(judged.join("seed-1.work").is_dir() && !judged.join("seed-1").exists());
    run(&options)?;
    assert_eq!(count(), 24);
    assert!(!judged.join("seed-1.work").exists() && judged.join("seed-1").is_dir());
    Ok(())
}

/// An environment of several turns is played turn by turn, and examples are whole episodes.
#[test]
fn several_turns_are_judged() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let judge = MAZE.replacen("size = 3 }", "size = 3, moves_per_turn = 1 }\nmax_turns = 3", 1);
    let (judge, _) = judge
        .split_once("[[method]]\nname = \"more\"")
        .ok_or("no method more")?;
    let recipe = format!("{}{judge}", START.replace("seeds = [1, 2]", "seeds = [1]"));
    let result = run(&options(dir.path(), &recipe)?)?.result;
    let start = &start_result(&result)?.measures;
    assert_eq!(
        start.kl.map(|kl| (kl.mean, kl.high)),
        Some((0.0, 0.0)),
        "only what was sampled counts"
    );
    let lines = |method| -> Result<Vec<usize>, Box<dyn Error>> {
        let all = verdicts(dir.path(), method, 1)?;
        Ok(all
            .iter()
            .map(|v| v["response"].as_str().unwrap_or_default().split('\n').count())
            .collect())
    };
    assert!(lines("start")?.iter().any(|&turns| turns > 1));
    assert!(lines("few-shot")?.iter().any(|&turns| turns > 1));
    assert!(method(&result, "best-of-4")?.measures.difference.mean >= 0.0);
    Ok(())
}

/// The comparison of the small world's assistant in its smoke form and smaller still: all of it runs, on the labeler's word.
#[test]
fn the_assistants_comparison_runs() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let text = std::fs::read_to_string(folder.join("compare-assistant.toml"))?;
    let smoke = text.lines().filter_map(|line| line.strip_prefix("# smoke: "));
    let sets: Vec<String> = smoke
        .flat_map(|line| line.split("--set "))
        .map(|set| set.trim().to_owned())
        .filter(|set| !set.is_empty())
        .collect();
    assert!(sets.len() > 30, "{sets:?}");
    let mut recipe: toml::Table = toml::from_str(&text)?;
    recipe.remove("expect");
    let kept = [
        "start",
        "best-of-4",
        "best-of-16",
        "best-of-64",
        "expert-iteration",
        "dpo",
        "ppo",
        "grpo-free",
    ];
    let methods = recipe
        .get_mut("method")
        .and_then(toml::Value::as_array_mut)
        .ok_or("no methods")?;
    let known: Vec<String> = methods
        .iter()
        .filter_map(|m| Some(m.get("name")?.as_str()?.to_owned()))
        .collect();
    methods.retain(|m| {
        m.get("name")
            .and_then(toml::Value::as_str)
            .is_some_and(|name| kept.contains(&name))
    });
    let dir = tempfile::tempdir()?;
    let mut options = options(dir.path(), &toml::to_string(&recipe)?)?;
    let left_out = |set: &String| {
        known
            .iter()
            .any(|name| !kept.contains(&name.as_str()) && set.starts_with(&format!("{name}.")))
    };
    options.set = sets.into_iter().filter(|set| !left_out(set)).collect();
    options.set.extend(
        [
            "assistant.pretrain.train.steps=6",
            "assistant.sft.train.steps=6",
            "best-of-16.n=3",
        ]
        .map(String::from),
    );
    let result = run(&options)?.result;
    assert_eq!((result.judge.as_str(), result.prompts), ("labeler", 60));
    let found = result.overoptimisation.ok_or("no proxy")?;
    let names: Vec<&str> = found.courses.iter().map(|course| course.method.as_str()).collect();
    assert_eq!(names, ["ppo", "grpo-free"]);
    for course in &found.courses {
        let points = &course.points;
        assert_eq!(points.iter().map(|p| p.step).collect::<Vec<u64>>(), [0, 1, 2, 3]);
        assert_eq!(points[0].kl, Some(0.0));
        assert!(
            points
                .iter()
                .all(|p| p.kl.is_some() && p.answers == 16 && p.reward.is_finite())
        );
        // All answers of an update are written down, so a look is at what the policy said and at nothing chosen
        let metrics = dir
            .path()
            .join(format!("out/methods/{}/seed-1/metrics.jsonl", course.method));
        let metrics = std::fs::read_to_string(metrics)?;
        for (line, point) in metrics.lines().zip(points) {
            let scores = serde_json::from_str::<Value>(line)?["objective/scores"]
                .as_f64()
                .ok_or("no scores")?;
            assert!(
                (scores - point.proxy).abs() < 1e-6,
                "{}: {scores} and {point:?}",
                course.method
            );
        }
    }
    let left_out: Vec<&str> = found.left_out.iter().map(|left_out| left_out.name.as_str()).collect();
    assert_eq!(left_out, ["expert-iteration"]);
    assert!(
        found.left_out[0].reason.contains("answers that it chose"),
        "{:?}",
        found.left_out
    );
    assert_eq!(found.pairs, 28);
    let curves = |family: &str| found.curves.iter().filter(|curve| curve.family == family).count();
    // Both forms, for judge and proxy; a run of four updates may not have moved by enough for its own
    assert_eq!(curves("best-of"), 4, "{:?}", found.curves);
    assert!([0, 4].contains(&curves("ppo")), "{:?}", found.curves);
    let ppo = result.overlaps.iter().find(|o| o.by == "ppo/1").ok_or("no overlap")?;
    // Of 300 rows the last 2% are not practised on
    assert_eq!((ppo.practised, ppo.judged), (294, 0));
    assert!(
        !dir.path().join("out/assistant/ppo").exists(),
        "the quickstart ends with its reward model"
    );
    let page = std::fs::read_to_string(dir.path().join("out/compare.html"))?;
    assert!(page.contains("Gain over the start, with the distance from it"));
    assert!(
        page.contains("Not looked at on its way: expert-iteration") && page.contains("Compared: 28 pairs of methods")
    );
    // The control has the same settings
    let control: toml::Table = toml::from_str(&std::fs::read_to_string(
        folder.join("compare-assistant-shuffled.toml"),
    )?)?;
    let whole: toml::Table = toml::from_str(&text)?;
    let methods = |table: &toml::Table| -> Vec<toml::Value> {
        table
            .get("method")
            .and_then(toml::Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let all = methods(&whole);
    // Its expectation is of something that is there
    let reward: Value = serde_json::from_str(&std::fs::read_to_string(
        dir.path().join("out/assistant/reward/finished.json"),
    )?)?;
    assert!(reward["held_out"]["eval/accuracy"].is_number());
    assert_eq!(control["expect"][0]["value"].as_str(), Some("held_out.eval/accuracy"));
    assert!(methods(&control).len() == 8 && methods(&control).iter().all(|method| all.contains(method)));
    assert_eq!(
        (&control["judge"], &control["proxy"], &control["compare"]),
        (&whole["judge"], &whole["proxy"], &whole["compare"])
    );
    Ok(())
}
