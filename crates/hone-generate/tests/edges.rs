//! Requests and sequences at the edges of what may be asked.

mod common;

use common::{architecture, engine, random_ids, random_model};
use hone_compute::{Engine, EngineOptions, Isa, Precision, SamplingParameters};
use hone_generate::{
    FinishReason, GenerateError, Generator, GeneratorOptions, Request, heads_before, logprobs_from, logprobs_of,
    samples_of, scores_of,
};
use hone_math::Key;
use hone_model::Transformer;
use hone_testing::assert_bits;

fn request(prompt: Vec<u32>, max_new_tokens: usize) -> Request {
    let sampling = SamplingParameters::default();
    let key = Key::new(1, "request", 0);
    Request {
        prompt: prompt.into(),
        sampling,
        key,
        max_new_tokens,
        stop_tokens: [].into(),
        stop_texts: None,
    }
}

#[test]
fn sequences_without_a_next_token_have_no_logprob() {
    for precision in [Precision::F32, Precision::Bf16] {
        let engine = engine(Isa::detect(), precision, 2);
        let model = random_model(&engine, &architecture("llama", (4, 2, 8), 31, true), 1);
        assert!(logprobs_of(&engine, &model, &[], 1.0).is_empty());
        let lists: [&[&[u32]]; 5] = [
            &[&[]],
            &[&[3]],
            &[&[], &[]],
            &[&[3], &[4]],
            &[&[], &[3], &[4, 5, 6], &[7], &[]],
        ];
        for sequences in lists {
            let scores = logprobs_of(&engine, &model, sequences, 1.0);
            assert_eq!(scores.len(), sequences.len());
            for (score, sequence) in scores.iter().zip(sequences) {
                assert_eq!(score.logprobs.len(), sequence.len().saturating_sub(1));
                assert_eq!(score.entropies.len(), score.logprobs.len());
            }
        }
        let alone = logprobs_of(&engine, &model, &[&[4, 5, 6]], 1.0);
        let among = logprobs_of(&engine, &model, lists[4], 1.0);
        assert_bits("among empty ones", &among[2].logprobs, &alone[0].logprobs);
    }
}

#[test]
fn head_outputs_do_not_depend_on_the_batch() {
    for (isa, precision) in Isa::all_here()
        .into_iter()
        .flat_map(|i| [(i, Precision::F32), (i, Precision::Bf16)])
    {
        let engine = engine(isa, precision, 2);
        let mut model = random_model(&engine, &architecture("qwen3", (4, 2, 8), 31, true), 1);
        model.add_reward_head(&engine, 2);
        model.set_head_offset(0.25);
        let r = &mut Key::new(1, "ids", 0).stream();
        // More than one pack of 4,096 tokens
        let sequences: Vec<Vec<u32>> = (0..40).map(|i| random_ids(r, 1 + i * 6, 31)).collect();
        let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let together = scores_of(&engine, &model, &sequences);
        // The outputs at all tokens are those before the next ones, whatever these are
        let longer: Vec<Vec<u32>> = sequences.iter().map(|s| [*s, &[7]].concat()).collect();
        let longer: Vec<&[u32]> = longer.iter().map(Vec::as_slice).collect();
        let each = heads_before(&engine, &model, &longer, &vec![1; longer.len()]);
        // Those of the last few tokens alone have the same bits, and so have log-probabilities
        let from: Vec<usize> = longer.iter().map(|s| 1 + s.len() * 2 / 3).map(|f| f.max(1)).collect();
        let later = heads_before(&engine, &model, &longer, &from);
        let (all, some) = (
            logprobs_of(&engine, &model, &longer, 0.8),
            logprobs_from(&engine, &model, (&longer, &from), 0.8),
        );
        for (i, &from) in from.iter().enumerate() {
            let from = from.min(longer[i].len());
            assert_bits("later values", &later[i], &each[i][from - 1..]);
            assert_bits(
                "later log-probabilities",
                &some[i].logprobs,
                &all[i].logprobs[from - 1..],
            );
            assert_bits("later entropies", &some[i].entropies, &all[i].entropies[from - 1..]);
        }
        for (i, sequence) in sequences.iter().enumerate() {
            assert_eq!(each[i].len(), sequence.len());
            let last = each[i].last().expect("at least one token") + 0.25;
            assert_eq!(last.to_bits(), together[i].0.to_bits());
            if i % 8 == 0 {
                let alone = scores_of(&engine, &model, &[sequence]);
                assert_eq!(
                    alone[0].0.to_bits(),
                    together[i].0.to_bits(),
                    "{isa} {precision:?}: sequence {i}"
                );
            }
        }
    }
}

#[test]
fn limits_of_requests() {
    let engine = engine(Isa::detect(), Precision::Bf16, 1);
    let model = random_model(&engine, &architecture("llama", (4, 2, 8), 31, true), 1);
    let generator = Generator::new(&engine, &model, GeneratorOptions::default());
    let fail = |r: Request| generator.run(&[r]).expect_err("refused");
    assert!(matches!(
        fail(request(vec![], 1)),
        GenerateError::EmptyPrompt { request: 0 }
    ));
    assert!(matches!(
        fail(request(vec![31], 1)),
        GenerateError::UnknownToken {
            id: 31,
            vocabulary: 31,
            ..
        }
    ));
    assert!(matches!(
        fail(request(vec![1; 600], 1)),
        GenerateError::PromptTooLong {
            got: 600,
            context: 600,
            ..
        }
    ));
    assert!(generator.run(&[]).expect("nothing to do").is_empty());

    // The context ends a completion; so does a limit of no token.
    let full = generator
        .run(&[request(vec![1; 597], 10), request(vec![1; 3], 0)])
        .expect("sound");
    assert_eq!((full[0].ids.len(), full[0].finish), (3, FinishReason::Length));
    assert_eq!((full[1].ids.len(), full[1].finish), (0, FinishReason::Length));

    // At least one sequence runs, whatever is asked.
    let none = GeneratorOptions {
        max_batch: 0,
        prefill_tokens: 0,
        least_shared: 0,
        kept_tokens: 0,
    };
    let one = Generator::new(&engine, &model, none)
        .run(&samples_of(&request(vec![1, 2], 3), 4))
        .expect("sound");
    let many = generator.run(&samples_of(&request(vec![1, 2], 3), 4)).expect("sound");
    assert_eq!(one, many);
    assert_eq!(many.len(), 4);
    assert!(many.iter().any(|c| c.ids != many[0].ids), "samples differ");
}

/// Operations that a rehearsal counts for sampling one token after each prompt.
fn operations(prompts: &[Vec<u32>]) -> f64 {
    let options = EngineOptions {
        isa: Some(Isa::detect()),
        precision: Precision::Bf16,
        threads: Some(1),
    };
    let engine = Engine::rehearsal(&options).expect("an instruction set of this machine");
    let model = Transformer::random(&engine, architecture("llama", (4, 2, 8), 31, true), 1);
    let requests: Vec<_> = prompts.iter().map(|prompt| request(prompt.clone(), 1)).collect();
    let generator = Generator::new(&engine, &model, GeneratorOptions::default());
    generator.run(&requests).expect("sound");
    engine.account().expect("a rehearsal").operations
}

#[test]
fn a_beginning_that_prompts_share_is_computed_once() {
    let prompt = |own: u32| [vec![7; 100], vec![own; 10]].concat();
    let one = operations(&[prompt(1)]);
    let shared = operations(&[prompt(1), prompt(2), prompt(3), prompt(4)]);
    let apart = operations(&[prompt(1), vec![8; 110], vec![9; 110], vec![10; 110]]);
    assert!(apart > 3.9 * one, "{apart} of {one}");
    assert!(shared < 1.6 * one, "{shared} of {one}");
}

#[test]
fn tokens_that_are_not_asked_about_cost_less() {
    let options = EngineOptions {
        isa: Some(Isa::detect()),
        precision: Precision::Bf16,
        threads: Some(1),
    };
    let operations = |from: usize| {
        let engine = Engine::rehearsal(&options).expect("an instruction set of this machine");
        let model = Transformer::random(&engine, architecture("llama", (4, 2, 8), 31, true), 1);
        logprobs_from(&engine, &model, (&[&[1; 200]], &[from]), 1.0);
        engine.account().expect("a rehearsal").operations
    };
    // Half of the two blocks' work but for keys and values, and nearly all of the vocabulary's
    let (all, last) = (operations(1), operations(199));
    assert!(last < 0.7 * all, "{last} of {all}");
}

#[test]
fn a_cancelled_request_leaves_others_alone() {
    let engine = engine(Isa::detect(), Precision::Bf16, 1);
    let model = random_model(&engine, &architecture("llama", (4, 2, 8), 31, true), 1);
    let generator = Generator::new(
        &engine,
        &model,
        GeneratorOptions {
            max_batch: 3,
            prefill_tokens: 5,
            ..GeneratorOptions::default()
        },
    );
    let requests = samples_of(&request(vec![1, 2], 8), 5);
    let expected = generator.run(&requests).expect("sound");
    let mut events = Vec::new();
    let got = generator.run_with(&requests, &mut |event| {
        events.push((event.request, event.token));
        event.request != 1 || events.iter().filter(|e| e.0 == 1).count() < 3
    });
    let got = got.expect("sound");
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let told: Vec<u32> = events.iter().filter(|e| e.0 == i).map(|e| e.1).collect();
        assert_eq!(told, got.ids);
        if i == 1 {
            assert_eq!(
                (got.finish, &got.ids[..]),
                (FinishReason::Cancelled, &expected.ids[..3])
            );
        } else {
            assert_eq!(got, expected);
        }
    }
}

#[test]
fn a_request_for_no_tokens_is_done_before_it_begins() {
    let engine = engine(Isa::detect(), Precision::F32, 1);
    let mut model = random_model(&engine, &architecture("llama", (4, 2, 8), 31, true), 1);
    // A model of which nothing can be sampled
    let norm = model.parameters().find("norm.weight").expect("a final norm");
    let width = model.architecture().width;
    model.parameters_mut().set(&engine, norm, &vec![f32::NAN; width]);
    let generator = Generator::new(&engine, &model, GeneratorOptions::default());
    let none = [request(vec![3, 4], 0), request(vec![3, 4], 0), request(vec![5], 0)];
    let done = generator
        .run_with(&none, &mut |_| panic!("a token"))
        .expect("nothing is sampled");
    assert_eq!(done.len(), 3);
    for completion in done {
        assert_eq!((completion.ids.len(), completion.finish), (0, FinishReason::Length));
    }
    let some = [request(vec![3, 4], 0), request(vec![3, 4], 1)];
    assert!(matches!(
        generator.run(&some),
        Err(GenerateError::Sampling { request: 1, .. })
    ));
}

#[test]
fn completions_come_in_order_and_what_was_not_done_can_be_sampled_again() {
    let engine = engine(Isa::detect(), Precision::F32, 2);
    let model = random_model(&engine, &architecture("llama", (4, 2, 8), 31, true), 1);
    // Lengths that end in another order than they begin
    let requests: Vec<Request> = (0..12)
        .map(|i| Request {
            key: Key::new(3, "request", i),
            ..request(vec![1, 2, i as u32], [9, 0, 2, 17, 1][i as usize % 5])
        })
        .collect();
    let options = GeneratorOptions {
        max_batch: 5,
        ..GeneratorOptions::default()
    };
    let generator = Generator::new(&engine, &model, options);
    let expected = generator.run(&requests).unwrap();
    let mut got = Vec::new();
    let mut take = |i: usize, completion: hone_generate::Completion| {
        assert_eq!(i, got.len());
        got.push(completion);
        Ok::<(), GenerateError>(())
    };
    assert!(generator.run_in_order(&requests, &mut |_| true, &mut take).unwrap());
    assert_eq!(got, expected);
    // Stopped after any number of tokens, it has handed over a beginning
    for most in [0, 1, 5, 30, 60] {
        let (mut tokens, mut begun) = (0, Vec::new());
        let all = generator.run_in_order(
            &requests,
            &mut |_| {
                tokens += 1;
                tokens < most
            },
            &mut |_, completion| {
                begun.push(completion);
                Ok::<(), GenerateError>(())
            },
        );
        assert!(!all.unwrap(), "{most}");
        assert_eq!(begun, expected[..begun.len()]);
        assert!(tokens <= most.max(1), "{tokens} {most}");
        let rest = generator.run(&requests[begun.len()..]).unwrap();
        assert_eq!([begun, rest].concat(), expected);
    }
    // An error of the one who takes them ends it
    let mut count = 0;
    let error = generator.run_in_order(&requests, &mut |_| true, &mut |request, _| {
        count += 1;
        match request {
            3 => Err(GenerateError::EmptyPrompt { request }),
            _ => Ok(()),
        }
    });
    assert!(matches!(error, Err(GenerateError::EmptyPrompt { request: 3 })));
    assert_eq!(count, 4);
}
