//! Names of models, files and jobs are text on every page, and what is not a page is none.

use hone_serve::{Options, ServedModel};
use serde_json::json;

use crate::common::{Running, engine, model, tokenizer};
use crate::injections::{harmless, same_markup, strings};
use crate::tuner::Tuner;

/// A text as the name of a file that a browser writes into a form; what stands before a `/` would be a folder.
fn file(text: &str) -> String {
    text.replace('"', "%22").replace(['/', '\\'], "\u{2215}")
}

/// A server of models of these names, to which files of these names were uploaded.
fn server(names: &[String], tuner: &Tuner) -> Running {
    let one = model(&engine(), 64, 5);
    let tokens = tokenizer();
    let models = names.iter().map(|name| ServedModel {
        name: name.clone(),
        parent: None,
        model: one.duplicate(),
        tokenizer: tokens.clone(),
    });
    let options = Options {
        jobs: tuner.options().jobs,
        ..Options::default()
    };
    let server = Running::with(|_| models.collect(), options);
    for name in names {
        let name = file(name);
        let row = json!({"messages": [{"role": "user", "content": name}, {"role": "assistant", "content": name}]});
        let answer = server.client.upload(&name, format!("{row}\n").as_bytes());
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    }
    server
}

#[test]
fn http_no_name_becomes_markup() {
    let (texts, plain) = (strings(), harmless());
    let (tuner, other_tuner) = (Tuner::new(), Tuner::new());
    let (hostile, other) = (server(&texts, &tuner), server(&plain, &other_tuner));
    for path in ["/", "/fine-tuning"] {
        let (page, expected) = (hostile.client.get(path), other.client.get(path));
        assert_eq!((page.status, expected.status), (200, 200), "{}", page.text());
        let read = same_markup(path, page.text(), expected.text());
        for text in &texts {
            assert!(read.contains(text.as_str()), "{text} in {path}");
            // And twice as a file
            let file = file(text);
            let times = read.matches(file.as_str()).count() + read.matches(&file.replace("%22", "\"")).count();
            assert!(path == "/" || times >= 2, "{file} in {path}");
        }
    }
    // What is said back is JSON, which no browser takes for a page
    for text in &texts {
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let said = [
            hostile.client.get(&format!("/v1/models/{encoded}x")),
            hostile.client.get(&format!("/{encoded}")),
            hostile.client.get(&format!("/v1/files?purpose={encoded}")),
            hostile
                .client
                .post("/v1/chat/completions", &json!({"model": text, text: 1})),
            hostile
                .client
                .post("/v1/fine_tuning/jobs", &json!({"model": "x", "training_file": text})),
        ];
        for answer in said {
            let kind = answer.header("content-type");
            assert!(
                kind.is_some_and(|kind| kind.starts_with("application/json")),
                "{text}: {kind:?}"
            );
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        }
    }
}
