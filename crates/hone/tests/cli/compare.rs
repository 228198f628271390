//! `hone compare`: what it prints, and its exit codes.

use crate::common::{Fixture, keys};

const RECIPE: &str = r#"
[compare]
start = "model"
samples = 2
max_new_tokens = 6
resamples = 50

[judge]
prompts = ["prompts.jsonl"]
rewards = [{ kind = "length", unit = "characters", max = 3, slope = 40 }]

[[method]]
name = "start"
kind = "start"

[[method]]
name = "best-of-3"
kind = "best-of"
n = 3
"#;

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let rows: String = (0..8).map(|i| format!("{{\"prompt\":\"the dog {i}\"}}\n")).collect();
    fixture.file("prompts.jsonl", rows);
    fixture.file("lengths.toml", RECIPE);
    fixture
}

#[test]
fn cli_compare_prints_its_results_and_goes_on_where_it_was() {
    let fixture = fixture();
    let ran = fixture.hone(&["compare", "lengths.toml", "--json"]);
    let result = &ran.json()[0];
    assert_eq!(keys(result)[..3], ["format", "recipe", "start"]);
    assert_eq!(result["methods"][1]["name"], "best-of-3");
    assert!(result["methods"][1]["reward"]["mean"].as_f64() > result["methods"][0]["reward"]["mean"].as_f64());
    for file in ["compare.json", "compare.html", "judged/best-of-3/seed-1/verdicts.jsonl"] {
        assert!(fixture.path("runs/lengths").join(file).is_file(), "{file}");
    }
    assert_eq!(
        fixture.hone(&["compare", "lengths.toml", "--json"]).stdout(),
        ran.stdout()
    );
    let table = fixture.hone(&["compare", "lengths.toml", "--threads", "1"]);
    assert_eq!(table.code(), 0, "{}", table.stderr());
    let text = table.stdout();
    assert!(
        text.contains("best-of-3") && text.contains("page  runs/lengths/compare.html"),
        "{text}"
    );
    // Other answers than those that are there
    fixture
        .hone(&["compare", "lengths.toml", "--set", "compare.max_new_tokens=5"])
        .fails(2, &["changed: compare.max_new_tokens"]);
}

#[test]
fn cli_compare_says_what_is_wrong_and_what_was_missed() {
    let fixture = fixture();
    fixture
        .hone(&["compare", "lengths.toml", "--set", "compare.start=modle"])
        .fails(
            2,
            &[
                "lengths.toml: compare.start: ",
                "modle is not there; expected a model's directory",
            ],
        );
    fixture
        .hone(&["compare", "lengths.toml", "--set", "best-of-3.n=1"])
        .fails(2, &["method[1].n: is 1; expected at least 2"]);
    assert!(!fixture.path("runs").exists(), "nothing ran");
    let expect = "\n[[expect]]\nthat = \"one sample is enough\"\nstage = \"compare\"\nvalue = \"methods.best-of-3.difference.mean\"\nbelow = 0\n";
    fixture.file("lengths.toml", format!("{RECIPE}{expect}"));
    let ran = fixture.hone(&["compare", "lengths.toml"]);
    ran.fails(3, &["1 of 1 expectations do not hold"]);
    assert!(
        ran.stdout().contains("does not hold: one sample is enough"),
        "{}",
        ran.stdout()
    );
}
