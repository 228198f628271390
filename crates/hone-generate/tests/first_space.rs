//! The space of a completion's first token: after raw text it stays, so that prompt and completion, one after the other, are what was
//! written; at the beginning of a text a tokenizer of sentencepiece's kind has it for itself.

use hone_generate::prompting::{AnswerEnd, Frame, Framer, Question};
use hone_generate::{Completion, Dialogue, FinishReason, completion_text, text_after, text_of};
use hone_testing::spaced_tokenizer_json;
use hone_text::{AddSpecial, PromptTemplate, Tokenizer, TrainOptions, train_bpe};

fn spaced() -> Tokenizer {
    Tokenizer::from_json(&spaced_tokenizer_json()).unwrap()
}

fn of_bytes() -> Tokenizer {
    let options = TrainOptions {
        vocab_size: 280,
        ..TrainOptions::default()
    };
    train_bpe(std::iter::once("go on and on".repeat(20)), &options).unwrap()
}

fn completion(ids: Vec<u32>, finish: FinishReason) -> Completion {
    Completion {
        logprobs: vec![-1.0; ids.len()],
        ids,
        finish,
    }
}

#[test]
fn prompt_and_completion_are_what_was_written() {
    for tokenizer in [spaced(), of_bytes()] {
        for (before, text) in [
            ("go", " on"),
            ("go", "ing"),
            ("a", "  b"),
            ("Q:", "\na"),
            ("q: ", "a"),
            ("what", ""),
        ] {
            let prompt = tokenizer.encode(before, AddSpecial::Yes).unwrap();
            let own = tokenizer.encode_after(before, text).unwrap();
            assert_eq!(text_after(&tokenizer, Some(&prompt), &own).unwrap(), text, "{before:?}");
            let whole = completion(own.clone(), FinishReason::Length);
            assert_eq!(completion_text(&tokenizer, Some(&prompt), &whole, &[]).unwrap(), text);
        }
        // Up to a stop text, and without the token that ended it
        let prompt = tokenizer.encode("go", AddSpecial::Yes).unwrap();
        let own = tokenizer.encode_after("go", " on and").unwrap();
        let stopped = completion(own.clone(), FinishReason::Stop);
        assert_eq!(
            completion_text(&tokenizer, Some(&prompt), &stopped, &[" and".into()]).unwrap(),
            " on"
        );
        let end = tokenizer.special_tokens().last().unwrap().0;
        let ended = completion([own, vec![end]].concat(), FinishReason::Stop);
        assert_eq!(
            completion_text(&tokenizer, Some(&prompt), &ended, &[]).unwrap(),
            " on and"
        );
    }
}

#[test]
fn a_text_of_its_own_begins_without_the_tokenizers_space() {
    let tokenizer = spaced();
    let own = tokenizer.encode_ordinary("on").unwrap();
    assert_eq!(text_of(&tokenizer, &own).unwrap(), "on");
    // A reply, and what follows a prompt without text, such as the token that begins a document
    for before in [None, Some(&[][..]), Some(&[1][..])] {
        assert_eq!(text_after(&tokenizer, before, &own).unwrap(), "on", "{before:?}");
    }
    assert_eq!(text_after(&tokenizer, Some(&[1, own[0]]), &own).unwrap(), " on");
}

#[test]
fn an_option_goes_on_with_its_prompt() {
    let tokenizer = spaced();
    let question = Question {
        turns: vec![hone_data::Message::user("go")],
        columns: serde_json::Map::new(),
    };
    let by = |template: &str| Frame::Template(Box::new(PromptTemplate::new(template).unwrap()));
    // After a space that ends the prompt the whole has other tokens than the prompt, so the option is encoded apart
    for (frame, expected) in [
        (Frame::Qa(AnswerEnd::Line), "Q: go\nA: on"),
        (by("{{ question }} "), "go on"),
        (by("{{ question }}\n"), "go\non"),
    ] {
        let framer = Framer::new(&tokenizer, &frame);
        let (prompt, options) = framer.with_options(&question, &[], &["on".into()], 100).unwrap();
        let whole = [&prompt.ids[..], &options[0]].concat();
        assert_eq!(text_of(&tokenizer, &whole).unwrap(), expected);
    }
}

#[test]
fn turns_that_are_lines_have_no_spaces_of_the_tokenizers() {
    let tokenizer = spaced();
    let dialogue = Dialogue::new(&tokenizer, None).unwrap();
    let mut ids = dialogue.first_turn("go.", "a.b", &[]).unwrap();
    for (action, said) in [("up", "up"), (" up", " up"), (" up\nand", " up")] {
        let own = tokenizer.encode_after("\n", action).unwrap();
        let finish = if action.contains('\n') {
            FinishReason::Stop
        } else {
            FinishReason::Length
        };
        assert_eq!(dialogue.action(&ids, &completion(own.clone(), finish)).unwrap(), said);
        ids.extend(own);
        ids.extend(dialogue.next_turn(&ids, "b.a").unwrap());
    }
    let text = text_of(&tokenizer, &ids).unwrap();
    assert_eq!(text, "go.\na.b\nup\nb.a\n up\nb.a\n up\nand\nb.a\n");
}
