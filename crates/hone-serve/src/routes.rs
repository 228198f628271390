//! What can be asked for, and who answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};

use crate::openai::{self, ApiError};
use crate::pages;
use crate::security::guard;
use crate::shared::Shared;

/// Whether a route asks for a token, where tokens are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No: pages, whether the server lives, and tokenizers.
    Open,
    /// Yes.
    Token,
}

/// Something that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<A = Access> {
    /// `GET` (which answers `HEAD` as well), `POST` or `DELETE`.
    pub method: &'static str,
    /// The path, as axum writes it. All methods of one path have the same access.
    pub path: &'static str,
    /// Who may ask.
    pub access: A,
}

/// A row of a table of routes.
pub(crate) const fn route<A: Copy>(method: &'static str, path: &'static str, access: A) -> Route<A> {
    Route { method, path, access }
}

/// The first route of a table that a path is, whatever the method.
pub(crate) fn find<'a, A>(routes: &'a [Route<A>], path: &str) -> Option<&'a Route<A>> {
    routes.iter().find(|route| match route.path.split_once("{*") {
        Some((start, _)) => path.len() > start.len() && path.starts_with(start),
        None => fits(route.path, path),
    })
}

/// Whether a path is what a pattern says, part by part.
fn fits(pattern: &str, path: &str) -> bool {
    let (mut expected, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (expected.next(), given.next()) {
            (None, None) => return true,
            (Some(expected), Some(part)) if expected.starts_with('{') && !part.is_empty() => {}
            (Some(expected), Some(part)) if expected == part => {}
            _ => return false,
        }
    }
}

/// What to say of a method that a path does not have.
pub(crate) fn wrong_method<A>(routes: &[Route<A>], method: &Method, path: &str) -> String {
    let known = find(routes, path).map_or("", |route| route.path);
    let methods = routes
        .iter()
        .filter(|route| route.path == known)
        .map(|route| route.method);
    let methods: Vec<&str> = methods.collect();
    format!("{method} is not for {path}; expected {}", methods.join(" or "))
}

/// A router of all routes of a table.
pub(crate) fn table<A, S>(routes: &[Route<A>], handler: impl Fn(&Route<A>) -> MethodRouter<S>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let with = |router: Router<S>, route: &Route<A>| router.route(route.path, handler(route));
    routes.iter().fold(Router::new(), with)
}

/// All routes. The server is built from this list, and every test of access goes over it.
pub static ROUTES: [Route; 34] = [
    route("GET", "/", Access::Open),
    route("GET", "/assets/chat.css", Access::Open),
    route("GET", "/assets/chat.js", Access::Open),
    route("GET", "/assets/icon.svg", Access::Open),
    route("GET", "/fine-tuning", Access::Open),
    route("GET", "/assets/fine-tuning.css", Access::Open),
    route("GET", "/assets/fine-tuning.js", Access::Open),
    route("GET", "/health", Access::Open),
    route("GET", "/metrics", Access::Token),
    route("GET", "/v1/models", Access::Token),
    route("GET", "/v1/models/{*model}", Access::Token),
    route("DELETE", "/v1/models/{*model}", Access::Token),
    route("POST", "/v1/chat/completions", Access::Token),
    route("POST", "/v1/completions", Access::Token),
    route("POST", "/v1/embeddings", Access::Token),
    route("POST", "/score", Access::Token),
    route("POST", "/preferences", Access::Token),
    route("GET", "/tokenizer_info", Access::Open),
    route("POST", "/tokenize", Access::Open),
    route("POST", "/detokenize", Access::Open),
    route("GET", "/v1/files", Access::Token),
    route("POST", "/v1/files", Access::Token),
    route("GET", "/v1/files/{id}", Access::Token),
    route("DELETE", "/v1/files/{id}", Access::Token),
    route("GET", "/v1/files/{id}/content", Access::Token),
    route("GET", "/v1/fine_tuning/jobs", Access::Token),
    route("POST", "/v1/fine_tuning/jobs", Access::Token),
    route("POST", "/v1/fine_tuning/plan", Access::Token),
    route("GET", "/v1/fine_tuning/jobs/{id}", Access::Token),
    route("POST", "/v1/fine_tuning/jobs/{id}/cancel", Access::Token),
    route("POST", "/v1/fine_tuning/jobs/{id}/pause", Access::Token),
    route("POST", "/v1/fine_tuning/jobs/{id}/resume", Access::Token),
    route("GET", "/v1/fine_tuning/jobs/{id}/events", Access::Token),
    route("GET", "/v1/fine_tuning/jobs/{id}/checkpoints", Access::Token),
];

fn handler(route: &Route) -> MethodRouter<Arc<Shared>> {
    match (route.method, route.path) {
        (_, "/") => get(pages::chat),
        (_, "/assets/chat.css") => get(pages::style),
        (_, "/assets/chat.js") => get(pages::script),
        (_, "/assets/icon.svg") => get(pages::icon),
        (_, "/fine-tuning") => get(pages::tuning::page),
        (_, "/assets/fine-tuning.css") => get(pages::tuning::style),
        (_, "/assets/fine-tuning.js") => get(pages::tuning::script),
        (_, "/health") => get(health),
        (_, "/metrics") => get(metrics),
        (_, "/v1/models") => get(openai::models::list),
        ("GET", "/v1/models/{*model}") => get(openai::models::one),
        (_, "/v1/models/{*model}") => delete(openai::models::delete),
        (_, "/v1/chat/completions") => post(openai::chat::answer),
        (_, "/v1/completions") => post(openai::completions::answer),
        (_, "/v1/embeddings") => post(openai::embeddings::answer),
        (_, "/score") => post(openai::score::answer),
        (_, "/preferences") => post(openai::preferences::answer),
        (_, "/tokenizer_info") => get(openai::tokenize::info),
        (_, "/tokenize") => post(openai::tokenize::tokenize),
        (_, "/detokenize") => post(openai::tokenize::detokenize),
        ("GET", "/v1/files") => get(openai::files::list),
        (_, "/v1/files") => post(openai::files::upload),
        ("GET", "/v1/files/{id}") => get(openai::files::one),
        (_, "/v1/files/{id}") => delete(openai::files::delete),
        (_, "/v1/files/{id}/content") => get(openai::files::content),
        ("GET", "/v1/fine_tuning/jobs") => get(openai::fine_tuning::list),
        (_, "/v1/fine_tuning/jobs") => post(openai::fine_tuning::create),
        (_, "/v1/fine_tuning/plan") => post(openai::fine_tuning::plan),
        (_, "/v1/fine_tuning/jobs/{id}") => get(openai::fine_tuning::one),
        (_, "/v1/fine_tuning/jobs/{id}/cancel") => post(openai::fine_tuning::cancel),
        (_, "/v1/fine_tuning/jobs/{id}/pause") => post(openai::fine_tuning::pause),
        (_, "/v1/fine_tuning/jobs/{id}/resume") => post(openai::fine_tuning::resume),
        (_, "/v1/fine_tuning/jobs/{id}/events") => get(openai::fine_tuning::events),
        (_, "/v1/fine_tuning/jobs/{id}/checkpoints") => get(openai::fine_tuning::checkpoints),
        (_, other) => unreachable!("{other} is in ROUTES and has no handler"),
    }
}

/// The server's routes, behind what is asked of every request.
pub(crate) fn router(shared: &Arc<Shared>) -> Router {
    table(&ROUTES, handler)
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn_with_state(Arc::clone(shared), guard))
        .with_state(Arc::clone(shared))
}

async fn unknown(uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::of(StatusCode::NOT_FOUND, format!("there is no {path} here")).into_response()
}

async fn not_allowed(method: Method, uri: Uri) -> Response {
    let message = wrong_method(&ROUTES, &method, uri.path());
    ApiError::of(StatusCode::METHOD_NOT_ALLOWED, message).into_response()
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    if shared.stopping.load(Ordering::Relaxed) {
        return ApiError::stopping().into_response();
    }
    pages::of("application/json", "{\"status\":\"ok\"}".to_owned())
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let mut response = shared.metrics.text().into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_has_its_handler() {
        for route in &ROUTES {
            let _ = handler(route);
            assert!(matches!(route.method, "GET" | "POST" | "DELETE"));
            // Access is looked up by the path alone
            let same = ROUTES.iter().filter(|other| other.path == route.path);
            assert!(same.clone().all(|other| other.access == route.access), "{}", route.path);
            assert_eq!(
                same.filter(|other| other.method == route.method).count(),
                1,
                "{}",
                route.path
            );
        }
    }

    #[test]
    fn paths_find_their_routes() {
        let found = |path: &str| find(&ROUTES, path).map(|route| route.path);
        assert_eq!(found("/"), Some("/"));
        assert_eq!(found("/v1/models"), Some("/v1/models"));
        assert_eq!(found("/v1/models/org/name"), Some("/v1/models/{*model}"));
        assert_eq!(found("/v1/files/file-1"), Some("/v1/files/{id}"));
        assert_eq!(found("/v1/files/file-1/content"), Some("/v1/files/{id}/content"));
        assert_eq!(
            found("/v1/fine_tuning/jobs/x/events"),
            Some("/v1/fine_tuning/jobs/{id}/events")
        );
        for absent in [
            "",
            "/v1/models/",
            "/v1",
            "/healthz",
            "//",
            "/v1/files/",
            "/v1/files//content",
            "/v1/files/a/b",
            "/v1/fine_tuning",
        ] {
            assert_eq!(found(absent), None, "{absent}");
        }
    }
}
