//! What the pages show.

use std::fs;
use std::time::{Duration, Instant};

use hone_serve::RULES;
use serde_json::{Value, json};

use crate::common::{Board, append, finished, open, sample, settings, step};

#[test]
fn http_dashboard_lists_runs_with_state_progress_and_figures() {
    let board = Board::new();
    assert!(board.html("/").contains("There are no runs here yet"));
    finished(&board.path().join("deep/done"), 0.05);
    let mut running = open(&board.path().join("running"), &settings(0.1, 40));
    (1..=10).for_each(|i| step(&mut running, i, 40));
    let list = board.json("/");
    assert_eq!((list["count"].as_u64(), list["all"].as_u64()), (Some(2), Some(2)));
    let by_name = |name: &str| {
        list["runs"]
            .as_array()
            .unwrap()
            .iter()
            .find(|run| run["name"] == name)
            .unwrap()
    };
    let (done, running_row) = (by_name("deep/done"), by_name("running"));
    assert_eq!(
        (&done["state"], &done["stage"], &done["progress"]),
        (&json!("finished"), &json!("ppo"), &json!("step 40 of 40"))
    );
    assert_eq!(
        (&running_row["state"], &running_row["fraction"]),
        (&json!("running"), &json!(0.25))
    );
    // 30 steps of 2 seconds
    assert_eq!(
        (&running_row["left_seconds"], &running_row["left"]),
        (&json!(60), &json!("1 min 00 s"))
    );
    assert_eq!(done["left"], Value::Null);
    assert_eq!(
        done["figures"][0],
        json!({"name": "objective/scores", "value": 4.0, "text": "4", "step": 40})
    );
    assert!(done["alerts"].as_array().unwrap().is_empty() && running_row["alerts"].as_array().unwrap().is_empty());
    // As HTML
    let page = board.html("/");
    for part in [
        "href=\"/run/deep/done\"",
        "step 10 of 40, 1 min 00 s left",
        "objective/scores <b>4</b>",
        "value=\"running\"",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    // Chosen by name, stage and state
    let names = |path: &str| -> Vec<String> {
        let list = board.json(path);
        list["runs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|run| run["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("/?q=DONE"), ["deep/done"]);
    assert_eq!(names("/?q=ppo+run"), ["running"]);
    assert_eq!(names("/?state=finished"), ["deep/done"]);
    assert!(names("/?q=absent").is_empty() && board.html("/?q=absent").contains("No run fits"));
    drop(running);
}

#[test]
fn http_dashboard_draws_a_run_over_each_axis() {
    let board = Board::new();
    finished(&board.path().join("done"), 0.05);
    for (axis, last) in [("step", 40.0), ("tokens", 4000.0), ("time", 80.0), ("kl", 2.0)] {
        let run = board.json(&format!("/run/done?x={axis}&metric=objective/scores"));
        assert_eq!(run["charts"].as_array().unwrap().len(), 1);
        let points = run["charts"][0]["series"][0]["points"].as_array().unwrap();
        let (x, y) = (points[39][0].as_f64().unwrap(), points[39][1].as_f64().unwrap());
        assert!((x - last).abs() < 1e-9 && (y - 4.0).abs() < 1e-9, "{axis}: {x} {y}");
        let current: Vec<&Value> = run["axes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|axis| axis["current"] == true)
            .collect();
        assert_eq!((current.len(), &current[0]["name"]), (1, &json!(axis)));
    }
    let run = board.json("/run/done");
    let names: Vec<&str> = run["constants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "completions/mean_length",
            "policy/logprob_mismatch_max",
            "rollout/tokens"
        ]
    );
    let facts = run["facts"].as_array().unwrap();
    assert!(
        facts.contains(&json!({"name": "episodes", "value": "2560"})),
        "{facts:?}"
    );
    let page = board.html("/run/done?x=kl");
    for part in [
        "<svg viewBox",
        "aria-label=\"objective/scores\"",
        "aria-current=\"true\"",
        "kl_coef = 0.05",
        "All 6 samples",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    // A run that says neither tokens nor times
    let bare = board.path().join("bare");
    fs::create_dir_all(&bare).unwrap();
    fs::write(bare.join("run.toml"), "seed = 1\n").unwrap();
    fs::write(
        bare.join("metrics.jsonl"),
        "{\"step\":1,\"loss\":2.0}\n{\"step\":2,\"loss\":1.0}\n",
    )
    .unwrap();
    assert!(
        board
            .html("/run/bare?x=tokens")
            .contains("This run does not tell its tokens")
    );
    assert!(board.html("/run/bare").contains("aria-label=\"loss\""));
}

#[test]
fn http_dashboard_shows_and_searches_samples_with_their_differences() {
    let board = Board::new();
    finished(&board.path().join("done"), 0.05);
    let all = board.json("/run/done/samples");
    assert_eq!((&all["count"], &all["all"]), (&json!(6), &json!(6)));
    let newest = &all["samples"][0];
    assert_eq!(
        (&newest["step"], &newest["response"]),
        (&json!(40), &json!("Answer: eleven."))
    );
    assert_eq!(newest["before"]["step"], 20);
    let changes = json!([
        {"kind": "same", "text": "Answer:"},
        {"kind": "deleted", "text": " nine."},
        {"kind": "inserted", "text": " eleven."},
    ]);
    assert_eq!(newest["changes"], changes);
    assert_eq!(all["samples"][1]["before"]["unchanged"], true);
    assert_eq!(all["samples"][2]["before"], Value::Null);
    assert_eq!(all["samples"][3]["step"], 20);
    let page = board.html("/run/done/samples");
    assert!(page.contains("Answer:<del> nine.</del><ins> eleven.</ins>"), "{page}");
    assert!(page.contains("Unchanged since step 20.") && page.contains("This prompt was not answered before."));
    // Search: all words, in prompt or response, in any case; and one evaluation
    let found = |query: &str| {
        board.json(&format!("/run/done/samples?{query}"))["count"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(
        (
            found("q=FIVE+eleven"),
            found("q=five"),
            found("q=absent"),
            found("step=20"),
            found("q=green&step=20")
        ),
        (1, 2, 0, 3, 1)
    );
    // Pages of twenty
    let mut run = open(&board.path().join("many"), &settings(0.1, 9));
    let many: Vec<_> = (0..45).map(|i| sample(1, &format!("prompt {i}"), "word")).collect();
    run.record_samples(&many).unwrap();
    for (page, count) in [(1, 20), (2, 20), (3, 5), (4, 0)] {
        for query in ["", "q=word&"] {
            let shown = board.json(&format!("/run/many/samples?{query}page={page}"));
            assert_eq!(
                (shown["samples"].as_array().unwrap().len(), &shown["count"]),
                (count, &json!(45))
            );
        }
    }
    let page = board.html("/run/many/samples?page=2&q=word");
    for part in [
        "page 2 of 3",
        "href=\"/run/many/samples?q=word&amp;page=3\"",
        "name=\"q\" type=\"search\" value=\"word\"",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
}

#[test]
fn http_dashboard_compares_configurations_and_curves() {
    let board = Board::new();
    finished(&board.path().join("a"), 0.05);
    finished(&board.path().join("b,c"), 0.2);
    finished(&board.path().join("same"), 0.05);
    for path in ["/compare?runs=a,b%2Cc", "/compare?runs=a&runs=b%2Cc"] {
        let answer = board.client.get(&format!("{path}&format=json"));
        // A comma within a name is understood where the name stands alone
        assert_eq!(answer.status, if path.contains("&runs") { 200 } else { 404 });
    }
    let both = board.json("/compare?runs=a&runs=b%2Cc");
    assert_eq!(
        both["differences"],
        json!([{"key": "ppo.kl_coef", "values": ["0.05", "0.2"]}])
    );
    assert!(both["same"].as_u64().unwrap() > 20);
    let chart = both["charts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|chart| chart["title"] == "objective/scores")
        .unwrap();
    let names: Vec<&str> = chart["series"]
        .as_array()
        .unwrap()
        .iter()
        .map(|series| series["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a", "b,c"]);
    let titles = |value: &Value| value["charts"].as_array().unwrap().len();
    assert!(titles(&board.json("/compare?runs=a,same&all=1")) > titles(&board.json("/compare?runs=a,same")));
    let page = board.html("/compare?runs=a,same&x=kl");
    assert!(
        page.contains("keys are the same") && page.contains("<svg viewBox"),
        "{page}"
    );
    assert!(
        board
            .html("/compare?runs=a&runs=b%2Cc")
            .contains("<code>ppo.kl_coef</code>")
    );
}

#[test]
fn http_dashboard_says_where_to_look() {
    let board = Board::new();
    let mut run = open(&board.path().join("ill"), &settings(0.1, 400));
    for i in 1..=40_u64 {
        let x = i as f64;
        let loss = if i == 7 { f64::NAN } else { (x - 20.0).abs() };
        let metrics = [
            ("train/loss", loss),
            ("objective/kl", 2.0 * x),
            ("policy/entropy_avg", 1.0 / x),
            ("completions/mean_length", 10.0 * x),
            ("completions/ended", 1.0 - x / 41.0),
            ("policy/logprob_mismatch_max", if i > 30 { 1e-6 } else { 0.0 }),
            ("train/skipped_steps", f64::from(u8::from(i == 7))),
            ("objective/scores", x),
            ("eval/gold_score", -(x - 20.0).abs()),
            ("eval/loss", (x - 20.0).abs() + 1.0),
        ];
        run.record(i, &metrics).unwrap();
    }
    drop(run);
    append(&board.path().join("ill/metrics.jsonl"), "nonsense\n");
    let ill = board.json("/run/ill");
    let mut rules: Vec<&str> = ill["run"]["alerts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|alert| alert["rule"].as_str().unwrap())
        .collect();
    for alert in ill["run"]["alerts"].as_array().unwrap() {
        assert!(alert["text"].as_str().unwrap().starts_with("look here: "), "{alert}");
    }
    // Nobody writes it, and it is not finished: stopped, unless it was written only now
    rules.retain(|rule| *rule != "stopped");
    let expected: Vec<&str> = RULES
        .into_iter()
        .filter(|rule| !["quiet", "stopped", "configuration"].contains(rule))
        .collect();
    assert_eq!(rules, expected);
    assert!(
        board
            .html("/")
            .contains("look here: `policy/logprob_mismatch_max` is 1.000e-6 at step 31; expected exactly 0")
    );
    // The bound of KL is the user's
    let strict = Board::with(hone_serve::DashboardOptions {
        bounds: hone_serve::Bounds { kl: 1.5 },
        ..crate::common::options()
    });
    finished(&strict.path().join("done"), 0.05);
    assert_eq!(strict.json("/")["runs"][0]["alerts"][0]["rule"], "kl-high");
    // A configuration that is none
    fs::create_dir(board.path().join("odd")).unwrap();
    fs::write(board.path().join("odd/run.toml"), "= nonsense").unwrap();
    assert_eq!(board.json("/run/odd")["run"]["alerts"][0]["rule"], "configuration");
}

#[test]
fn dashboard_rules_are_documented() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/dashboard.md");
    let page = fs::read_to_string(page).unwrap();
    for rule in RULES {
        assert!(
            page.contains(&format!("| `{rule}` |")),
            "docs/dashboard.md has no row of `{rule}`"
        );
    }
}

#[test]
fn http_dashboard_holds_a_thousand_runs_and_long_files() {
    let board = Board::new();
    for i in 0..1000 {
        let dir = board.path().join(format!("group-{}/run-{i:04}", i % 10));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("run.toml"), format!("[ppo]\nupdates = {i}\n")).unwrap();
        fs::write(
            dir.join("metrics.jsonl"),
            format!("{{\"step\":1,\"train/loss\":{i}}}\n"),
        )
        .unwrap();
    }
    let list = board.json("/?page=10");
    assert_eq!(
        (&list["count"], list["runs"].as_array().unwrap().len()),
        (&json!(1000), 100)
    );
    let started = Instant::now();
    let page = board.html("/");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(page.len() < 400_000, "{} bytes", page.len());
    // A curve of 200,000 points becomes a small picture with the same outline
    let long = board.path().join("long");
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("run.toml"), "seed = 1\n").unwrap();
    let line = |i: u64| format!("{{\"step\":{i},\"loss\":{}}}\n", if i == 123_456 { 99 } else { i % 7 });
    fs::write(long.join("metrics.jsonl"), (1..=200_000).map(line).collect::<String>()).unwrap();
    let run = board.json("/run/long");
    let points = run["charts"][0]["series"][0]["points"].as_array().unwrap();
    assert!(
        points.len() <= 400 && points.contains(&json!([123_456.0, 99.0])),
        "{}",
        points.len()
    );
    assert!(board.html("/run/long").len() < 60_000);
}

#[test]
fn http_dashboard_refuses_what_it_cannot_show() {
    let board = Board::new();
    finished(&board.path().join("done"), 0.05);
    for (path, status, part) in [
        ("/run/absent", 404, "there is no run \"absent\""),
        ("/run/absent/samples", 404, "there is no run"),
        ("/compare", 400, "expected 2 to 8 runs"),
        ("/compare?runs=done", 400, "got 1"),
        ("/compare?runs=done,absent", 404, "there is no run \"absent\""),
        ("/?colour=red", 400, "`colour` is no parameter of this page"),
        ("/?state=odd", 400, "expected running, quiet, stopped or finished"),
        ("/run/done?x=loss", 400, "expected step, tokens, time or kl"),
        ("/run/done/samples?step=two", 400, "expected a whole number"),
        ("/run/done?metric=%zz", 400, "not sound"),
        ("/absent", 404, "there is no /absent here"),
    ] {
        let mark = if path.contains('?') { '&' } else { '?' };
        let error = board.client.get(&format!("{path}{mark}format=json")).error(status);
        assert!(error["message"].as_str().unwrap().contains(part), "{path}: {error}");
        let page = board.client.get(path);
        assert_eq!(page.status, status, "{path}");
        assert!(page.text().contains("<!doctype html>"));
    }
    assert_eq!(board.client.get("/?format=xml").status, 400);
}
