//! What all requests share.

use std::sync::{Arc, Mutex};

use axum::http::StatusCode;

use hone_data::DataError;
use hone_data::annotations::{Project, Store};

use super::error::Failure;
use super::owner::Computed;
use crate::bounds::Patience;
use crate::security::Gate;
pub(super) use crate::shared::moment as now;

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
    /// The newest report.
    pub computed: Mutex<Option<Arc<Computed>>>,
}

/// A handle on it.
pub(super) type Shared = Arc<State>;

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
