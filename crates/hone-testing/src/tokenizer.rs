//! A tokenizer that writes a space before the text that it is given.

/// Characters that it knows beside the space.
const CHARACTERS: &str = "abcdefghijklmnopqrstuvwxyzQA:.,?!'\n";

/// The `tokenizer.json` of a small tokenizer of sentencepiece's kind, as Llama has it: a space is written before a text and taken from the
/// front of what is decoded. Ids: `<unk>`, `<s>`, `</s>`, the space, the other characters, and each small letter with a space before it.
/// Nothing is added around a text.
pub fn spaced_tokenizer_json() -> String {
    const SPACE: &str = "\u{2581}";
    let letters = || CHARACTERS.chars().filter(char::is_ascii_lowercase);
    let pieces = ["<unk>", "<s>", "</s>", SPACE].map(String::from).into_iter();
    let pieces = pieces.chain(CHARACTERS.chars().map(String::from));
    let pieces: Vec<String> = pieces.chain(letters().map(|c| format!("{SPACE}{c}"))).collect();
    let quoted = |piece: &String| piece.replace('\n', "\\n");
    let vocab: Vec<String> = (0..)
        .zip(&pieces)
        .map(|(id, p): (u32, _)| format!("\"{}\":{id}", quoted(p)))
        .collect();
    let merges: Vec<String> = letters().map(|c| format!("[\"{SPACE}\",\"{c}\"]")).collect();
    let control = |(id, content): (u32, &str)| {
        format!(
            "{{\"id\":{id},\"content\":\"{content}\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\
             \"special\":true}}"
        )
    };
    let added: Vec<String> = (0..).zip(["<unk>", "<s>", "</s>"]).map(control).collect();
    format!(
        "{{\"version\":\"1.0\",\"added_tokens\":[{}],\
         \"normalizer\":{{\"type\":\"Sequence\",\"normalizers\":[{{\"type\":\"Prepend\",\"prepend\":\"{SPACE}\"}},\
         {{\"type\":\"Replace\",\"pattern\":{{\"String\":\" \"}},\"content\":\"{SPACE}\"}}]}},\
         \"pre_tokenizer\":null,\"post_processor\":null,\
         \"decoder\":{{\"type\":\"Sequence\",\"decoders\":[{{\"type\":\"Replace\",\"pattern\":{{\"String\":\"{SPACE}\"}},\"content\":\" \"}},\
         {{\"type\":\"Fuse\"}},{{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}}]}},\
         \"model\":{{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"vocab\":{{{}}},\"merges\":[{}]}}}}",
        added.join(","),
        vocab.join(","),
        merges.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_json_whose_ids_follow_one_another() {
        let file: serde_json::Value = serde_json::from_str(&spaced_tokenizer_json()).unwrap();
        let vocab = file["model"]["vocab"].as_object().unwrap();
        let mut ids: Vec<u64> = vocab.values().map(|id| id.as_u64().unwrap()).collect();
        ids.sort_unstable();
        assert!(ids.iter().copied().eq(0..65), "{ids:?}");
        assert_eq!((&vocab["</s>"], &vocab["\u{2581}z"]), (&2.into(), &64.into()));
    }
}
