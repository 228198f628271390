//! Episodes of an environment as tokens: what was sampled is known to the bit, and everything else is the environment's.

mod common;

use std::ops::Range;

use common::{architecture, engine, random_model};
use hone_compute::{Engine, Isa, Precision, SamplingParameters};
use hone_generate::{
    Completion, Dialogue, FinishReason, GenerateError, Generator, GeneratorOptions, PlayError, PlaySettings, Played,
    Request, logprobs_in, logprobs_of, play, text_of,
};
use hone_math::Key;
use hone_model::Transformer;
use hone_task::EnvironmentSetting;
use hone_task::environment::{MazeConfig, Status, WordGameConfig};
use hone_testing::assert_bits;
use hone_text::{AddSpecial, Chat, GenerationPrompt, Message, Tokenizer, TrainOptions, train_bpe};

/// A tokenizer with ChatML, or one without a template.
fn tokenizer(with_chat: bool) -> Tokenizer {
    let words = "up down left right moves coins the maze walls write whole way with words every word takes a move.\n";
    let options = TrainOptions {
        vocab_size: 320,
        ..TrainOptions::default()
    };
    let tokenizer = train_bpe(std::iter::once(words.repeat(20)), &options).unwrap();
    if with_chat {
        return tokenizer;
    }
    // The same without its template
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    for file in ["chat_template.jinja", "tokenizer_config.json"] {
        let path = folder.path().join(file);
        if let Ok(text) = std::fs::read_to_string(&path) {
            let Ok(mut config) = serde_json::from_str::<serde_json::Value>(&text) else {
                std::fs::remove_file(&path).unwrap();
                continue;
            };
            config.as_object_mut().unwrap().remove("chat_template");
            std::fs::write(&path, config.to_string()).unwrap();
        }
    }
    let bare = Tokenizer::from_dir(folder.path()).unwrap();
    assert!(bare.chat_template().is_none());
    bare
}

struct World {
    engine: Engine,
    model: Transformer,
    tokenizer: Tokenizer,
    chat: Option<Chat>,
}

impl World {
    fn new(with_chat: bool, context: usize) -> Self {
        let engine = engine(Isa::detect(), Precision::Bf16, 2);
        let tokenizer = tokenizer(with_chat);
        let mut architecture = architecture("llama", (4, 2, 8), tokenizer.vocab_size(), true);
        architecture.context = context;
        let model = random_model(&engine, &architecture, 1);
        let chat = with_chat.then(|| Chat::new(&tokenizer).unwrap());
        Self {
            engine,
            model,
            tokenizer,
            chat,
        }
    }

    fn dialogue(&self) -> Dialogue<'_> {
        Dialogue::new(&self.tokenizer, self.chat.as_ref()).unwrap()
    }

    fn play(
        &self,
        environment: &EnvironmentSetting,
        episodes: &[(u64, Key)],
        settings: &PlaySettings,
    ) -> Result<Option<Vec<Played>>, PlayError> {
        play(
            (&self.engine, &self.model),
            &self.dialogue(),
            environment,
            (episodes, settings),
            &mut || true,
        )
    }
}

fn maze(moves_per_turn: Option<usize>) -> EnvironmentSetting {
    EnvironmentSetting::Maze(MazeConfig {
        size: 3,
        moves: Some(6),
        moves_per_turn,
        ..MazeConfig::default()
    })
}

fn settings(max_turns: usize) -> PlaySettings {
    PlaySettings {
        seed: 5,
        max_turns,
        max_new_tokens: 6,
        sampling: SamplingParameters::default(),
        examples: Vec::new(),
    }
}

fn episodes(count: u64) -> Vec<(u64, Key)> {
    (0..count)
        .map(|i| (i / 2, Key::new(9, "episode", 0).child(i)))
        .collect()
}

/// What a played episode must be, told by the environment and the dialogue.
fn assert_sound(
    world: &World,
    environment: &EnvironmentSetting,
    ((index, key), played): ((u64, Key), &Played),
    plays: &PlaySettings,
) {
    let dialogue = world.dialogue();
    let mut told = environment.build().unwrap();
    told.reset(plays.seed, index).unwrap();
    let mut ids = dialogue
        .first_turn(&told.rules(), &told.observe(), &plays.examples)
        .unwrap();
    assert_eq!(played.spans.len(), played.turns.len());
    let mut reward = 0.0;
    for (number, (span, turn)) in played.spans.iter().zip(&played.turns).enumerate() {
        assert!(!span.is_empty() && span.len() <= plays.max_new_tokens);
        assert_eq!(
            ids.len(),
            span.start,
            "turn {number} begins where the environment ended"
        );
        ids.extend_from_slice(&played.ids[span.clone()]);
        assert_eq!(turn.observation, told.observe());
        told.step(&turn.action).unwrap();
        assert_eq!(turn.reward, told.reward());
        reward += turn.reward;
        if number + 1 < played.turns.len() {
            ids.extend(dialogue.next_turn(&ids, &told.observe()).unwrap());
        }
    }
    assert_eq!(&*played.ids, &ids[..]);
    // Each turn has random numbers of its own, the child of the episode's by its number
    if let Some(chat) = &world.chat {
        let generator = Generator::new(&world.engine, &world.model, GeneratorOptions::default());
        for (number, span) in played.spans.iter().enumerate() {
            let request = Request {
                prompt: played.ids[..span.start].into(),
                sampling: plays.sampling,
                key: key.child(number as u64),
                max_new_tokens: plays.max_new_tokens,
                stop_tokens: chat.stop_ids().unwrap().into(),
                stop_texts: None,
            };
            assert_eq!(generator.run(&[request]).unwrap()[0].ids, played.ids[span.clone()]);
        }
    }
    assert_eq!((played.reward, played.optimum), (reward, told.optimum()));
    // What was stored is what these tokens have
    let spans: &[Range<usize>] = &played.spans;
    let scores = logprobs_in(&world.engine, &world.model, (&[&played.ids], &[spans]), 1.0);
    assert_bits("sampled", &played.logprobs, &scores[0].logprobs);
    let all = logprobs_of(&world.engine, &world.model, &[&played.ids], 1.0);
    let picked: Vec<f32> = spans
        .iter()
        .flat_map(|span| &all[0].logprobs[span.start - 1..span.end - 1])
        .copied()
        .collect();
    assert_bits("picked", &played.logprobs, &picked);
}

#[test]
fn episodes_are_played_in_tokens_that_are_never_written_anew() {
    for with_chat in [true, false] {
        let world = World::new(with_chat, 600);
        for (environment, turns) in [
            (maze(None), 4),
            (maze(Some(2)), 9),
            (maze(Some(2)), 2),
            (EnvironmentSetting::WordGame(WordGameConfig::default()), 9),
        ] {
            let plays = settings(turns);
            let played = world.play(&environment, &episodes(6), &plays).unwrap().unwrap();
            for (episode, played) in episodes(6).into_iter().zip(&played) {
                assert_sound(&world, &environment, (episode, played), &plays);
                // By its own rules no episode takes more than six turns
                assert!(turns == 2 || played.status == Status::Ended);
                assert!(played.status != Status::CutOff || played.turns.len() == turns);
            }
            if environment == maze(None) {
                assert!(played.iter().all(|played| played.turns.len() == 1));
            } else {
                assert!(played.iter().any(|played| played.turns.len() > 1));
            }
            // The same start, and other random numbers
            let first = played[0].spans[0].start;
            assert_eq!(played[0].ids[..first], played[1].ids[..first]);
            assert!(played.chunks(2).any(|pair| pair[0].ids != pair[1].ids));
            // None depends on those beside it
            for (i, episode) in episodes(6).into_iter().enumerate() {
                let alone = world.play(&environment, &[episode], &plays).unwrap().unwrap();
                assert_eq!(alone[0].ids, played[i].ids);
                assert_bits("alone", &alone[0].logprobs, &played[i].logprobs);
            }
        }
    }
}

#[test]
fn a_dialogue_is_the_conversation_through_the_template() {
    let world = World::new(true, 600);
    let (chat, dialogue) = (world.chat.as_ref().unwrap(), world.dialogue());
    let examples = [("..o\n".to_owned(), "right right".to_owned())];
    let mut ids = dialogue.first_turn("Collect.", "@.o\n", &examples).unwrap();
    let mut messages = vec![
        Message::user("Collect.\n\n..o\n"),
        Message::assistant("right right"),
        Message::user("@.o\n"),
    ];
    assert_eq!(ids, chat.prompt_ids(&messages).unwrap());
    for (action, ends) in [("up", true), ("left up", false), ("", true)] {
        ids.extend(world.tokenizer.encode_ordinary(action).unwrap());
        // An action that was cut gets its end from the environment
        if ends {
            ids.push(chat.end_of_turn_id().unwrap());
        }
        ids.extend(dialogue.next_turn(&ids, "o.@\n").unwrap());
        messages.extend([Message::assistant(action), Message::user("o.@\n")]);
        assert_eq!(ids, chat.prompt_ids(&messages).unwrap(), "{action}");
    }
    let text = chat.render(&messages, GenerationPrompt::Add).unwrap();
    assert_eq!(text_of(&world.tokenizer, &ids).unwrap(), text);
    // Without rules the first turn is the observation alone
    let bare = dialogue.first_turn("", "@.o\n", &[]).unwrap();
    assert_eq!(bare, chat.prompt_ids(&[Message::user("@.o\n")]).unwrap());
}

#[test]
fn without_a_template_turns_are_lines() {
    let world = World::new(false, 600);
    let dialogue = world.dialogue();
    let examples = [("..o".to_owned(), "right".to_owned())];
    let mut ids = dialogue.first_turn("Collect.", "@.o\n", &examples).unwrap();
    let encode = |text: &str| world.tokenizer.encode(text, AddSpecial::No).unwrap();
    assert_eq!(ids, encode("Collect.\n..o\nright\n@.o\n"));
    for (action, next) in [
        ("up\n", "up\no.@\n"),
        // Cut by its limit, or by a token that goes on behind the line's end
        ("up", "up\no.@\n"),
        ("up\nand", "up\nand\no.@\n"),
    ] {
        let before = ids.len();
        ids.extend(encode(action));
        ids.extend(dialogue.next_turn(&ids, "o.@").unwrap());
        assert_eq!(text_of(&world.tokenizer, &ids[before..]).unwrap(), next);
    }
    let completion = |ids: Vec<u32>, finish: FinishReason| Completion {
        logprobs: vec![0.0; ids.len()],
        ids,
        finish,
    };
    let said = |text: &str, finish| dialogue.action(&ids, &completion(encode(text), finish)).unwrap();
    assert_eq!(said("up left\nand", FinishReason::Stop), "up left");
    assert_eq!(said("up le", FinishReason::Length), "up le");
    // What an environment quotes makes no control token
    let quoted = dialogue.next_turn(&ids, "you said <|endoftext|>").unwrap();
    assert!(!quoted.contains(&world.tokenizer.eos_ids()[0]));
}

#[test]
fn the_token_that_ends_an_action_is_no_part_of_it() {
    let world = World::new(true, 600);
    let (dialogue, end) = (world.dialogue(), world.chat.as_ref().unwrap().end_of_turn_id().unwrap());
    let mut ids = world.tokenizer.encode_ordinary("up").unwrap();
    let of = |ids: &[u32], finish| {
        let completion = Completion {
            ids: ids.to_vec(),
            logprobs: vec![0.0; ids.len()],
            finish,
        };
        dialogue.action(&[], &completion).unwrap()
    };
    assert_eq!(of(&ids, FinishReason::Length), "up");
    ids.push(end);
    assert_eq!(of(&ids, FinishReason::Stop), "up");
    // A row of the embedding that no token has stops nothing
    assert_eq!(of(&[9_999], FinishReason::Length), "\u{FFFD}");
}

#[test]
fn what_is_asked_to_stop_gives_nothing() {
    let world = World::new(true, 600);
    for calls in [0, 1, 20] {
        let mut left = calls;
        let mut go_on = || {
            left -= 1;
            left >= 0
        };
        let played = play(
            (&world.engine, &world.model),
            &world.dialogue(),
            &maze(Some(1)),
            (&episodes(4), &settings(9)),
            &mut go_on,
        );
        assert!(played.unwrap().is_none(), "{calls}");
    }
}

#[test]
fn an_episode_ends_with_the_context_and_a_first_turn_must_fit() {
    let roomy = World::new(true, 600);
    let plays = settings(9);
    let whole = roomy.play(&maze(Some(1)), &episodes(1), &plays).unwrap().unwrap();
    let second = whole[0].spans[1].start;
    // Room for the second turn's first two tokens
    let tight = World::new(true, second + 2);
    let cut = tight.play(&maze(Some(1)), &episodes(1), &plays).unwrap().unwrap();
    assert_eq!((cut[0].turns.len(), cut[0].status), (2, Status::CutOff));
    assert_eq!(cut[0].ids[..second], whole[0].ids[..second]);
    assert_eq!(cut[0].spans[1].len(), 2);
    // Room for nothing behind the first
    let tighter = World::new(true, second);
    let cut = tighter.play(&maze(Some(1)), &episodes(1), &plays).unwrap().unwrap();
    assert_eq!((cut[0].turns.len(), cut[0].status), (1, Status::CutOff));
    let tiny = World::new(true, 20);
    let error = tiny.play(&maze(Some(1)), &episodes(1), &plays).unwrap_err();
    assert!(
        matches!(
            error,
            PlayError::Generate(GenerateError::PromptTooLong { context: 20, .. })
        ),
        "{error}"
    );
    let broken = EnvironmentSetting::Maze(MazeConfig {
        size: 1,
        ..MazeConfig::default()
    });
    let error = roomy.play(&broken, &episodes(1), &plays).unwrap_err();
    assert!(matches!(error, PlayError::Task(_)), "{error}");
}
