//! A client by hand: one request a connection, the answer read to its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// The longest that an answer may keep silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// The JSON of an answer that went well.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The error of one that did not, in OpenAI's form.
    #[track_caller]
    pub fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let value: Value = serde_json::from_slice(&self.body).expect("JSON");
        let error = value["error"].as_object().expect("an error");
        let keys: Vec<&str> = error.keys().map(String::as_str).collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
        value["error"].clone()
    }

    /// The data of server-sent events: JSON values, and the end after them.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("text/event-stream; charset=utf-8"));
        let text = self.text();
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        let parts: Vec<&str> = text.split_terminator("\n\n").collect();
        let (done, parts) = parts.split_last().expect("an end");
        assert_eq!(*done, "data: [DONE]");
        parts
            .iter()
            .map(|part| serde_json::from_str(part.strip_prefix("data: ").expect("data")).expect("JSON"))
            .collect()
    }
}

/// Where a server is, and how it is asked.
#[derive(Clone, Debug)]
pub struct Client {
    pub address: SocketAddr,
    pub token: Option<String>,
}

impl Client {
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        let kind = ("Content-Type", "application/json");
        self.ask("POST", path, &[kind], body.to_string().as_bytes())
    }

    /// Asks with the usual headers and these.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.connect();
        // A server that refuses early may close before all is sent
        let _ = stream.write_all(&self.request(method, path, headers, body));
        read(&stream)
    }

    /// Uploads a file as a form.
    pub fn upload(&self, name: &str, content: &[u8]) -> Answer {
        let file = format!("Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"");
        let purpose = "Content-Disposition: form-data; name=\"purpose\"";
        self.form(&[(purpose, b"fine-tune"), (&file, content)])
    }

    /// Sends a form of these parts.
    pub fn form(&self, parts: &[(&str, &[u8])]) -> Answer {
        let mut body = Vec::new();
        for (head, content) in parts {
            body.extend_from_slice(format!("--limit\r\n{head}\r\n\r\n").as_bytes());
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--limit--\r\n");
        let kind = ("Content-Type", "multipart/form-data; boundary=limit");
        self.ask("POST", "/v1/files", &[kind], &body)
    }

    /// Sends a request and reads nothing yet.
    pub fn begin(&self, path: &str, body: &Value) -> TcpStream {
        let mut stream = self.connect();
        let kind = ("Content-Type", "application/json");
        let request = self.request("POST", path, &[kind], body.to_string().as_bytes());
        stream.write_all(&request).expect("sent");
        stream
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let has = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        let mut add = |name: &str, value: &str| head.push_str(&format!("{name}: {value}\r\n"));
        if !has("host") {
            add("Host", &self.address.to_string());
        }
        if let Some(token) = self.token.as_ref().filter(|_| !has("authorization")) {
            add("Authorization", &format!("Bearer {token}"));
        }
        if !body.is_empty() && !has("content-length") {
            add("Content-Length", &body.len().to_string());
        }
        for (name, value) in headers {
            add(name, value);
        }
        head.push_str("\r\n");
        [head.as_bytes(), body].concat()
    }
}

/// Reads an answer to its end.
pub fn read(stream: &TcpStream) -> Answer {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a status");
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status in {line:?}"));
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
            None => break,
        }
    }
    let mut answer = Answer {
        status,
        headers,
        body: Vec::new(),
    };
    let chunked = answer.header("transfer-encoding") == Some("chunked");
    let length = answer
        .header("content-length")
        .and_then(|length| length.parse::<u64>().ok());
    if chunked {
        // Whatever came before a connection that was cut
        while let Some(chunk) = next_chunk(&mut reader) {
            answer.body.extend(chunk);
        }
    } else {
        let _ = reader.take(length.unwrap_or(u64::MAX)).read_to_end(&mut answer.body);
    }
    answer
}

fn next_chunk(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let length = usize::from_str_radix(line.trim(), 16)
        .ok()
        .filter(|&length| length > 0)?;
    let mut chunk = vec![0; length + 2];
    reader.read_exact(&mut chunk).ok()?;
    chunk.truncate(length);
    Some(chunk)
}
