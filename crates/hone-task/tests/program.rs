//! Programs that judge: the good one, and every way in which one can be bad. They are shell scripts, so Unix only.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use hone_task::{Error, Place, PromptRow, RewardEntry, RewardRule, RewardSetup, Rewards, Sample};

/// A judge that gives the response's length, and one more for the column; it counts its starts and its answers in its folder.
const GOOD: &str = r#"
echo start >> starts
while read -r line; do
    id=$(printf '%s' "$line" | sed 's/.*"id":"\([^"]*\)".*/\1/')
    response=$(printf '%s' "$line" | sed 's/.*"response":"\([^"]*\)".*/\1/')
    case "$line" in *'"bonus":1'*) more=1 ;; *) more=0 ;; esac
    printf '%s\n' "$line" >> asked
    echo "{\"id\": \"$id\", \"reward\": $((${#response} + more)).1}"
done
"#;

struct Judge {
    script: String,
    time_limit: f64,
    memory_limit_mib: Option<u64>,
    restarts: u32,
}

impl Judge {
    fn new(script: &str) -> Self {
        Self {
            script: script.to_owned(),
            time_limit: 5.0,
            memory_limit_mib: None,
            restarts: 1,
        }
    }

    fn open(&self, folder: &Path, offsets: &BTreeMap<String, u64>) -> Result<Rewards, Error> {
        let entry = RewardEntry {
            weight: 1.0,
            name: Some("judge".to_owned()),
            rule: RewardRule::Program {
                command: ["/bin/sh", "-c", &self.script].map(str::to_owned).to_vec(),
                time_limit: self.time_limit,
                start_limit: 0.001,
                memory_limit_mib: self.memory_limit_mib,
                restarts: self.restarts,
            },
        };
        let setup = RewardSetup {
            run: "ppo",
            folder,
            offsets,
        };
        Rewards::open(&[entry], setup)
    }
}

const RESPONSES: [&str; 4] = ["", "a", "bb", "dddd"];

fn place(update: u64) -> Place {
    Place { update, index: 0 }
}

fn score(rewards: &mut Rewards, update: u64) -> Result<Vec<f64>, Error> {
    let row = PromptRow::new("How long?\n\"quoted\"").with("bonus", 1);
    let samples = RESPONSES.map(|response| Sample::new(&row, response));
    rewards.score(place(update), &samples, &[]).map(|scores| scores.total)
}

/// What a judge's failure says, having checked that it took at most this long.
fn failure(judge: &Judge, most: Duration) -> String {
    let folder = tempfile::tempdir().unwrap();
    let since = Instant::now();
    let error = score(&mut judge.open(folder.path(), &BTreeMap::new()).unwrap(), 3).unwrap_err();
    assert!(since.elapsed() < most, "{:?}", since.elapsed());
    assert!(matches!(error, Error::Program { .. }) && !error.is_configuration());
    error.to_string()
}

const SOON: Duration = Duration::from_secs(20);

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap().lines().count()
}

#[test]
fn a_crash_is_seen_although_something_it_started_holds_its_output() {
    let mut judge = Judge::new("sleep 30 & read -r line; exit 7");
    (judge.time_limit, judge.restarts) = (25.0, 0);
    let message = failure(&judge, SOON);
    assert!(message.contains("exit status: 7"), "{message}");
}

#[test]
fn a_program_is_started_once_in_its_own_folder_and_asked_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut rewards = Judge::new(GOOD).open(folder.path(), &BTreeMap::new()).unwrap();
    assert_eq!(score(&mut rewards, 0).unwrap(), [1.1, 2.1, 3.1, 5.1]);
    assert_eq!(score(&mut rewards, 1).unwrap(), [1.1, 2.1, 3.1, 5.1]);
    assert_eq!(lines(&folder.path().join("judge/starts")), 1);
    let asked = std::fs::read_to_string(folder.path().join("judge/asked")).unwrap();
    let first: serde_json::Value = serde_json::from_str(asked.lines().next().unwrap()).unwrap();
    assert_eq!(
        first,
        serde_json::json!({"id": "0-0", "prompt": "How long?\n\"quoted\"", "response": "", "columns": {"bonus": 1}})
    );
    let journal = std::fs::read_to_string(folder.path().join("judge.jsonl")).unwrap();
    assert_eq!(journal.lines().count(), 8);
    assert!(journal.starts_with("{\"run\":\"ppo\",\"update\":0,\"index\":0,\"sample\":\""));
    let before = |update: u64| rewards.offsets_before(update)["judge"];
    let first: u64 = journal
        .split_inclusive('\n')
        .take(4)
        .map(|line| line.len() as u64)
        .sum();
    assert_eq!((before(0), before(1), before(2)), (0, first, journal.len() as u64));
}

#[test]
fn a_resumed_run_takes_the_numbers_it_had() {
    let folder = tempfile::tempdir().unwrap();
    // Each answer differs, so only the journal can give the same number twice
    let random = r#"while read -r line; do
        id=$(printf '%s' "$line" | sed 's/.*"id":"\([^"]*\)".*/\1/')
        n=$(cat ../n 2>/dev/null || echo 0); n=$((n + 1)); echo $n > ../n
        echo "{\"id\": \"$id\", \"reward\": 0.$n}"
    done"#;
    let judge = Judge::new(random);
    let mut rewards = judge.open(folder.path(), &BTreeMap::new()).unwrap();
    let first = score(&mut rewards, 0).unwrap();
    let checkpoint = rewards.offsets_before(1);
    rewards.sync().unwrap();
    let second = score(&mut rewards, 1).unwrap();
    assert_ne!(first, second);
    drop(rewards);
    // Killed while a line was being written
    let journal = folder.path().join("judge.jsonl");
    let whole = std::fs::read(&journal).unwrap();
    std::fs::write(&journal, &whole[..whole.len() - 5]).unwrap();

    let mut rewards = judge.open(folder.path(), &checkpoint).unwrap();
    assert_eq!(rewards.ahead(), 3);
    let again = score(&mut rewards, 1).unwrap();
    assert_eq!(again[..3], second[..3]);
    assert_eq!(again[3], 0.9);
    assert_eq!(rewards.ahead(), 0);
    // From nothing, too, everything is there
    let mut rewards = judge.open(folder.path(), &BTreeMap::new()).unwrap();
    assert_eq!(score(&mut rewards, 0).unwrap(), first);
    assert_eq!(score(&mut rewards, 1).unwrap(), again);
    assert_eq!(lines(&journal), 8);
}

#[test]
fn a_program_that_crashes_is_started_again_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // It dies at its third question, once
    let judge = Judge::new(&GOOD.replace(
        "printf '%s\\n' \"$line\" >> asked",
        "printf '%s\\n' \"$line\" >> asked; if [ \"$(wc -l < asked)\" -eq 3 ]; then echo gone >&2; exit 7; fi",
    ));
    let mut rewards = judge.open(folder.path(), &BTreeMap::new()).unwrap();
    assert_eq!(score(&mut rewards, 0).unwrap(), [1.1, 2.1, 3.1, 5.1]);
    assert_eq!(lines(&folder.path().join("judge/starts")), 2);
    assert_eq!(lines(&folder.path().join("judge.jsonl")), 4);
}

#[test]
fn one_that_crashes_again_and_again_is_an_error_and_the_answers_before_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let script = GOOD.replace(
        "printf '%s\\n' \"$line\" >> asked",
        "case \"$line\" in *'\"response\":\"bb\"'*) echo cannot do bb >&2; exit 7 ;; esac",
    );
    let mut rewards = Judge::new(&script).open(folder.path(), &BTreeMap::new()).unwrap();
    let message = score(&mut rewards, 4).unwrap_err().to_string();
    assert_eq!(
        message,
        "rewards[0] (program), update 4, sample 2: the program /bin/sh: ended with exit status: 7 instead of answering, 2 times in a row \
         on this sample; rewards given before are in the journal, and the same command goes on from there; it wrote: cannot do bb"
    );
    assert_eq!(lines(&folder.path().join("judge/starts")), 2);
    assert_eq!(lines(&folder.path().join("judge.jsonl")), 2);
    // The repaired program is asked only for the rest
    drop(rewards);
    let mut rewards = Judge::new(GOOD).open(folder.path(), &BTreeMap::new()).unwrap();
    assert_eq!(score(&mut rewards, 4).unwrap(), [1.1, 2.1, 3.1, 5.1]);
    assert_eq!(lines(&folder.path().join("judge/asked")), 2);
}

#[test]
fn a_program_that_hangs_is_ended_with_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let judge = Judge {
        time_limit: 0.3,
        ..Judge::new("sleep 600 & echo $! > child; read -r line; wait")
    };
    let mut rewards = judge.open(folder.path(), &BTreeMap::new()).unwrap();
    let since = Instant::now();
    let message = score(&mut rewards, 3).unwrap_err().to_string();
    assert!(since.elapsed() < SOON);
    assert_eq!(
        message,
        "rewards[0] (program), update 3, sample 0: the program /bin/sh: no answer within 0.301 s; raise `time_limit`, or see whether it \
         flushes what it writes"
    );
    let child = std::fs::read_to_string(folder.path().join("judge/child")).unwrap();
    let gone = || {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
        // A zombie that nobody waits for has ended, too
        state.map_or(true, |state| state.contains(") Z "))
    };
    while !gone() {
        assert!(since.elapsed() < SOON, "the program's child {child} goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_program_may_end_in_order_when_it_is_not_needed_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let judge = Judge::new(&format!("{GOOD}\nsleep 0.05; echo bye > bye"));
    let mut rewards = judge.open(folder.path(), &BTreeMap::new()).unwrap();
    score(&mut rewards, 0).unwrap();
    drop(rewards);
    assert!(folder.path().join("judge/bye").exists());
    // One that does not, is ended
    let deaf = Judge::new(&format!("{GOOD}\nsleep 600"));
    let mut rewards = deaf.open(folder.path(), &BTreeMap::new()).unwrap();
    score(&mut rewards, 1).unwrap();
    let since = Instant::now();
    drop(rewards);
    assert!(since.elapsed() < SOON);
}

#[test]
fn a_program_that_does_not_read_cannot_block_the_run() {
    let judge = Judge {
        time_limit: 0.3,
        ..Judge::new("sleep 600")
    };
    let folder = tempfile::tempdir().unwrap();
    let row = PromptRow::new("x".repeat(1 << 20));
    let mut rewards = judge.open(folder.path(), &BTreeMap::new()).unwrap();
    let error = rewards.score(place(0), &[Sample::new(&row, "")], &[]).unwrap_err();
    assert!(error.to_string().contains("no answer within"), "{error}");
}

#[test]
fn answers_that_are_no_rewards_are_told_apart() {
    let answers = [
        (
            "hello",
            "wrote \"hello\", not JSON (expected value at line 1 column 1); expected {\"id\": \"3-0\", \"reward\": NUMBER}",
        ),
        (
            "{\"id\": \"3-1\", \"reward\": 1}",
            "an answer to something else; expected {\"id\": \"3-0\"",
        ),
        ("{\"reward\": 1}", "an answer to something else"),
        ("{\"id\": \"3-0\"}", "without a reward that is a finite number"),
        (
            "{\"id\": \"3-0\", \"reward\": null}",
            "without a reward that is a finite number",
        ),
        (
            "{\"id\": \"3-0\", \"reward\": \"1\"}",
            "without a reward that is a finite number",
        ),
        ("{\"id\": \"3-0\", \"reward\": 1e999}", "not JSON (number out of range"),
        ("{\"id\": \"3-0\", \"reward\": NaN}", "not JSON ("),
        ("", "wrote \"\", not JSON (EOF"),
    ];
    for (answer, expected) in answers {
        let message = failure(&Judge::new(&format!("read -r line; echo '{answer}'; sleep 9")), SOON);
        assert!(
            message.starts_with("rewards[0] (program), update 3, sample 0: the program /bin/sh: wrote"),
            "{message}"
        );
        assert!(message.contains(expected), "{answer}: {message}");
    }
    let message = failure(&Judge::new("read -r line; printf '\\377\\n'; sleep 9"), SOON);
    assert!(message.contains("wrote a line that is not UTF-8"), "{message}");
}

#[test]
fn a_program_that_writes_too_much_is_stopped() {
    let message = failure(&Judge::new("read -r line; tr '\\0' x < /dev/zero"), SOON);
    assert!(
        message.contains("wrote more than 1 MiB without a line's end"),
        "{message}"
    );
    // Lines nobody asked for wait in the pipe, and the first is no answer to the question
    let message = failure(
        &Judge::new("while :; do echo '{\"id\": \"0-0\", \"reward\": 1}'; done"),
        SOON,
    );
    assert!(message.contains("an answer to something else"), "{message}");
    // Standard error is read, and its end is kept
    let loud = "read -r line; head -c 1000000 /dev/zero | tr '\\0' e >&2; echo last words >&2; exit 1";
    let message = failure(&Judge::new(loud), SOON);
    assert!(
        message.ends_with("last words") && message.len() < 3000,
        "{} bytes",
        message.len()
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_that_eats_memory_is_stopped_by_its_limit() {
    // awk keeps a text of 128 MiB; the limit holds for what the program starts
    let hungry = "read -r line; awk 'BEGIN { s = \"x\"; for (i = 0; i < 27; i++) s = s s; print length(s) > \"/dev/stderr\" }' || exit 9; \
                  echo '{\"id\": \"3-0\", \"reward\": 1}'";
    let limited = Judge {
        memory_limit_mib: Some(64),
        restarts: 0,
        ..Judge::new(hungry)
    };
    let message = failure(&limited, SOON);
    assert!(
        message.contains("ended with exit status: 9 instead of answering, once"),
        "{message}"
    );
    // Without the limit the same program gets through its first sample
    let message = failure(&Judge::new(hungry), Duration::from_secs(60));
    assert!(message.contains("update 3, sample 1"), "{message}");
}

#[test]
fn a_limited_program_works_as_another() {
    let folder = tempfile::tempdir().unwrap();
    let judge = Judge {
        memory_limit_mib: Some(256),
        ..Judge::new(GOOD)
    };
    assert_eq!(
        score(&mut judge.open(folder.path(), &BTreeMap::new()).unwrap(), 0).unwrap(),
        [1.1, 2.1, 3.1, 5.1]
    );
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let open = |memory_limit_mib| {
        let entry = RewardEntry {
            weight: 1.0,
            name: None,
            rule: RewardRule::Program {
                command: vec!["no-such-judge".to_owned()],
                time_limit: 5.0,
                start_limit: 5.0,
                memory_limit_mib,
                restarts: 0,
            },
        };
        let setup = RewardSetup {
            run: "ppo",
            folder: folder.path(),
            offsets: &BTreeMap::new(),
        };
        score(&mut Rewards::open(&[entry], setup).unwrap(), 0)
            .unwrap_err()
            .to_string()
    };
    let message = open(None);
    assert!(
        message.contains("the program no-such-judge: cannot be started: No such file"),
        "{message}"
    );
    let message = open(Some(64));
    assert!(
        message.contains("ended with exit status: 127") && message.contains("not found"),
        "{message}"
    );
}

#[test]
fn files_among_the_arguments_are_found_from_the_programs_folder() {
    // Tests run in the crate's folder, where this file is tests/program.rs
    let folder = tempfile::tempdir().unwrap();
    let entry = RewardEntry {
        weight: 1.0,
        name: None,
        rule: RewardRule::Program {
            command: [
                "/bin/sh",
                "-c",
                "read -r l; test -f \"$0\" && echo '{\"id\":\"0-0\",\"reward\":2}'",
                "tests/program.rs",
            ]
            .map(str::to_owned)
            .to_vec(),
            time_limit: 5.0,
            start_limit: 5.0,
            memory_limit_mib: None,
            restarts: 0,
        },
    };
    let setup = RewardSetup {
        run: "ppo",
        folder: folder.path(),
        offsets: &BTreeMap::new(),
    };
    let row = PromptRow::new("?");
    let scores = Rewards::open(&[entry], setup)
        .unwrap()
        .score(place(0), &[Sample::new(&row, "")], &[])
        .unwrap();
    assert_eq!(scores.total, [2.0]);
}
