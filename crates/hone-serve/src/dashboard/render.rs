//! Pages as HTML or as JSON.

use std::sync::OnceLock;

use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use hone_run::report;
use minijinja::{AutoEscape, Environment, Error, Output, State, Value as Shown, context, escape_formatter};
use serde_json::json;

use super::views::{View, charts_json};
use crate::openai::ApiError;

/// Characters of a text on a page; its file and the page's JSON have it whole.
const MAX_TEXT: usize = 8_000;

/// Names end in `.html`, so what is put into pages is escaped.
const TEMPLATES: [(&str, &str); 7] = [
    ("layout.html", include_str!("pages/layout.html")),
    ("parts.html", include_str!("pages/parts.html")),
    ("list.html", include_str!("pages/list.html")),
    ("run.html", include_str!("pages/run.html")),
    ("samples.html", include_str!("pages/samples.html")),
    ("compare.html", include_str!("pages/compare.html")),
    ("message.html", include_str!("pages/message.html")),
];

fn templates() -> Result<&'static Environment<'static>, String> {
    static MADE: OnceLock<Result<Environment<'static>, String>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_formatter(write_escaped);
        environment.add_filter("cut", cut);
        for (name, text) in TEMPLATES {
            environment
                .add_template(name, text)
                .map_err(|error| error.to_string())?;
        }
        Ok(environment)
    });
    made.as_ref().map_err(Clone::clone)
}

/// Text is escaped as in reports, which also makes visible what would turn the text around it about.
fn write_escaped(out: &mut Output, state: &State, value: &Shown) -> Result<(), Error> {
    match value.as_str() {
        Some(text) if !value.is_safe() && matches!(state.auto_escape(), AutoEscape::Html) => {
            out.write_str(&report::escape(text)).map_err(Error::from)
        }
        _ => escape_formatter(out, state, value),
    }
}

/// The beginning of a long text.
fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{} [... {} more bytes]", &text[..end], text.len() - end),
        None => text.to_owned(),
    }
}

/// The page as HTML; `twin` is the address of its JSON.
pub(super) fn html(view: &View, twin: &str) -> Result<String, String> {
    let group = |group: &report::ChartGroup| {
        let figures = group
            .charts
            .iter()
            .map(|chart| Shown::from_safe_string(chart.to_html()));
        context! { title => group.title, figures => figures.collect::<Vec<_>>() }
    };
    let page = context! {
        title => view.title,
        twin,
        live => true,
        page => Shown::from_serialize(&view.value),
        charts => view.charts.iter().map(group).collect::<Vec<_>>(),
        version => env!("CARGO_PKG_VERSION"),
    };
    rendered(view.template, page)
}

/// The page as JSON.
pub(super) fn json(view: View) -> String {
    let mut value = view.value;
    if let Some(fields) = value.as_object_mut().filter(|_| !view.charts.is_empty()) {
        fields.insert("charts".to_owned(), charts_json(&view.charts));
    }
    value.to_string()
}

fn rendered(template: &str, page: Shown) -> Result<String, String> {
    let template = templates()?.get_template(template).map_err(|error| error.to_string())?;
    template.render(page).map_err(|error| error.to_string())
}

/// An answer of this kind.
pub(super) fn of(kind: &'static str, text: impl IntoResponse) -> Response {
    let mut response = text.into_response();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

pub(super) const HTML: &str = "text/html; charset=utf-8";
pub(super) const JSON: &str = "application/json";

/// Says why there is no page; with `enter`, with a place to enter a token.
pub(super) fn message(status: StatusCode, text: &str, (as_json, enter): (bool, bool)) -> Response {
    let mut response = if as_json {
        ApiError::of(status, text).into_response()
    } else {
        let title = if enter {
            "Enter"
        } else {
            status.canonical_reason().unwrap_or("No page")
        };
        let page = context! { title, message => text, enter, live => false, version => env!("CARGO_PKG_VERSION") };
        of(
            HTML,
            rendered("message.html", page).unwrap_or_else(|error| json!(error).to_string()),
        )
    };
    *response.status_mut() = status;
    response
}

/// The style sheet: that of reports, and what pages have beyond it.
pub(super) fn style() -> String {
    report::style() + include_str!("pages/dashboard.css")
}

/// The program: what reads charts out, and what keeps pages up to date.
pub(super) fn script() -> String {
    // Charts are replaced on a live page, so the first part is a function that is called again
    format!(
        "function readOut() {{\n{}}}\n{}",
        report::HOVER_SCRIPT,
        include_str!("pages/dashboard.js")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_sound() {
        assert!(templates().is_ok(), "{:?}", templates().err());
        assert_eq!(cut(&"x".repeat(9_000)).len(), 8_000 + " [... 1000 more bytes]".len());
    }

    #[test]
    fn text_is_escaped_and_visible() {
        let hostile = "<script>alert(1)</script>\"'\u{202e}\0";
        let response = message(StatusCode::NOT_FOUND, hostile, (false, false));
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        let page = context! { title => hostile, message => hostile, enter => false, live => false, version => "1" };
        let text = rendered("message.html", page).unwrap();
        assert!(
            !text.contains("<script>alert") && !text.contains('\u{202e}') && !text.contains('\0'),
            "{text}"
        );
        assert!(
            text.contains("&lt;script&gt;alert(1)") && text.contains("\\u{202e}\\u{0}"),
            "{text}"
        );
    }
}
