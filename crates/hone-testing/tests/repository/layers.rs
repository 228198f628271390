//! The layers of the workspace: a crate depends only on crates of lower layers.
//!
//! This table and that of ARCHITECTURE.md say the same; `documents.rs` compares them.

use std::process::Command;

use serde_json::Value;

use crate::files::{expect_none, root};

/// Every crate with its layer; the bedrock is -1.
pub const LAYERS: &[(&str, i32)] = &[
    ("hone-math", -1),
    ("hone-compute", 0),
    ("hone-objective", 0),
    ("hone-text", 0),
    ("hone-model", 1),
    ("hone-data", 1),
    ("hone-run", 1),
    ("hone-task", 1),
    ("hone-generate", 2),
    ("hone-world", 2),
    ("hone-train", 3),
    ("hone-eval", 3),
    ("hone-pipeline", 4),
    ("hone-serve", 5),
    ("hone-lm", 5),
];

/// For tests only: no crate may need it to run.
pub const TESTING: &str = "hone-testing";

/// What all crates serve.
const PROGRAM: &str = "hone-lm";

/// Crates that no command reaches yet, with what is to use them. One that is reached must leave this list.
const AWAITED: &[(&str, &str)] = &[];

/// The one dependency within a layer: the program may start the server.
const EXCEPTION: (&str, &str) = ("hone-lm", "hone-serve");

/// Crates that only programs use: libraries have typed errors, no command line and no progress bar.
const PROGRAMS_ONLY: &[&str] = &["anyhow", "axum", "clap", "indicatif"];

/// Crates that no result may depend on, with what to use instead.
const NOWHERE: &[(&str, &str)] = &[
    ("libm", "hone-math, whose bits are fixed"),
    ("rand", "hone-math's counter-based numbers"),
    ("rayon", "hone-compute's operations, whose order of sums is fixed"),
];

fn layer(name: &str) -> Option<i32> {
    LAYERS.iter().find(|(known, _)| *known == name).map(|(_, layer)| *layer)
}

/// What is wrong with the dependencies that `cargo metadata` lists.
fn violations(metadata: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a package has a name");
        let own = layer(name);
        if own.is_none() && name != TESTING {
            found.push(format!(
                "{name}: has no layer; add it to LAYERS in layers.rs and to ARCHITECTURE.md"
            ));
            continue;
        }
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let other = dependency["name"].as_str().expect("a dependency has a name");
            // Kinds are null (normal), "build" and "dev"
            if dependency["kind"] == "dev" {
                continue;
            }
            if let Some((_, instead)) = NOWHERE.iter().find(|(n, _)| *n == other) {
                found.push(format!("{name}: depends on {other}; use {instead}"));
            }
            if own != Some(5) && PROGRAMS_ONLY.contains(&other) {
                found.push(format!(
                    "{name}: depends on {other}, which only programs (layer 5) may use"
                ));
            }
            if !other.starts_with("hone-") {
                continue;
            }
            if other == TESTING {
                found.push(format!(
                    "{name}: depends on {TESTING}, which may be a dev-dependency only"
                ));
                continue;
            }
            let (Some(own), Some(lower)) = (own, layer(other)) else {
                // An unknown crate is reported where it is a package itself; oracles may use any crate
                continue;
            };
            if lower >= own && (name, other) != EXCEPTION {
                found.push(format!(
                    "{name} (layer {own}): depends on {other} (layer {lower}); expected a lower layer"
                ));
            }
        }
    }
    found
}

/// The crates of `cargo metadata` that the program does not use, not even by way of others.
fn unreachable(metadata: &Value, awaited: &[(&str, &str)]) -> Vec<String> {
    let packages = metadata["packages"].as_array().expect("packages");
    let mut reached = vec![PROGRAM];
    let mut next = 0;
    while let Some(name) = reached.get(next).copied() {
        next += 1;
        let package = packages.iter().find(|package| package["name"] == name);
        let dependencies = package.and_then(|package| package["dependencies"].as_array());
        for dependency in dependencies.into_iter().flatten().filter(|d| d["kind"] != "dev") {
            let other = dependency["name"].as_str().expect("a dependency has a name");
            if !reached.contains(&other) {
                reached.push(other);
            }
        }
    }
    let awaited = |name: &str| awaited.iter().any(|(awaited, _)| *awaited == name);
    let mut found = Vec::new();
    for name in packages.iter().filter_map(|package| package["name"].as_str()) {
        match (reached.contains(&name), awaited(name)) {
            (false, false) if name != TESTING => {
                found.push(format!("{name}: no command of {PROGRAM} uses it; use it or remove it"));
            }
            (true, true) => found.push(format!("{name}: is used; take it out of AWAITED in layers.rs")),
            _ => {}
        }
    }
    found
}

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn crates_depend_on_lower_layers_only() {
    let metadata = metadata();
    assert!(
        metadata["packages"].as_array().is_some_and(|p| p.len() >= 10),
        "the workspace has its crates"
    );
    expect_none(&violations(&metadata));
}

#[test]
fn every_crate_serves_the_program() {
    expect_none(&unreachable(&metadata(), AWAITED));
}

#[test]
fn a_crate_that_serves_only_tests_is_found() {
    let package = |name: &str, dependencies: &[(&str, &str)]| {
        let dependencies: Vec<Value> = dependencies
            .iter()
            .map(|(name, kind)| serde_json::json!({ "name": name, "kind": kind }))
            .collect();
        serde_json::json!({ "name": name, "dependencies": dependencies })
    };
    let all = serde_json::json!({ "packages": [
        package("hone-lm", &[("hone-train", "normal"), ("hone-idle", "dev")]),
        package("hone-train", &[("hone-math", "normal")]),
        package("hone-math", &[]),
        package("hone-idle", &[("hone-math", "normal")]),
        package("hone-testing", &[]),
    ] });
    let found = unreachable(&all, &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("hone-idle: "), "{found:?}");
    // One that is awaited may wait, and only so long
    let awaited = [("hone-idle", "a command to come")];
    assert!(unreachable(&all, &awaited).is_empty());
    let used = serde_json::json!({ "packages": [
        package("hone-lm", &[("hone-idle", "normal")]),
        package("hone-idle", &[]),
    ] });
    assert!(unreachable(&used, &awaited)[0].contains("take it out of AWAITED"));
}

#[test]
fn each_kind_of_violation_is_found() {
    let with = |name: &str, dependency: &str, kind: Value| {
        violations(&serde_json::json!({
            "packages": [{ "name": name, "dependencies": [{ "name": dependency, "kind": kind }] }]
        }))
    };
    let normal = || Value::Null;
    let bad = [
        with("hone-model", "hone-data", normal()),
        with("hone-compute", "hone-model", normal()),
        with("hone-train", "hone-eval", normal()),
        with("hone-math", "hone-compute", "build".into()),
        with("hone-serve", "hone-lm", normal()),
        with("hone-model", "hone-testing", normal()),
        with("hone-lm", "hone-testing", "build".into()),
        with("hone-new", "serde", normal()),
        with("hone-train", "clap", normal()),
        with("hone-world", "rand", normal()),
    ];
    for (i, found) in bad.iter().enumerate() {
        assert_eq!(found.len(), 1, "case {i}: {found:?}");
    }
    let good = [
        with("hone-model", "hone-compute", normal()),
        with("hone-lm", "hone-serve", normal()),
        with("hone-lm", "anyhow", normal()),
        with("hone-compute", "hone-testing", "dev".into()),
        with("hone-math", "serde", normal()),
    ];
    assert!(good.iter().all(Vec::is_empty), "{good:?}");
}
