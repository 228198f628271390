//! The dashboard's socket, its routes, and who may ask.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ETAG, HeaderValue, IF_NONE_MATCH, LOCATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};

use super::alerts::Bounds;
use super::render::{self, HTML, JSON, message};
use super::store::Store;
use super::views::{self, Ask, Circumstances, Refusal, View};
use crate::accept::{self, Manner};
use crate::bounds::{self, Patience};
use crate::cookies;
use crate::error::ServeError;
use crate::routes::{Access, Route, find, route, table, wrong_method};
use crate::security::{Gate, WATCHING, protect};
use crate::server::{Options, listen};
use crate::urlencoded::{decode, parameters};

/// Of which a token's cookie is made, so that the token itself is not kept in browsers.
const COOKIE_CONTEXT: &str = "hone dashboard: the cookie of a token";
/// How long a browser keeps it, in seconds: 30 days.
const AGE: u64 = 30 * 24 * 3600;
/// Bytes of the form in which a token is entered.
const FORM_BYTES: usize = 4 << 10;
/// Threads that read files and make pages.
const READERS: usize = 4;
/// For answers that are being made when the server is to end.
const GRACE: Duration = Duration::from_secs(2);

/// How a dashboard is set up.
#[derive(Clone, Debug)]
pub struct DashboardOptions {
    /// The address to listen on, or a name of it.
    pub host: String,
    /// The port; 0 for a free one.
    pub port: u16,
    /// Tokens, any of which lets a request in; none where none is asked for.
    pub tokens: Vec<String>,
    /// Other names that the server goes by, as `Host` says them.
    pub names: Vec<String>,
    /// Bounds beyond which a look is asked for.
    pub bounds: Bounds,
    /// How long what was read of runs holds before it is read again.
    pub every: Duration,
    /// How long clients may take.
    pub patience: Patience,
}

impl Default for DashboardOptions {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8090,
            tokens: Vec::new(),
            names: Vec::new(),
            bounds: Bounds::default(),
            every: Duration::from_secs(1),
            patience: Patience::default(),
        }
    }
}

/// A dashboard that has its socket, and does not answer yet.
pub struct Dashboard {
    listener: TcpListener,
    address: SocketAddr,
    board: Arc<Board>,
}

/// What all requests see.
struct Board {
    store: Mutex<Store>,
    gate: Gate,
    /// Digests of the cookies of all tokens.
    cookies: Vec<blake3::Hash>,
    /// Their name.
    cookie: String,
    bounds: Bounds,
    patience: Patience,
}

impl Dashboard {
    /// Takes the socket. Runs are those below `folder`, or the folder itself.
    ///
    /// # Errors
    /// A folder that is none; an address that others reach, without a token; a socket that cannot be had.
    pub fn bind(folder: &Path, options: &DashboardOptions) -> Result<Self, ServeError> {
        let unreadable = |source| ServeError::Runs {
            path: folder.display().to_string(),
            source,
        };
        let root = folder.canonicalize().map_err(unreadable)?;
        std::fs::read_dir(&root).map_err(unreadable)?;
        let (listener, address) = listen(&Options {
            host: options.host.clone(),
            port: options.port,
            tokens: options.tokens.clone(),
            ..Options::default()
        })?;
        let board = Board {
            store: Mutex::new(Store::new(root, options.every)),
            gate: Gate::new(&options.host, address.ip(), &options.names, &options.tokens),
            cookies: options
                .tokens
                .iter()
                .map(|token| blake3::hash(cookie_of(token).as_bytes()))
                .collect(),
            cookie: cookies::name("dashboard", address.port()),
            bounds: options.bounds,
            patience: options.patience,
        };
        Ok(Self {
            listener,
            address,
            board: Arc::new(board),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stopped` says so.
    ///
    /// # Errors
    /// If the system refuses threads or the socket.
    pub fn run(self, stopped: &dyn Fn() -> bool) -> Result<(), ServeError> {
        let manner = Manner {
            patience: self.board.patience,
            threads: READERS,
            grace: GRACE,
        };
        accept::run(self.listener, &router(&self.board), &manner, stopped).map_err(|source| ServeError::Io {
            action: "start serving",
            source,
        })
    }
}

/// All routes of the dashboard. It is built from this list, and the test of access goes over it.
pub static DASHBOARD_ROUTES: [Route; 9] = [
    route("GET", "/", Access::Token),
    route("GET", "/run/{*name}", Access::Token),
    route("GET", "/compare", Access::Token),
    route("GET", "/enter", Access::Open),
    route("POST", "/enter", Access::Open),
    route("GET", "/health", Access::Open),
    route("GET", "/assets/dashboard.css", Access::Open),
    route("GET", "/assets/dashboard.js", Access::Open),
    route("GET", "/assets/icon.svg", Access::Open),
];

fn handler(route: &Route) -> MethodRouter<Arc<Board>> {
    match (route.method, route.path) {
        (_, "/" | "/run/{*name}" | "/compare") => get(page),
        ("GET", "/enter") => get(ask_for_token),
        (_, "/enter") => post(enter),
        (_, "/health") => get(health),
        (_, "/assets/dashboard.css") => get(style),
        (_, "/assets/dashboard.js") => get(script),
        (_, "/assets/icon.svg") => get(crate::pages::icon),
        (_, other) => unreachable!("{other} is in DASHBOARD_ROUTES and has no handler"),
    }
}

fn router(board: &Arc<Board>) -> Router {
    table(&DASHBOARD_ROUTES, handler)
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn_with_state(Arc::clone(board), guard))
        .with_state(Arc::clone(board))
}

async fn style() -> Response {
    render::of("text/css; charset=utf-8", render::style())
}

async fn script() -> Response {
    render::of("text/javascript; charset=utf-8", render::script())
}

async fn health() -> Response {
    render::of(JSON, "{\"status\":\"ok\"}")
}

async fn unknown(uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    message(
        StatusCode::NOT_FOUND,
        &format!("there is no {path} here"),
        (wants_json(&uri), false),
    )
}

async fn not_allowed(method: Method, uri: Uri) -> Response {
    let text = wrong_method(&DASHBOARD_ROUTES, &method, uri.path());
    message(StatusCode::METHOD_NOT_ALLOWED, &text, (wants_json(&uri), false))
}

fn wants_json(uri: &Uri) -> bool {
    uri.query()
        .is_some_and(|query| query.split('&').any(|pair| pair == "format=json"))
}

/// The list, a run, its samples, or a comparison. Files are read on another thread.
async fn page(State(board): State<Arc<Board>>, uri: Uri, headers: HeaderMap) -> Response {
    let as_json = wants_json(&uri);
    let made = tokio::task::spawn_blocking(move || board.answer(&uri, as_json)).await;
    let text = match made {
        Ok(Ok(text)) => text,
        Ok(Err(refusal)) => return message(refusal.status, &refusal.message, (as_json, false)),
        Err(_) => {
            return message(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the page could not be made",
                (as_json, false),
            );
        }
    };
    let tag = format!("\"{}\"", &blake3::hash(text.as_bytes()).to_hex()[..32]);
    let known = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let known = known
        .flat_map(|value| value.split(','))
        .any(|value| value.trim() == tag);
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        render::of(if as_json { JSON } else { HTML }, text)
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

impl Board {
    fn answer(&self, uri: &Uri, as_json: bool) -> Result<String, Refusal> {
        let bad = || Refusal::bad("the address is not sound; expected UTF-8 with %XX for other characters");
        let path = decode(uri.path(), false).ok_or_else(bad)?;
        let ask = Ask::new(parameters(uri.query().unwrap_or_default()).ok_or_else(bad)?);
        if ask.get("format").is_some_and(|format| format != "json") {
            return Err(Refusal::bad("`format` can be json; expected that or nothing"));
        }
        let view = self.view(&path, &ask)?;
        if as_json {
            return Ok(render::json(view));
        }
        render::html(&view, &ask.twin(uri.path())).map_err(|error| Refusal {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: format!("the page could not be made: {error}"),
        })
    }

    fn view(&self, path: &str, ask: &Ask) -> Result<View, Refusal> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Circumstances {
            bounds: &self.bounds,
            now: SystemTime::now(),
        };
        match path {
            "/" => {
                store.refresh(&[]);
                views::list(&store, ask, at)
            }
            "/compare" => {
                store.refresh(&[]);
                let names = views::named(&store, ask)?;
                store.refresh(&names);
                views::compare(&store, &names, (ask, at))
            }
            _ => {
                store.refresh(&[]);
                let (name, samples) = run_of(&store, path)?;
                store.refresh(std::slice::from_ref(&name));
                let gone = || Refusal::absent(format!("there is no run {:?} any more", shown(&name)));
                let record = store.get(&name).ok_or_else(gone)?;
                // Samples are read while others may ask
                if samples {
                    let (wanted, finish) = views::samples(record, ask, at)?;
                    drop(store);
                    return Ok(finish(wanted.read()));
                }
                let (mut view, wanted) = views::run(record, ask, at)?;
                drop(store);
                view.value["samples"] = wanted.read().samples.into();
                Ok(view)
            }
        }
    }

    /// Whether a request may see runs. The comparison takes as long for any cookie of the same length.
    fn knows(&self, headers: &HeaderMap) -> bool {
        if !self.gate.asks_for_tokens() || self.gate.knows(headers) {
            return true;
        }
        cookies::values(headers, &self.cookie).any(|cookie| self.knows_cookie(cookie))
    }

    /// Whether a cookie is that of one of the tokens.
    fn knows_cookie(&self, cookie: &str) -> bool {
        let given = blake3::hash(cookie.as_bytes());
        self.cookies
            .iter()
            .fold(false, |known, cookie| known | (*cookie == given))
    }
}

/// The run that a path names, and whether its samples are meant. Names are looked up among the runs that were found, and are
/// never made a path of.
fn run_of(store: &Store, path: &str) -> Result<(String, bool), Refusal> {
    let name = path.strip_prefix("/run/").unwrap_or_default();
    if store.get(name).is_some() {
        return Ok((name.to_owned(), false));
    }
    match name.strip_suffix("/samples").filter(|name| store.get(name).is_some()) {
        Some(name) => Ok((name.to_owned(), true)),
        None => Err(Refusal::absent(format!("there is no run {:?}", shown(name)))),
    }
}

fn shown(name: &str) -> String {
    name.chars().take(200).collect()
}

/// What a browser keeps instead of the token.
fn cookie_of(token: &str) -> String {
    let key = blake3::derive_key(COOKIE_CONTEXT, token.as_bytes());
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn ask_for_token(uri: Uri) -> Response {
    message(
        StatusCode::OK,
        "Enter the token with which this dashboard was started.",
        (wants_json(&uri), true),
    )
}

/// Takes a token from the form, and lets the browser in.
async fn enter(State(board): State<Arc<Board>>, request: Request) -> Response {
    let as_json = wants_json(request.uri());
    let asked = request.headers().clone();
    let reading = bounds::Reading {
        kind: "application/x-www-form-urlencoded",
        most: FORM_BYTES,
        time: board.patience.body,
    };
    let body = match bounds::read_body(request, reading).await {
        Ok(body) => body,
        Err(unread) => return message(unread.status(), &unread.to_string(), (as_json, false)),
    };
    let form = std::str::from_utf8(&body).ok().and_then(parameters).unwrap_or_default();
    let token = form.iter().find(|(name, _)| name == "token");
    let cookie = cookie_of(token.map_or("", |(_, value)| value.trim()));
    if !board.knows_cookie(&cookie) {
        return message(
            StatusCode::UNAUTHORIZED,
            "That token is not known here.",
            (as_json, true),
        );
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
    cookies::set(response.headers_mut(), &asked, (&board.cookie, &cookie), AGE);
    response
}

/// Lets a request through, or answers it with why not; adds to every answer what browsers are to keep to.
async fn guard(State(board): State<Arc<Board>>, request: Request, next: Next) -> Response {
    // What is no route is not told apart from one that asks for a token
    let open = find(&DASHBOARD_ROUTES, request.uri().path()).is_some_and(|route| route.access == Access::Open);
    let as_json = wants_json(request.uri());
    let mut response = match board.gate.check(request.uri(), request.headers(), Access::Open) {
        Err(error) => message(error.status, &error.message, (as_json, false)),
        Ok(()) if open || board.knows(request.headers()) => next.run(request).await,
        Ok(()) => {
            let text = if as_json {
                "no valid token; expected the header `Authorization: Bearer TOKEN`"
            } else {
                "This dashboard asks for a token."
            };
            message(StatusCode::UNAUTHORIZED, text, (as_json, true))
        }
    };
    let unauthorized = response.status() == StatusCode::UNAUTHORIZED;
    protect(&mut response, &WATCHING);
    if unauthorized {
        let headers = response.headers_mut();
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
