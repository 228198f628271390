//! Tokenizer directories: GPT-2's files, roles, templates, and files that lie.

mod common;

use std::path::Path;

use common::trained;
use hone_text::{AddSpecial, Chat, SkipSpecial, TextError, Tokenizer};
use serde_json::{Value, json};

fn write(dir: &Path, name: &str, text: impl AsRef<[u8]>) {
    std::fs::write(dir.join(name), text).unwrap();
}

/// GPT-2's format with the bytes of "Hello, world" and three merges.
fn gpt2_files(dir: &Path, vocab: &str, merges: &str) {
    let tokens = [
        "H",
        "e",
        "l",
        "o",
        ",",
        "Ġ",
        "w",
        "r",
        "d",
        "He",
        "ll",
        "Ġw",
        "<|endoftext|>",
    ];
    let ids: serde_json::Map<String, Value> = (0..)
        .zip(tokens)
        .map(|(id, t): (u32, _)| (t.to_owned(), json!(id)))
        .collect();
    write(dir, vocab, Value::Object(ids).to_string());
    write(dir, merges, "#version: 0.2\nH e\nl l\nĠ w\n");
}

#[test]
fn gpt2_files_are_read_under_either_name() {
    let mut digests = Vec::new();
    for (vocab, merges) in [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")] {
        let dir = tempfile::tempdir().unwrap();
        gpt2_files(dir.path(), vocab, merges);
        let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 13);
        let ids = tokenizer.encode("Hello, world<|endoftext|>", AddSpecial::Yes).unwrap();
        assert_eq!(ids, [9, 10, 3, 4, 11, 3, 7, 2, 8, 12]);
        assert_eq!(tokenizer.decode(&ids, SkipSpecial::Yes).unwrap(), "Hello, world");
        assert_eq!(tokenizer.document_separator(), Some(12));
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(12), Some(12)));
        assert_eq!(tokenizer.eos_ids(), [12]);
        assert!(tokenizer.is_special(12));
        assert_eq!(tokenizer.chat_template(), None);
        digests.push(tokenizer.digest().to_owned());

        // What is written as tokenizer.json is the same tokenizer.
        let out = tempfile::tempdir().unwrap();
        tokenizer.save(out.path()).unwrap();
        let again = Tokenizer::from_dir(out.path()).unwrap();
        assert_eq!(again.digest(), tokenizer.digest());
        assert_eq!(again.encode("Hello, world", AddSpecial::No).unwrap(), ids[..9]);
    }
    assert_eq!(digests[0], digests[1]);
    assert_ne!(digests[0], trained().digest());
}

#[test]
fn chat_tokens_are_added_behind_the_vocabulary() {
    let dir = tempfile::tempdir().unwrap();
    gpt2_files(dir.path(), "vocab.json", "merges.txt");
    write(dir.path(), "tokenizer_config.json", r#"{"eos_token": "<|endoftext|>"}"#);
    let mut tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    let before = tokenizer.digest().to_owned();
    assert_eq!(tokenizer.add_chat_tokens().unwrap(), [13, 14]);
    assert_eq!(tokenizer.vocab_size(), 15);
    assert_eq!(tokenizer.eos(), Some(14));
    assert_eq!(tokenizer.eos_ids(), [14, 12]);
    assert_eq!(tokenizer.pad(), Some(12));
    assert_ne!(tokenizer.digest(), before);
    assert_eq!(tokenizer.encode("He<|im_end|>", AddSpecial::No).unwrap(), [9, 14]);
    // A second time nothing changes.
    let digest = tokenizer.digest().to_owned();
    assert_eq!(tokenizer.add_chat_tokens().unwrap(), [13, 14]);
    assert_eq!(
        (tokenizer.digest(), tokenizer.eos_ids()),
        (digest.as_str(), &[14, 12][..])
    );

    let out = tempfile::tempdir().unwrap();
    tokenizer.save(out.path()).unwrap();
    let read = Tokenizer::from_dir(out.path()).unwrap();
    assert_eq!(read.eos_ids(), [14, 12]);
    assert_eq!(read.digest(), tokenizer.digest());
    Chat::new(&read).unwrap();
}

#[test]
fn roles_come_from_the_configuration_files() {
    let dir = tempfile::tempdir().unwrap();
    trained().save(dir.path()).unwrap();
    let path = dir.path();
    std::fs::remove_file(path.join("generation_config.json")).unwrap();
    // Objects and strings, and a file of lower rank that disagrees.
    write(
        path,
        "tokenizer_config.json",
        r#"{"eos_token": {"content": "<|im_end|>"}, "pad_token": "[absent]"}"#,
    );
    write(
        path,
        "special_tokens_map.json",
        r#"{"eos_token": "<|endoftext|>", "bos_token": "<|im_start|>"}"#,
    );
    let tokenizer = Tokenizer::from_dir(path).unwrap();
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos(), tokenizer.pad()),
        (Some(1), Some(2), None)
    );
    assert_eq!(tokenizer.eos_ids(), [2]);

    // A letter as a second end of generation becomes a control token.
    write(
        path,
        "generation_config.json",
        r#"{"eos_token_id": [0, 2, 40], "pad_token_id": 0}"#,
    );
    let tokenizer = Tokenizer::from_dir(path).unwrap();
    assert_eq!(tokenizer.eos_ids(), [2, 0, 40]);
    assert_eq!(tokenizer.pad(), Some(0));
    assert!(tokenizer.is_special(40));

    std::fs::remove_file(path.join("generation_config.json")).unwrap();
    write(path, "tokenizer_config.json", "{}");
    write(path, "special_tokens_map.json", "{}");
    write(path, "config.json", r#"{"bos_token_id": 0, "eos_token_id": 2}"#);
    let tokenizer = Tokenizer::from_dir(path).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(0), Some(2)));

    for (name, text) in [
        ("config.json", r#"{"eos_token_id": 99999}"#),
        ("generation_config.json", r#"{"eos_token_id": "two"}"#),
        ("tokenizer_config.json", r#"{"eos_token": "<absent>"}"#),
    ] {
        let kept = std::fs::read(path.join(name)).ok();
        write(path, name, text);
        let error = Tokenizer::from_dir(path).unwrap_err();
        assert!(matches!(error, TextError::UnknownSpecialToken { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        match kept {
            Some(kept) => write(path, name, kept),
            None => std::fs::remove_file(path.join(name)).unwrap(),
        }
    }
}

#[test]
fn chat_templates_are_found_in_all_three_places() {
    let dir = tempfile::tempdir().unwrap();
    trained().save(dir.path()).unwrap();
    write(
        dir.path(),
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]}"#,
    );
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.chat_template(), Some("A"));
    assert_eq!(tokenizer.named_chat_template("tool_use"), Some("B"));
    let out = tempfile::tempdir().unwrap();
    tokenizer.save(out.path()).unwrap();
    let again = Tokenizer::from_dir(out.path()).unwrap();
    assert_eq!(again.named_chat_template("tool_use"), Some("B"));
    assert_eq!(again.chat_template(), Some("A"));

    write(dir.path(), "chat_template.jinja", "C");
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.chat_template(), Some("C"));

    write(
        dir.path(),
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "x"}]}"#,
    );
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(error.to_string().contains("chat_template"), "{error}");
}

/// A well-formed file that the tests below damage.
fn good() -> Value {
    let dir = tempfile::tempdir().unwrap();
    gpt2_files(dir.path(), "vocab.json", "merges.txt");
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    tokenizer.save(dir.path()).unwrap();
    let text = std::fs::read_to_string(dir.path().join("tokenizer.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn damaged_files_are_refused_with_the_place() {
    type Damage = fn(&mut Value);
    let cases: Vec<(&str, Damage)> = vec![
        ("version is \"2.0\"", |v| v["version"] = json!("2.0")),
        ("not a tokenizer.json", |v| *v = json!([1, 2])),
        ("model", |v| v["model"] = json!({"type": "BPE"})),
        ("model.vocab", |v| v["model"]["vocab"] = json!({"H": -1})),
        ("id 1 is given to", |v| v["model"]["vocab"]["zz"] = json!(1)),
        ("not below", |v| v["model"]["vocab"]["zz"] = json!(4_000_000_000_u32)),
        ("model.merges[1]", |v| v["model"]["merges"][1] = json!(["l", "absent"])),
        ("the result \"eH\"", |v| v["model"]["merges"][0] = json!(["e", "H"])),
        ("is not a pair", |v| v["model"]["merges"] = json!(["H e", "l l l"])),
        ("lacks the prefix", |v| {
            v["model"]["continuing_subword_prefix"] = json!("\u{e9}\u{e9}")
        }),
        ("dropout", |v| v["model"]["dropout"] = json!(0.1)),
        ("unk_token", |v| v["model"]["unk_token"] = json!("<unk>")),
        ("is there twice", |v| {
            let t = v["added_tokens"][0].clone();
            v["added_tokens"].as_array_mut().unwrap().push(t);
        }),
        ("id 12 in the model's vocabulary", |v| {
            v["added_tokens"][0]["id"] = json!(3)
        }),
        ("has id 77", |v| {
            v["added_tokens"]
                .as_array_mut()
                .unwrap()
                .push(json!({"id": 77, "content": "<x>"}))
        }),
        ("most ids have none", |v| v["model"]["vocab"]["zz"] = json!(16_777_215)),
        ("is empty", |v| v["added_tokens"][0]["content"] = json!("")),
        ("vocabulary is empty", |v| {
            v["model"]["vocab"] = json!({});
            v["model"]["merges"] = json!([]);
            v["added_tokens"] = json!([]);
        }),
        (
            "",
            |v| {
                v["pre_tokenizer"] =
                    json!({"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": false})
            },
        ),
        ("", |v| {
            v["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "////"})
        }),
        ("", |v| v["model"]["type"] = json!("Unknown")),
        ("unk_id", |v| {
            v["model"] = json!({"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]})
        }),
    ];
    for (expected, damage) in cases {
        let mut file = good();
        damage(&mut file);
        let error = Tokenizer::from_json(&file.to_string()).unwrap_err();
        assert!(matches!(error, TextError::MalformedTokenizer { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
    Tokenizer::from_json(&good().to_string()).unwrap();
}

#[test]
fn what_panics_or_runs_away_while_encoding_is_an_error() {
    let mut file = good();
    file["pre_tokenizer"] = json!({
        "type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated", "invert": false
    });
    let tokenizer = Tokenizer::from_json(&file.to_string()).unwrap();
    let text = "a".repeat(60) + "b";
    let error = tokenizer.encode(&text, AddSpecial::No).unwrap_err();
    assert!(matches!(error, TextError::Encode { bytes: 61, .. }), "{error}");

    // A post-processor that puts ids beyond the vocabulary around the text.
    let mut file = good();
    file["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<x>": {"id": "<x>", "ids": [1000], "tokens": ["<x>"]}}
    });
    let tokenizer = Tokenizer::from_json(&file.to_string()).unwrap();
    tokenizer.encode("He", AddSpecial::No).unwrap();
    let error = tokenizer.encode("He", AddSpecial::Yes).unwrap_err();
    assert!(error.to_string().contains("1000"), "{error}");
}

#[test]
fn absent_large_and_misplaced_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(matches!(error, TextError::NoTokenizer { .. }), "{error}");

    write(
        dir.path(),
        "tokenizer.json",
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    );
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(matches!(error, TextError::LfsPointer { .. }), "{error}");

    write(dir.path(), "tokenizer.json", [b'{', 0xff, b'}']);
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(error.to_string().contains("UTF-8 at byte 1"), "{error}");

    // Sparse: the size is refused before anything is read.
    let file = std::fs::File::create(dir.path().join("tokenizer.json")).unwrap();
    file.set_len(65 << 20).unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(matches!(error, TextError::FileTooLarge { .. }), "{error}");

    let dir = tempfile::tempdir().unwrap();
    gpt2_files(dir.path(), "vocab.json", "merges.txt");
    write(dir.path(), "merges.txt", "#version: 0.2\nH e\nbroken\n");
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(error.to_string().contains("line 3"), "{error}");
    write(dir.path(), "vocab.json", "[1]");
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(error.to_string().contains("vocab.json"), "{error}");
}

#[test]
fn pieces_that_spell_a_control_token_do_not_become_it() {
    // A Unigram model whose vocabulary holds "</s>" as a piece.
    let pieces: Vec<Value> = ["<unk>", "</s>", "<", "/", "s", ">", "a"]
        .iter()
        .map(|piece| json!([piece, -1.0]))
        .collect();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    };
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "</s>")],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": false}
    });
    let tokenizer = Tokenizer::from_json(&file.to_string()).unwrap();
    assert_eq!(tokenizer.encode("a</s>", AddSpecial::No).unwrap(), [6, 1]);
    assert_eq!(tokenizer.encode_ordinary("a</s>").unwrap(), [6, 2, 3, 4, 5]);
    assert_eq!(tokenizer.unk(), Some(0));
    assert_eq!(tokenizer.encode_ordinary("aZ").unwrap(), [6, 0]);
}

#[test]
fn truncation_and_padding_in_a_file_are_not_applied() {
    let mut file = good();
    file["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "H"});
    let tokenizer = Tokenizer::from_json(&file.to_string()).unwrap();
    assert_eq!(tokenizer.encode("Hello", AddSpecial::Yes).unwrap(), [9, 10, 3]);
    assert_eq!(
        tokenizer.digest(),
        Tokenizer::from_json(&good().to_string()).unwrap().digest()
    );
}

#[test]
fn the_digest_is_of_the_meaning() {
    let base = Tokenizer::from_json(&good().to_string()).unwrap();
    let digest = |file: &Value| {
        let tokenizer = Tokenizer::from_json(&file.to_string()).unwrap();
        tokenizer.digest().to_owned()
    };
    let mut same = good();
    same["model"]["merges"] = json!(["H e", "l l", "Ġ w"]);
    same["model"].as_object_mut().unwrap().remove("byte_fallback");
    same["pre_tokenizer"].as_object_mut().unwrap().remove("use_regex");
    assert_eq!(digest(&same), base.digest());
    let mut other = good();
    other["model"]["merges"] = json!(["l l", "H e", "Ġ w"]);
    assert_ne!(digest(&other), base.digest());
    let mut other = good();
    other["pre_tokenizer"]["add_prefix_space"] = json!(true);
    assert_ne!(digest(&other), base.digest());
    assert_eq!(base.digest().len(), 64);
}

#[test]
fn ids_without_tokens_are_refused() {
    let tokenizer = trained();
    let error = tokenizer.decode(&[5, 320], SkipSpecial::Yes).unwrap_err();
    assert!(
        matches!(
            error,
            TextError::UnknownId {
                id: 320,
                vocab_size: 320
            }
        ),
        "{error}"
    );
    assert_eq!(tokenizer.token_bytes(u32::MAX), None);
    let mut stream = tokenizer.decode_stream(SkipSpecial::Yes);
    assert!(stream.push(320).is_err());
}

#[test]
fn files_damaged_at_random_never_bring_the_program_down() {
    let good = good().to_string();
    let mut numbers = common::Numbers(5);
    let mut refused = 0;
    for _ in 0..3000 {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..=numbers.below(3) {
            let place = numbers.below(bytes.len() as u64) as usize;
            match numbers.below(3) {
                0 => bytes[place] = b"0129{}[]\",:el "[numbers.below(14) as usize],
                1 => drop(bytes.remove(place)),
                _ => bytes.insert(place, b"0\"e,"[numbers.below(4) as usize]),
            }
        }
        match Tokenizer::from_json(&String::from_utf8_lossy(&bytes)) {
            Err(_) => refused += 1,
            // Whatever it now means, encoding ends with ids of its own or an error.
            Ok(tokenizer) => {
                if let Ok(ids) = tokenizer.encode("Hello, world<|endoftext|>", AddSpecial::Yes) {
                    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
                }
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn tokenizers_and_chats_are_shared_between_threads() {
    fn shared<T: Send + Sync>(value: T) -> T {
        value
    }
    let chat = shared(Chat::new(&shared(trained())).unwrap());
    let messages = [hone_text::Message::user("the river")];
    let expected = chat.prompt_ids(&messages).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(chat.prompt_ids(&messages).unwrap(), expected));
        }
    });
}
