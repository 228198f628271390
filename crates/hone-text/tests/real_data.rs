//! Checks against real tokenizers, where `HONE_DATA` names the folder that holds them.

use std::path::PathBuf;

use hone_text::{AddSpecial, SkipSpecial, Tokenizer, TrainOptions, train_bpe};

fn data(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("HONE_DATA")?;
    Some(PathBuf::from(root).join(path))
}

#[test]
fn gpt2() {
    let Some(dir) = data("tokenizers/gpt2") else {
        return;
    };
    let tokenizer = Tokenizer::from_dir(dir).unwrap();
    assert_eq!(tokenizer.vocab_size(), 50_257);
    assert_eq!(tokenizer.document_separator(), Some(50_256));
    // Ids that OpenAI's encoder gives.
    for (text, ids) in [
        ("Hello world", vec![15496, 995]),
        ("hello world", vec![31373, 995]),
        ("<|endoftext|>", vec![50256]),
        ("\n", vec![198]),
        ("\n\n", vec![628]),
    ] {
        assert_eq!(tokenizer.encode(text, AddSpecial::Yes).unwrap(), ids, "{text:?}");
    }
    assert_eq!(
        tokenizer.encode_ordinary("<|endoftext|>").unwrap(),
        [27, 91, 437, 1659, 5239, 91, 29]
    );
    let text = "naïve café — 水の 👩‍👩‍👧 it's 12,345\r\n\t!";
    let ids = tokenizer.encode_ordinary(text).unwrap();
    assert_eq!(tokenizer.decode(&ids, SkipSpecial::No).unwrap(), text);
}

#[test]
fn stories260k() {
    let Some(dir) = data("models/stories260k") else {
        return;
    };
    let tokenizer = Tokenizer::from_dir(dir).unwrap();
    assert_eq!(tokenizer.vocab_size(), 512);
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos(), tokenizer.unk()),
        (Some(1), Some(2), Some(0))
    );
    let text = "Once upon a time, there was a é 水.";
    let ids = tokenizer.encode(text, AddSpecial::Yes).unwrap();
    assert_eq!(ids[0], 1);
    assert_eq!(tokenizer.decode(&ids, SkipSpecial::Yes).unwrap(), text);
    let mut stream = tokenizer.decode_stream(SkipSpecial::Yes);
    let mut streamed = String::new();
    for &id in &ids {
        let piece = stream.push(id).unwrap();
        assert!(!piece.contains(char::REPLACEMENT_CHARACTER));
        streamed += &piece;
    }
    streamed += &stream.finish().unwrap();
    assert_eq!(streamed, text);
    assert!(!tokenizer.encode_ordinary("a</s>b").unwrap().contains(&2));
    for (before, after) in [
        ("Once upon", " a time"),
        ("Once up", "on a time"),
        ("She said:\n", "Yes é"),
    ] {
        let mut ids = tokenizer.encode(before, AddSpecial::Yes).unwrap();
        ids.extend(tokenizer.encode_after(before, after).unwrap());
        assert_eq!(
            tokenizer.decode(&ids, SkipSpecial::Yes).unwrap(),
            format!("{before}{after}")
        );
    }
}

#[test]
fn training_on_shakespeare() {
    let Some(path) = data("text/tinyshakespeare.txt") else {
        return;
    };
    let text = std::fs::read_to_string(path).unwrap();
    let documents = || text.split("\n\n").map(str::to_owned);
    let options = |threads| TrainOptions {
        vocab_size: 4096,
        threads,
        ..TrainOptions::default()
    };
    let tokenizer = train_bpe(documents(), &options(1)).unwrap();
    assert_eq!(tokenizer.vocab_size(), 4096);
    let again = train_bpe(documents(), &options(3)).unwrap();
    assert_eq!(tokenizer.digest(), again.digest());
    let ids = tokenizer.encode_ordinary(&text).unwrap();
    assert_eq!(tokenizer.decode(&ids, SkipSpecial::No).unwrap(), text);
    let bytes_per_token = text.len() as f64 / ids.len() as f64;
    assert!(bytes_per_token > 3.0, "{bytes_per_token}");
}
