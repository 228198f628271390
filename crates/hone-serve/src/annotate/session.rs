//! Signing in: an invite link becomes a cookie.

use axum::extract::{FromRequestParts, Query, State};
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use hone_data::annotations::{Annotator, Role, Store};

use super::error::{AnnotateError, Failure};
use super::pages;
use super::state::{Shared, on_store};

/// The name of the cookie: browsers keep cookies by host, whatever the port, and several projects may be served on one.
pub(super) fn cookie_name(port: u16) -> String {
    format!("hone_annotate_{port}")
}

/// How long a browser keeps the cookie, in seconds: 90 days.
const AGE: u64 = 90 * 24 * 3600;

/// A token of 256 random bits, as 64 hexadecimal digits.
///
/// # Errors
/// A system without random numbers.
pub fn new_token() -> Result<String, AnnotateError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| AnnotateError::Random(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The annotator that this token signs in. Every stored digest is compared, each in constant time.
async fn signed_in(state: &Shared, token: String) -> Result<Option<Annotator>, Failure> {
    let annotators = on_store(state, |state| state.store.annotators()).await?;
    let own = blake3::Hash::from_hex(Store::token_digest(&token)).ok();
    let mut found = None;
    for annotator in annotators {
        // The comparison of two hashes takes the same time wherever they differ
        if own.is_some() && blake3::Hash::from_hex(&annotator.token_digest).ok() == own {
            found = Some(annotator);
        }
    }
    Ok(found)
}

fn token_of(state: &Shared, headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(name, _)| *name == state.cookie)
        .map(|(_, token)| token.to_string())
}

/// Whoever sent the request.
pub(super) struct User(pub Annotator);

impl FromRequestParts<Shared> for User {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Failure> {
        let found = match token_of(state, &parts.headers) {
            Some(token) => signed_in(state, token).await?,
            None => None,
        };
        found.map(User).ok_or_else(|| {
            Failure::new(
                StatusCode::UNAUTHORIZED,
                "You are not signed in. Open the invite link that the owner of this project sent you.",
            )
        })
    }
}

/// An owner.
pub(super) struct Owner(pub Annotator);

impl FromRequestParts<Shared> for Owner {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Failure> {
        let User(annotator) = User::from_request_parts(parts, state).await?;
        match annotator.role {
            Role::Owner => Ok(Owner(annotator)),
            Role::Annotator => Err(Failure::new(
                StatusCode::FORBIDDEN,
                "This page is for owners of the project.",
            )),
        }
    }
}

/// `/`: to the tasks, or how to sign in.
pub(super) async fn front(State(state): State<Shared>, headers: HeaderMap) -> Result<Response, Failure> {
    let user = match token_of(&state, &headers) {
        Some(token) => signed_in(&state, token).await?,
        None => None,
    };
    Ok(match user {
        Some(_) => Redirect::to("/task").into_response(),
        None => pages::message(
            StatusCode::OK,
            "To judge, open the invite link that the owner of this project sent you.",
        ),
    })
}

/// An invite link's query.
#[derive(Deserialize)]
pub(super) struct Join {
    token: String,
}

/// `/join?token=...`: the invite link.
pub(super) async fn join(State(state): State<Shared>, Query(join): Query<Join>) -> Result<Response, Failure> {
    let plain = join.token.len() <= 256 && join.token.chars().all(|c| c.is_ascii_alphanumeric());
    let found = match plain {
        true => signed_in(&state, join.token.clone()).await?,
        false => None,
    };
    if found.is_none() {
        return Err(Failure::new(
            StatusCode::UNAUTHORIZED,
            "This invite link is not valid, or no longer. Ask the owner of the project for a new one.",
        ));
    }
    let cookie = format!(
        "{}={}; Path=/; Max-Age={AGE}; HttpOnly; SameSite=Strict",
        state.cookie, join.token
    );
    // A page of our own that leads on, not a redirect: browsers do not send a strict cookie along a chain that another site began
    let mut response = pages::welcome();
    if let Ok(value) = cookie.parse() {
        response.headers_mut().append(SET_COOKIE, value);
    }
    Ok(response)
}
