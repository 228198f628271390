//! Pages on which people judge: a task after another, agreement and progress for the owner, exports.
//!
//! - Pages are rendered here and work without a script; one small script adds the keyboard and measures attention.
//! - What models and annotators write is text on every page: nothing of it is markup, and the security policy of every answer runs the
//!   one script and loads the one style sheet from here and nothing else.
//! - Every request names a host that this server goes by, and comes from its own pages (`Host`, `Origin`); all pages but the sign-in need
//!   a session. An invite link is exchanged, once, for a session whose cookie no script can read and other sites' links do not send.
//! - Whatever waits for the store does so on a thread of its own, never on one that serves; what reads all that was judged, one at a time.

mod error;
mod form;
mod mine;
mod owner;
mod pages;
mod session;
mod state;
mod task;

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State as Of};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};

use hone_data::annotations::{Project, Role, Store};

use crate::accept::{self, Manner};
use crate::bounds::Patience;
use crate::cookies;
use crate::routes::{self, Route, route, table, wrong_method};
use crate::security::{Gate, JUDGING, protect};

use error::Failure;
use state::{Shared, State};

pub use error::AnnotateError;
pub use session::new_token;

/// Threads on which requests wait for the store.
const WAITERS: usize = 8;

/// How long requests in flight may take when the server is to end.
const GRACE: Duration = Duration::from_secs(10);

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

/// All routes. The server is built from this list, and the test of access goes over it.
pub static ROUTES: [Route<Access>; 17] = [
    route("GET", "/", Access::All),
    route("GET", "/join", Access::All),
    route("POST", "/join", Access::All),
    route("GET", "/annotate.css", Access::All),
    route("GET", "/annotate.js", Access::All),
    route("POST", "/leave", Access::SignedIn),
    route("GET", "/task", Access::SignedIn),
    route("POST", "/task/submit", Access::SignedIn),
    route("POST", "/task/skip", Access::SignedIn),
    route("POST", "/task/undo", Access::SignedIn),
    route("GET", "/mine", Access::SignedIn),
    route("GET", "/mine/{event}", Access::SignedIn),
    route("POST", "/mine/{event}", Access::SignedIn),
    route("GET", "/agreement", Access::Owner),
    route("GET", "/people", Access::Owner),
    route("POST", "/people", Access::Owner),
    route("GET", "/export/{format}", Access::Owner),
];

fn handler(route: &Route<Access>) -> MethodRouter<Shared> {
    match (route.method, route.path) {
        (_, "/") => get(session::front),
        ("GET", "/join") => get(session::invited),
        (_, "/join") => post(session::join),
        (_, "/annotate.css") => get(pages::style),
        (_, "/annotate.js") => get(pages::script),
        (_, "/leave") => post(session::leave),
        (_, "/task") => get(task::show),
        (_, "/task/submit") => post(task::submit),
        (_, "/task/skip") => post(task::skip),
        (_, "/task/undo") => post(task::undo),
        (_, "/mine") => get(mine::list),
        ("GET", "/mine/{event}") => get(mine::show),
        (_, "/mine/{event}") => post(mine::edit),
        (_, "/agreement") => get(owner::agreement),
        ("GET", "/people") => get(owner::people),
        (_, "/people") => post(owner::invite),
        (_, "/export/{format}") => get(owner::export),
        (_, other) => unreachable!("{other} is in ROUTES and has no handler"),
    }
}

/// The pages.
fn router(state: &Shared) -> Router {
    table(&ROUTES, handler)
        .fallback(pages::not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn_with_state(Arc::clone(state), guard))
        .with_state(Arc::clone(state))
}

async fn not_allowed(method: Method, uri: Uri) -> Failure {
    Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        wrong_method(&ROUTES, &method, uri.path()),
    )
}

/// Refuses requests that do not name this server or come from another site, and adds what browsers are to keep to.
async fn guard(Of(state): Of<Shared>, request: Request, next: Next) -> Response {
    // Who has a session is known to the handlers
    let checked = state.gate.check(request.uri(), request.headers(), routes::Access::Open);
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(error) => Failure::new(error.status, error.message).into_response(),
    };
    protect(&mut response, &JUDGING);
    response
}

/// What is served, and where.
pub struct Options {
    /// The store.
    pub store: Store,
    /// The project that is annotated.
    pub project: Project,
    /// An open socket.
    pub listener: TcpListener,
    /// Names that the server goes by besides its address, such as `annotate.example.org`; ports of names do not count.
    pub names: Vec<String>,
    /// How long clients may take.
    pub patience: Patience,
}

/// Serves the pages until `stop` says so; requests in flight are answered before it returns.
///
/// # Errors
/// A socket that cannot be used; a system without threads.
pub fn serve(options: Options, stop: impl Fn() -> bool) -> Result<(), AnnotateError> {
    let address = options.listener.local_addr().map_err(AnnotateError::Socket)?;
    let gate = Gate::new(&address.ip().to_string(), address.ip(), &options.names, &[]).with_option("--name");
    let state = Arc::new(State {
        store: options.store,
        project: options.project,
        gate,
        cookie: cookies::name("annotate", address.port()),
        patience: options.patience,
        desk: state::desk(),
        computed: Mutex::default(),
    });
    let manner = Manner {
        patience: options.patience,
        threads: WAITERS,
        grace: GRACE,
    };
    accept::run(options.listener, &router(&state), &manner, &stop).map_err(AnnotateError::Socket)
}

/// Gives an annotator this role, and returns the path of a link that signs them in once; sessions that they have end. One of a new name
/// is added.
///
/// # Errors
/// What the store says; a system without random numbers.
pub fn invite(store: &Store, name: &str, role: Role, now: i64) -> Result<String, AnnotateError> {
    let token = new_token()?;
    let digest = Store::token_digest(&token);
    store.put_annotator(name, role, &digest, now)?;
    Ok(format!("/join?token={token}"))
}
