//! Rules of the source that no compiler knows: sizes of files, and where exceptions to the lints may stand.

use crate::files::{expect_none, files, read, root, short};

/// The most lines a file of source may have.
const MOST_LINES: usize = 800;

/// The crate whose kernels need `unsafe`.
const KERNELS: &str = "crates/hone-compute/";

/// Modules elsewhere that may use `unsafe`: those that map files or set limits of the process.
const UNSAFE_MODULES: &[&str] = &[];

/// Files that may call the platform's mathematics (`clippy.toml`), with the reason: nothing computed there is a result.
const LIBM_FILES: &[(&str, &str)] = &[
    ("crates/hone-run/src/report/chart.rs", "places of ticks in a picture"),
    ("crates/hone-testing/src/lib.rs", "oracles of tests"),
];

/// Whether a line of Rust has this word outside comments and strings.
fn has_word(line: &str, word: &str) -> bool {
    let mut code = String::new();
    let mut quoted = false;
    let mut previous = ' ';
    for c in line.chars() {
        if c == '"' && previous != '\\' && previous != '\'' {
            quoted = !quoted;
        } else if !quoted {
            if c == '/' && previous == '/' {
                break;
            }
            code.push(c);
        }
        previous = c;
    }
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|w| w == word)
}

#[test]
fn files_are_short() {
    let long: Vec<String> = files(&root().join("crates"), "rs")
        .iter()
        .map(|path| (path, read(path).lines().count()))
        .filter(|(_, lines)| *lines > MOST_LINES)
        .map(|(path, lines)| {
            format!(
                "{}: {lines} lines, expected at most {MOST_LINES}; split it",
                short(path)
            )
        })
        .collect();
    expect_none(&long);
}

#[test]
fn unsafe_stands_only_where_it_may() {
    let mut found = Vec::new();
    for path in files(&root().join("crates"), "rs") {
        let name = short(&path);
        if name.starts_with(KERNELS) || UNSAFE_MODULES.contains(&&*name) {
            continue;
        }
        // Lines inside a string of several lines have no quotes of their own, so a block or function is asked for
        for (i, line) in read(&path).lines().enumerate() {
            let after = line.split("unsafe").nth(1).unwrap_or_default().trim_start();
            let opens = ["{", "fn ", "impl ", "trait ", "extern "]
                .iter()
                .any(|s| after.starts_with(s));
            if opens && has_word(line, "unsafe") {
                found.push(format!(
                    "{name}:{}: `unsafe` outside {KERNELS} and the modules named in source.rs",
                    i + 1
                ));
            }
        }
    }
    expect_none(&found);
}

#[test]
fn modules_with_unsafe_say_why_it_is_sound() {
    let mut found = Vec::new();
    for path in files(&root().join(KERNELS).join("src"), "rs") {
        let (name, text) = (short(&path), read(&path));
        if name.ends_with("/tests.rs") {
            continue;
        }
        let opens = |line: &str| line.contains("unsafe {") && has_word(line, "unsafe");
        if text.lines().any(opens) && !text.contains("//! # Soundness") && !text.contains("// SAFETY: ") {
            found.push(format!(
                "{name}: holds `unsafe`, but neither `# Soundness` at its top nor a reason at a block"
            ));
        }
    }
    expect_none(&found);
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let mut found = Vec::new();
    for path in files(&root().join("crates"), "toml") {
        if path.file_name().is_some_and(|n| n == "Cargo.toml") && !read(&path).contains("[lints]\nworkspace = true") {
            found.push(format!("{}: expected `[lints]` with `workspace = true`", short(&path)));
        }
    }
    expect_none(&found);
}

#[test]
fn exceptions_to_the_rule_on_mathematics_are_listed() {
    let lint = ["disallowed", "_methods"].concat();
    let mut found = Vec::new();
    for path in files(&root().join("crates"), "rs") {
        let name = short(&path);
        let of_tests = name.contains("/tests/") || name.ends_with("/tests.rs") || name.ends_with("_tests.rs");
        let listed = LIBM_FILES.iter().any(|(file, _)| *file == name);
        if !of_tests && !listed && read(&path).lines().any(|line| has_word(line, &lint)) {
            found.push(format!(
                "{name}: switches {lint} off; use hone-math, or name the file and the reason in source.rs"
            ));
        }
    }
    expect_none(&found);
}

#[test]
fn words_are_found_in_code_alone() {
    assert!(has_word("    unsafe { read(p) }", "unsafe"));
    assert!(has_word("pub unsafe fn f() {} // why", "unsafe"));
    assert!(has_word("f(\"a \\\" b\", unsafe { g() })", "unsafe"));
    assert!(!has_word("#![forbid(unsafe_code)]", "unsafe"));
    assert!(!has_word("// unsafe { }", "unsafe"));
    assert!(!has_word("let s = \"unsafe { }\";", "unsafe"));
}
