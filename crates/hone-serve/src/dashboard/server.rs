//! The dashboard's socket, its routes, and who may ask.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{
    CONTENT_TYPE, COOKIE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION, SET_COOKIE, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::alerts::Bounds;
use super::render::{self, HTML, JSON, message};
use super::store::Store;
use super::views::{self, Ask, Circumstances, Refusal, View};
use super::words::{decode, parameters};
use crate::bounds;
use crate::error::ServeError;
use crate::routes::Access;
use crate::security::Gate;
use crate::server::{GLANCE, Options, all_end, connection, listen};

/// Pages load nothing from elsewhere, run nothing but their own file, and send their forms nowhere else.
const CONTENT_SECURITY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                                img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
/// The cookie of a browser that was let in.
const COOKIE_NAME: &str = "hone_dashboard";
/// Of which a token's cookie is made, so that the token itself is not kept in browsers.
const COOKIE_CONTEXT: &str = "hone dashboard: the cookie of a token";
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
    bounds: Bounds,
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
            bounds: options.bounds,
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
        let failed = |source| ServeError::Io {
            action: "start serving",
            source,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(READERS)
            .build()
            .map_err(failed)?;
        let served = runtime.block_on(serve(self.listener, router(&self.board), stopped));
        runtime.shutdown_timeout(GRACE);
        served
    }
}

async fn serve(listener: TcpListener, router: Router, stopped: &dyn Fn() -> bool) -> Result<(), ServeError> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(|source| ServeError::Io {
        action: "listen",
        source,
    })?;
    let (close, closing) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut glance = tokio::time::interval(GLANCE);
    glance.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = glance.tick() => if stopped() { break },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < bounds::CONNECTIONS => {
                // What fails here (a client that left, no more file handles) passes
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, router.clone(), closing.clone()));
                }
            }
        }
    }
    drop(listener);
    let _ = close.send(true);
    all_end(&mut connections, GRACE).await;
    connections.abort_all();
    Ok(())
}

fn router(board: &Arc<Board>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/run/{*name}", get(page))
        .route("/compare", get(page))
        .route("/enter", get(ask_for_token).post(enter))
        .route("/health", get(health))
        .route("/assets/dashboard.css", get(style))
        .route("/assets/dashboard.js", get(script))
        .route("/assets/icon.svg", get(crate::pages::icon))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
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

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let text = format!("{method} is not for {}; expected GET", uri.path());
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
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let given = cookies
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        given.filter(|(name, _)| *name == COOKIE_NAME).any(|(_, value)| {
            let given = blake3::hash(value.as_bytes());
            self.cookies
                .iter()
                .fold(false, |known, cookie| known | (*cookie == given))
        })
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
    let (parts, body) = request.into_parts();
    let as_json = wants_json(&parts.uri);
    let kind = parts
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if kind.split(';').next() != Some("application/x-www-form-urlencoded") {
        let text = "expected a form, of the type application/x-www-form-urlencoded";
        return message(StatusCode::UNSUPPORTED_MEDIA_TYPE, text, (as_json, false));
    }
    let body = match tokio::time::timeout(bounds::BODY_TIME, to_bytes(body, FORM_BYTES)).await {
        Ok(Ok(body)) => body,
        _ => {
            return message(
                StatusCode::BAD_REQUEST,
                "the form did not come whole, or is too long",
                (as_json, false),
            );
        }
    };
    let form = std::str::from_utf8(&body).ok().and_then(parameters).unwrap_or_default();
    let token = form
        .into_iter()
        .find(|(name, _)| name == "token")
        .map(|(_, value)| value.trim().to_owned());
    let cookie = cookie_of(&token.unwrap_or_default());
    let pair = format!("{COOKIE_NAME}={cookie}");
    let mut headers = HeaderMap::new();
    let (Ok(header), Ok(set)) = (
        HeaderValue::from_str(&pair),
        HeaderValue::from_str(&format!("{pair}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000")),
    ) else {
        return message(StatusCode::BAD_REQUEST, "the token cannot be used", (as_json, true));
    };
    headers.insert(COOKIE, header);
    if !board.knows(&headers) {
        return message(
            StatusCode::UNAUTHORIZED,
            "That token is not known here.",
            (as_json, true),
        );
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
    response.headers_mut().insert(SET_COOKIE, set);
    response
}

/// Lets a request through, or answers it with why not; adds to every answer what browsers are to keep to.
async fn guard(State(board): State<Arc<Board>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = path == "/enter" || path == "/health" || path.starts_with("/assets/");
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
    let headers = response.headers_mut();
    let fixed: [(&str, &str); 6] = [
        ("content-security-policy", CONTENT_SECURITY),
        ("x-content-type-options", "nosniff"),
        // A form's `Origin` is hidden where nothing at all may be told
        ("referrer-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cache-control", "no-store"),
    ];
    for (name, value) in fixed {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if unauthorized {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
