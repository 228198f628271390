//! A server on a free port, and a browser that fits on a page.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use hone_data::Message;
use hone_data::annotations::{Input, NewItem, Project, Response, Role, Settings, SignIn, Store, TaskKind};
use hone_serve::{Patience, annotate};
use tempfile::TempDir;

use super::client::Client;
use super::gates::NAME;

pub struct Server {
    _folder: TempDir,
    pub address: SocketAddr,
    /// A second handle on the store, as another program has it.
    pub store: Store,
    pub project: Project,
    /// Tokens of the sessions of the owner and of two annotators.
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
        Self::with(items, Patience::default())
    }

    pub fn with(items: Vec<NewItem>, patience: Patience) -> Self {
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
        .map(|(name, role)| (name, session(&store, name, role)))
        .into();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let options = annotate::Options {
            store: Store::open(&path).unwrap(),
            project: project.clone(),
            listener,
            names: vec![NAME.into()],
            patience,
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

    /// The cookie of a session.
    pub fn cookie(&self, token: &str) -> String {
        format!("hone_annotate_{}={token}", self.address.port())
    }

    /// A browser in which this person is signed in.
    pub fn signed_in(&self, name: &str) -> Browser {
        Browser {
            address: self.address,
            cookie: Some(self.cookie(&self.tokens[name])),
        }
    }

    /// An invite link for somebody new, which nobody has opened.
    pub fn invite(&self, name: &str) -> String {
        annotate::invite(&self.store, name, Role::Annotator, 0).unwrap()
    }

    pub fn client(&self) -> Client {
        Client {
            address: self.address,
            token: None,
        }
    }

    pub fn stranger(&self) -> Browser {
        Browser {
            address: self.address,
            cookie: None,
        }
    }
}

/// The token of a new session of this person.
pub fn session(store: &Store, name: &str, role: Role) -> String {
    let link = annotate::invite(store, name, role, 0).unwrap();
    let invite = link.strip_prefix("/join?token=").unwrap();
    let token = annotate::new_token().unwrap();
    let sign_in = SignIn {
        invite: Store::token_digest(invite),
        session: Store::session_digest(&token),
        now: 0,
        expires: i64::MAX,
    };
    assert_eq!(store.join(sign_in).unwrap().unwrap().name, name);
    token
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
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
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
        let cookie = self.cookie.as_ref().map(|cookie| format!("other=1; {cookie}"));
        let mut all = headers.to_vec();
        all.extend(cookie.as_deref().map(|cookie| ("Cookie", cookie)));
        if body.is_some() && !headers.iter().any(|(name, _)| *name == "Content-Type") {
            all.push(("Content-Type", "application/x-www-form-urlencoded"));
        }
        let client = Client {
            address: self.address,
            token: None,
        };
        let answer = client.ask(method, path, &all, body.unwrap_or_default().as_bytes());
        Answer {
            status: answer.status,
            body: answer.text().to_owned(),
            headers: answer.headers,
        }
    }
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
