//! Checks and costs of jobs: beside what runs, and only while somebody wants to know.

use std::fs;

use serde_json::json;

use crate::tuner::{Tuner, begin, conversations, job, soon, wait_for, wait_for_steps};

/// Whether a process is still there.
#[cfg(target_os = "linux")]
fn runs(process: &str) -> bool {
    fs::exists(format!("/proc/{process}")).unwrap()
}

/// A form that changes while its cost is counted asks again, and whoever closes the page asks no more.
#[test]
#[cfg(target_os = "linux")]
fn http_costs_that_nobody_waits_for_are_given_up() {
    let tuner = Tuner::new();
    let server = tuner.serve();
    let file = server.client.upload("rows.jsonl", conversations().as_bytes()).json();
    let body = json!({"model": "chat", "training_file": file["id"]});
    tuner.put("ponder");
    for asked in 1..=2 {
        let left = server.client.begin("/v1/fine_tuning/plan", &body);
        // The second comes as far as the first, whose place is free again
        soon("it is counted", || tuner.lines("planned").len() == asked);
        let process = tuner.lines("planned").pop().unwrap();
        assert!(runs(&process));
        drop(left);
        soon("it is given up", || !runs(&process));
        soon("nothing is left of it", || {
            fs::read_dir(tuner.path("store/incoming")).unwrap().count() == 0
        });
    }
    tuner.take_away("ponder");
    assert_eq!(server.client.post("/v1/fine_tuning/plan", &body).json()["steps"], 5);
}

/// What is asked for is checked while another job runs or takes its time to stop, and a job that runs hears what is asked of it while
/// another is checked.
#[test]
fn http_jobs_are_checked_beside_the_one_that_runs() {
    let tuner = Tuner::new();
    tuner.hold();
    let server = tuner.serve();
    let first = begin(&server, "a");
    wait_for_steps(&server, &first, 2);
    tuner.put("ponder");
    tuner.put("linger");
    let second = begin(&server, "b");
    soon("the second is being checked", || tuner.lines("planned").len() == 2);
    let path = format!("/v1/fine_tuning/jobs/{first}/cancel");
    assert_eq!(server.client.post(&path, &json!({})).json()["status"], "cancelled");
    soon("the first is told to stop", || tuner.lines("stopped").len() == 1);
    assert_eq!(job(&server, &second)["status"], "validating_files");
    tuner.take_away("ponder");
    soon("the second is checked", || job(&server, &second)["status"] == "queued");
    // It begins once the first has ended
    assert_eq!(tuner.lines("begun").len(), 1);
    tuner.take_away("linger");
    tuner.let_go();
    wait_for(&server, &second, "succeeded");
}

#[test]
fn http_costs_that_the_end_cuts_off_are_not_known() {
    let tuner = Tuner::new();
    let server = tuner.serve();
    let file = server.client.upload("rows.jsonl", conversations().as_bytes()).json();
    let body = json!({"model": "chat", "training_file": file["id"]});
    tuner.put("ponder");
    let client = server.client.clone();
    let asked = std::thread::spawn(move || client.post("/v1/fine_tuning/plan", &body));
    soon("it is counted", || tuner.lines("planned").len() == 1);
    server.stop();
    assert_eq!(asked.join().unwrap().error(503)["code"], "server_stopping");
}
