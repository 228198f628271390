//! Pages on which people judge: a task after another, agreement and progress for the owner, exports.
//!
//! - Pages are rendered here and work without a script; one small script adds the keyboard and measures attention.
//! - What models and annotators write is text on every page: nothing of it is markup, and the security policy of every answer runs the
//!   one script and loads the one style sheet from here and nothing else.
//! - Every request names a host that this server goes by, and comes from its own pages (`Host`, `Origin`); all pages but the sign-in need
//!   a session. An invite link turns into a cookie that no script can read and that other sites' links do not send.
//! - Whatever waits for the store does so on a thread of its own, never on one that serves.

mod error;
mod form;
mod guard;
mod owner;
mod pages;
mod session;
mod state;
mod task;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use tokio::sync::watch;
use tokio::task::JoinSet;

use hone_data::annotations::{Project, Role, Store};

use crate::bounds;
use crate::server::{all_end, connection};

pub use error::AnnotateError;
pub use session::new_token;
pub use state::Shared;

/// The largest form that is read: an answer and a comment of the most that the store takes, every byte of them written as three.
const MOST_BODY: usize = (3 << 20) + (256 << 10);

/// How often the server looks whether it is to stop.
const GLANCE: Duration = Duration::from_millis(100);

/// How long requests in flight may take once it is.
const GRACE: Duration = Duration::from_secs(10);

/// All routes, as (path, methods, who may use it). The test of access goes through this list.
pub const ROUTES: [(&str, &[&str], Access); 11] = [
    ("/", &["GET"], Access::All),
    ("/join", &["GET"], Access::All),
    ("/annotate.css", &["GET"], Access::All),
    ("/annotate.js", &["GET"], Access::All),
    ("/task", &["GET"], Access::SignedIn),
    ("/task/submit", &["POST"], Access::SignedIn),
    ("/task/skip", &["POST"], Access::SignedIn),
    ("/task/undo", &["POST"], Access::SignedIn),
    ("/agreement", &["GET"], Access::Owner),
    ("/people", &["GET", "POST"], Access::Owner),
    ("/export/{format}", &["GET"], Access::Owner),
];

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody who reaches the server.
    All,
    /// Whoever has a session.
    SignedIn,
    /// An owner.
    Owner,
}

/// The pages.
pub fn router(state: Shared) -> Router {
    Router::new()
        .route("/", get(session::front))
        .route("/join", get(session::join))
        .route("/annotate.css", get(pages::style))
        .route("/annotate.js", get(pages::script))
        .route("/task", get(task::show))
        .route("/task/submit", post(task::submit))
        .route("/task/skip", post(task::skip))
        .route("/task/undo", post(task::undo))
        .route("/agreement", get(owner::agreement))
        .route("/people", get(owner::people).post(owner::invite))
        .route("/export/{format}", get(owner::export))
        .fallback(pages::not_found)
        .layer(middleware::from_fn_with_state(state.clone(), guard::check))
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .with_state(state)
}

/// What is served, and where.
pub struct Options {
    /// The store.
    pub store: Store,
    /// The project that is annotated.
    pub project: Project,
    /// An open socket.
    pub listener: TcpListener,
    /// Names that the server goes by besides its address, such as `annotate.example.org`; with a port where it is not the socket's.
    pub names: Vec<String>,
}

/// Serves the pages until `stop` says so; requests in flight are answered before it returns.
///
/// # Errors
/// A socket that cannot be used; a system without threads.
pub fn serve(options: Options, stop: impl Fn() -> bool + Send + 'static) -> Result<(), AnnotateError> {
    let Options {
        store,
        project,
        listener,
        names,
    } = options;
    let address = listener.local_addr().map_err(AnnotateError::Socket)?;
    listener.set_nonblocking(true).map_err(AnnotateError::Socket)?;
    let cookie = session::cookie_name(address.port());
    let state = state::shared(store, project, (hosts(address, &names), cookie));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(AnnotateError::Socket)?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(AnnotateError::Socket)?;
        let router = router(state);
        let (close, closing) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut glance = tokio::time::interval(GLANCE);
        loop {
            tokio::select! {
                _ = glance.tick() => if stop() {
                    break;
                },
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
    })
}

/// The values of `Host` that are this server.
fn hosts(address: SocketAddr, names: &[String]) -> Vec<String> {
    let port = address.port();
    let with_port = |name: &str| match name.contains(':') {
        true => name.to_ascii_lowercase(),
        false => format!("{}:{port}", name.to_ascii_lowercase()),
    };
    let mut hosts = vec![address.to_string()];
    if address.ip().is_loopback() || address.ip().is_unspecified() {
        hosts.extend(["localhost", "127.0.0.1"].map(|name| format!("{name}:{port}")));
        hosts.push(format!("[::1]:{port}"));
    }
    for name in names {
        hosts.push(with_port(name));
        // A proxy in front of it may speak on the usual ports, which browsers leave out
        hosts.push(name.to_ascii_lowercase());
    }
    hosts
}

/// Gives an annotator this role and a new token, and returns the path of the link that signs them in; one of a new name is added.
///
/// # Errors
/// What the store says; a system without random numbers.
pub fn invite(store: &Store, name: &str, role: Role, now: i64) -> Result<String, AnnotateError> {
    let token = new_token()?;
    let digest = Store::token_digest(&token);
    store.put_annotator(name, role, &digest, now)?;
    Ok(format!("/join?token={token}"))
}
