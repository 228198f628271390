//! Who may ask: every route, with every method, host, origin and token.

use hone_serve::{Access, Options, ROUTES, Route, ServeError, Server};

use crate::client::Client;
use crate::common::{Running, engine, models};
use crate::gates::{Case, Gates, NAME, only_here, outside};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

/// A path of a route.
fn path(route: &str) -> &str {
    match route {
        "/v1/models/{*model}" => "/v1/models/chat",
        "/v1/files/{id}" => "/v1/files/file-1",
        "/v1/files/{id}/content" => "/v1/files/file-1/content",
        "/v1/fine_tuning/jobs/{id}" => "/v1/fine_tuning/jobs/ftjob-1",
        "/v1/fine_tuning/jobs/{id}/cancel" => "/v1/fine_tuning/jobs/ftjob-1/cancel",
        "/v1/fine_tuning/jobs/{id}/pause" => "/v1/fine_tuning/jobs/ftjob-1/pause",
        "/v1/fine_tuning/jobs/{id}/resume" => "/v1/fine_tuning/jobs/ftjob-1/resume",
        "/v1/fine_tuning/jobs/{id}/events" => "/v1/fine_tuning/jobs/ftjob-1/events",
        "/v1/fine_tuning/jobs/{id}/checkpoints" => "/v1/fine_tuning/jobs/ftjob-1/checkpoints",
        path => path,
    }
}

/// Whether a route needs a folder of jobs or a store of annotations, which the servers here do not have.
fn tunes(route: &str) -> bool {
    ["/fine-tuning", "/v1/files", "/v1/fine_tuning", "/preferences"]
        .iter()
        .any(|start| route.starts_with(start))
}

fn options(tokens: &[&str]) -> Options {
    Options {
        tokens: tokens.iter().map(|token| (*token).to_owned()).collect(),
        names: vec![NAME.into()],
        ..Options::default()
    }
}

const PEOPLE: [&str; 4] = ["nobody", "guess", TOKEN, OTHER];

fn bearer(case: &Case<Access>) -> Option<(&'static str, String)> {
    (case.who != "nobody").then(|| ("Authorization", format!("Bearer {}", case.who)))
}

/// Who is turned away whatever they ask for, or else with what.
fn turned_away(case: &Case<Access>) -> Option<u16> {
    match case.route.access {
        Access::Token if !PEOPLE[2..].contains(&case.who) => Some(401),
        _ if !case.right => Some(405),
        _ => None,
    }
}

fn gates<'a>(client: &'a Client, expected: &'a dyn Fn(&Case<Access>) -> u16) -> Gates<'a, Access> {
    Gates {
        client,
        routes: &ROUTES,
        path: &|route| path(route).to_owned(),
        people: &PEOPLE,
        credential: &bearer,
        expected,
    }
}

#[test]
fn http_every_route_method_host_origin_and_token() {
    let server = Running::with(models, options(&[TOKEN, OTHER]));
    let client = Client {
        token: None,
        ..server.client.clone()
    };
    let expected = |case: &Case<Access>| {
        let passed = match case.method {
            _ if tunes(case.route.path) => 404,
            // Models that were tuned here: none are
            "DELETE" => 404,
            // An empty body of no kind
            "POST" => 415,
            _ => 200,
        };
        turned_away(case).unwrap_or(passed)
    };
    let asked = gates(&client, &expected).check(|case, answer| {
        if answer.status == 401 {
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{}", case.route.path);
        }
    });
    let mut paths: Vec<&str> = ROUTES.iter().map(|route| route.path).collect();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(asked, paths.len() * 7 * 13 * 9 * PEOPLE.len());
    only_here(&client);
}

/// The same of a server that tunes models: nothing of its files and jobs without a token.
#[cfg(unix)]
#[test]
fn http_every_route_of_files_and_jobs() {
    let tuner = crate::tuner::Tuner::new();
    let server = Running::with(
        models,
        Options {
            jobs: tuner.options().jobs,
            ..options(&[TOKEN, OTHER])
        },
    );
    let client = Client {
        token: None,
        ..server.client.clone()
    };
    let deletes = |route: &Route| {
        ROUTES
            .iter()
            .any(|other| other.path == route.path && other.method == "DELETE")
    };
    let tuning = ROUTES.iter().filter(|route| tunes(route.path) || deletes(route));
    let tuning: Vec<Route> = tuning.copied().collect();
    let expected = |case: &Case<Access>| {
        let passed = match (case.method, case.route.path) {
            ("GET" | "HEAD", "/v1/files" | "/v1/fine_tuning/jobs" | "/fine-tuning") => 200,
            ("POST", "/v1/files" | "/v1/fine_tuning/jobs" | "/v1/fine_tuning/plan") => 415,
            ("GET" | "HEAD", "/v1/models/{*model}") => 200,
            // What was given to the server stays
            ("DELETE", "/v1/models/{*model}") => 403,
            // There is no such file or job
            _ => 404,
        };
        turned_away(case).unwrap_or(passed)
    };
    let table = Gates {
        routes: &tuning,
        ..gates(&client, &expected)
    };
    table.check(|_, _| {});
    assert!(tuner.lines("begun").is_empty());
}

#[test]
fn http_without_a_token_set_none_is_asked_for() {
    let server = Running::with(models, options(&[]));
    for route in ROUTES.iter().filter(|route| route.method == "GET") {
        let expected = if tunes(route.path) { 404 } else { 200 };
        assert_eq!(server.client.get(path(route.path)).status, expected, "{}", route.path);
    }
    let error = server.client.get("/v1/fine_tuning/jobs").error(404);
    assert!(error["code"] == "fine_tuning_disabled" && error["message"].as_str().unwrap().contains("--jobs DIR"));
    // What is no route is not told apart from one that needs a token
    server.client.get("/absent").error(404);
    let locked = Running::with(models, options(&[TOKEN]));
    let stranger = Client {
        token: None,
        ..locked.client.clone()
    };
    stranger.get("/absent").error(401);
    assert_eq!(stranger.get("/v1/models").header("www-authenticate"), Some("Bearer"));
    assert_eq!(stranger.get("/v1/models").error(401)["code"], "invalid_api_key");
}

#[test]
fn http_a_request_names_its_host_once() {
    let server = Running::new();
    let own = server.client.address.to_string();
    let twice = [("Host", own.as_str()), ("Host", own.as_str())];
    let status = server.client.ask("GET", "/health", &twice, b"").status;
    assert!(status == 400 || status == 403, "{status}");
    let absolute = server
        .client
        .ask("GET", "http://evil.example/health", &[("Host", &own)], b"");
    assert_eq!(absolute.status, 403);
}

#[test]
fn http_the_page_of_a_locked_server_names_no_model() {
    let locked = Running::with(models, options(&[TOKEN]));
    let stranger = Client {
        token: None,
        ..locked.client.clone()
    };
    let page = stranger.get("/");
    assert!(page.text().contains("data-locked=\"yes\"") && !page.text().contains("tuned"));
    let open = Running::new();
    let page = open.client.get("/");
    assert!(page.text().contains("data-locked=\"no\""));
    assert!(page.text().contains("<option value=\"tuned\">") && !page.text().contains("<option value=\"reward\">"));
    for (path, kind) in [
        ("/", "text/html"),
        ("/assets/chat.js", "text/javascript"),
        ("/assets/chat.css", "text/css"),
        ("/assets/icon.svg", "image/svg+xml"),
    ] {
        assert!(
            open.client.get(path).header("content-type").unwrap().starts_with(kind),
            "{path}"
        );
    }
}

#[test]
fn http_names_of_models_are_text_on_the_page() {
    let server = Running::with(
        |engine| {
            let mut all = models(engine);
            all[0].name = "<script>alert(1)</script>".into();
            all
        },
        Options::default(),
    );
    let page = server.client.get("/");
    assert!(!page.text().contains("<script>alert"));
    assert!(page.text().contains("&lt;script&gt;alert(1)"));
}

#[test]
fn other_machines_are_served_only_with_a_token() {
    let bind = |options: &Options| {
        let engine = engine();
        let models = models(&engine);
        Server::bind(engine, models, options).map(|server| server.address())
    };
    let mut hosts: Vec<String> = ["0.0.0.0", "::", "[::]", "0", "::ffff:0.0.0.0"]
        .map(String::from)
        .into();
    hosts.extend(outside().map(|address| address.to_string()));
    for host in hosts {
        let open = Options {
            host: host.clone(),
            port: 0,
            ..Options::default()
        };
        let error = bind(&open).unwrap_err();
        assert!(
            matches!(error, ServeError::OpenHost { .. }) && error.is_usage(),
            "{host}: {error}"
        );
        if host == "0.0.0.0" {
            let locked = Options {
                tokens: vec![TOKEN.into()],
                ..open
            };
            assert!(bind(&locked).is_ok());
        }
    }
    // A port that is taken, a name that is none
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = Options {
        port: taken.local_addr().unwrap().port(),
        ..Options::default()
    };
    assert!(bind(&options).unwrap_err().to_string().contains("--port takes another"));
}

#[test]
fn models_have_names_of_their_own() {
    let engine = engine();
    let none = Server::bind(engine.clone(), Vec::new(), &Options::default());
    assert!(matches!(none.err(), Some(ServeError::NoModel)));
    let mut twice = models(&engine);
    twice[1].name = twice[0].name.clone();
    let same = Server::bind(engine, twice, &Options::default());
    assert!(
        same.err()
            .is_some_and(|error| error.to_string().contains("two models are called `chat`"))
    );
}

#[test]
fn tokens_are_read_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        hone_serve::read_token(&path)
    };
    assert_eq!(file("good", &format!("{TOKEN}\n")).unwrap(), TOKEN);
    for (name, text) in [
        ("empty", ""),
        ("short", "abc\n"),
        ("two", "0123456789abcdef 0123456789abcdef\n"),
    ] {
        assert!(matches!(file(name, text), Err(ServeError::WeakToken { .. })), "{name}");
    }
    let absent = hone_serve::read_token(&folder.path().join("absent")).unwrap_err();
    assert!(absent.is_usage() && absent.to_string().contains("absent"), "{absent}");
}
