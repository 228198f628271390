//! What models and people write is text on every page, whatever they write.

use hone_data::Message;
use hone_data::annotations::{Input, Judgement, NewItem, Response, Role, Settings, Store, Submission, TaskKind};

use super::browser::{Browser, Server, session};
use crate::injections::{harmless, read, same_markup, strings};

/// Name of an annotator: what the store takes of a text.
fn name(text: &str) -> String {
    let line: String = text.chars().filter(|c| !c.is_control()).collect();
    let end = line
        .char_indices()
        .map(|(at, c)| at + c.len_utf8())
        .take_while(|&end| end <= 90)
        .last();
    line[..end.unwrap_or(0)].trim().to_owned()
}

/// An item whose every text is this one.
fn item(kind: TaskKind, text: &str) -> NewItem {
    let message = |role: &str| Message {
        role: role.into(),
        content: text.into(),
    };
    NewItem {
        kind,
        input: Input {
            prompt: vec![message("system"), message("user"), message("assistant"), message(text)],
            responses: vec![Response::new(text), Response::new(format!("{text} again"))],
        },
        gold: None,
    }
}

/// A project in which every text that somebody can choose is one of these; each of so many annotators, named by a text as well,
/// judged an item.
fn project(texts: &[String]) -> Server {
    let server = Server::start(texts.iter().map(|text| item(TaskKind::Pair, text)).collect());
    let settings = Settings {
        overlap: 2,
        guideline: texts.join("\n"),
        gold_share: 0.0,
        flags: texts
            .iter()
            .filter(|text| text.len() <= 100)
            .step_by(16)
            .cloned()
            .collect(),
        ..Settings::default()
    };
    server.store.put_project("helpful", &settings, 0).unwrap();
    server
}

fn judged(server: &Server, name: &str, text: &str) {
    let project = server.store.project("helpful").unwrap();
    let digest = Store::token_digest(&format!("of {text}"));
    let annotator = server.store.put_annotator(name, Role::Annotator, &digest, 0).unwrap();
    let task = server.store.claim(&project, annotator.id, 0).unwrap().unwrap();
    let submission = Submission {
        lease: task.lease,
        annotator: annotator.id,
        judgement: Judgement {
            ranking: Some(vec![vec![0, 1]]),
            flags: vec![project.settings.flags.clone(); 2],
            comment: Some(text.into()),
            ..Judgement::default()
        },
        started: 0,
        active: None,
    };
    server.store.submit(submission, 0).unwrap();
}

/// The pages of a task as somebody of this name sees them who enters this text: at first, when the form is refused with all that was
/// entered in it, and when what was handed in was undone.
fn seen(server: &Server, name: &str, text: &str) -> [String; 3] {
    let token = session(&server.store, name, Role::Annotator);
    let browser = Browser {
        address: server.address,
        cookie: Some(server.cookie(&token)),
    };
    let first = browser.get("/task");
    let lease = first.hidden("lease");
    // What an answer says already would be no better one
    let better = format!("{text} better");
    let entered = [
        ("lease", lease.as_str()),
        ("choice", "left"),
        ("rewrite", better.as_str()),
        ("comment", text),
        ("active", "\"><b>"),
    ];
    let refused = browser.post("/task/submit", &entered);
    assert_eq!(refused.status, 422, "{}", refused.body);
    let done = browser.post("/task/submit", &[&entered[..], &[("degree", "much")]].concat());
    assert_eq!(done.status, 303, "{}", done.body);
    let annotator = server
        .store
        .session(&Store::session_digest(&token), 0)
        .unwrap()
        .unwrap();
    let event = server.store.last_event(&server.project, annotator.id).unwrap().unwrap();
    assert_eq!(browser.post("/task/undo", &[("event", &event.to_string())]).status, 303);
    let again = browser.get("/task");
    // Done for good, so that the next in line has another item
    let lease = again.hidden("lease");
    assert_eq!(
        browser
            .post("/task/submit", &[("lease", &lease), ("choice", "tie")])
            .status,
        303
    );
    [first.body, refused.body, again.body]
}

#[test]
fn http_no_text_becomes_markup() {
    let (texts, plain) = (strings(), harmless());
    let (server, other) = (project(&texts), project(&plain));
    // 1. Tasks, as each of them sees one
    let expected = seen(&other, "a plain name", "a plain text");
    let mut shown = vec![false; texts.len()];
    for text in &texts {
        let pages = seen(&server, &name(text), text);
        for (page, expected) in pages.iter().zip(&expected) {
            let read = same_markup(text, page, expected);
            // Every text ends with its number, and an answer says so again
            let end = read.find(" again").unwrap();
            let number = read[..end].rsplit(' ').next().unwrap().parse::<usize>().unwrap();
            assert!(read.contains(&format!("{} again", texts[number])), "{text}");
            shown[number] = true;
        }
        // What was entered is there again, as it was
        for page in &pages[1..] {
            let read = read(page).text;
            assert!(read.matches(text.trim()).count() >= 3, "{text} in {page}");
        }
    }
    assert!(
        shown.iter().filter(|shown| **shown).count() >= texts.len() / 2,
        "each item has two judges"
    );
    // 2. Who is there, and how they agree
    let (server, other) = (project(&texts), project(&plain));
    for text in &texts {
        judged(&server, &name(text), text);
    }
    for text in &plain {
        judged(&other, text, text);
    }
    let (owner, plain_owner) = (server.signed_in("owner"), other.signed_in("owner"));
    let (mine, other_mine) = (server.signed_in("ann"), other.signed_in("ann"));
    for server in [&server, &other] {
        let ann = server
            .store
            .annotators()
            .unwrap()
            .into_iter()
            .find(|a| a.name == "ann")
            .unwrap();
        let project = server.store.project("helpful").unwrap();
        for _ in 0..100 {
            let task = server.store.claim(&project, ann.id, 0).unwrap().unwrap();
            let judgement = Judgement {
                ranking: Some(vec![vec![0, 1]]),
                ..Judgement::default()
            };
            let submission = Submission {
                lease: task.lease,
                annotator: ann.id,
                judgement,
                started: 0,
                active: None,
            };
            server.store.submit(submission, 0).unwrap();
        }
    }
    // Somebody gives tasks back for reasons of their own
    for (server, texts) in [(&server, &texts), (&other, &plain)] {
        let browser = server.signed_in("bob");
        for text in texts.iter().step_by(25) {
            let lease = browser.get("/task").hidden("lease");
            assert_eq!(
                browser
                    .post("/task/skip", &[("lease", &lease), ("reason", text)])
                    .status,
                303
            );
        }
    }
    same_markup("/mine", &mine.get("/mine").body, &other_mine.get("/mine").body);
    for path in ["/people", "/agreement"] {
        let (page, expected) = (owner.get(path), plain_owner.get(path));
        assert_eq!((page.status, expected.status), (200, 200));
        let read = same_markup(path, &page.body, &expected.body);
        for text in &texts {
            assert!(read.contains(&name(text)), "{text} in {path}");
        }
    }
    // 3. An invitation, and what is wrong with one
    let invited = |server: &Server, name: &str| {
        let owner = server.signed_in("owner");
        let fields = [("name", name), ("role", name)];
        owner.post("/people", &fields).body
    };
    let expected_join = other.stranger().get(&other.invite("a plain text 0")).body;
    for text in texts.iter().step_by(7) {
        let name = name(text);
        let read = same_markup(text, &invited(&server, &name), &invited(&other, "a plain text 0"));
        assert!(read.contains(&format!("The link for {name}, ")), "{name}: {read}");
        let join = server.stranger().get(&server.invite(&name)).body;
        let read = same_markup(text, &join, &expected_join);
        assert!(
            read.contains(&format!("signs you in as {name} on this browser")),
            "{name}: {read}"
        );
        // Too long for a name
        let long = format!("{text}{}", "x".repeat(200));
        let refused = owner.post("/people", &[("name", &long)]);
        assert_eq!(refused.status, 422, "{}", refused.body);
        let expected = plain_owner.post("/people", &[("name", &"x".repeat(200))]);
        same_markup(text, &refused.body, &expected.body);
    }
}
