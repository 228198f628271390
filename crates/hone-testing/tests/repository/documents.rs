//! The documents: links lead somewhere, and what they say of crates, commands and tests is so.

use std::collections::BTreeSet;
use std::path::Path;

use crate::files::{expect_none, files, read, root, short};
use crate::layers::{LAYERS, TESTING};

/// The commands a newcomer types.
const COMMANDS: &[&str] = &["cargo run --release -- quickstart", "cargo test --workspace"];

/// A Markdown text without fenced and inline code, in which brackets mean nothing.
fn prose(markdown: &str) -> String {
    let mut kept = String::new();
    let mut fenced = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            for (i, part) in line.split('`').enumerate() {
                if i % 2 == 0 {
                    kept.push_str(part);
                }
            }
        }
        kept.push('\n');
    }
    kept
}

/// The targets of links and pictures, in Markdown's and in HTML's form.
fn targets(markdown: &str) -> Vec<String> {
    let text = prose(markdown);
    let mut found = Vec::new();
    for (open, close) in [("](", ')'), ("src=\"", '"'), ("srcset=\"", '"'), ("href=\"", '"')] {
        for rest in text.split(open).skip(1) {
            if let Some((target, _)) = rest.split_once(close) {
                found.push(target.split_whitespace().next().unwrap_or_default().to_owned());
            }
        }
    }
    found
}

/// The fragments by which GitHub names the headings of a text.
fn fragments(markdown: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for line in markdown.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if !fenced && line.starts_with('#') {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let slug = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            found.insert(slug.map(|c| if c == ' ' { '-' } else { c }).collect());
        }
    }
    found
}

/// What is wrong with the links of a Markdown file that lies at `path`.
fn broken_links(path: &Path, markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    for target in targets(markdown) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (file, fragment) = target.split_once('#').unwrap_or((&target, ""));
        let to = if file.is_empty() {
            path.to_path_buf()
        } else {
            path.with_file_name("").join(file)
        };
        if !to.exists() {
            found.push(format!("{}: the link to `{target}` leads nowhere", short(path)));
        } else if !fragment.is_empty() && to.extension().is_some_and(|e| e == "md") {
            let there = if file.is_empty() {
                markdown.to_owned()
            } else {
                read(&to)
            };
            if !fragments(&there).contains(fragment) {
                found.push(format!("{}: `{target}`: there is no such heading", short(path)));
            }
        }
    }
    found
}

#[test]
fn relative_links_lead_somewhere() {
    let documents = files(&root(), "md");
    assert!(documents.len() > 5, "the documents are found");
    let found: Vec<String> = documents
        .iter()
        .flat_map(|path| broken_links(path, &read(path)))
        .collect();
    expect_none(&found);
}

#[test]
fn broken_links_are_found() {
    let here = root().join("README.md");
    let text = "# One heading\n[a](ARCHITECTURE.md) ![b](docs/absent.svg) <img src=\"absent.png\">\n\
                [c](https://example.com/x) [d](#one-heading) [e](#other) `[f](absent)`\n```\n[g](absent)\n```\n";
    let found = broken_links(&here, text);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].contains("docs/absent.svg") && found[1].contains("#other") && found[2].contains("absent.png"));
}

#[test]
fn every_crate_has_its_row_in_the_architecture() {
    let architecture = read(&root().join("ARCHITECTURE.md"));
    let mut found = Vec::new();
    for manifest in files(&root().join("crates"), "toml") {
        let text = read(&manifest);
        let Some(name) = text
            .lines()
            .find_map(|l| l.strip_prefix("name = \"")?.strip_suffix('"'))
        else {
            continue;
        };
        let layer = LAYERS.iter().find(|(known, _)| *known == name).map(|(_, layer)| *layer);
        let start = match layer {
            Some(-1) => "| bedrock ".to_owned(),
            Some(layer) => format!("| {layer} "),
            None => "| tests ".to_owned(),
        };
        if layer.is_none() && name != TESTING {
            found.push(format!("{name}: has no layer"));
        }
        if !architecture
            .lines()
            .any(|l| l.starts_with(&start) && l.contains(&format!("`{name}`")))
        {
            found.push(format!(
                "ARCHITECTURE.md: expected a row that starts with `{start}` and names `{name}`"
            ));
        }
    }
    expect_none(&found);
}

#[test]
fn the_readme_names_the_commands_that_ci_runs() {
    let (readme, ci) = (read(&root().join("README.md")), read(&root().join(".ci/run")));
    for command in COMMANDS {
        assert!(readme.contains(command), "README.md: expected `{command}`");
        assert!(ci.contains(command), ".ci/run: expected `{command}`");
    }
}

#[test]
fn every_bad_input_names_a_test_that_exists() {
    let table = read(&root().join("docs/bad-input.md"));
    let mut named = 0;
    let mut found = Vec::new();
    for row in table
        .lines()
        .filter(|l| l.starts_with("| ") && !l.starts_with("| input"))
    {
        let last = row
            .trim_end_matches([' ', '|'])
            .rsplit('|')
            .next()
            .unwrap_or_default()
            .trim();
        let Some((package, test)) = last.trim_matches('`').split_once("::") else {
            found.push(format!(
                "docs/bad-input.md: expected `crate::test` in the last column of: {row}"
            ));
            continue;
        };
        named += 1;
        let package = root().join("crates").join(package);
        let exists = package.is_dir()
            && files(&package, "rs")
                .iter()
                .any(|f| read(f).contains(&format!("fn {test}(")));
        if !exists {
            found.push(format!("docs/bad-input.md: there is no test `{last}`"));
        }
    }
    assert!(named > 20, "the table is found");
    expect_none(&found);
}

#[test]
fn decisions_are_numbered_without_gaps() {
    let folder = root().join("docs/decisions");
    let mut found = Vec::new();
    let records = files(&folder, "md").into_iter().filter(|p| !p.ends_with("README.md"));
    for (i, path) in records.enumerate() {
        let name = short(&path);
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !file.starts_with(&format!("{:04}-", i + 1)) {
            found.push(format!("{name}: expected number {:04}", i + 1));
        }
        let text = read(&path);
        for heading in ["## Context", "## Decision", "## Consequences"] {
            if !text.lines().any(|l| l == heading) {
                found.push(format!("{name}: expected the heading `{heading}`"));
            }
        }
        if !read(&folder.join("README.md")).contains(&format!("]({file})")) {
            found.push(format!("{name}: docs/decisions/README.md has no link to it"));
        }
    }
    expect_none(&found);
}

#[test]
fn the_changelog_has_its_headings() {
    let text = read(&root().join("CHANGELOG.md"));
    for heading in ["## [Unreleased]", "### Added", "### Numerics"] {
        assert!(text.lines().any(|l| l == heading), "CHANGELOG.md: expected `{heading}`");
    }
}
