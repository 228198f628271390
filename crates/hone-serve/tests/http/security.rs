//! Who may ask: every route, with every method, host, origin and token.

use hone_serve::{Access, Options, ROUTES, ServeError, Server};

use crate::client::Client;
use crate::common::{Running, engine, models};

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
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
        names: vec!["box.example".into()],
        ..Options::default()
    }
}

/// Hosts that a request may name, and whether they are this server's.
fn hosts(client: &Client) -> Vec<(String, bool)> {
    let port = client.address.port();
    vec![
        (format!("127.0.0.1:{port}"), true),
        (format!("localhost:{port}"), true),
        (format!("[::1]:{port}"), true),
        ("box.example".into(), true),
        ("evil.example".into(), false),
        (format!("evil.example:{port}"), false),
        (format!("127.0.0.1.evil.example:{port}"), false),
        (format!("192.168.1.1:{port}"), false),
        (String::new(), false),
    ]
}

#[test]
fn http_every_route_method_host_origin_and_token() {
    let server = Running::with(models, options(&[TOKEN, OTHER]));
    let client = Client {
        token: None,
        ..server.client.clone()
    };
    let mut cases = 0;
    for route in &ROUTES {
        for method in METHODS {
            for (host, own) in hosts(&client) {
                let origins = [
                    (None, true),
                    (Some(format!("http://{host}")), true),
                    (Some("http://evil.example:1".to_owned()), false),
                    (Some("null".to_owned()), false),
                ];
                for (origin, same) in origins {
                    for (token, known) in [
                        (None, false),
                        (Some(TOKEN), true),
                        (Some(OTHER), true),
                        (Some("guess"), false),
                    ] {
                        let bearer = token.map(|token| format!("Bearer {token}"));
                        let mut headers = vec![("Host", host.as_str())];
                        headers.extend(origin.as_deref().map(|origin| ("Origin", origin)));
                        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
                        let answer = client.ask(method, path(route.path), &headers, b"");
                        let what = format!("{method} {} {headers:?}: {}", route.path, answer.status);
                        let right = ROUTES
                            .iter()
                            .filter(|other| other.path == route.path)
                            .any(|other| other.method == method || (other.method == "GET" && method == "HEAD"));
                        let expected = if !own || !same {
                            403
                        } else if route.access == Access::Token && !known {
                            401
                        } else if !right {
                            405
                        } else if tunes(route.path) {
                            404
                        } else if method == "POST" {
                            // An empty body of no kind
                            415
                        } else {
                            200
                        };
                        assert_eq!(answer.status, expected, "{what}");
                        // Nobody else's page may read an answer, or run anything in ours
                        assert_eq!(answer.header("access-control-allow-origin"), None, "{what}");
                        let policy = answer.header("content-security-policy").unwrap_or_default();
                        assert!(
                            policy.starts_with("default-src 'none';") && !policy.contains("unsafe"),
                            "{what}"
                        );
                        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{what}");
                        cases += 1;
                    }
                }
            }
        }
    }
    assert_eq!(cases, ROUTES.len() * METHODS.len() * 9 * 4 * 4);
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
    let open = Options {
        host: "0.0.0.0".into(),
        port: 0,
        ..Options::default()
    };
    let error = bind(&open).unwrap_err();
    assert!(
        matches!(error, ServeError::OpenHost { .. }) && error.is_usage(),
        "{error}"
    );
    let locked = Options {
        tokens: vec![TOKEN.into()],
        ..open
    };
    assert!(bind(&locked).is_ok());
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
