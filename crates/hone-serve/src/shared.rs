//! What all requests see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use tokio::sync::Semaphore;

use crate::bounds::Patience;
use crate::desk::Desk;
use crate::engine::{Handle, Place};
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::models::{InUse, Models, Served};
use crate::openai::ApiError;
use crate::openai::preferences::Preferences;
use crate::security::Gate;

/// The server's state.
pub(crate) struct Shared {
    pub models: Models,
    /// Where models are tuned, if anywhere.
    pub jobs: Option<Arc<Jobs>>,
    /// Where preferences are kept, if anywhere.
    pub preferences: Option<Preferences>,
    pub engine: Handle,
    pub gate: Gate,
    pub metrics: Arc<Metrics>,
    /// Places of sequences and texts, running and waiting.
    pub places: Arc<Semaphore>,
    /// How many there are.
    pub most_places: usize,
    /// How long clients may take.
    pub patience: Patience,
    /// Where requests are made ready.
    pub desk: Desk,
    /// Nothing new is begun.
    pub stopping: AtomicBool,
    /// When the server began, in seconds since 1970.
    pub started: u64,
    /// Requests so far.
    pub serial: AtomicU64,
    /// What decides an answer's bits besides the model: this program's version, instruction set and precision.
    pub fingerprint: String,
}

/// A model and its place in the list. It is served for as long as this is held.
pub(crate) type Found = (usize, InUse);

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

impl Shared {
    /// The model of this name; without a name the only one.
    pub fn model(&self, name: Option<&str>) -> Result<Found, ApiError> {
        let found = match name {
            // What is tuned later does not change what a request without a name means
            None if self.models.given() == 1 => self.models.first(),
            None => {
                let message = format!("`model` is missing; expected one of {}", self.names());
                return Err(ApiError::bad("model", message));
            }
            Some(name) => self.models.find(name),
        };
        match found {
            Some(found) => Ok(found),
            None => {
                let message = format!(
                    "the model `{}` is not served here; expected one of {}",
                    name.unwrap_or_default(),
                    self.names()
                );
                Err(ApiError::not_found("model", message, "model_not_found"))
            }
        }
    }

    /// The same, of a model that continues text.
    pub fn language_model(&self, name: Option<&str>) -> Result<Found, ApiError> {
        let (index, served) = self.model(name)?;
        if served.is_reward() {
            let message = format!("`{}` is a reward model; it answers at /score", served.name);
            return Err(ApiError::bad("model", message));
        }
        Ok((index, served))
    }

    /// The files and jobs of this server.
    ///
    /// # Errors
    /// 404 where it keeps none.
    pub fn jobs(&self) -> Result<Arc<Jobs>, ApiError> {
        self.jobs.clone().ok_or_else(|| ApiError {
            code: Some("fine_tuning_disabled"),
            ..ApiError::of(
                StatusCode::NOT_FOUND,
                "this server does not tune models; start it with --jobs DIR",
            )
        })
    }

    /// The model whose tokenizer is asked for: that of this name, or any where all have the same tokens. Who has no token is
    /// told of no name.
    ///
    /// # Errors
    /// A name that is not served, or none where tokens differ.
    pub fn tokenizer_of(&self, name: Option<&str>, trusted: bool) -> Result<Arc<Served>, ApiError> {
        let models = self.models.all();
        let found = match name {
            Some(name) => models.iter().find(|model| model.name == name),
            None => {
                let first = models.first();
                first.filter(|first| {
                    let digest = first.tokenizer.digest();
                    models.iter().all(|model| model.tokenizer.digest() == digest)
                })
            }
        };
        match (found, name, trusted) {
            (Some(served), ..) => Ok(Arc::clone(served)),
            (None, Some(_), false) => {
                let message = "there is no model of this name here";
                Err(ApiError::not_found("model", message, "model_not_found"))
            }
            (None, None, false) => {
                let message = "`model` is missing; expected a name, since the models here have different tokenizers";
                Err(ApiError::bad("model", message))
            }
            (None, _, true) => self.model(name).map(|(_, model)| model.served()),
        }
    }

    fn names(&self) -> String {
        let models = self.models.all();
        let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        names.join(", ")
    }

    /// An identifier for an answer, of this kind.
    pub fn id(&self, kind: &str) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        format!("{kind}-{:x}-{serial:06x}", self.started)
    }

    /// A seed for a request that names none.
    pub fn fresh_seed(&self) -> u64 {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        self.started.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ serial
    }

    /// Places for this many sequences or texts, each free again when it is dropped everywhere.
    ///
    /// # Errors
    /// 503 when the server is stopping, 429 when there are not so many places free, 400 when there never are.
    pub fn places(&self, count: usize) -> Result<Vec<Place>, ApiError> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(ApiError::stopping());
        }
        if count > self.most_places {
            let message = format!(
                "the request is for {count} sequences; this server takes {} at a time",
                self.most_places
            );
            return Err(ApiError::of(StatusCode::BAD_REQUEST, message));
        }
        // The count is at most the number of places, which fits
        let places = Arc::clone(&self.places).try_acquire_many_owned(count as u32);
        let mut places = places.map_err(|_| {
            let message = format!(
                "{count} more sequences than this server takes at once ({}); try again soon",
                self.most_places
            );
            ApiError::of(StatusCode::TOO_MANY_REQUESTS, message)
        })?;
        Ok((0..count).filter_map(|_| places.split(1)).map(Arc::new).collect())
    }
}
