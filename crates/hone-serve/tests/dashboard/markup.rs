//! What runs hold is text on every page, whatever they hold.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use hone_serve::DashboardOptions;
use serde_json::json;

use crate::common::{Board, append, open, sample, settings};
use crate::injections::{harmless, same_markup, strings};

/// The name of a folder that holds a text.
fn folder(text: &str) -> String {
    let end = text
        .char_indices()
        .map(|(at, c)| at + c.len_utf8())
        .take_while(|&end| end <= 200)
        .last();
    text[..end.unwrap_or(0)].replace('/', "\u{2215}").trim().to_owned()
}

/// A text as an address has it.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "%{byte:02X}");
        out
    })
}

/// A run whose name, configuration, metrics, samples and facts are all this text.
fn run(runs: &Path, template: &Path, text: &str) {
    let dir = runs.join(folder(text));
    fs::create_dir(&dir).unwrap();
    let name = serde_json::to_string(text).unwrap();
    let config = fs::read_to_string(template.join("run.toml")).unwrap();
    assert!(config.contains("\"THE MODEL\""));
    fs::write(dir.join("run.toml"), config.replace("\"THE MODEL\"", &name)).unwrap();
    // What stands before a `/` is a metric's group
    let metric = text.replace('/', "\u{2215}");
    for step in [1, 2] {
        let line = json!({"step": step, metric.as_str(): 0.5 * f64::from(step), format!("{metric}/group"): 1.0});
        append(&dir.join("metrics.jsonl"), &format!("{line}\n"));
    }
    let mut odd = sample(1, text, &format!("{text} again"));
    odd.extra.insert(text.into(), text.into());
    append(
        &dir.join("samples.jsonl"),
        &format!("{}\n", serde_json::to_string(&odd).unwrap()),
    );
    fs::write(dir.join("finished.json"), json!({text: text}).to_string()).unwrap();
    // A line that cannot be read is a hint on its page
    append(&dir.join("metrics.jsonl"), &format!("{{{text}\n"));
}

/// A folder of runs of these texts.
fn board(texts: &[String]) -> Board {
    // Nothing of them changes
    let options = DashboardOptions {
        every: Duration::from_secs(3600),
        ..crate::common::options()
    };
    let board = Board::inside("runs", options);
    let template = board.path().join("template");
    drop(open(
        &template,
        &settings(0.1, 2).replace("runs/sft/model", "THE MODEL"),
    ));
    for text in texts {
        run(&board.path().join("runs"), &template, text);
    }
    board
}

#[test]
fn http_dashboard_no_text_becomes_markup() {
    let (texts, plain) = (strings(), harmless());
    let (hostile, other) = (board(&texts), board(&plain));
    let compare = |what: &str, path: &str, expected: &str| {
        let (page, expected) = (hostile.client.get(path), other.client.get(expected));
        assert_eq!(page.status, expected.status, "{what}: {}", page.text());
        same_markup(what, page.text(), expected.text())
    };
    // 1. Every run
    let mut listed = String::new();
    for page in 1..=20 {
        let path = format!("/?page={page}");
        if hostile.client.get(&path).status == 200 && other.client.get(&path).text().contains("a plain text") {
            listed.push_str(&compare("the list", &path, &path));
        }
    }
    for (text, plain) in texts.iter().zip(&plain) {
        let (own, expected) = (encoded(&folder(text)), encoded(&folder(plain)));
        let named = visible(&folder(text));
        assert!(listed.contains(&named), "{named} is not in the list");
        let read = compare(text, &format!("/run/{own}"), &format!("/run/{expected}"));
        assert!(read.matches(&visible(text)).count() >= 3, "{text} in {read}");
        let read = compare(
            text,
            &format!("/run/{own}/samples"),
            &format!("/run/{expected}/samples"),
        );
        assert!(read.contains(&format!("{} again", visible(text))), "{text} in {read}");
        // 2. What is asked for
        let (query, expected) = (encoded(&format!("{text} nowhere")), encoded("nothing like it"));
        for path in [
            "/?q=",
            "/run/absent/",
            "/absent/",
            "/compare?runs=",
            "/?state=",
            "/?format=",
            "/?absent=",
        ] {
            compare(text, &format!("{path}{query}"), &format!("{path}{expected}"));
        }
    }
    // 3. Two beside each other
    for (pair, plain) in texts.chunks(2).zip(plain.chunks(2)) {
        let path = |texts: &[String]| {
            let (a, b) = (encoded(&folder(&texts[0])), encoded(&folder(&texts[1])));
            format!("/compare?runs={a}&runs={b}&all=1")
        };
        compare(&pair[0], &path(pair), &path(plain));
    }
}

/// A text as pages show it: what would turn the text around it about is written out.
fn visible(text: &str) -> String {
    let written = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().fold(String::new(), |mut out, c| {
        let _ = match written(c) {
            true => write!(out, "\\u{{{:x}}}", u32::from(c)),
            false => write!(out, "{c}"),
        };
        out
    })
}
