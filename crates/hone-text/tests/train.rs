//! Training: the result does not depend on threads or on luck, and writes every text.

mod common;

use common::{Numbers, corpus, options, trained};
use hone_text::{AddSpecial, Digits, SkipSpecial, TextError, Tokenizer, TrainOptions, train_bpe};

fn files(tokenizer: &Tokenizer) -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    let paths = tokenizer.save(dir.path()).unwrap();
    paths
        .iter()
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect()
}

#[test]
fn the_same_text_gives_the_same_files_for_any_number_of_threads() {
    let train = |threads| {
        let options = TrainOptions {
            threads,
            ..options(500)
        };
        files(&train_bpe(corpus().into_iter(), &options).unwrap())
    };
    let once = train(1);
    let names: Vec<&str> = once.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "generation_config.json"
        ]
    );
    for threads in [1, 2, 5, 64] {
        assert!(train(threads) == once, "{threads} threads");
    }
}

#[test]
fn merges_are_the_most_frequent_pairs_and_ties_go_to_the_smaller_ids() {
    // "abab" 3 times and "cd" 6 times. Pairs: ab 6, ba 3, cd 6. The tie of ab and cd goes to ab,
    // whose ids are smaller; then cd; then (ab, ab) with 3, and nothing is left.
    let texts = ["abab\ncd\ncd\n"; 3].map(str::to_owned);
    let tokenizer = train_bpe(texts.into_iter(), &options(1000)).unwrap();
    let token = |id| tokenizer.id_to_token(id);
    assert_eq!(tokenizer.vocab_size(), 259 + 3);
    assert_eq!(token(259).as_deref(), Some("ab"));
    assert_eq!(token(260).as_deref(), Some("cd"));
    assert_eq!(token(261).as_deref(), Some("abab"));
}

#[test]
fn overlapping_pairs_are_counted_as_they_are_merged() {
    // "aaaaa" 4 times: (a,a) is counted 4 x 4 = 16 and merged from the left into aa aa a; then
    // (aa,aa) and (aa,a) have 4 each; (aa,a) holds the smaller id pair? a < aa, so (aa,a) first:
    // aa aaa, then (aa,aaa).
    let texts = ["aaaaa\n"; 4].map(str::to_owned);
    let tokenizer = train_bpe(texts.into_iter(), &options(1000)).unwrap();
    let tokens: Vec<_> = (259..tokenizer.vocab_size() as u32)
        .map(|id| tokenizer.id_to_token(id).unwrap())
        .collect();
    assert_eq!(tokens, ["aa", "aaa", "aaaaa"]);
    assert_eq!(tokenizer.encode("aaaaa", AddSpecial::No).unwrap(), [261]);
}

#[test]
fn parity_merges_equal_the_tokenizers_crates() {
    // The tokenizers crate's trainer has the same rule for ties where no token comes about in
    // two ways, so on this text both must find the same merges.
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{AddedToken, Trainer};

    let ours = train_bpe(corpus().into_iter(), &options(320)).unwrap();
    let json: serde_json::Value = {
        let dir = tempfile::tempdir().unwrap();
        ours.save(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("tokenizer.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let reference = tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(320)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
                .map(|token| AddedToken::from(token, true))
                .to_vec(),
        )
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let split = |text: &str| {
        use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
        let mut pieces = PreTokenizedString::from(text);
        reference.get_pre_tokenizer().unwrap().pre_tokenize(&mut pieces)?;
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(pieces.into_iter().map(|(s, _, _)| s.to_owned()).collect())
    };
    trainer.feed(corpus().iter(), split).unwrap();
    let mut model = BPE::default();
    trainer.train(&mut model).unwrap();
    let expected = model.get_vocab();
    assert_eq!(expected.len(), ours.vocab_size());
    for (token, id) in expected {
        assert_eq!(ours.token_to_id(&token), Some(id), "{token}");
    }
    let written = serde_json::to_value(&model).unwrap();
    assert_eq!(written["merges"], json["model"]["merges"]);
}

#[test]
fn control_tokens_come_first_and_have_their_roles() {
    let tokenizer = trained();
    let special: Vec<_> = tokenizer.special_tokens().collect();
    assert_eq!(special, [(0, "<|endoftext|>"), (1, "<|im_start|>"), (2, "<|im_end|>")]);
    assert_eq!(tokenizer.bos(), Some(0));
    assert_eq!(tokenizer.pad(), Some(0));
    assert_eq!(tokenizer.eos(), Some(2));
    assert_eq!(tokenizer.eos_ids(), [2, 0]);
    assert_eq!(tokenizer.document_separator(), Some(0));
    assert_eq!(tokenizer.vocab_size(), 320);
    assert!(tokenizer.chat_template().unwrap().contains("<|im_start|>"));
}

#[test]
fn digits_stand_alone_unless_asked_otherwise() {
    let text = || (0..200).map(|i| format!("{} 2024 2024", i % 7));
    let spelled = |tokenizer: &Tokenizer, text: &str| -> Vec<String> {
        let ids = tokenizer.encode(text, AddSpecial::No).unwrap();
        ids.iter().map(|&id| tokenizer.id_to_token(id).unwrap()).collect()
    };
    let single = train_bpe(text(), &options(300)).unwrap();
    assert_eq!(spelled(&single, "2024"), ["2", "0", "2", "4"]);
    let grouped = TrainOptions {
        digits: Digits::UpToThree,
        ..options(300)
    };
    let grouped = train_bpe(text(), &grouped).unwrap();
    assert_eq!(spelled(&grouped, "2024"), ["202", "4"]);
}

#[test]
fn every_text_comes_back() {
    let tokenizer = trained();
    let mut numbers = Numbers(7);
    for length in 0..300 {
        let text = numbers.text(length % 40);
        let ordinary = tokenizer.encode_ordinary(&text).unwrap();
        assert!(ordinary.iter().all(|&id| !tokenizer.is_special(id)));
        for ids in [ordinary, tokenizer.encode(&text, AddSpecial::Yes).unwrap()] {
            assert_eq!(tokenizer.decode(&ids, SkipSpecial::No).unwrap(), text);
            let bytes: Vec<u8> = ids
                .iter()
                .flat_map(|&id| tokenizer.token_bytes(id).unwrap().to_vec())
                .collect();
            assert_eq!(bytes, text.as_bytes());
        }
    }
}

#[test]
fn every_byte_has_a_token() {
    let tokenizer = trained();
    let mut found: Vec<u8> = (3..259)
        .map(|id| {
            let bytes = tokenizer.token_bytes(id).unwrap();
            assert_eq!(bytes.len(), 1);
            bytes[0]
        })
        .collect();
    found.sort_unstable();
    assert!(found.into_iter().eq(0..=255));
}

#[test]
fn streaming_gives_whole_characters_and_the_same_text() {
    let tokenizer = trained();
    let mut numbers = Numbers(11);
    for _ in 0..200 {
        // Ids at random: bytes that are not UTF-8 among them.
        let ids: Vec<u32> = (0..30).map(|_| numbers.below(320) as u32).collect();
        for skip in [SkipSpecial::Yes, SkipSpecial::No] {
            let mut stream = tokenizer.decode_stream(skip);
            let mut text = String::new();
            for &id in &ids {
                text += &stream.push(id).unwrap();
            }
            text += &stream.finish().unwrap();
            assert_eq!(text, tokenizer.decode(&ids, skip).unwrap());
        }
    }
    let mut stream = tokenizer.decode_stream(SkipSpecial::Yes);
    let pieces: Vec<String> = tokenizer
        .encode("水", AddSpecial::No)
        .unwrap()
        .into_iter()
        .map(|id| stream.push(id).unwrap())
        .collect();
    assert_eq!(pieces, ["", "", "水"]);
}

#[test]
fn a_saved_tokenizer_is_the_same_when_read() {
    let tokenizer = trained();
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    let read = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(read.digest(), tokenizer.digest());
    assert_eq!(read.vocab_size(), tokenizer.vocab_size());
    assert_eq!(
        (read.bos(), read.eos(), read.pad(), read.eos_ids()),
        (tokenizer.bos(), tokenizer.eos(), tokenizer.pad(), tokenizer.eos_ids())
    );
    assert_eq!(read.chat_template(), tokenizer.chat_template());
    let text = "The sparrow paints 12 + 3.";
    assert_eq!(
        read.encode(text, AddSpecial::Yes).unwrap(),
        tokenizer.encode(text, AddSpecial::Yes).unwrap()
    );
    assert!(files(&read) == files(&tokenizer));
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let refuse = |texts: Vec<String>, size| {
        let error = train_bpe(texts.into_iter(), &options(size)).unwrap_err();
        assert!(matches!(error, TextError::Train { .. }), "{error}");
        error.to_string()
    };
    assert!(refuse(corpus(), 258).contains("258, expected 259"));
    assert!(refuse(corpus(), usize::MAX).contains("vocab_size"));
    assert!(refuse(Vec::new(), 400).contains("no text"));
    assert!(refuse(vec![String::new()], 400).contains("no text"));
}
