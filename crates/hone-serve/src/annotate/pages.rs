//! Templates, and the two files that pages load.

use std::sync::OnceLock;

use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use minijinja::{Environment, Value, context};

use super::error::Failure;

static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();

const TEMPLATES: [(&str, &str); 7] = [
    ("base.html", include_str!("files/base.html")),
    ("message.html", include_str!("files/message.html")),
    ("join.html", include_str!("files/join.html")),
    ("mine.html", include_str!("files/mine.html")),
    ("task.html", include_str!("files/task.html")),
    ("agreement.html", include_str!("files/agreement.html")),
    ("people.html", include_str!("files/people.html")),
];

/// Names that end in `.html` are escaped as HTML by default.
fn environment() -> &'static Environment<'static> {
    ENVIRONMENT.get_or_init(|| {
        let mut environment = Environment::new();
        for (name, text) in TEMPLATES {
            // A test takes each of them, so that a mistake in one is found there
            let _ = environment.add_template(name, text);
        }
        environment.add_filter("estimate", |value: Value| estimate(&value));
        environment.add_filter("two", |value: Value| two(&value));
        environment
    })
}

fn number(value: &Value) -> Option<f64> {
    f64::try_from(value.clone()).ok()
}

/// A number with two digits after the point; a dash where there is none.
fn two(value: &Value) -> String {
    number(value).map_or_else(|| "–".to_string(), |number| format!("{number:.2}"))
}

/// An estimate with its interval: `0.74 (0.61 to 0.85, n = 50)`.
fn estimate(value: &Value) -> String {
    let part = |name: &str| value.get_attr(name).ok().and_then(|part| number(&part));
    match (part("value"), part("low"), part("high"), part("n")) {
        (Some(value), Some(low), Some(high), Some(n)) => format!("{value:.2} ({low:.2} to {high:.2}, n = {n:.0})"),
        _ => "–".to_string(),
    }
}

/// A page.
pub(super) fn page(status: StatusCode, template: &str, context: Value) -> Response {
    let rendered = environment()
        .get_template(template)
        .and_then(|template| template.render(context));
    match rendered {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => {
            let text = format!("{template}: {error}");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

/// A page that says one thing.
pub(super) fn message(status: StatusCode, text: &str) -> Response {
    page(
        status,
        "message.html",
        context! { message => text, on => status.is_success() },
    )
}

pub(super) async fn not_found() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "There is no such page.")
}

pub(super) async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("files/annotate.css"))
}

pub(super) async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("files/annotate.js"))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    (
        [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")],
        text,
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_there_and_parses() {
        for (name, _) in TEMPLATES {
            environment().get_template(name).unwrap();
        }
    }

    #[test]
    fn text_is_never_markup() {
        let template = environment().get_template("message.html").unwrap();
        let page = template
            .render(context! { message => "<script>alert(1)</script>" })
            .unwrap();
        assert!(
            page.contains("&lt;script&gt;alert(1)&lt;") && !page.contains("<script>alert"),
            "{page}"
        );
    }

    #[test]
    fn estimates_are_written_with_their_interval() {
        let value = context! { value => 0.7432, low => 0.61, high => 0.849, n => 50 };
        assert_eq!(estimate(&value), "0.74 (0.61 to 0.85, n = 50)");
        assert_eq!(estimate(&Value::from(())), "–");
        assert_eq!(
            (two(&Value::from(1.005)), two(&Value::from(()))),
            ("1.00".into(), "–".into())
        );
    }
}
