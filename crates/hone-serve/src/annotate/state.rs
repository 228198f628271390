//! What all requests share.

use std::sync::{Arc, Mutex};

use axum::http::StatusCode;

use hone_data::DataError;
pub(super) use hone_data::annotations::now;
use hone_data::annotations::{Project, Store};

use super::error::Failure;
use super::owner::Computed;
use crate::bounds::Patience;
use crate::desk::Desk;
use crate::security::Gate;

/// What all requests share.
pub(super) struct State {
    /// The store.
    pub store: Store,
    /// The project.
    pub project: Project,
    /// Who may ask at all.
    pub gate: Gate,
    /// The name of the cookie.
    pub cookie: String,
    /// How long clients may take.
    pub patience: Patience,
    /// Where what reads all that was judged is done: one at a time, so that threads are left to those who judge.
    pub desk: Desk,
    /// The newest report.
    pub computed: Mutex<Option<Arc<Computed>>>,
}

/// A handle on it.
pub(super) type Shared = Arc<State>;

/// Owners' requests that read all that was judged and wait for the one that does.
const WAITING: usize = 16;

/// A desk for such requests.
pub(super) fn desk() -> Desk {
    Desk::new(1, WAITING)
}

/// Work on all that was judged, which may take seconds. It waits for its turn without a thread, and goes with its client until it begins.
///
/// # Errors
/// 429 where too many wait; what the store says.
pub(super) async fn on_all<T: Send + 'static>(
    state: &Shared,
    work: impl FnOnce(&State) -> Result<T, DataError> + Send + 'static,
) -> Result<T, Failure> {
    let own = Arc::clone(state);
    let done = state.desk.work(move || work(&own)).await;
    Ok(done.map_err(|error| Failure::new(error.status, error.message))??)
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
