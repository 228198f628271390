//! Signing in and out: an invite link is exchanged for a session, which the browser keeps as a cookie.

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use minijinja::context;

use hone_data::annotations::{Annotator, Role, SignIn, Store};

use super::error::{AnnotateError, Failure};
use super::form::{self, SmallForm};
use super::pages;
use super::state::{Shared, now, on_store};
use crate::cookies;
use crate::urlencoded::parameters;

/// How long a session lasts, in seconds: 90 days.
const AGE: u64 = 90 * 24 * 3600;
/// Sessions that one request may name; each is looked up before it is known who asks.
const NAMED: usize = 8;

/// A token of 256 random bits, as 64 hexadecimal digits.
///
/// # Errors
/// A system without random numbers.
pub fn new_token() -> Result<String, AnnotateError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| AnnotateError::Random(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether a text may be a token of ours; nothing else is looked up.
fn is_token(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whose session the request has.
async fn signed_in(state: &Shared, headers: &HeaderMap) -> Result<Option<Annotator>, Failure> {
    let sessions = sessions_of(state, headers);
    if sessions.is_empty() {
        return Ok(None);
    }
    on_store(state, move |state| {
        for session in &sessions {
            if let Some(annotator) = state.store.session(session, now())? {
                return Ok(Some(annotator));
            }
        }
        Ok(None)
    })
    .await
}

/// Digests of the sessions that a request's cookies name. There may be several of the name, of which only one is of this server: browsers
/// send those of every path together, and what another program on this host has set under it as well. Of more than [`NAMED`] the first
/// count.
fn sessions_of(state: &Shared, headers: &HeaderMap) -> Vec<String> {
    let tokens = cookies::values(headers, &state.cookie).filter(|token| is_token(token));
    tokens.take(NAMED).map(Store::session_digest).collect()
}

/// Whoever sent the request.
pub(super) struct User(pub Annotator);

impl FromRequestParts<Shared> for User {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Failure> {
        let found = signed_in(state, &parts.headers).await?;
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
    Ok(match signed_in(&state, &headers).await? {
        Some(_) => Redirect::to("/task").into_response(),
        None => pages::message(
            StatusCode::OK,
            "To judge, open the invite link that the owner of this project sent you.",
        ),
    })
}

fn invalid() -> Failure {
    Failure::new(
        StatusCode::UNAUTHORIZED,
        "This invite link is not valid, or no longer: each signs in once. Ask the owner of the project for a new one.",
    )
}

/// `GET /join?token=...`: the invite link. It says who would be signed in, and signs in nobody: whoever is led here by a link that somebody
/// else made has to want it.
pub(super) async fn invited(State(state): State<Shared>, uri: Uri) -> Result<Response, Failure> {
    let fields = parameters(uri.query().unwrap_or_default()).unwrap_or_default();
    let token = form::field(&fields, "token").filter(|token| is_token(token));
    let token = token.ok_or_else(invalid)?.to_owned();
    let digest = Store::token_digest(&token);
    let found = on_store(&state, move |state| state.store.invited(&digest)).await?;
    let invited = found.ok_or_else(invalid)?;
    // The session that the form begins: so a form that comes twice begins one
    let session = new_token()?;
    Ok(pages::page(
        StatusCode::OK,
        "join.html",
        context! {
            project => state.project.name,
            name => invited.name,
            token,
            session,
        },
    ))
}

/// `POST /join`: ends the invite and begins the session.
pub(super) async fn join(
    State(state): State<Shared>,
    headers: HeaderMap,
    SmallForm(fields): SmallForm,
) -> Result<Response, Failure> {
    let token = |name: &str| form::field(&fields, name).filter(|token| is_token(token));
    let (Some(invite), Some(session)) = (token("token"), token("session")) else {
        return Err(invalid());
    };
    let began = now();
    let sign_in = SignIn {
        invite: Store::token_digest(invite),
        session: Store::session_digest(session),
        now: began,
        expires: began.saturating_add(AGE as i64 * 1000),
    };
    let joined = on_store(&state, move |state| state.store.join(sign_in)).await?;
    joined.ok_or_else(invalid)?;
    let mut response = Redirect::to("/task").into_response();
    cookies::set(response.headers_mut(), &headers, (&state.cookie, session), AGE);
    Ok(response)
}

/// `POST /leave`: ends the session, and any other that the browser has here.
pub(super) async fn leave(State(state): State<Shared>, User(_): User, headers: HeaderMap) -> Result<Response, Failure> {
    let sessions = sessions_of(&state, &headers);
    on_store(&state, move |state| {
        sessions.iter().try_for_each(|session| state.store.leave(session))
    })
    .await?;
    let mut response = Redirect::to("/").into_response();
    cookies::set(response.headers_mut(), &headers, (&state.cookie, ""), 0);
    Ok(response)
}
