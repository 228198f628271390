//! Who may see runs, and what they may do to those who look.

use std::fs;

use hone_serve::{Access, DASHBOARD_ROUTES, Dashboard, DashboardOptions, ServeError};

use crate::client::{Answer, Client};
use crate::common::{Board, finished, open, options, sample, settings, step};
use crate::gates::{Case, Gates, NAME, only_here, outside};
use crate::slow::{are_let_go, patience};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
fn locked() -> (Board, Client) {
    let board = Board::with(DashboardOptions {
        tokens: vec![TOKEN.into()],
        names: vec![NAME.into()],
        ..options()
    });
    finished(&board.path().join("done"), 0.05);
    finished(&board.path().join("other"), 0.1);
    let stranger = Client {
        token: None,
        ..board.client.clone()
    };
    (board, stranger)
}

fn enter(client: &Client, headers: &[(&str, &str)], token: &str) -> Answer {
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    client.ask(
        "POST",
        "/enter",
        &[&[form], headers].concat(),
        format!("token={token}").as_bytes(),
    )
}

#[test]
fn http_dashboard_every_route_method_host_origin_and_token() {
    let (board, stranger) = locked();
    let entered = enter(&stranger, &[], TOKEN);
    let cookie = entered
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let credential = |case: &Case<Access>| match case.who {
        "nobody" => None,
        "cookie" => Some(("Cookie", format!("other=1; {cookie}"))),
        "wrong cookie" => Some(("Cookie", format!("{}={TOKEN}", cookie.split('=').next().unwrap()))),
        who => Some(("Authorization", format!("Bearer {who}"))),
    };
    let expected = |case: &Case<Access>| match case.route.access {
        Access::Token if !["cookie", TOKEN].contains(&case.who) => 401,
        _ if !case.right => 405,
        // No form
        _ if case.method == "POST" => 415,
        _ => 200,
    };
    let path = |route: &str| match route {
        "/run/{*name}" => "/run/done/samples".to_owned(),
        "/compare" => "/compare?runs=done,other".to_owned(),
        path => path.to_owned(),
    };
    let people = ["nobody", "guess", "cookie", "wrong cookie", TOKEN];
    let gates = Gates {
        client: &stranger,
        routes: &DASHBOARD_ROUTES,
        path: &path,
        people: &people,
        credential: &credential,
        expected: &expected,
    };
    let asked = gates.check(|case, answer| {
        if answer.status == 401 {
            assert!(!answer.text().contains("done"), "{}", case.route.path);
        }
    });
    assert_eq!(asked, 8 * 7 * 13 * 9 * people.len());
    only_here(&stranger);
    drop(board);
}

#[test]
fn http_dashboard_lets_a_browser_in_by_a_form_and_a_cookie() {
    let (_board, stranger) = locked();
    assert!(
        stranger
            .get("/")
            .text()
            .contains("<form class=\"search\" method=\"post\" action=\"/enter\">")
    );
    let wrong = enter(&stranger, &[], "0123456789abcdef");
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    assert_eq!(
        enter(&stranger, &[("Origin", "http://evil.example")], TOKEN).status,
        403
    );
    assert_eq!(enter(&stranger, &[], &"x".repeat(10_000)).status, 413);
    let right = enter(&stranger, &[("Origin", &format!("http://{}", stranger.address))], TOKEN);
    assert_eq!((right.status, right.header("location")), (303, Some("/")));
    let set = right.header("set-cookie").unwrap();
    assert!(
        set.contains("; HttpOnly; SameSite=Strict") && !set.contains(TOKEN),
        "{set}"
    );
    let cookie = set.split(';').next().unwrap();
    let name = format!("hone_dashboard_{}", stranger.address.port());
    let with = |cookie: &str| stranger.ask("GET", "/", &[("Cookie", cookie)], b"").status;
    assert_eq!(with(cookie), 200);
    assert_eq!(with(&format!("other=1; {cookie}")), 200);
    for bad in [
        &format!("{name}="),
        &format!("{name}={TOKEN}"),
        &cookie[..cookie.len() - 1],
        &cookie.replace(&name, "hone_dashboard"),
    ] {
        assert_eq!(with(bad), 401, "{bad}");
    }
}

#[test]
fn http_dashboard_no_name_leads_out_of_the_folder() {
    let board = Board::inside("runs", options());
    finished(&board.path().join("runs/done"), 0.05);
    fs::write(board.path().join("secret.txt"), "SECRET").unwrap();
    finished(&board.path().join("secret"), 0.05);
    for name in [
        "..",
        "../secret",
        "%2e%2e/secret",
        "..%2fsecret",
        "..%2Fsecret.txt",
        "done/../../secret",
        "done/..",
        "./done",
        "//done",
        "done%00",
        "..%5csecret",
        "%2fetc%2fpasswd",
        "/etc/passwd",
        "done/metrics.jsonl",
        "%ff",
        "done/samples/samples",
        "",
    ] {
        let paths = [
            format!("/run/{name}"),
            format!("/run/{name}/samples"),
            format!("/compare?runs=done&runs={name}x"),
        ];
        for path in paths {
            let answer = board.client.get(&path);
            assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
            assert!(!answer.text().contains("SECRET"), "{path}");
        }
    }
    assert_eq!(board.client.get("/run/done").status, 200);
}

#[cfg(unix)]
#[test]
fn http_dashboard_text_of_runs_is_text_on_the_page() {
    let board = Board::new();
    let hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u{202e}</pre></textarea>";
    let name = "a \"b\" <i>&c";
    let dir = board.path().join(name);
    let mut run = open(
        &dir,
        &settings(0.1, 9).replace("runs/sft/model", "<script>alert(3)</script>"),
    );
    step(&mut run, 1, 9);
    run.record(1, &[("<script>alert(4)</script>/x", 1.0), ("<b>never</b>", 2.0)])
        .unwrap();
    run.record(2, &[("<script>alert(4)</script>/x", 3.0), ("<b>never</b>", 2.0)])
        .unwrap();
    let mut odd = sample(1, hostile, hostile);
    odd.extra.insert("<i>field</i>".into(), hostile.into());
    run.record_samples(&[odd.clone()]).unwrap();
    odd.step = 2;
    odd.response = format!("new {hostile} words");
    run.record_samples(&[odd]).unwrap();
    run.finish(serde_json::json!({"<i>fact</i>": hostile})).unwrap();
    finished(&board.path().join("plain"), 0.05);
    let encoded = "a%20%22b%22%20%3Ci%3E%26c";
    for path in [
        "/".to_owned(),
        format!("/run/{encoded}"),
        format!("/run/{encoded}/samples?q=%3Cscript%3E"),
        format!("/compare?runs=plain&runs={encoded}&all=1"),
        "/?q=%22%3E%3Cscript%3Ealert(5)%3C/script%3E".to_owned(),
        "/run/%3Cscript%3Ealert(6)%3C/script%3E".to_owned(),
        "/%3Cscript%3Ealert(7)%3C/script%3E".to_owned(),
    ] {
        let answer = board.client.get(&path);
        let text = answer.text();
        for bad in [
            "<script>alert",
            "<img",
            "<i>field",
            "<i>fact",
            "<b>never",
            "<i>&c",
            "\"b\"",
            "\u{202e}",
        ] {
            assert!(!text.contains(bad), "{bad} in {path}: {text}");
        }
    }
    let samples = board.html(&format!("/run/{encoded}/samples"));
    assert!(
        samples.contains("&lt;script&gt;alert(1)") && samples.contains("<ins>"),
        "{samples}"
    );
    // What a field sends back is what was asked, with nothing written out
    assert!(board.html("/?q=%E2%80%AEa%3C").contains("value=\"\u{202e}a&lt;\""));
    // Tools get it as it is
    assert_eq!(
        board.json(&format!("/run/{encoded}/samples"))["samples"][1]["prompt"],
        hostile
    );
    assert_eq!(board.json("/")["runs"].as_array().unwrap().len(), 2);
}

#[test]
fn dashboard_says_what_it_cannot_serve() {
    let folder = tempfile::tempdir().unwrap();
    let bind = |path: &std::path::Path, options: &DashboardOptions| {
        Dashboard::bind(path, options).map(|dashboard| dashboard.address())
    };
    let absent = bind(&folder.path().join("absent"), &options()).unwrap_err();
    assert!(matches!(absent, ServeError::Runs { .. }) && absent.is_usage());
    assert!(
        absent.to_string().contains("cannot be read as a folder of runs"),
        "{absent}"
    );
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(bind(&file, &options()), Err(ServeError::Runs { .. })));
    let open = |host: &str| DashboardOptions {
        host: host.into(),
        ..options()
    };
    let mut hosts: Vec<String> = ["0.0.0.0", "::", "[::]", "0", "::ffff:0.0.0.0"]
        .map(String::from)
        .into();
    hosts.extend(outside().map(|address| address.to_string()));
    for host in hosts {
        let bound = bind(folder.path(), &open(&host));
        assert!(matches!(bound, Err(ServeError::OpenHost { .. })), "{host}");
    }
    let with = DashboardOptions {
        tokens: vec![TOKEN.into()],
        ..open("0.0.0.0")
    };
    assert!(bind(folder.path(), &with).is_ok());
}

#[test]
fn http_dashboard_lets_slow_clients_go() {
    let board = Board::with(DashboardOptions {
        tokens: vec![TOKEN.into()],
        patience: patience(),
        ..options()
    });
    are_let_go(&board.client, ("/enter", "application/x-www-form-urlencoded"), "");
    // Nor does it read more than a token takes
    let form = [
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Content-Length", "10000000000"),
    ];
    assert_eq!(board.client.ask("POST", "/enter", &form, b"").status, 413);
    assert_eq!(
        board
            .client
            .ask("GET", "/", &[("X-Long", &"x".repeat(17 << 10))], b"")
            .status,
        431
    );
}
