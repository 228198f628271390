//! The page to talk to models. It is written here, and asks the routes that every client asks.

use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use minijinja::{Environment, context};

use crate::openai::ApiError;
use crate::shared::Shared;

/// The name ends in `.html`, so what is put into the page is escaped.
const PAGE: &str = "chat.html";

fn templates() -> Result<&'static Environment<'static>, ApiError> {
    static TEMPLATES: OnceLock<Result<Environment<'static>, String>> = OnceLock::new();
    let made = TEMPLATES.get_or_init(|| {
        let mut environment = Environment::new();
        let added = environment.add_template(PAGE, include_str!("chat.html"));
        added.map(|()| environment).map_err(|error| error.to_string())
    });
    made.as_ref().map_err(|error| ApiError::internal(error.clone()))
}

/// An answer of this kind.
pub(crate) fn of(kind: &'static str, text: String) -> Response {
    let mut response = text.into_response();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The page. Where a token is asked for, it names no model: it asks for them with the token that is typed in.
pub(crate) async fn chat(State(shared): State<Arc<Shared>>) -> Response {
    let locked = shared.gate.asks_for_tokens();
    let named = shared
        .models
        .iter()
        .filter(|served| !locked && served.chat.is_some() && !served.is_reward());
    let names: Vec<&str> = named.map(|served| served.name.as_str()).collect();
    let page = templates().and_then(|environment| {
        let template = environment.get_template(PAGE);
        let rendered = template.and_then(|page| {
            page.render(context! {
                locked,
                models => names,
                version => env!("CARGO_PKG_VERSION"),
            })
        });
        rendered.map_err(|error| ApiError::internal(error.to_string()))
    });
    match page {
        Ok(page) => of("text/html; charset=utf-8", page),
        Err(error) => error.into_response(),
    }
}

/// The page's style.
pub(crate) async fn style() -> Response {
    of("text/css; charset=utf-8", include_str!("chat.css").to_owned())
}

/// The page's program.
pub(crate) async fn script() -> Response {
    of("text/javascript; charset=utf-8", include_str!("chat.js").to_owned())
}
