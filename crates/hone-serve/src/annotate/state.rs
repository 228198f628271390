//! What all requests share.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;

use hone_data::DataError;
use hone_data::annotations::{Project, Store};

use super::error::Failure;

/// What all requests share.
pub struct State {
    /// The store.
    pub(super) store: Store,
    /// The project.
    pub(super) project: Project,
    /// Values of `Host` that are this server, in lower case.
    pub(super) hosts: Vec<String>,
    /// The name of the cookie.
    pub(super) cookie: String,
}

/// A handle on it.
pub type Shared = Arc<State>;

/// The state of a server that goes by these values of `Host` and knows its people by this cookie.
pub(super) fn shared(store: Store, project: Project, (hosts, cookie): (Vec<String>, String)) -> Shared {
    Arc::new(State {
        store,
        project,
        hosts,
        cookie,
    })
}

/// Milliseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Work on the store, on a thread that may wait.
pub(super) async fn on_store<T: Send + 'static>(
    state: &Shared,
    work: impl FnOnce(&State) -> Result<T, DataError> + Send + 'static,
) -> Result<T, Failure> {
    let state = Arc::clone(state);
    match tokio::task::spawn_blocking(move || work(&state)).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the request could not be finished",
        )),
    }
}
