//! What browsers keep of who uses them.

use axum::http::HeaderMap;
use axum::http::header::{COOKIE, HeaderValue, ORIGIN, SET_COOKIE};

/// A cookie's name: browsers keep cookies by host, whatever the port, and several servers may run on one.
pub(crate) fn name(server: &str, port: u16) -> String {
    format!("hone_{server}_{port}")
}

/// The values that a request has for this cookie.
pub(crate) fn values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(key, _)| *key == name).map(|(_, value)| value)
}

/// Gives a browser a cookie that no script reads and no other site's page or link sends, for so many seconds; 0 takes it away.
/// `asked` are the headers of the request: where its page came over https, the cookie goes over nothing else.
///
/// A name or a value that cannot stand in a header sets nothing.
pub(crate) fn set(answer: &mut HeaderMap, asked: &HeaderMap, (name, value): (&str, &str), seconds: u64) {
    let origin = asked.get(ORIGIN).map(HeaderValue::as_bytes).unwrap_or_default();
    let secure = match origin.starts_with(b"https://") {
        true => "; Secure",
        false => "",
    };
    let cookie = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        answer.append(SET_COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; hone_x_80=two ;xhone_x_8=no"));
        headers.append(COOKIE, HeaderValue::from_static("hone_x_8=three=3"));
        let found = |name: &str| values(&headers, name).map(String::from).collect::<Vec<_>>();
        assert_eq!(found(&name("x", 80)), ["two"]);
        assert_eq!(found(&name("x", 8)), ["three=3"]);
        assert!(found("hone_x").is_empty());
    }

    #[test]
    fn over_https_it_is_secure() {
        for (origin, secure) in [(None, false), (Some("http://a"), false), (Some("https://a"), true)] {
            let mut asked = HeaderMap::new();
            if let Some(origin) = origin {
                asked.insert(ORIGIN, HeaderValue::from_static(origin));
            }
            let mut answer = HeaderMap::new();
            set(&mut answer, &asked, ("n", "v"), 9);
            let cookie = answer[SET_COOKIE].to_str().unwrap();
            assert!(
                cookie.starts_with("n=v; Path=/; Max-Age=9; HttpOnly; SameSite=Strict"),
                "{cookie}"
            );
            assert_eq!(cookie.ends_with("; Secure"), secure, "{cookie}");
        }
        let mut answer = HeaderMap::new();
        set(&mut answer, &HeaderMap::new(), ("n", "a\nb"), 9);
        assert!(answer.is_empty());
    }
}
