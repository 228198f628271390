//! `/v1/files`: what is taken, what is refused, and how it comes back.

use std::io::Write;

use hone_serve::{JobOptions, Options};
use serde_json::{Value, json};

use crate::client::read;
use crate::common::{Running, models};

/// Bytes of a file that these servers take.
const MOST: u64 = 100_000;

fn served() -> (tempfile::TempDir, Running) {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options {
        jobs: Some(JobOptions {
            directory: folder.path().join("store"),
            program: "absent".into(),
            sources: Default::default(),
            threads: None,
            file_bytes: MOST,
        }),
        ..Options::default()
    };
    let server = Running::with(models, options);
    (folder, server)
}

fn row(content: &str) -> String {
    json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]}).to_string()
        + "\n"
}

#[test]
fn http_files_are_taken_listed_read_and_deleted() {
    let (folder, server) = served();
    let rows = format!("{}\r\n{}", row("a\r\n--limit"), row("é").trim_end());
    let file = server.client.upload("../dir/my rows.jsonl", rows.as_bytes()).json();
    let id = file["id"].as_str().unwrap();
    assert!(id.starts_with("file-"));
    assert_eq!(
        (&file["filename"], &file["bytes"]),
        (&json!("my rows.jsonl"), &json!(rows.len()))
    );
    assert_eq!(
        (&file["purpose"], &file["status"], &file["rows"]),
        (&json!("fine-tune"), &json!("processed"), &json!(2))
    );
    let path = format!("/v1/files/{id}");
    assert_eq!(server.client.get(&path).json(), file);
    assert_eq!(server.client.get(&format!("{path}/content")).body, rows.as_bytes());
    let other = server.client.upload("b.jsonl", row("b").as_bytes()).json();
    let ids = |path: &str| -> Vec<Value> {
        let page = server.client.get(path).json();
        page["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| file["id"].clone())
            .collect()
    };
    assert_eq!(ids("/v1/files"), [other["id"].clone(), file["id"].clone()]);
    assert_eq!(ids("/v1/files?order=asc&limit=1"), [file["id"].clone()]);
    assert_eq!(ids("/v1/files?purpose=batch"), Vec::<Value>::new());
    let deleted = server.client.ask("DELETE", &path, &[], b"").json();
    assert_eq!(deleted, json!({"id": id, "object": "file", "deleted": true}));
    for answer in [
        server.client.get(&path),
        server.client.ask("DELETE", &path, &[], b""),
        server.client.get(&format!("{path}/content")),
    ] {
        assert_eq!(answer.error(404)["code"], "file_not_found");
    }
    for outside in ["/v1/files/..%2F..%2Fetc%2Fpasswd", "/v1/files/..%2Flock/content"] {
        assert_eq!(server.client.get(outside).status, 404, "{outside}");
    }
    drop(server);
    let stored = std::fs::read_dir(folder.path().join("store/files")).unwrap().count();
    assert_eq!(stored, 1);
}

#[test]
fn http_files_that_cannot_be_learned_from_are_refused_with_the_line() {
    let (folder, server) = served();
    let good = row("a");
    for (rows, said) in [
        (
            format!("{good}{good}{{\"messages\": 3}}\n"),
            "line 3: `messages` is 3; expected a list of messages",
        ),
        (format!("{good}not json\n"), "line 2: is not JSON"),
        (
            format!("{good}{{\"prompt\": \"a\", \"completion\": \"b\"}}\n"),
            "line 2: has the keys [\"prompt\", \"completion\"]",
        ),
        (String::new(), "the file has no rows"),
    ] {
        let error = server.client.upload("rows.jsonl", rows.as_bytes()).error(400);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(said), "{message}\nshould say {said}");
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!("file"), &json!("invalid_file_format"))
        );
    }
    let purpose = "Content-Disposition: form-data; name=\"purpose\"";
    let file = "Content-Disposition: form-data; name=\"file\"; filename=\"a\"";
    let rows = good.as_bytes();
    for (parts, param) in [
        (vec![(purpose, &b"assistants"[..]), (file, rows)], "purpose"),
        (vec![(file, rows)], "purpose"),
        (vec![(purpose, &b"fine-tune"[..])], "file"),
        (vec![(purpose, &[b'x'; 300][..]), (file, rows)], "purpose"),
        (vec![(file, rows), (file, rows), (purpose, &b"fine-tune"[..])], "file"),
        (
            vec![("Content-Disposition: form-data; name=\"other\"", &b"x"[..])],
            "other",
        ),
    ] {
        assert_eq!(server.client.form(&parts).error(400)["param"], param);
    }
    // A file before its purpose is taken as well
    server.client.form(&[(file, rows), (purpose, b"fine-tune")]).json();
    let json = ("Content-Type", "application/json");
    server.client.ask("POST", "/v1/files", &[json], b"{}").error(415);
    let kind = ("Content-Type", "multipart/form-data; boundary=limit");
    let cut = server.client.ask(
        "POST",
        "/v1/files",
        &[kind],
        b"--limit\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc",
    );
    assert!(cut.error(400)["message"].as_str().unwrap().contains("cut off"));
    // Nothing of them is kept
    assert_eq!(
        server.client.get("/v1/files").json()["data"].as_array().unwrap().len(),
        1
    );
    assert_eq!(
        std::fs::read_dir(folder.path().join("store/incoming")).unwrap().count(),
        0
    );
}

#[test]
fn http_files_have_a_limit_before_they_are_stored() {
    let (folder, server) = served();
    // By its length, before a byte of it is read
    let kind = ("Content-Type", "multipart/form-data; boundary=limit");
    let length = ("Content-Length", "9000000000");
    let error = server.client.ask("POST", "/v1/files", &[kind, length], b"").error(413);
    assert!(
        error["message"].as_str().unwrap().contains("longer than 100000 bytes"),
        "{error}"
    );
    // And while it comes, where no length is told
    let mut stream = server.client.connect();
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
         Content-Type: multipart/form-data; boundary=limit\r\n\r\n",
        server.client.address
    );
    stream.write_all(head.as_bytes()).unwrap();
    let begin = "--limit\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n".to_owned();
    let piece = row(&"x".repeat(5000));
    for chunk in std::iter::once(begin).chain(std::iter::repeat_n(piece, 30)) {
        if stream
            .write_all(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes())
            .is_err()
        {
            break;
        }
    }
    read(&stream).error(413);
    // A form that is long beside its file
    let other = "Content-Disposition: form-data; name=\"purpose\"";
    assert!(matches!(
        server.client.form(&[(other, &[b'x'; 90_000])]).status,
        400 | 413
    ));
    let fits = row(&"x".repeat(90_000));
    server.client.upload("rows.jsonl", fits.as_bytes()).json();
    assert_eq!(
        std::fs::read_dir(folder.path().join("store/incoming")).unwrap().count(),
        0
    );
}

#[test]
fn http_one_server_at_a_time_has_a_folder_of_jobs() {
    let (folder, server) = served();
    let options = Options {
        port: 0,
        jobs: Some(JobOptions {
            directory: folder.path().join("store"),
            program: "absent".into(),
            sources: Default::default(),
            threads: None,
            file_bytes: MOST,
        }),
        ..Options::default()
    };
    let engine = crate::common::engine();
    let all = models(&engine);
    let error = hone_serve::Server::bind(engine, all, &options)
        .err()
        .expect("it is in use");
    assert!(
        error.is_usage() && error.to_string().contains("another server keeps its jobs there"),
        "{error}"
    );
    drop(server);
}
