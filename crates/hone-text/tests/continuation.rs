//! Text that goes on with other text: its tokens, behind those of what comes before, are decoded to both texts, without a space too many or
//! too few.

mod common;

use common::{Numbers, trained};
use hone_testing::spaced_tokenizer_json;
use hone_text::{AddSpecial, SkipSpecial, Tokenizer};
use serde_json::{Value, json};

/// The tokenizer with these sections instead of its own.
fn spaced(sections: &[(&str, Value)]) -> Tokenizer {
    let mut file: Value = serde_json::from_str(&spaced_tokenizer_json()).unwrap();
    for (name, section) in sections {
        file[name] = section.clone();
    }
    Tokenizer::from_json(&file.to_string()).unwrap()
}

fn metaspace(more: Value) -> Value {
    let mut section = json!({"type": "Metaspace", "replacement": "\u{2581}"});
    for (key, value) in more.as_object().unwrap() {
        section[key] = value.clone();
    }
    section
}

/// Every way in which files of sentencepiece's kind ask for the first space.
fn all_kinds() -> Vec<(&'static str, Tokenizer)> {
    let by = |section: Value| {
        spaced(&[
            ("normalizer", Value::Null),
            ("pre_tokenizer", section.clone()),
            ("decoder", section),
        ])
    };
    let sequence = json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace(json!({"prepend_scheme": "always"}))]});
    vec![
        ("a normaliser's", spaced(&[])),
        (
            "the first word's",
            by(metaspace(json!({"prepend_scheme": "first", "split": false}))),
        ),
        ("every word's", by(metaspace(json!({"prepend_scheme": "always"})))),
        (
            "as older files say it",
            by(metaspace(json!({"add_prefix_space": true}))),
        ),
        (
            "of a sequence",
            spaced(&[
                ("normalizer", Value::Null),
                ("pre_tokenizer", sequence),
                ("decoder", metaspace(json!({"prepend_scheme": "always"}))),
            ]),
        ),
    ]
}

#[test]
fn what_goes_on_with_a_text_has_the_spaces_that_it_is_written_with() {
    for (kind, tokenizer) in all_kinds() {
        // Where words are split at spaces, these are not tokens
        let splits = kind == "of a sequence";
        for (before, text) in [
            ("go", "ing on"),
            ("go", " on"),
            ("q:\n", "a."),
            ("a", "  b"),
            ("what", "?"),
            ("a", ""),
        ] {
            if splits && (before.contains('\n') || text.contains(' ')) {
                continue;
            }
            let mut ids = tokenizer.encode(before, AddSpecial::Yes).unwrap();
            ids.extend(tokenizer.encode_after(before, text).unwrap());
            let whole = tokenizer.decode(&ids, SkipSpecial::No).unwrap();
            assert_eq!(whole, format!("{before}{text}"), "{kind}");
        }
        // What goes on with nothing begins the text
        assert_eq!(
            tokenizer.encode_after("", "go").unwrap(),
            tokenizer.encode_ordinary("go").unwrap()
        );
        // Nothing in it is special
        let ids = tokenizer.encode_after("a", "</s>b<unk>").unwrap();
        assert!(!ids.contains(&2), "{kind}: {ids:?}");
    }
    // The ids of the usual kind, by hand: `g`, `o` without the space that a text alone gets, ` o`, `n` with their own
    let tokenizer = spaced(&[]);
    let id = |token: &str| tokenizer.token_to_id(token).unwrap();
    assert_eq!(tokenizer.encode_after("a", "go").unwrap(), [id("g"), id("o")]);
    assert_eq!(tokenizer.encode_after("a", " on").unwrap(), [id("\u{2581}o"), id("n")]);
    assert_eq!(tokenizer.encode_ordinary("go").unwrap(), [id("\u{2581}g"), id("o")]);
    assert_eq!(tokenizer.encode_ordinary(" on").unwrap()[0], id("\u{2581}"));
}

#[test]
fn a_tokenizer_that_writes_no_space_has_the_same_tokens_anywhere() {
    let tokenizer = trained();
    let mut numbers = Numbers(11);
    for _ in 0..200 {
        let text = numbers.text(12);
        assert_eq!(
            tokenizer.encode_after("The river", &text).unwrap(),
            tokenizer.encode_ordinary(&text).unwrap(),
            "{text:?}"
        );
    }
    // One of bytes can write one, too
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    let file = std::fs::read_to_string(folder.path().join("tokenizer.json")).unwrap();
    assert!(file.contains("\"add_prefix_space\":false"), "no place for the setting");
    let file = file.replace("\"add_prefix_space\":false", "\"add_prefix_space\":true");
    let spaced = Tokenizer::from_json(&file).unwrap();
    assert_eq!(
        spaced.encode_ordinary("river").unwrap(),
        tokenizer.encode_ordinary(" river").unwrap()
    );
    for text in ["river", " river", "\n"] {
        assert_eq!(
            spaced.encode_after("The", text).unwrap(),
            tokenizer.encode_ordinary(text).unwrap()
        );
    }
}
