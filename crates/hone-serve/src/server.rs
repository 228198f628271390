//! The server: its routes, its socket, and its end.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use hone_compute::Engine;
use hone_generate::GeneratorOptions;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::bounds;
use crate::engine::{Handle, Worker};
use crate::error::ServeError;
use crate::metrics::Metrics;
use crate::models::{Served, ServedModel};
use crate::openai::{self, ApiError};
use crate::pages;
use crate::security::{Gate, guard};
use crate::shared::{Shared, now};

/// How often it is asked whether the server is to end.
const GLANCE: Duration = Duration::from_millis(50);
/// How often it is said what was done, where something was.
const SAID: Duration = Duration::from_secs(5);
/// For the last words of answers that were given up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Whether a route asks for a token, where tokens are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No: pages, whether the server lives, and tokenizers.
    Open,
    /// Yes.
    Token,
}

/// Something that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// `GET` (which answers `HEAD` as well) or `POST`.
    pub method: &'static str,
    /// The path, as axum writes it.
    pub path: &'static str,
    /// Who may ask.
    pub access: Access,
}

const fn route(method: &'static str, path: &'static str, access: Access) -> Route {
    Route { method, path, access }
}

/// All routes. The server is built from this list, and every test of access goes over it.
pub static ROUTES: [Route; 14] = [
    route("GET", "/", Access::Open),
    route("GET", "/assets/chat.css", Access::Open),
    route("GET", "/assets/chat.js", Access::Open),
    route("GET", "/health", Access::Open),
    route("GET", "/metrics", Access::Token),
    route("GET", "/v1/models", Access::Token),
    route("GET", "/v1/models/{*model}", Access::Token),
    route("POST", "/v1/chat/completions", Access::Token),
    route("POST", "/v1/completions", Access::Token),
    route("POST", "/v1/embeddings", Access::Token),
    route("POST", "/score", Access::Token),
    route("GET", "/tokenizer_info", Access::Open),
    route("POST", "/tokenize", Access::Open),
    route("POST", "/detokenize", Access::Open),
];

/// The route of a path, whatever the method.
pub(crate) fn route_of(path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| match route.path.split_once("{*") {
        Some((start, _)) => path.len() > start.len() && path.starts_with(start),
        None => route.path == path,
    })
}

fn handler(route: &Route) -> MethodRouter<Arc<Shared>> {
    match route.path {
        "/" => get(pages::chat),
        "/assets/chat.css" => get(pages::style),
        "/assets/chat.js" => get(pages::script),
        "/health" => get(health),
        "/metrics" => get(metrics),
        "/v1/models" => get(openai::models::list),
        "/v1/models/{*model}" => get(openai::models::one),
        "/v1/chat/completions" => post(openai::chat::answer),
        "/v1/completions" => post(openai::completions::answer),
        "/v1/embeddings" => post(openai::embeddings::answer),
        "/score" => post(openai::score::answer),
        "/tokenizer_info" => get(openai::tokenize::info),
        "/tokenize" => post(openai::tokenize::tokenize),
        "/detokenize" => post(openai::tokenize::detokenize),
        other => unreachable!("{other} is in ROUTES and has no handler"),
    }
}

fn router(shared: &Arc<Shared>) -> Router {
    let with = |router: Router<Arc<Shared>>, route: &Route| router.route(route.path, handler(route));
    ROUTES
        .iter()
        .fold(Router::new(), with)
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(shared), guard))
        .with_state(Arc::clone(shared))
}

async fn unknown(uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::of(StatusCode::NOT_FOUND, format!("there is no {path} here")).into_response()
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let expected = route_of(uri.path()).map_or("another method", |route| route.method);
    let message = format!("{method} is not for {}; expected {expected}", uri.path());
    ApiError::of(StatusCode::METHOD_NOT_ALLOWED, message).into_response()
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    if shared.stopping.load(Ordering::Relaxed) {
        return ApiError::stopping().into_response();
    }
    pages::of("application/json", "{\"status\":\"ok\"}".to_owned())
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let mut response = shared.metrics.text().into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen on, or a name of it.
    pub host: String,
    /// The port; 0 for a free one.
    pub port: u16,
    /// Tokens, any of which lets a request in; none where none is asked for.
    pub tokens: Vec<String>,
    /// Other names that the server goes by, as `Host` says them.
    pub names: Vec<String>,
    /// Sequences decoded together on each model.
    pub batch: usize,
    /// Sequences and texts that are taken at once, those that wait for a place included.
    pub queue: usize,
    /// Tokens of ended conversations, of each model, that are kept to go on from.
    pub kept_tokens: usize,
    /// How long running answers may go on once the server is to end.
    pub grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8080,
            tokens: Vec::new(),
            names: Vec::new(),
            batch: 64,
            queue: 2048,
            kept_tokens: 16_384,
            grace: Duration::from_secs(10),
        }
    }
}

/// A server that has its socket and its models, and does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    worker: Worker,
    grace: Duration,
}

impl Server {
    /// Takes the socket, and makes the models ready.
    ///
    /// # Errors
    /// No models, or two of one name; an address that others reach, without a token; a socket that cannot be had.
    pub fn bind(engine: Engine, models: Vec<ServedModel>, options: &Options) -> Result<Self, ServeError> {
        let models: Vec<Arc<Served>> = models
            .into_iter()
            .map(|model| Served::new(model).map(Arc::new))
            .collect::<Result<_, _>>()?;
        if models.is_empty() {
            return Err(ServeError::NoModel);
        }
        for (i, model) in models.iter().enumerate() {
            if models[..i].iter().any(|other| other.name == model.name) {
                return Err(ServeError::SameName {
                    name: model.name.clone(),
                });
            }
        }
        let (listener, address) = listen(options)?;
        let (handle, messages) = Handle::new();
        let metrics = Arc::new(Metrics::default());
        let fingerprint = format!(
            "hone-{}-{}-{:?}",
            env!("CARGO_PKG_VERSION"),
            engine.isa(),
            engine.precision()
        );
        let most_places = options.queue.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let worker = Worker {
            engine,
            models: models.clone(),
            options: GeneratorOptions {
                max_batch: options.batch,
                kept_tokens: options.kept_tokens,
                ..GeneratorOptions::default()
            },
            messages,
            metrics: Arc::clone(&metrics),
        };
        let shared = Shared {
            models,
            engine: handle,
            gate: Gate::new(&options.host, address.ip(), &options.names, &options.tokens),
            metrics,
            places: Arc::new(Semaphore::new(most_places)),
            most_places,
            stopping: AtomicBool::new(false),
            started: now(),
            serial: AtomicU64::new(0),
            fingerprint: fingerprint.to_lowercase(),
        };
        Ok(Self {
            listener,
            address,
            shared: Arc::new(shared),
            worker,
            grace: options.grace,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stopped` says so; then lets running answers end for as long as the grace lasts, and gives up the rest
    /// with an error each. `log` hears every few seconds what was done.
    ///
    /// # Errors
    /// If the system refuses threads or the socket, or the engine's thread ends by itself.
    pub fn run(self, stopped: &dyn Fn() -> bool, log: &dyn Fn(&str)) -> Result<(), ServeError> {
        let refused = |action: &'static str| move |source: io::Error| ServeError::Io { action, source };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(refused("start serving"))?;
        let (worker, handle) = (self.worker, self.shared.engine.clone());
        let worker = std::thread::Builder::new()
            .name("hone-engine".into())
            .spawn(move || worker.run())
            .map_err(refused("start the engine's thread"))?;
        let owner = Owner {
            stopped,
            log,
            grace: self.grace,
        };
        let served = runtime.block_on(serve(self.listener, &self.shared, &owner, &worker));
        handle.stop();
        let ended = worker.join().is_ok();
        match served {
            Ok(()) if !ended => Err(ServeError::EngineEnded),
            served => served,
        }
    }
}

fn listen(options: &Options) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source: io::Error| ServeError::Listen {
        host: options.host.clone(),
        port: options.port,
        source,
    };
    let name = options.host.trim_matches(['[', ']']);
    let addresses: Vec<SocketAddr> = match name.parse::<IpAddr>() {
        Ok(address) => vec![(address, options.port).into()],
        Err(_) => (name, options.port).to_socket_addrs().map_err(failed)?.collect(),
    };
    if options.tokens.is_empty() && !addresses.iter().all(|address| address.ip().is_loopback()) {
        return Err(ServeError::OpenHost {
            host: options.host.clone(),
        });
    }
    let listener = TcpListener::bind(&*addresses).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Who runs the server.
struct Owner<'a> {
    stopped: &'a dyn Fn() -> bool,
    log: &'a dyn Fn(&str),
    grace: Duration,
}

/// What was done up to a moment.
struct Done {
    at: Instant,
    requests: u64,
    tokens: u64,
}

impl Done {
    fn new(metrics: &Metrics) -> Self {
        Self {
            at: Instant::now(),
            requests: metrics.requests(),
            tokens: metrics.sampled_tokens.load(Ordering::Relaxed),
        }
    }

    /// A line on what was done since, where something was.
    fn since(&self, before: &Self, metrics: &Metrics) -> Option<String> {
        let (requests, tokens) = (self.requests - before.requests, self.tokens - before.tokens);
        let seconds = (self.at - before.at).as_secs_f64().max(1e-9);
        let running = metrics.running.load(Ordering::Relaxed);
        let waiting = metrics.waiting.load(Ordering::Relaxed) + metrics.unread.load(Ordering::Relaxed);
        (requests + tokens > 0).then(|| {
            let rate = tokens as f64 / seconds;
            format!("{requests} requests answered, {running} sequences running, {waiting} waiting, {rate:.0} tokens/s")
        })
    }
}

async fn serve(
    listener: TcpListener,
    shared: &Arc<Shared>,
    owner: &Owner<'_>,
    worker: &JoinHandle<()>,
) -> Result<(), ServeError> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(|source| ServeError::Io {
        action: "listen",
        source,
    })?;
    let router = router(shared);
    let (close, closing) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut glance = tokio::time::interval(GLANCE);
    glance.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut before = Done::new(&shared.metrics);
    // 1. Answer
    loop {
        tokio::select! {
            _ = glance.tick() => {
                if (owner.stopped)() {
                    break;
                }
                if before.at.elapsed() >= SAID {
                    let done = Done::new(&shared.metrics);
                    if let Some(line) = done.since(&before, &shared.metrics) {
                        (owner.log)(&line);
                    }
                    before = done;
                }
                if worker.is_finished() {
                    return Err(ServeError::EngineEnded);
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < bounds::CONNECTIONS => {
                // What fails here (a client that left, no more file handles) passes
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, router.clone(), closing.clone()));
                }
            }
        }
    }
    // 2. Take nothing new, and let answers end
    drop(listener);
    shared.stopping.store(true, Ordering::Relaxed);
    let _ = close.send(true);
    if !all_end(&mut connections, owner.grace).await {
        // 3. Those that did not are told
        shared.engine.stop();
        all_end(&mut connections, LAST_WORDS).await;
    }
    connections.abort_all();
    Ok(())
}

/// Waits for all connections to end; false if some did not in this time.
pub(crate) async fn all_end(connections: &mut JoinSet<()>, within: Duration) -> bool {
    let end = Instant::now() + within;
    while !connections.is_empty() {
        if tokio::time::timeout_at(end, connections.join_next()).await.is_err() {
            return false;
        }
    }
    true
}

/// Answers the requests of one connection until its client leaves or `closing` changes, within limits of headers and time.
pub(crate) async fn connection(stream: TcpStream, router: Router, mut closing: watch::Receiver<bool>) {
    // Parts of a streamed answer are small and are to be seen at once
    let _ = stream.set_nodelay(true);
    let mut settings = http1::Builder::new();
    settings
        .timer(TokioTimer::new())
        .header_read_timeout(bounds::HEADER_TIME)
        .max_buf_size(bounds::HEADER_BYTES);
    let connection = settings.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    // A connection that breaks is its client's concern
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = closing.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_has_its_handler() {
        for route in &ROUTES {
            let _ = handler(route);
            assert!(matches!(route.method, "GET" | "POST"));
        }
    }

    #[test]
    fn paths_find_their_routes() {
        assert_eq!(route_of("/").map(|route| route.path), Some("/"));
        assert_eq!(route_of("/v1/models").map(|route| route.path), Some("/v1/models"));
        let one = route_of("/v1/models/org/name").map(|route| route.path);
        assert_eq!(one, Some("/v1/models/{*model}"));
        for absent in ["", "/v1/models/", "/v1", "/healthz", "//"] {
            assert_eq!(route_of(absent), None, "{absent}");
        }
    }
}
