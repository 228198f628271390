//! Who may use what.

use hone_data::annotations::TaskKind;
use hone_serve::annotate::{Access, ROUTES};

use super::client::{Browser, Server, item};

/// Every route with every method, host, origin and session.
#[test]
fn http_every_route_asks_for_host_origin_and_session() {
    let server = Server::start(vec![item(TaskKind::Pair, 0, 2)]);
    let own_host = server.address.to_string();
    let own = format!("http://{own_host}");
    let sessions = [
        ("nobody", server.stranger()),
        (
            "wrong",
            Browser {
                address: server.address,
                cookie: Some(format!("hone_annotate={}", "0".repeat(64))),
            },
        ),
        ("ann", server.signed_in("ann")),
        ("owner", server.signed_in("owner")),
    ];
    let mut asked = 0;
    for (route, methods, access) in ROUTES {
        let path = route.replace("{format}", "records");
        for method in ["GET", "POST", "PUT", "DELETE"] {
            for host in [own_host.as_str(), "localhost:1", "evil.example", "annotate.example.org"] {
                for origin in [None, Some(own.as_str()), Some("http://evil.example"), Some("null")] {
                    for (who, browser) in &sessions {
                        let mut headers = vec![("Host", host)];
                        headers.extend(origin.map(|origin| ("Origin", origin)));
                        let body = (method == "POST").then_some("");
                        let got = browser.ask(method, &path, &headers, body).status;
                        let case = format!("{method} {path} {host} {origin:?} {who}: {got}");
                        asked += 1;
                        let known_host = host == own_host || host == "annotate.example.org";
                        let foreign = origin.is_some_and(|origin| origin != format!("http://{host}"));
                        if !known_host || foreign {
                            assert_eq!(got, 403, "{case}");
                        } else if !methods.contains(&method) {
                            assert_eq!(got, 405, "{case}");
                        } else {
                            match (access, *who) {
                                (Access::SignedIn | Access::Owner, "nobody" | "wrong") => {
                                    assert_eq!(got, 401, "{case}")
                                }
                                (Access::Owner, "ann") => assert_eq!(got, 403, "{case}"),
                                _ => assert!(![401, 403, 404, 405, 500].contains(&got), "{case}"),
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(asked, 11 * 4 * 4 * 4 * 4);
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
fn http_an_invite_link_becomes_a_strict_cookie() {
    let server = Server::start(vec![item(TaskKind::Pair, 0, 2)]);
    let mut browser = server.stranger();
    assert!(browser.get("/").body.contains("invite link"));
    assert_eq!(browser.get("/join?token=wrong").status, 401);
    assert_eq!(browser.get("/join?token=%3Cscript%3E").status, 401);
    let token = &server.tokens["ann"];
    let joined = browser.get(&format!("/join?token={token}"));
    assert_eq!(joined.status, 200);
    let cookie = joined.header("set-cookie").unwrap();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    browser.cookie = cookie.split(';').next().map(String::from);
    assert_eq!(browser.get("/task").status, 200);
    let front = browser.get("/");
    assert_eq!((front.status, front.header("location")), (303, Some("/task")));
    // The store holds no token
    let log = server.store.path().with_extension("db-wal");
    let mut bytes = std::fs::read(server.store.path()).unwrap();
    bytes.extend(std::fs::read(log).unwrap());
    assert!(bytes.windows(3).any(|window| window == b"ann"));
    assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()));
}

#[test]
fn http_large_requests_are_refused() {
    let server = Server::start(vec![item(TaskKind::Pair, 0, 2)]);
    let ann = server.signed_in("ann");
    let large = "x".repeat(4 << 20);
    let body = format!("lease=1&comment={large}");
    let origin = format!("http://{}", server.address);
    let answer = ann.ask("POST", "/task/submit", &[("Origin", &origin)], Some(&body));
    assert_eq!(answer.status, 413, "{}", answer.body);
    let answer = ann.ask("GET", "/task", &[("X-Long", &"x".repeat(20 << 10))], None);
    assert_eq!(answer.status, 431);
}
