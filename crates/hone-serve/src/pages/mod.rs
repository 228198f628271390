//! The pages to talk to models and to tune them. They are written here, and ask the routes that every client asks.

pub(crate) mod tuning;

use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use minijinja::{Environment, Value, context};

use crate::openai::ApiError;
use crate::shared::Shared;

/// The pages. Their names end in `.html`, so what is put into them is escaped.
const PAGES: [(&str, &str); 2] = [
    ("chat.html", include_str!("chat.html")),
    ("fine-tuning.html", include_str!("fine-tuning.html")),
];

fn templates() -> Result<&'static Environment<'static>, ApiError> {
    static TEMPLATES: OnceLock<Result<Environment<'static>, String>> = OnceLock::new();
    let made = TEMPLATES.get_or_init(|| {
        let mut environment = Environment::new();
        for (name, text) in PAGES {
            environment
                .add_template(name, text)
                .map_err(|error| error.to_string())?;
        }
        Ok(environment)
    });
    made.as_ref().map_err(|error| ApiError::internal(error.clone()))
}

/// A page with what is put into it.
fn rendered(name: &str, values: Value) -> Response {
    let page = templates().and_then(|environment| {
        let template = environment.get_template(name);
        let rendered = template.and_then(|page| page.render(values));
        rendered.map_err(|error| ApiError::internal(error.to_string()))
    });
    match page {
        Ok(page) => of("text/html; charset=utf-8", page),
        Err(error) => error.into_response(),
    }
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
    let models = shared.models.all();
    let named = models
        .iter()
        .filter(|served| !locked && served.chat.is_some() && !served.is_reward());
    let names: Vec<&str> = named.map(|served| served.name.as_str()).collect();
    let values = context! {
        locked,
        models => names,
        tunes => shared.jobs.is_some(),
        prefers => shared.preferences.is_some(),
        version => env!("CARGO_PKG_VERSION"),
    };
    rendered("chat.html", values)
}

/// The page's style.
pub(crate) async fn style() -> Response {
    of("text/css; charset=utf-8", include_str!("chat.css").to_owned())
}

/// The page's program.
pub(crate) async fn script() -> Response {
    of("text/javascript; charset=utf-8", include_str!("chat.js").to_owned())
}

/// The pages' icon. Without one browsers ask for `/favicon.ico`, which there is not.
pub(crate) async fn icon() -> Response {
    of("image/svg+xml", include_str!("icon.svg").to_owned())
}
