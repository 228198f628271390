//! Requests that come and go while others run: what each gives is what it gives alone.

mod common;

use common::{architecture, engine, random_architecture, random_ids, random_model};
use hone_compute::{Choice, Engine, EngineOptions, Isa, Precision, SamplingParameters, choose};
use hone_generate::{
    Completion, Extras, FinishReason, GenerateError, Generator, GeneratorOptions, Ranked, Request, TokenEvent,
    embeddings_of, logprobs_of, ranked_of,
};
use hone_math::{Key, Stream};
use hone_model::Transformer;
use hone_testing::{assert_bits, assert_near};

fn request(prompt: &[u32], key: Key, max_new_tokens: usize) -> Request {
    Request {
        prompt: prompt.into(),
        sampling: SamplingParameters::default(),
        key,
        max_new_tokens,
        stop_tokens: [].into(),
        stop_texts: None,
    }
}

fn random_requests(r: &mut Stream, seed: u64, vocabulary: usize) -> Vec<(Request, Extras)> {
    let mut requests: Vec<(Request, Extras)> = Vec::new();
    for i in 0..4 + r.below(8) {
        let prompt = match requests.last().filter(|_| r.chance(0.4)) {
            Some((earlier, _)) => earlier.prompt.to_vec(),
            None => {
                let most = if r.chance(0.2) { 140 } else { 20 };
                let length = 1 + r.below(most);
                random_ids(r, length, vocabulary)
            }
        };
        let mut one = request(&prompt, Key::new(seed, "request", i as u64), r.below(12));
        if r.chance(0.3) {
            one.sampling.temperature = [0.0, 0.7][r.below(2)];
        }
        let mut extras = Extras::default();
        if r.chance(0.3) {
            extras.alternatives = 1 + r.below(4);
        }
        if r.chance(0.3) {
            extras.bias = [(r.below(vocabulary) as u32, 4.0), (r.below(vocabulary) as u32, -100.0)].into();
            extras.frequency_penalty = 0.5;
        }
        if r.chance(0.2) {
            extras.repetition_penalty = 1.3;
            extras.presence_penalty = -0.25;
        }
        requests.push((one, extras));
    }
    requests
}

fn bits(choices: &[Choice]) -> Vec<(u32, u32)> {
    choices.iter().map(|c| (c.token, c.logprob.to_bits())).collect()
}

#[test]
fn requests_that_come_and_go_give_what_they_give_alone() {
    for seed in 0..24 {
        let r = &mut Key::new(seed, "session", 0).stream();
        let shape = random_architecture(r);
        let precision = if r.chance(0.5) { Precision::Bf16 } else { Precision::F32 };
        let engine = engine(Isa::detect(), precision, 1 + r.below(2));
        let model = random_model(&engine, &shape, seed);
        let requests = random_requests(r, seed, shape.vocab_size);
        let options = GeneratorOptions {
            max_batch: 1 + r.below(4),
            prefill_tokens: 1 + r.below(60),
            least_shared: 1 + r.below(8),
            kept_tokens: [0, 50, 1000][r.below(3)],
        };
        let generator = Generator::new(&engine, &model, options);
        // 1. Each alone
        let alone: Vec<(Completion, Vec<TokenEvent>)> = requests
            .iter()
            .map(|(request, extras)| {
                let mut session = generator.session();
                session.submit(request.clone(), extras.clone()).expect("sound");
                let mut events = Vec::new();
                while !session.is_idle() {
                    events.extend(session.step().expect("finite logits"));
                }
                (session.take_finished().pop().expect("one").1, events)
            })
            .collect();
        // 2. Together, some added later, one cancelled on its way
        let cancelled = r.below(requests.len());
        let mut session = generator.session();
        let (mut next, mut told, mut done) = (0, vec![Vec::new(); requests.len()], Vec::new());
        while next < requests.len() || !session.is_idle() {
            for _ in 0..r.below(3).min(requests.len() - next) {
                let (request, extras) = requests[next].clone();
                assert_eq!(session.submit(request, extras).expect("sound"), next);
                next += 1;
            }
            for event in session.step().expect("finite logits") {
                told[event.request].push(event);
            }
            assert!(session.active() <= options.max_batch);
            if next > cancelled && r.chance(0.2) {
                session.cancel(cancelled);
            }
            done.extend(session.take_finished());
        }
        assert!(!session.cancel(cancelled), "it has ended");
        assert_eq!(done.len(), requests.len(), "every request ends once");
        for (id, completion) in done {
            let (expected, events) = &alone[id];
            let n = completion.ids.len();
            if completion.finish == FinishReason::Cancelled {
                assert_eq!(id, cancelled);
            } else {
                assert_eq!((n, completion.finish), (expected.ids.len(), expected.finish));
            }
            assert_eq!(completion.ids, expected.ids[..n]);
            assert_bits("among others", &completion.logprobs, &expected.logprobs[..n]);
            for (event, expected) in told[id].iter().zip(events) {
                assert_eq!(event.token, expected.token);
                assert_eq!(bits(&event.alternatives), bits(&expected.alternatives));
            }
        }
    }
}

#[test]
fn alternatives_are_the_models_own_numbers() {
    let engine = engine(Isa::detect(), Precision::Bf16, 2);
    let model = random_model(&engine, &architecture("llama", (4, 2, 8), 97, true), 3);
    let mut greedy = request(&[5, 6, 7], Key::new(1, "request", 0), 9);
    greedy.sampling.temperature = 0.0;
    let asks = |alternatives| Extras {
        alternatives,
        ..Extras::default()
    };
    let generator = Generator::new(&engine, &model, GeneratorOptions::default());
    let mut session = generator.session();
    session.submit(greedy.clone(), asks(97)).expect("sound");
    let mut events = Vec::new();
    while !session.is_idle() {
        events.extend(session.step().expect("finite logits"));
    }
    let completion = session.take_finished().pop().expect("one").1;
    let sequence = [&greedy.prompt[..], &completion.ids].concat();
    // The same places, read as a given text
    let ranked = ranked_of(&engine, &model, (&[&sequence, &[3, 4]], &[97, 0])).expect("finite logits");
    let given = logprobs_of(&engine, &model, &[&sequence], 1.0);
    assert_bits("ranked", &ranked[0].logprobs, &given[0].logprobs);
    let none = Ranked {
        logprobs: logprobs_of(&engine, &model, &[&[3, 4]], 1.0)[0].logprobs.clone(),
        best: Vec::new(),
    };
    assert_eq!(ranked[1], none);
    for (i, event) in events.iter().enumerate() {
        let at = greedy.prompt.len() - 1 + i;
        assert_eq!(bits(&event.alternatives), bits(&ranked[0].best[at]));
        // Sorted, complete, and the chosen one is the first, with the very number that it was sampled with
        assert_eq!(event.alternatives.len(), 97);
        assert!(event.alternatives.windows(2).all(|w| w[0].logprob >= w[1].logprob));
        assert_eq!(
            (event.alternatives[0].token, event.alternatives[0].logprob.to_bits()),
            (event.token, event.logprob.to_bits())
        );
        let total: f64 = event.alternatives.iter().map(|c| f64::from(c.logprob).exp()).sum();
        assert!((total - 1.0).abs() < 1e-4, "{total}");
        assert_eq!(event.logprob.to_bits(), given[0].logprobs[at].to_bits());
    }
}

#[test]
fn changed_logits_choose_other_tokens_and_leave_log_probabilities() {
    let engine = engine(Isa::detect(), Precision::F32, 1);
    let model = random_model(&engine, &architecture("llama", (4, 2, 8), 31, true), 4);
    let mut greedy = request(&[5, 6, 7], Key::new(1, "request", 0), 6);
    greedy.sampling.temperature = 0.0;
    let generator = Generator::new(&engine, &model, GeneratorOptions::default());
    let run = |extras: &Extras| {
        let mut session = generator.session();
        session.submit(greedy.clone(), extras.clone()).expect("sound");
        while !session.is_idle() {
            session.step().expect("finite logits");
        }
        session.take_finished().pop().expect("one").1
    };
    let plain = run(&Extras::default());
    // 1. A bias that no logit reaches against
    let forced = run(&Extras {
        bias: [(9, 100.0)].into(),
        ..Extras::default()
    });
    assert_eq!(forced.ids, [9; 6]);
    let sequence = [&greedy.prompt[..], &forced.ids].concat();
    let given = logprobs_of(&engine, &model, &[&sequence], 1.0);
    assert_bits("under a bias", &forced.logprobs, &given[0].logprobs[2..]);
    // 2. A token that may not come again
    let once = run(&Extras {
        presence_penalty: 100.0,
        ..Extras::default()
    });
    assert_eq!(once.ids[0], plain.ids[0]);
    let mut sorted = once.ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), once.ids.len(), "{:?}", once.ids);
    // 3. The same by hand: logits up to a constant are log-probabilities, which frequency and bias add to
    let extras = Extras {
        frequency_penalty: 0.75,
        bias: [(3, 1.5)].into(),
        ..Extras::default()
    };
    let got = run(&extras);
    let mut ids = greedy.prompt.to_vec();
    for &token in &got.ids {
        let ranked = ranked_of(&engine, &model, (&[&[&ids[..], &[0]].concat()], &[31])).expect("finite logits");
        let mut logits = vec![0.0; 31];
        for choice in ranked[0].best.last().expect("a place") {
            logits[choice.token as usize] = choice.logprob;
        }
        for &earlier in &ids[greedy.prompt.len()..] {
            logits[earlier as usize] -= 0.75;
        }
        logits[3] += 1.5;
        assert_eq!(choose(&logits, &greedy.sampling, 0.5), Ok(token));
        ids.push(token);
    }
    // 4. What changes nothing changes no bit
    let nothing = Extras {
        bias: [(4, 0.0)].into(),
        ..Extras::default()
    };
    assert_eq!(run(&nothing), plain);
}

#[test]
fn a_repetition_penalty_counts_the_prompt() {
    let engine = engine(Isa::detect(), Precision::F32, 1);
    let model = random_model(&engine, &architecture("llama", (4, 2, 8), 31, true), 5);
    let ranked = |ids: &[u32]| {
        let ids = [ids, &[0]].concat();
        let ranked = ranked_of(&engine, &model, (&[&ids], &[31])).expect("finite logits");
        ranked[0].best.last().expect("a place").clone()
    };
    // A prompt that ends where its own first token is the most probable next one
    let prompt = (0..31)
        .map(|token| [token, 7])
        .find(|prompt| ranked(prompt)[0].token == prompt[0])
        .map_or_else(|| vec![ranked(&[7])[0].token, 7], |prompt| prompt.to_vec());
    let mut greedy = request(&prompt, Key::new(1, "request", 0), 1);
    greedy.sampling.temperature = 0.0;
    let extras = Extras {
        repetition_penalty: 1e6,
        ..Extras::default()
    };
    let mut session = Generator::new(&engine, &model, GeneratorOptions::default()).session();
    session.submit(greedy, extras).expect("sound");
    let first = session.step().expect("finite logits").remove(0);
    // Logits above 0 become nearly 0 and those below sink, so a token of the prompt loses to any other above 0
    assert!(!prompt.contains(&first.token), "{prompt:?}: {}", first.token);
}

#[test]
fn a_request_that_fails_leaves_the_others() {
    let engine = engine(Isa::detect(), Precision::F32, 1);
    let model = random_model(&engine, &architecture("llama", (4, 2, 8), 31, true), 1);
    let generator = Generator::new(&engine, &model, GeneratorOptions::default());
    let sound = |i: u32| request(&[1, 2, 3 + i], Key::new(1, "request", u64::from(i)), 6);
    // Excluding every token is the one way in which a sound model has none to draw
    let nothing_left = Extras {
        bias: (0..31).map(|token| (token, f32::NEG_INFINITY)).collect(),
        ..Extras::default()
    };
    // One that draws token 9 and then has nothing left
    let runs_dry = Extras {
        bias: (0..31).filter(|&t| t != 9).map(|t| (t, f32::NEG_INFINITY)).collect(),
        presence_penalty: f32::INFINITY,
        ..Extras::default()
    };
    let expected = generator.run(&[sound(0), sound(1)]).expect("sound");
    let mut session = generator.session();
    session.submit(sound(0), Extras::default()).expect("sound");
    session.submit(sound(0), nothing_left).expect("sound");
    session.submit(sound(1), Extras::default()).expect("sound");
    let mut failed = Vec::new();
    let mut events = vec![Vec::new(); 4];
    let mut steps = 0;
    while !session.is_idle() {
        match session.step() {
            Ok(told) => told.into_iter().for_each(|e| events[e.request].push(e.token)),
            Err(GenerateError::Sampling { request, .. }) => failed.push(request),
            Err(error) => panic!("{error}"),
        }
        steps += 1;
        if steps == 3 {
            session.submit(sound(1), runs_dry.clone()).expect("sound");
        }
        assert!(steps < 30, "it ends");
    }
    assert_eq!(failed, [1, 3]);
    assert_eq!((events[1].len(), &events[3][..]), (0, &[9][..]));
    let mut done = session.take_finished();
    done.sort_by_key(|(id, _)| *id);
    assert_eq!(done.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 2]);
    for ((id, got), expected) in done.iter().zip(&expected) {
        assert_eq!(got, expected);
        assert_eq!(events[*id], expected.ids);
    }
}

/// Operations of a rehearsal in which these prompts are asked one after another, each once the one before has ended.
fn operations(kept_tokens: usize, prompts: &[Vec<u32>]) -> f64 {
    let options = EngineOptions {
        isa: Some(Isa::Portable),
        precision: Precision::F32,
        threads: Some(1),
    };
    let engine = Engine::rehearsal(&options).expect("an instruction set of this machine");
    let model = Transformer::random(&engine, architecture("llama", (4, 2, 8), 31, true), 1);
    let options = GeneratorOptions {
        kept_tokens,
        ..GeneratorOptions::default()
    };
    let mut session = Generator::new(&engine, &model, options).session();
    for prompt in prompts {
        let asked = request(prompt, Key::new(1, "request", 0), 4);
        session.submit(asked, Extras::default()).expect("sound");
        while !session.is_idle() {
            session.step().expect("zeros");
        }
    }
    engine.account().expect("a rehearsal").operations
}

#[test]
fn a_conversation_that_goes_on_is_not_read_again() {
    // A rehearsal draws token 0 four times, the last of which is not read
    let first: Vec<u32> = (1..100).map(|i| i % 31).collect();
    let second = [&first[..], &[0, 0, 0, 0, 5, 6, 7]].concat();
    let turns = [first.clone(), second.clone()];
    let (read, again) = (operations(1000, &turns), operations(0, &turns));
    let alone = operations(0, &[first]);
    assert!(read - alone < 0.2 * (again - alone), "{read}, {again}, {alone}");
    // Without room for it nothing is kept
    assert_eq!(operations(50, &turns), again);
}

#[test]
fn places_are_free_at_once() {
    let engine = engine(Isa::detect(), Precision::F32, 1);
    let model = random_model(&engine, &architecture("llama", (4, 2, 8), 31, true), 1);
    let options = GeneratorOptions {
        max_batch: 2,
        ..GeneratorOptions::default()
    };
    let generator = Generator::new(&engine, &model, options);
    let mut session = generator.session();
    for i in 0..3 {
        let asked = request(&[1, 2, 3 + i], Key::new(1, "request", u64::from(i)), 40);
        session.submit(asked, Extras::default()).expect("sound");
    }
    session.step().expect("finite logits");
    assert_eq!((session.active(), session.waiting()), (2, 1));
    assert!(session.cache_bytes() > 0);
    assert!(session.cancel(0));
    assert_eq!((session.active(), session.waiting()), (1, 1));
    let events = session.step().expect("finite logits");
    assert!(events.iter().any(|event| event.request == 2), "{events:?}");
    // One that waits can leave as well
    let asked = request(&[9], Key::new(1, "request", 9), 3);
    let id = session.submit(asked, Extras::default()).expect("sound");
    assert!(session.cancel(id) && !session.cancel(id) && !session.cancel(77));
    assert_eq!((session.active(), session.waiting()), (2, 0));
    let finishes: Vec<_> = session.take_finished().iter().map(|(id, c)| (*id, c.finish)).collect();
    assert_eq!(finishes, [(0, FinishReason::Cancelled), (id, FinishReason::Cancelled)]);
    let unknown = Extras {
        bias: [(31, 1.0)].into(),
        ..Extras::default()
    };
    let asked = request(&[9], Key::new(1, "request", 9), 3);
    let refused = session.submit(asked, unknown);
    assert!(matches!(
        refused,
        Err(GenerateError::UnknownToken {
            id: 31,
            vocabulary: 31,
            ..
        })
    ));
}

#[test]
fn embeddings_do_not_depend_on_the_batch_and_have_length_1() {
    let engine = engine(Isa::detect(), Precision::Bf16, 2);
    let model = random_model(&engine, &architecture("qwen3", (4, 2, 8), 50, true), 6);
    let r = &mut Key::new(2, "embedding", 0).stream();
    let sequences: Vec<Vec<u32>> = (0..9).map(|i| random_ids(r, 1 + 11 * i, 50)).collect();
    let slices: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let together = embeddings_of(&engine, &model, &slices);
    for (sequence, got) in slices.iter().zip(&together) {
        assert_bits("alone", &embeddings_of(&engine, &model, &[sequence])[0], got);
        assert_eq!(got.len(), model.architecture().width);
        let length: f64 = got.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((length - 1.0).abs() < 1e-6, "{length}");
    }
    // A prefix has another mean
    assert_ne!(embeddings_of(&engine, &model, &[&sequences[3][..5]])[0], together[3]);
}

#[test]
fn embeddings_are_the_mean_of_the_hidden_states() {
    // With one token the mean is that token's state, so two tokens' states give the pair's up to its length
    let engine = engine(Isa::Portable, Precision::F32, 1);
    let model = random_model(&engine, &architecture("llama", (4, 2, 8), 31, true), 7);
    let tokens = hone_model::Tokens {
        ids: &[4, 9].into(),
        layout: &hone_compute::Layout::whole(&[2]),
    };
    let mut tape = hone_compute::Tape::inference(&engine, model.parameters());
    let states = engine.read(model.hidden(&mut tape, &tokens).value());
    let (first, second) = states.split_at(model.architecture().width);
    let mean: Vec<f64> = first.iter().zip(second).map(|(a, b)| f64::from(a + b) / 2.0).collect();
    let length = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
    let expected: Vec<f64> = mean.iter().map(|x| x / length).collect();
    assert_near("mean", &embeddings_of(&engine, &model, &[&[4, 9]])[0], &expected, 1e-5);
}
