//! What annotators do, by the forms that the pages send.

use hone_data::annotations::{Degree, Status, TaskKind};

use super::browser::{Answer, Browser, Server, item};

/// The place on the page of the answer with this text.
fn place(page: &Answer, answer: usize) -> usize {
    let mark = format!("answer {answer} &lt;script");
    let at = page
        .body
        .find(&mark)
        .unwrap_or_else(|| panic!("no answer {answer} in {}", page.body));
    page.body[..at].matches("<fieldset class=\"answer\"").count() - 1
}

fn submit(browser: &Browser, page: &Answer, fields: &[(&str, &str)]) -> Answer {
    let lease = page.hidden("lease");
    let mut all = vec![("lease", lease.as_str()), ("active", "2500")];
    all.extend_from_slice(fields);
    browser.post("/task/submit", &all)
}

#[test]
fn http_answers_are_blind_text_and_ranks_reach_the_right_ones() {
    let server = Server::start(vec![item(TaskKind::Rank, 0, 3)]);
    let ann = server.signed_in("ann");
    let page = ann.get("/task");
    assert_eq!(page.status, 200);
    assert!(!page.body.contains("secret-model") && !page.body.contains("<script>alert"));
    assert!(page.body.contains("question 0 &lt;b&gt;?") && page.body.contains("Be &lt;kind&gt;."));
    // Answer 1 is best, 0 and 2 are tied
    let names: Vec<String> = (0..3).map(|answer| format!("rank_{}", place(&page, answer))).collect();
    let flag = format!("flag_{}", place(&page, 2));
    let fields = [
        (names[0].as_str(), "2"),
        (names[1].as_str(), "1"),
        (names[2].as_str(), "2"),
        (flag.as_str(), "hallucination"),
        ("comment", "close"),
    ];
    let done = submit(&ann, &page, &fields);
    assert_eq!((done.status, done.header("location")), (303, Some("/task")));
    let record = server.store.records(&server.project).unwrap().remove(0);
    let judgement = record.judgement.unwrap();
    assert_eq!(judgement.ranking, Some(vec![vec![1], vec![0, 2]]));
    assert_eq!(judgement.flags[2], ["hallucination"]);
    assert_eq!(
        (
            judgement.comment.as_deref(),
            record.annotator.as_str(),
            record.active_ms
        ),
        (Some("close"), "ann", Some(2500))
    );
    assert!(ann.get("/task").body.contains("nothing for you to judge"));
}

#[test]
fn http_what_is_missing_is_said_and_what_was_entered_stays() {
    let server = Server::start(vec![item(TaskKind::Pair, 0, 2)]);
    let ann = server.signed_in("ann");
    let page = ann.get("/task");
    let refused = submit(
        &ann,
        &page,
        &[("choice", "left"), ("rewrite", "my <own> words"), ("rewrite_of", "1")],
    );
    assert_eq!(refused.status, 422);
    assert!(refused.body.contains("Not taken yet: no `degree`"), "{}", refused.body);
    assert!(refused.body.contains("value=\"left\" checked") && refused.body.contains("my &lt;own&gt; words"));
    assert!(refused.body.contains("<option value=\"1\" selected>"));
    assert!(server.store.records(&server.project).unwrap().is_empty());
    let done = submit(&ann, &refused, &[("choice", "left"), ("degree", "much")]);
    assert_eq!(done.status, 303);
    let record = server.store.records(&server.project).unwrap().remove(0);
    let judgement = record.judgement.unwrap();
    assert_eq!(
        judgement.ranking,
        Some(vec![vec![record.shown[0]], vec![record.shown[1]]])
    );
    assert_eq!(judgement.degree, Some(Degree::Much));
    // The same form again, as after a lost answer, changes nothing
    assert_eq!(
        submit(&ann, &refused, &[("choice", "left"), ("degree", "much")]).status,
        303
    );
    assert_eq!(submit(&ann, &refused, &[("choice", "tie")]).status, 409);
    assert_eq!(server.store.records(&server.project).unwrap().len(), 1);
}

#[test]
fn http_ranks_of_some_answers_stay_on_the_page() {
    let server = Server::start(vec![item(TaskKind::Rank, 0, 3)]);
    let ann = server.signed_in("ann");
    let refused = submit(&ann, &ann.get("/task"), &[("rank_1", "2")]);
    assert_eq!(refused.status, 422);
    assert!(
        refused.body.contains("name=\"rank_1\" value=\"2\" checked"),
        "{}",
        refused.body
    );
}

#[test]
fn http_every_kind_of_task_can_be_done() {
    let kinds = [
        (TaskKind::Rank, 2),
        (TaskKind::Pair, 2),
        (TaskKind::Rate, 2),
        (TaskKind::Write, 0),
        (TaskKind::Comment, 1),
    ];
    let items = kinds
        .iter()
        .enumerate()
        .map(|(i, (kind, k))| item(*kind, i, *k))
        .collect();
    let server = Server::start(items);
    let ann = server.signed_in("ann");
    for _ in 0..kinds.len() {
        let page = ann.get("/task");
        let kind = page
            .body
            .split("data-kind=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        let fields: &[(&str, &str)] = match kind {
            "rank" => &[("all_bad", "1")],
            "pair" => &[("choice", "tie")],
            "rate" => &[("rating_0", "7"), ("rating_1", "1")],
            "write" => &[("rewrite", "an answer\r\nof two lines")],
            _ => &[("comment", "odd")],
        };
        assert_eq!(submit(&ann, &page, fields).status, 303, "{kind}");
    }
    let records = server.store.records(&server.project).unwrap();
    assert_eq!(records.len(), 5);
    let of = |kind| {
        records
            .iter()
            .find(|record| record.kind == kind)
            .unwrap()
            .judgement
            .clone()
            .unwrap()
    };
    assert!(of(TaskKind::Rank).all_bad && of(TaskKind::Rank).ranking.is_none());
    assert_eq!(of(TaskKind::Pair).ranking, Some(vec![vec![0, 1]]));
    assert_eq!(of(TaskKind::Write).rewrite.unwrap().text, "an answer\nof two lines");
    let rated = records.iter().find(|record| record.kind == TaskKind::Rate).unwrap();
    let ratings = rated.judgement.as_ref().unwrap().ratings.clone();
    assert_eq!((ratings[rated.shown[0]], ratings[rated.shown[1]]), (Some(7), Some(1)));
}

#[test]
fn http_submits_and_skips_can_be_undone() {
    let server = Server::start(vec![item(TaskKind::Pair, 0, 2), item(TaskKind::Pair, 1, 2)]);
    let ann = server.signed_in("ann");
    assert_eq!(ann.post("/task/undo", &[]).status, 422);
    assert_eq!(ann.post("/task/undo", &[("event", "1")]).status, 409);
    let page = ann.get("/task");
    assert!(!page.body.contains("id=\"undo\""), "there is nothing to undo");
    submit(&ann, &page, &[("choice", "right"), ("degree", "slightly")]);
    assert_eq!(server.store.records(&server.project).unwrap()[0].active_ms, Some(2500));
    let next = ann.get("/task");
    assert_ne!(next.hidden("lease"), page.hidden("lease"));
    // A form that comes twice undoes one thing
    let event = next.hidden("event");
    for _ in 0..2 {
        let undone = ann.post("/task/undo", &[("event", &event)]);
        assert_eq!((undone.status, undone.header("location")), (303, Some("/task")));
    }
    let back = ann.get("/task");
    assert_eq!(back.hidden("active\" id=\"active"), "2500", "attention goes on");
    assert!(back.body.contains("value=\"right\" checked") && back.body.contains("value=\"slightly\" checked"));
    assert_eq!(submit(&ann, &back, &[("choice", "tie")]).status, 303);
    assert_eq!(ann.get("/task").hidden("lease"), next.hidden("lease"));
    // A skip needs its reason
    let lease = next.hidden("lease");
    assert_eq!(ann.post("/task/skip", &[("lease", &lease)]).status, 422);
    assert_eq!(
        ann.post("/task/skip", &[("lease", &lease), ("reason", "unclear")])
            .status,
        303
    );
    let none = ann.get("/task");
    assert!(none.body.contains("nothing for you to judge"));
    let event = none.hidden("event");
    assert_eq!(ann.post("/task/undo", &[("event", &event)]).status, 303);
    let back = ann.get("/task");
    let statuses: Vec<Status> = server
        .store
        .records(&server.project)
        .unwrap()
        .iter()
        .map(|r| r.status)
        .collect();
    let expected = [
        Status::Judged,
        Status::Undone,
        Status::Judged,
        Status::Skipped,
        Status::Undone,
    ];
    assert_eq!(statuses, expected);
    // Nobody hands in somebody else's task
    let bob = server.signed_in("bob");
    assert_eq!(submit(&bob, &back, &[("choice", "tie")]).status, 409);
    assert_eq!(bob.post("/task/submit", &[("lease", "x")]).status, 422);
}

/// What the script relies on is on the page; what its keys do is seen in a browser (e2e/annotate.mjs).
#[test]
fn http_the_page_has_what_the_keyboard_needs() {
    let server = Server::start(vec![item(TaskKind::Rank, 0, 4), item(TaskKind::Rank, 1, 4)]);
    let ann = server.signed_in("ann");
    assert_eq!(submit(&ann, &ann.get("/task"), &[("all_bad", "1")]).status, 303);
    let page = ann.get("/task").body;
    let script = ann.get("/annotate.js").body;
    for id in [
        "task",
        "undo",
        "said",
        "active",
        "write",
        "rewrite",
        "rewrite-of",
        "remark",
        "comment",
        "skipping",
        "help",
        "keys",
        "conversation",
    ] {
        assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
        assert!(script.contains(&format!("\"{id}\"")), "{id}");
    }
    assert!(script.contains("if (typing(document.activeElement))"));
    assert_eq!(page.matches("tabindex=\"0\"").count(), 4);
    assert_eq!(page.matches("data-reason=").count(), 5);
    assert!(
        page.contains("aria-live=\"polite\"")
            && page.contains("<html lang=\"en\">")
            && page.contains("width=device-width")
    );
    assert!(
        !page.contains("style=") && !page.contains("onclick="),
        "the policy would refuse them"
    );
}

#[test]
fn http_what_was_judged_can_be_looked_at_and_changed() {
    let server = Server::start(vec![item(TaskKind::Pair, 0, 2), item(TaskKind::Pair, 1, 2)]);
    let (ann, bob) = (server.signed_in("ann"), server.signed_in("bob"));
    assert!(ann.get("/mine").body.contains("There are none yet."));
    submit(
        &ann,
        &ann.get("/task"),
        &[("choice", "left"), ("degree", "much"), ("comment", "first")],
    );
    let first = server.store.records(&server.project).unwrap()[0].event;
    let list = ann.get("/mine");
    assert!(
        list.body.contains(&format!("href=\"/mine/{first}\"")) && list.body.contains("question"),
        "{}",
        list.body
    );
    assert!(bob.get("/mine").body.contains("There are none yet."));
    let path = format!("/mine/{first}");
    let page = ann.get(&path);
    assert!(page.body.contains("value=\"left\" checked") && page.body.contains("value=\"much\" checked"));
    let action = format!("action=\"{}\"", path.replace('/', "&#x2f;"));
    assert!(page.body.contains(&action) && !page.body.contains("id=\"skipping\""));
    for wrong in [path.as_str(), "/mine/999", "/mine/x"] {
        assert_eq!(bob.get(wrong).status, 404, "{wrong}");
        assert_eq!(bob.post(wrong, &[("choice", "tie")]).status, 404, "{wrong}");
    }
    // What is missing is said, and nothing is lost
    let refused = ann.post(&path, &[("choice", "right"), ("comment", "second")]);
    assert!(refused.status == 422 && refused.body.contains("no `degree`") && refused.body.contains("second"));
    let fields = [
        ("choice", "right"),
        ("degree", "slightly"),
        ("comment", "second"),
        ("active", "9000"),
    ];
    for _ in 0..2 {
        let done = ann.post(&path, &fields);
        assert_eq!((done.status, done.header("location")), (303, Some("/mine")));
    }
    let records = server.store.records(&server.project).unwrap();
    assert_eq!(records.len(), 2, "a form that comes twice edits once");
    assert_eq!(
        (records[0].live, records[1].live, records[1].supersedes),
        (false, true, Some(first))
    );
    let judgement = records[1].judgement.as_ref().unwrap();
    assert_eq!(
        (judgement.degree, judgement.comment.as_deref()),
        (Some(Degree::Slightly), Some("second"))
    );
    assert_eq!(records[1].active_ms, Some(9000));
    // What it replaced is not replaced again by something else
    assert_eq!(ann.post(&path, &[("choice", "tie")]).status, 404);
    // The task in hand is where it was, and an undo takes the edit back
    let next = ann.get("/task");
    assert_eq!(ann.post("/task/undo", &[("event", &next.hidden("event"))]).status, 303);
    let standing = server.store.records(&server.project).unwrap();
    assert!(standing[0].live && !standing[1].live);
}
