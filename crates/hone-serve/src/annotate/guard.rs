//! What every request and every answer goes through.

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::Failure;
use super::state::Shared;

/// Of pages, scripts and styles of our own only; nothing is framed, nothing is fetched, forms go nowhere else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// The most headers of a request, in bytes.
const MOST_HEADERS: usize = 16 << 10;

/// Refuses requests that do not name this server or come from another site, and adds the headers that every answer has.
pub(super) async fn check(State(state): State<Shared>, request: Request, next: Next) -> Response {
    let mut response = match allowed(request.headers(), &state.hosts) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    };
    let headers = response.headers_mut();
    let fixed: [(HeaderName, &'static str); 5] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // With `no-referrer` browsers send forms with `Origin: null`, as if from anywhere
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Tasks and agreement change with every judgement
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

fn allowed(headers: &HeaderMap, hosts: &[String]) -> Result<(), Failure> {
    let size: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if size > MOST_HEADERS {
        return Err(Failure::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "more than 16 KiB of headers",
        ));
    }
    let mut named = headers.get_all(header::HOST).iter();
    let host = named
        .next()
        .and_then(|value| value.to_str().ok())
        .map(str::to_ascii_lowercase);
    let known = host.as_ref().is_some_and(|host| hosts.contains(host)) && named.next().is_none();
    let Some(host) = host.filter(|_| known) else {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            "this server does not go by the name in the Host header of the request; use the address it printed when it started, \
             or start it with --name",
        ));
    };
    // Browsers say where a form comes from; other programs need not
    let foreign = headers.get_all(header::ORIGIN).iter().any(|origin| {
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        !["http://", "https://"]
            .iter()
            .any(|scheme| origin.strip_prefix(scheme) == Some(host.as_str()))
    });
    if foreign {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            "the request comes from a page of another site",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(pairs: &[(&str, &str)]) -> Option<StatusCode> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let hosts = ["127.0.0.1:80".to_string(), "example.org".into()];
        allowed(&headers, &hosts).err().map(|failure| failure.status)
    }

    #[test]
    fn hosts_and_origins() {
        let forbidden = Some(StatusCode::FORBIDDEN);
        let host = ("host", "127.0.0.1:80");
        assert_eq!(answer(&[host]), None);
        assert_eq!(answer(&[("host", "Example.org")]), None);
        assert_eq!(answer(&[host, ("origin", "http://127.0.0.1:80")]), None);
        assert_eq!(
            answer(&[("host", "example.org"), ("origin", "https://example.org")]),
            None
        );
        assert_eq!(answer(&[]), forbidden);
        assert_eq!(answer(&[("host", "evil.example")]), forbidden);
        assert_eq!(answer(&[host, ("host", "evil.example")]), forbidden);
        assert_eq!(answer(&[host, ("origin", "http://evil.example")]), forbidden);
        assert_eq!(answer(&[host, ("origin", "null")]), forbidden);
        assert_eq!(answer(&[host, ("origin", "http://example.org")]), forbidden);
        let long = "x".repeat(17 << 10);
        assert_eq!(
            answer(&[host, ("x-long", long.as_str())]),
            Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
        );
    }
}
