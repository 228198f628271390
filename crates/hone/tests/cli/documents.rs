//! What the README says of the commands, against what the program has.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The commands that a help text lists.
fn listed(help: &str) -> BTreeSet<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    lines
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(String::from)
        .collect()
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_hone"))
        .args(arguments)
        .arg("--help")
        .output()
        .expect("hone runs");
    assert!(output.status.success(), "hone {} --help", arguments.join(" "));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_readme_lists_the_commands_that_there_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(path).expect("the README");
    let table = readme
        .split("## Commands")
        .nth(1)
        .expect("a heading")
        .split("\n## ")
        .next();
    let mut told: BTreeSet<Vec<String>> = BTreeSet::new();
    for row in table
        .expect("a table")
        .lines()
        .filter(|line| line.starts_with("| `hone "))
    {
        let first = row.split('|').nth(1).unwrap_or_default();
        for code in first.split('`').filter(|code| code.starts_with("hone ")) {
            let words = code.split_whitespace().skip(1);
            told.insert(
                words
                    .filter(|w| !w.contains(char::is_uppercase))
                    .map(String::from)
                    .collect(),
            );
        }
    }
    assert!(told.len() > 15, "{told:?}");
    let commands = listed(&help(&[]));
    let told_commands: BTreeSet<String> = told.iter().filter_map(|words| words.first().cloned()).collect();
    assert_eq!(told_commands, commands, "README.md and hone --help");
    for words in told.iter().filter(|words| words.len() > 1) {
        let there = listed(&help(&[&words[0]]));
        assert!(
            there.contains(&words[1]),
            "hone {}: there is {there:?}",
            words.join(" ")
        );
    }
}
