//! A server on a free port, and a browser that fits on a page.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use hone_data::Message;
use hone_data::annotations::{Input, NewItem, Project, Response, Role, Settings, Store, TaskKind};
use hone_serve::annotate;
use tempfile::TempDir;

pub struct Server {
    _folder: TempDir,
    pub address: SocketAddr,
    /// A second handle on the store, as another program has it.
    pub store: Store,
    pub project: Project,
    /// Tokens of the owner and of two annotators.
    pub tokens: HashMap<&'static str, String>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

pub fn item(kind: TaskKind, number: usize, answers: usize) -> NewItem {
    NewItem {
        kind,
        input: Input {
            prompt: vec![Message::user(format!("question {number} <b>?"))],
            responses: (0..answers)
                .map(|i| Response {
                    model: Some(format!("secret-model-{i}")),
                    ..Response::new(format!("answer {i} <script>alert({i})</script>"))
                })
                .collect(),
        },
        gold: None,
    }
}

impl Server {
    pub fn start(items: Vec<NewItem>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("annotations.db");
        let store = Store::open(&path).unwrap();
        let settings = Settings {
            overlap: 2,
            guideline: "Be <kind>.".into(),
            gold_share: 0.0,
            ..Settings::default()
        };
        let project = store.put_project("helpful", &settings, 0).unwrap();
        store.add_items(&project, items).unwrap();
        let tokens = [
            ("owner", Role::Owner),
            ("ann", Role::Annotator),
            ("bob", Role::Annotator),
        ]
        .map(|(name, role)| {
            let link = annotate::invite(&store, name, role, 0).unwrap();
            (name, link.strip_prefix("/join?token=").unwrap().to_string())
        })
        .into();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let options = annotate::Options {
            store: Store::open(&path).unwrap(),
            project: project.clone(),
            listener,
            names: vec!["annotate.example.org".into()],
        };
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            annotate::serve(options, move || asked.load(Ordering::Relaxed)).unwrap();
        });
        Self {
            _folder: folder,
            address,
            store,
            project,
            tokens,
            stop,
            thread: Some(thread),
        }
    }

    /// A browser in which this person is signed in.
    pub fn signed_in(&self, name: &str) -> Browser {
        Browser {
            address: self.address,
            cookie: Some(format!("hone_annotate_{}={}", self.address.port(), self.tokens[name])),
        }
    }

    pub fn stranger(&self) -> Browser {
        Browser {
            address: self.address,
            cookie: None,
        }
    }
}

pub struct Browser {
    pub address: SocketAddr,
    pub cookie: Option<String>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value of a hidden field.
    pub fn hidden(&self, name: &str) -> String {
        let mark = format!("name=\"{name}\" value=\"");
        let rest = self
            .body
            .split(&mark)
            .nth(1)
            .unwrap_or_else(|| panic!("no {name} in {}", self.body));
        rest.split('"').next().unwrap().to_string()
    }
}

impl Browser {
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], None)
    }

    /// Sends a form as a page of the server does.
    pub fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let encoded: Vec<String> = fields
            .iter()
            .map(|(k, v)| format!("{}={}", encode(k), encode(v)))
            .collect();
        let origin = format!("http://{}", self.address);
        self.ask("POST", path, &[("Origin", &origin)], Some(&encoded.join("&")))
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Answer {
        let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request.push_str(&format!("Host: {}\r\n", self.address));
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(cookie) = &self.cookie {
            request.push_str(&format!("Cookie: other=1; {cookie}\r\n"));
        }
        if let Some(body) = body {
            let length = body.len();
            request.push_str(&format!(
                "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n"
            ));
        }
        request.push_str("\r\n");
        request.push_str(body.unwrap_or_default());
        let mut stream = TcpStream::connect(self.address).unwrap();
        // A server that refuses a large body need not read it
        let _ = stream.write_all(request.as_bytes());
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        parse(&bytes)
    }
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_string()))
        .collect();
    Answer {
        status,
        headers,
        body: body.to_string(),
    }
}
