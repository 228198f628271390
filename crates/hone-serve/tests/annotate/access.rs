//! Who may use what.

use std::io::Write;

use hone_data::annotations::{Judgement, Role, Settings, Submission, TaskKind};
use hone_serve::annotate::{Access, ROUTES};

use super::browser::{Server, item, session};
use super::client::read;
use super::gates::{Case, Gates, NAME, only_here};
use super::slow::{are_let_go, patience};

#[test]
fn http_every_route_method_host_origin_and_session() {
    let server = Server::start(vec![item(TaskKind::Pair, 0, 2)]);
    let client = server.client();
    let credential = |case: &Case<Access>| {
        let token = match case.who {
            "nobody" => return None,
            "wrong" => "0".repeat(64),
            // Leaving ends a session
            who if case.route.path == "/leave" && case.right => {
                let role = if who == "owner" { Role::Owner } else { Role::Annotator };
                session(&server.store, &format!("leaving {who}"), role)
            }
            who => server.tokens[who].clone(),
        };
        Some(("Cookie", format!("other=1; {}", server.cookie(&token))))
    };
    let expected = |case: &Case<Access>| {
        let known = matches!(case.who, "ann" | "owner");
        match case.route.access {
            _ if !case.right => 405,
            Access::SignedIn | Access::Owner if !known => 401,
            Access::Owner if case.who == "ann" => 403,
            // Forms have to be forms
            _ if case.method == "POST" && case.route.path == "/leave" => 303,
            _ if case.method == "POST" => 415,
            _ if case.route.path == "/join" => 401,
            // Nobody has judged anything
            _ if case.route.path == "/mine/{event}" => 404,
            _ if case.route.path == "/" && known => 303,
            _ => 200,
        }
    };
    let gates = Gates {
        client: &client,
        routes: &ROUTES,
        path: &|route| route.replace("{format}", "records").replace("{event}", "1"),
        people: &["nobody", "wrong", "ann", "owner"],
        credential: &credential,
        expected: &expected,
    };
    let asked = gates.check(|case, answer| {
        // Who is not signed in sees nothing of the project
        if matches!(case.who, "nobody" | "wrong") {
            assert!(!answer.text().contains("question 0") && !answer.text().contains("helpful"));
        }
    });
    assert_eq!(asked, 14 * 7 * 13 * 9 * 4);
    only_here(&client);
}

#[test]
fn http_every_answer_has_its_headers() {
    let server = Server::start(vec![item(TaskKind::Pair, 0, 2)]);
    let ann = server.signed_in("ann");
    for answer in [
        ann.get("/task"),
        ann.get("/absent"),
        ann.get("/annotate.js"),
        server.stranger().get("/people"),
    ] {
        let policy = answer.header("content-security-policy").unwrap();
        assert!(
            policy.contains("default-src 'none'") && policy.contains("script-src 'self'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("same-origin"));
        assert!(answer.header("cache-control").is_some() && answer.header("access-control-allow-origin").is_none());
    }
    assert_eq!(ann.get("/absent").status, 404);
    assert_eq!(
        ann.get("/annotate.css").header("content-type"),
        Some("text/css; charset=utf-8")
    );
}

#[test]
fn http_an_invite_link_is_exchanged_once_for_a_strict_cookie() {
    let server = Server::start(vec![item(TaskKind::Pair, 0, 2)]);
    let mut browser = server.stranger();
    assert!(browser.get("/").body.contains("invite link"));
    for wrong in ["wrong", "%3Cscript%3E", &"0".repeat(64), ""] {
        assert_eq!(browser.get(&format!("/join?token={wrong}")).status, 401, "{wrong}");
    }
    assert_eq!(browser.get("/join").status, 401);
    let link = server.invite("<eve>");
    let invite = link.strip_prefix("/join?token=").unwrap();
    // The link alone signs in nobody, however often it is opened
    for _ in 0..2 {
        let page = browser.get(&link);
        assert!(page.status == 200 && page.header("set-cookie").is_none(), "{page:?}");
        assert!(page.body.contains("as <strong>&lt;eve&gt;</strong>"), "{}", page.body);
    }
    let page = browser.get(&link);
    let (token, session) = (page.hidden("token"), page.hidden("session"));
    assert_eq!((token.as_str(), session.len()), (invite, 64));
    // Nor does a page of another site
    let evil = [("Origin", "http://evil.example")];
    let form = format!("token={token}&session={session}");
    assert_eq!(browser.ask("POST", "/join", &evil, Some(&form)).status, 403);
    assert_eq!(
        browser.post("/join", &[("token", &token), ("session", "short")]).status,
        401
    );
    // Whoever has not signed in sends a small form or none
    let signed = [("token", token.as_str()), ("session", session.as_str())];
    let long = "a".repeat(2000);
    assert_eq!(
        browser.post("/join", &[&signed[..], &[("a", &long)]].concat()).status,
        413
    );
    assert_eq!(
        browser.post("/join", &[&signed[..], &[("a", ""); 600]].concat()).status,
        422
    );
    // The form may come twice; another that has the same invite is too late
    for _ in 0..2 {
        let joined = browser.post("/join", &[("token", &token), ("session", &session)]);
        assert_eq!((joined.status, joined.header("location")), (303, Some("/task")));
        let cookie = joined.header("set-cookie").unwrap();
        for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        assert!(!cookie.contains("Secure") && !cookie.contains(invite), "{cookie}");
        browser.cookie = cookie.split(';').next().map(String::from);
    }
    let other = "f".repeat(64);
    assert_eq!(
        browser.post("/join", &[("token", &token), ("session", &other)]).status,
        401
    );
    assert_eq!(browser.get(&link).status, 401);
    assert_eq!(browser.get("/task").status, 200);
    let front = browser.get("/");
    assert_eq!((front.status, front.header("location")), (303, Some("/task")));
    // The invite is no session
    let mut with_invite = server.stranger();
    with_invite.cookie = Some(server.cookie(invite));
    assert_eq!(with_invite.get("/task").status, 401);
    // The store holds no token
    let log = server.store.path().with_extension("db-wal");
    let mut bytes = std::fs::read(server.store.path()).unwrap();
    bytes.extend(std::fs::read(log).unwrap());
    assert!(bytes.windows(3).any(|window| window == b"eve"));
    for secret in [invite, &session] {
        assert!(!bytes.windows(64).any(|window| window == secret.as_bytes()));
    }
}

#[test]
fn http_sessions_end_and_keep_to_https() {
    let server = Server::start(vec![item(TaskKind::Pair, 0, 2)]);
    let ann = server.signed_in("ann");
    assert!(ann.get("/task").body.contains("action=\"/leave\""));
    let left = ann.post("/leave", &[]);
    assert_eq!((left.status, left.header("location")), (303, Some("/")));
    assert!(left.header("set-cookie").unwrap().contains("=; Path=/; Max-Age=0;"));
    assert_eq!(ann.get("/task").status, 401);
    // Behind a proxy with TLS the page's origin says so
    let link = server.invite("eve");
    let page = server.stranger().get(&link);
    let form = format!("token={}&session={}", page.hidden("token"), page.hidden("session"));
    let origin = format!("https://{NAME}");
    let headers = [("Host", NAME), ("Origin", origin.as_str())];
    let joined = server.stranger().ask("POST", "/join", &headers, Some(&form));
    assert_eq!(joined.status, 303, "{}", joined.body);
    assert!(joined.header("set-cookie").unwrap().ends_with("; Secure"));
    // Another server on this host has a cookie of its own
    let other = Server::start(vec![item(TaskKind::Pair, 0, 2)]);
    let mut both = other.signed_in("bob");
    both.cookie = both
        .cookie
        .map(|cookie| format!("{}; {cookie}", server.cookie(&server.tokens["bob"])));
    assert_eq!(both.get("/task").status, 200);
}

/// Browsers send the cookies of all paths together, and those that another program on this host has set under the same name.
#[test]
fn http_several_cookies_of_one_name_are_all_tried() {
    let server = Server::start(vec![item(TaskKind::Pair, 0, 2)]);
    let mut ann = server.signed_in("ann");
    let own = ann.cookie.clone().unwrap();
    let foreign = ["", "short", &"0".repeat(64), &"a".repeat(64)].map(|token| server.cookie(token));
    for other in &foreign {
        for cookies in [format!("{other}; {own}"), format!("{own}; {other}")] {
            ann.cookie = Some(cookies.clone());
            assert_eq!(ann.get("/task").status, 200, "{cookies}");
        }
    }
    ann.cookie = Some(foreign.join("; "));
    assert_eq!(ann.get("/task").status, 401);
    // Signing out ends the session wherever its cookie stands
    ann.cookie = Some(format!("{}; {own}", foreign[2]));
    assert_eq!(ann.post("/leave", &[]).status, 303);
    ann.cookie = Some(own);
    assert_eq!(ann.get("/task").status, 401);
}

/// Who is not known yet has a bounded number of cookies looked up.
#[test]
fn http_eight_cookies_of_one_name_are_tried() {
    let server = Server::start(vec![item(TaskKind::Pair, 0, 2)]);
    let mut ann = server.signed_in("ann");
    let own = ann.cookie.clone().unwrap();
    for (others, status) in [(7, 200), (8, 401)] {
        let foreign = format!("{}; ", server.cookie(&"0".repeat(64))).repeat(others);
        ann.cookie = Some(format!("{foreign}{own}"));
        assert_eq!(ann.get("/task").status, status, "{others}");
    }
}

/// A store has several projects, and a server one of them.
#[test]
fn http_judgements_of_another_project_or_of_others_are_as_if_they_were_not() {
    let server = Server::start(vec![item(TaskKind::Pair, 0, 2)]);
    let other = server.store.put_project("other", &Settings::default(), 0).unwrap();
    server
        .store
        .add_items(&other, vec![item(TaskKind::Comment, 7, 0)])
        .unwrap();
    let people = server.store.annotators().unwrap();
    let id = |name: &str| people.iter().find(|person| person.name == name).unwrap().id;
    let task = server.store.claim(&other, id("ann"), 1).unwrap().unwrap();
    let judgement = Judgement {
        comment: Some("said elsewhere".into()),
        ..Judgement::default()
    };
    let submission = Submission {
        lease: task.lease,
        annotator: id("ann"),
        judgement,
        started: 1,
        active: None,
    };
    let elsewhere = server.store.submit(submission, 2).unwrap().event;
    let bob = server.signed_in("bob");
    let lease = bob.get("/task").hidden("lease");
    let fields = [("lease", lease.as_str()), ("choice", "left"), ("degree", "much")];
    assert_eq!(bob.post("/task/submit", &fields).status, 303);
    let bobs = server.store.records(&server.project).unwrap()[0].event;
    let before = server.store.records(&other).unwrap();
    let ann = server.signed_in("ann");
    assert!(!ann.get("/mine").body.contains("question 7"));
    let absent = 999_999;
    let pages = |event: i64| {
        let path = format!("/mine/{event}");
        let said = [("comment", "said again"), ("choice", "right"), ("degree", "much")];
        [ann.get(&path), ann.post(&path, &said)].map(|page| {
            assert_eq!(page.status, 404, "{}", page.body);
            page.body.replace(&format!("`{event}`"), "`NUMBER`")
        })
    };
    for event in [elsewhere, bobs] {
        assert_eq!(pages(event), pages(absent), "{event}");
    }
    assert_eq!(server.store.records(&other).unwrap(), before);
    assert_eq!(server.store.records(&server.project).unwrap().len(), 1);
    // Whose they are sees and changes them
    assert_eq!(bob.get(&format!("/mine/{bobs}")).status, 200);
}

#[test]
fn http_large_requests_are_refused_before_they_are_read() {
    let server = Server::start(vec![item(TaskKind::Write, 0, 0)]);
    let ann = server.signed_in("ann");
    let origin = format!("http://{}", server.address);
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    // What says how long it is
    let declared = [("Origin", origin.as_str()), form, ("Content-Length", "3407873")];
    for path in ["/task/submit", "/task/skip", "/task/undo", "/join"] {
        let answer = ann.ask("POST", path, &declared, None);
        assert_eq!(answer.status, 413, "{path}: {}", answer.body);
    }
    assert_eq!(
        server.signed_in("owner").ask("POST", "/people", &declared, None).status,
        413
    );
    // What does not, when it is longer
    let mut stream = server.client().connect();
    let cookie = ann.cookie.as_ref().unwrap();
    write!(
        stream,
        "POST /task/submit HTTP/1.1\r\nHost: {}\r\nOrigin: {origin}\r\nCookie: {cookie}\r\nConnection: close\r\n\
         Content-Type: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        server.address, form.1
    )
    .unwrap();
    let chunk = [format!("{:x}\r\n", 1 << 16).as_bytes(), &vec![b'x'; 1 << 16], b"\r\n"].concat();
    for _ in 0..60 {
        // The server may have closed already
        let _ = stream.write_all(&chunk);
    }
    assert_eq!(read(&stream).status, 413);
    let answer = ann.ask("GET", "/task", &[("X-Long", &"x".repeat(17 << 10))], None);
    assert_eq!(answer.status, 431);
    // The longest answer that the store takes comes through, however it is written
    let longest = "\u{4e00}".repeat((1 << 20) / 3);
    let lease = ann.get("/task").hidden("lease");
    let done = ann.post("/task/submit", &[("lease", &lease), ("rewrite", &longest)]);
    assert_eq!(done.status, 303, "{}", done.body);
    let record = server.store.records(&server.project).unwrap().remove(0);
    assert_eq!(record.judgement.unwrap().rewrite.unwrap().text, longest);
}

#[test]
fn http_slow_clients_are_let_go() {
    let server = Server::with(vec![item(TaskKind::Pair, 0, 2)], patience());
    let cookie = format!("Cookie: {}\r\n", server.cookie(&server.tokens["ann"]));
    let form = "application/x-www-form-urlencoded";
    are_let_go(&server.client(), ("/task/submit", form), &cookie);
    are_let_go(&server.client(), ("/join", form), "");
}
