//! Every route of a server with every method, host, origin and credential: one table for all servers.

use hone_serve::Route;

use crate::client::{Answer, Client};

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// The other name that the servers of these tests go by.
pub const NAME: &str = "box.example";

/// A route that is asked for with a method that it may not have, by somebody.
pub struct Case<'a, A> {
    pub route: &'a Route<A>,
    pub method: &'a str,
    /// Whether the path has this method.
    pub right: bool,
    pub who: &'a str,
}

/// A header's name and value.
pub type Header = (&'static str, String);

/// A server and who asks it.
pub struct Gates<'a, A> {
    pub client: &'a Client,
    pub routes: &'a [Route<A>],
    /// The path of a route's pattern.
    pub path: &'a dyn Fn(&str) -> String,
    /// Who asks.
    pub people: &'a [&'a str],
    /// The header by which somebody is known, for this case.
    pub credential: &'a dyn Fn(&Case<A>) -> Option<Header>,
    /// The status of what names the server and comes from its own page.
    pub expected: &'a dyn Fn(&Case<A>) -> u16,
}

/// Hosts that a request may name, and whether they are this server's.
fn hosts(port: u16) -> Vec<(String, bool)> {
    vec![
        (format!("127.0.0.1:{port}"), true),
        (format!("localhost:{port}"), true),
        (format!("LocalHost:{port}"), true),
        (format!("[::1]:{port}"), true),
        (NAME.into(), true),
        ("evil.example".into(), false),
        (format!("evil.example:{port}"), false),
        (format!("127.0.0.1.evil.example:{port}"), false),
        (format!("{NAME}.evil.example"), false),
        (format!("x{NAME}"), false),
        (format!("192.168.1.1:{port}"), false),
        (format!("127.0.0.2:{port}"), false),
        (String::new(), false),
    ]
}

/// Pages that a request may come from, and whether they are the server's own.
fn origins(host: &str) -> Vec<(Option<String>, bool)> {
    vec![
        (None, true),
        (Some(format!("http://{host}")), true),
        (Some(format!("https://{host}")), true),
        (Some("http://evil.example:1".into()), false),
        (Some(format!("http://{host}.evil.example")), false),
        (Some(format!("http://evil.example/{host}")), false),
        (Some(format!("ftp://{host}")), false),
        (Some("null".into()), false),
        (Some(String::new()), false),
    ]
}

impl<A: Copy> Gates<'_, A> {
    /// Asks everything of the table; `looked` sees every answer. Returns how many there were.
    pub fn check(&self, looked: impl Fn(&Case<A>, &Answer)) -> usize {
        let mut asked = 0;
        for (i, route) in self.routes.iter().enumerate() {
            if self.routes[..i].iter().any(|other| other.path == route.path) {
                continue;
            }
            for method in METHODS {
                let has = |other: &&Route<A>| other.path == route.path;
                let fits = |other: &Route<A>| other.method == method || (other.method == "GET" && method == "HEAD");
                let right = self.routes.iter().filter(has).any(fits);
                for who in self.people {
                    let case = Case {
                        route,
                        method,
                        right,
                        who,
                    };
                    asked += self.ask(&case, &looked);
                }
            }
        }
        asked
    }

    fn ask(&self, case: &Case<A>, looked: &impl Fn(&Case<A>, &Answer)) -> usize {
        let path = (self.path)(case.route.path);
        let mut asked = 0;
        for (host, own) in hosts(self.client.address.port()) {
            for (origin, same) in origins(&host) {
                let credential = (self.credential)(case);
                let mut headers = vec![("Host", host.as_str())];
                headers.extend(origin.as_deref().map(|origin| ("Origin", origin)));
                headers.extend(credential.as_ref().map(|(name, value)| (*name, value.as_str())));
                let answer = self.client.ask(case.method, &path, &headers, b"");
                let got = answer.status;
                let what = format!("{} {path} by {}, {headers:?}: {got}", case.method, case.who);
                let expected = if own && same { (self.expected)(case) } else { 403 };
                assert_eq!(got, expected, "{what}");
                // Nobody else's page may read an answer, put it into itself, or run anything in ours
                assert_eq!(answer.header("access-control-allow-origin"), None, "{what}");
                let policy = answer.header("content-security-policy").unwrap_or_default();
                let strict = policy.starts_with("default-src 'none';")
                    && policy.contains("frame-ancestors 'none'")
                    && policy.contains("base-uri 'none'")
                    && !policy.contains("unsafe")
                    && !policy.contains('*');
                assert!(strict, "{what}: {policy}");
                assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{what}");
                assert_eq!(
                    answer.header("cross-origin-resource-policy"),
                    Some("same-origin"),
                    "{what}"
                );
                assert!(
                    matches!(answer.header("referrer-policy"), Some("no-referrer" | "same-origin")),
                    "{what}"
                );
                assert!(answer.header("cache-control").is_some(), "{what}");
                looked(case, &answer);
                asked += 1;
            }
        }
        asked
    }
}

/// Addresses of this machine by which others reach it, so far as the system says.
pub fn outside() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the system only chooses the address it would send from
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// Asserts that a server is reached from this machine alone.
pub fn only_here(client: &Client) {
    assert!(client.address.ip().is_loopback(), "{}", client.address);
    if let Some(outside) = outside() {
        let reached = std::net::TcpStream::connect((outside, client.address.port()));
        assert!(reached.is_err(), "reached at {outside}");
    }
}
