//! Who may ask: the host that a request names, the page it comes from, and its token.
//!
//! A page of another site can make a browser send requests here. It cannot choose the `Origin` that the browser adds, and
//! with a name of its own that resolves to this machine (DNS rebinding) it cannot choose the `Host`: so both are checked, on
//! every request, and no answer allows another origin to read it.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::ServeError;
use crate::openai::ApiError;
use crate::routes::{Access, ROUTES, find};
use crate::shared::Shared;

/// Characters that a token has at least.
pub const LEAST_TOKEN: usize = 16;

/// What browsers are to keep to on the pages of a server.
pub(crate) struct Rules {
    /// What pages may load, run and send forms to.
    content: &'static str,
    /// Whom links and forms tell where they stand.
    referrer: &'static str,
}

/// Pages load nothing from elsewhere, run nothing but their own file, and send no forms.
pub(crate) const TALKING: Rules = Rules {
    content: "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
              base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    referrer: "no-referrer",
};

/// The same, with forms that go to the server itself. Where nothing at all may be told, browsers hide a form's `Origin`.
pub(crate) const WATCHING: Rules = Rules {
    content: "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
              base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    referrer: "same-origin",
};

/// The same, and nothing is fetched.
pub(crate) const JUDGING: Rules = Rules {
    content: "default-src 'none'; script-src 'self'; style-src 'self'; \
              base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    referrer: "same-origin",
};

/// What is asked of a request before anything else.
pub(crate) struct Gate {
    /// Names that `Host` may have, as [`canonical`] writes them.
    hosts: Vec<String>,
    /// Whether it may also be any address written as numbers, which no other site can make a name of its own.
    any_address: bool,
    /// Digests of the tokens; without any none is asked for.
    tokens: Vec<blake3::Hash>,
    /// The option that gives the server another name.
    option: &'static str,
}

/// Reads a token: the one line of a file.
///
/// # Errors
/// If the file cannot be read, or holds less than [`LEAST_TOKEN`] characters or more than one word.
pub fn read_token(path: &Path) -> Result<String, ServeError> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ServeError::Token { path: name(), source })?;
    let token = text.trim();
    let visible = token.chars().all(|c| c.is_ascii_graphic());
    if token.len() < LEAST_TOKEN || !visible {
        let got = match visible {
            true => format!("has {} characters", token.len()),
            false => "is no single word of visible ASCII characters".to_owned(),
        };
        return Err(ServeError::WeakToken { path: name(), got });
    }
    Ok(token.to_owned())
}

impl Gate {
    /// For a server that was bound to `host`, whose address is `address`, and that goes by these other names.
    pub fn new(host: &str, address: IpAddr, names: &[String], tokens: &[String]) -> Self {
        // A port that is given with a name says nothing: any is let through
        let mut hosts: Vec<String> = names
            .iter()
            .map(|name| canonical(name_of(name).unwrap_or(name)))
            .collect();
        hosts.push(canonical(host));
        hosts.push(address.to_string());
        if address.is_loopback() || address.is_unspecified() {
            hosts.extend(["localhost", "127.0.0.1", "::1"].map(String::from));
        }
        Self {
            hosts,
            any_address: address.is_unspecified(),
            tokens: tokens.iter().map(|token| blake3::hash(token.as_bytes())).collect(),
            option: "--allow-host",
        }
    }

    /// Of a program whose option for other names is called this.
    pub fn with_option(self, option: &'static str) -> Self {
        Self { option, ..self }
    }

    /// Whether tokens are asked for.
    pub fn asks_for_tokens(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Whether a request may be told what only those with a token may: it has one, or none is asked for.
    pub fn trusts(&self, headers: &HeaderMap) -> bool {
        !self.asks_for_tokens() || self.knows(headers)
    }

    /// Refuses a request (its line's address and its headers) for another host, from another origin, or without a token
    /// where its route asks for one.
    ///
    /// # Errors
    /// 403 and 401.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap, access: Access) -> Result<(), ApiError> {
        let host = self.host(uri, headers)?;
        for origin in headers.get_all(ORIGIN) {
            let origin = origin.to_str().unwrap_or_default();
            let own = origin.split_once("://").is_some_and(|(scheme, rest)| {
                (scheme == "http" || scheme == "https") && rest.eq_ignore_ascii_case(&host)
            });
            if !own {
                let shown: String = origin.chars().take(100).collect();
                return Err(forbidden(format!(
                    "a page of {shown:?} may not ask this server; only its own page at {host} may"
                )));
            }
        }
        if access == Access::Token && !self.trusts(headers) {
            let message = "no valid token; expected the header `Authorization: Bearer TOKEN` (in clients: the API key)";
            let mut error = ApiError::of(StatusCode::UNAUTHORIZED, message);
            error.code = Some("invalid_api_key");
            return Err(error);
        }
        Ok(())
    }

    /// What `Host` says, if it is a name of this server.
    fn host(&self, uri: &Uri, headers: &HeaderMap) -> Result<String, ApiError> {
        let mut values = headers.get_all(HOST).iter();
        let (Some(host), None) = (values.next(), values.next()) else {
            return Err(forbidden("expected one `Host` header"));
        };
        let host = host.to_str().unwrap_or_default();
        let absolute = uri.authority().map(|authority| authority.as_str());
        if absolute.is_some_and(|authority| !authority.eq_ignore_ascii_case(host)) {
            return Err(forbidden(
                "the request's line names another host than its `Host` header",
            ));
        }
        let name = name_of(host).map(canonical);
        let known =
            name.is_some_and(|name| self.hosts.contains(&name) || (self.any_address && name.parse::<IpAddr>().is_ok()));
        if known {
            return Ok(host.to_owned());
        }
        let shown: String = host.chars().take(100).collect();
        Err(forbidden(format!(
            "this server is not called {shown:?}; ask for its address, or start it with {} NAME",
            self.option
        )))
    }

    /// Whether the request has a valid token. The comparison takes as long for any token of the same length.
    pub fn knows(&self, headers: &HeaderMap) -> bool {
        let value = headers
            .get(AUTHORIZATION)
            .map(HeaderValue::as_bytes)
            .unwrap_or_default();
        let (scheme, token) = value.split_at(value.len().min("Bearer ".len()));
        let given = blake3::hash(token);
        // `blake3::Hash` compares in constant time; all tokens are compared, whichever is right
        let known = self.tokens.iter().fold(false, |known, token| known | (*token == given));
        known & scheme.eq_ignore_ascii_case(b"Bearer ")
    }
}

/// The name in `NAME`, `NAME:PORT` or `[ADDRESS]:PORT`.
fn name_of(host: &str) -> Option<&str> {
    let (name, rest) = match host.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let port = rest.strip_prefix(':');
    let sound = rest.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_ok());
    (sound && !name.is_empty()).then_some(name)
}

/// A name in lower case; an address as all write it.
fn canonical(name: &str) -> String {
    let name = name.trim_matches(['[', ']']);
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

fn forbidden(message: impl Into<String>) -> ApiError {
    ApiError::of(StatusCode::FORBIDDEN, message)
}

/// Lets a request through, or answers it with why not; adds to every answer what browsers are to keep to.
pub(crate) async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let route = find(&ROUTES, request.uri().path());
    // What is no route is not told apart from one without a token
    let access = route.map_or(Access::Token, |route| route.access);
    let mut response = match shared.gate.check(request.uri(), request.headers(), access) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    let status = response.status();
    shared
        .metrics
        .answered(route.map_or("other", |route| route.path), status.as_u16());
    protect(&mut response, &TALKING);
    if status == StatusCode::UNAUTHORIZED {
        let headers = response.headers_mut();
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Adds to an answer what browsers are to keep to; what its handler has set already stays.
pub(crate) fn protect(response: &mut Response, rules: &Rules) {
    let fixed: [(&str, &'static str); 6] = [
        ("content-security-policy", rules.content),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", rules.referrer),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        // What is asked for changes, and is nobody else's
        ("cache-control", "no-store"),
    ];
    for (name, value) in fixed {
        let entry = response.headers_mut().entry(HeaderName::from_static(name));
        entry.or_insert(HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts() {
        assert_eq!(name_of("localhost"), Some("localhost"));
        assert_eq!(name_of("localhost:8080"), Some("localhost"));
        assert_eq!(name_of("[::1]:8080"), Some("::1"));
        assert_eq!(name_of("[::1]"), Some("::1"));
        for bad in ["", ":8080", "a:b", "a:", "a:70000", "[::1", "[]:1", "::1", "a:1:2"] {
            assert_eq!(name_of(bad), None, "{bad}");
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn status(gate: &Gate, pairs: &[(&'static str, &'static str)]) -> u16 {
        let checked = gate.check(&Uri::from_static("/x"), &headers(pairs), Access::Token);
        checked.err().map_or(200, |error| error.status.as_u16())
    }

    #[test]
    fn an_address_for_all_takes_addresses_and_its_own_names() {
        let token = "0123456789abcdef".to_owned();
        let gate = Gate::new("0.0.0.0", "0.0.0.0".parse().unwrap(), &["Box.Example".into()], &[token]);
        let with = |host: &'static str| status(&gate, &[("host", host), ("authorization", "Bearer 0123456789abcdef")]);
        for host in [
            "192.168.1.7:8080",
            "[fe80::1]:8080",
            "box.example",
            "BOX.example:1",
            "localhost",
        ] {
            assert_eq!(with(host), 200, "{host}");
        }
        for host in ["evil.example", "box.example.evil", "192.168.1.7.evil", "a b"] {
            assert_eq!(with(host), 403, "{host}");
        }
    }

    #[test]
    fn its_own_address_is_a_name_however_it_is_written() {
        let names = ["Proxy.Example:8443".to_owned()];
        let gate = Gate::new("box.lan", "192.168.1.5".parse().unwrap(), &names, &[]);
        for (host, expected) in [
            ("192.168.1.5:8080", 200),
            ("box.lan:8080", 200),
            ("proxy.example", 200),
            ("proxy.example:8443", 200),
            ("192.168.1.6:8080", 403),
            ("localhost:8080", 403),
        ] {
            assert_eq!(status(&gate, &[("host", host)]), expected, "{host}");
        }
        let gate = Gate::new("fd00:0::0001", "fd00::1".parse().unwrap(), &[], &[]);
        assert_eq!(status(&gate, &[("host", "[fd00::1]:8080")]), 200);
        assert_eq!(status(&gate, &[("host", "[FD00:0:0::1]:8080")]), 200);
        assert_eq!(status(&gate, &[("host", "[fd00::2]:8080")]), 403);
    }

    #[test]
    fn tokens_and_origins() {
        let tokens = ["0123456789abcdef".to_owned(), "fedcba9876543210".to_owned()];
        let gate = Gate::new("127.0.0.1", "127.0.0.1".parse().unwrap(), &[], &tokens);
        let host = ("host", "127.0.0.1:80");
        for (value, expected) in [
            ("Bearer 0123456789abcdef", 200),
            ("bearer fedcba9876543210", 200),
            ("Bearer 0123456789abcdee", 401),
            ("Bearer 0123456789abcdef ", 401),
            ("Basic  0123456789abcdef", 401),
            ("Bearer ", 401),
            ("", 401),
        ] {
            assert_eq!(status(&gate, &[host, ("authorization", value)]), expected, "{value:?}");
        }
        let open = Gate::new("127.0.0.1", "127.0.0.1".parse().unwrap(), &[], &[]);
        for (origin, expected) in [
            ("http://127.0.0.1:80", 200),
            ("https://127.0.0.1:80", 200),
            ("http://127.0.0.1:81", 403),
            ("http://localhost:80", 403),
            ("http://evil.example", 403),
            ("null", 403),
            ("ftp://127.0.0.1:80", 403),
            ("", 403),
        ] {
            assert_eq!(status(&open, &[host, ("origin", origin)]), expected, "{origin:?}");
        }
        assert_eq!(status(&open, &[]), 403);
        let mut twice = headers(&[host]);
        twice.append(HOST, HeaderValue::from_static("127.0.0.1:80"));
        assert!(open.check(&Uri::from_static("/x"), &twice, Access::Open).is_err());
        let absolute = Uri::from_static("http://evil.example/x");
        assert!(open.check(&absolute, &headers(&[host]), Access::Open).is_err());
    }
}
