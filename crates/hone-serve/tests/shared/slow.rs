//! Clients that take their time: every server lets go of them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hone_serve::Patience;

use crate::client::{Client, read};

/// How long the servers of these tests wait.
pub const TIME: Duration = Duration::from_millis(400);
/// By when they have let go, on a machine that is busy.
const LONG: Duration = Duration::from_secs(20);

pub fn patience() -> Patience {
    Patience {
        headers: TIME,
        body: TIME,
        ..Patience::default()
    }
}

/// Sends this, then a byte now and then, until the server ends the connection; what it said, and after how long.
fn drip(client: &Client, beginning: &str) -> (String, Duration) {
    let mut stream = client.connect();
    stream.write_all(beginning.as_bytes()).expect("sent");
    let begun = Instant::now();
    let mut writer = stream.try_clone().expect("a handle");
    let dripping = std::thread::spawn(move || {
        while begun.elapsed() < LONG && writer.write_all(b"x").is_ok() {
            std::thread::sleep(TIME / 10);
        }
    });
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    let took = begun.elapsed();
    drop(stream);
    dripping.join().expect("no panic");
    (String::from_utf8_lossy(&said).into_owned(), took)
}

fn in_time(took: Duration) {
    assert!(took >= TIME / 2 && took < LONG / 2, "{took:?}");
}

/// Asserts that a server that has [`patience`] lets go of slow clients. `post` takes a form or JSON of this type, from whoever
/// sends these headers.
pub fn are_let_go(client: &Client, (post, kind): (&str, &str), headers: &str) {
    let host = client.address;
    // A request's line, and its headers, byte by byte
    for beginning in [
        "GET /".to_owned(),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Slow: "),
    ] {
        let (said, took) = drip(client, &beginning);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
        in_time(took);
    }
    // A connection on which nothing more is asked
    let mut stream = TcpStream::connect(host).expect("a connection");
    stream.set_read_timeout(Some(LONG)).expect("set");
    let begun = Instant::now();
    write!(stream, "GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n").expect("sent");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("an end");
    assert!(said.starts_with(b"HTTP/1.1 "), "{said:?}");
    in_time(begun.elapsed());
    // A body, byte by byte, whether it says how long it is
    let head =
        format!("POST {post} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\nContent-Type: {kind}\r\n");
    let (said, took) = drip(client, &format!("{head}Content-Length: 1000\r\n\r\n"));
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    assert!(
        said.contains("within 0.4 seconds") || said.contains("for 0.4 seconds"),
        "{said}"
    );
    in_time(took);
    let mut stream = client.connect();
    let begun = Instant::now();
    write!(stream, "{head}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").expect("sent");
    assert_eq!(read(&stream).status, 408);
    in_time(begun.elapsed());
}
