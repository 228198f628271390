//! The value network's first step, against values and returns of the whole rollout that are computed before any step.

use hone_compute::{Engine, Isa, Precision};
use hone_generate::heads_before_in;
use hone_model::{LoraConfig, Transformer};
use hone_objective::gae::{Gae, GaeConfig};
use hone_objective::ppo::{PrepareConfig, Prepared as Whole, Rollout, prepare};

use super::PpoConfig;
use super::microbatches::{Rewarded, microbatches, prepared};
use super::rewards::RolloutRewards;
use super::step::Update;
use super::tests::config;
use super::values::{open, value_step};
use crate::learner::Learner;
use crate::rollout::trials::{engine_of, reward_model, tokenizer};
use crate::rollout::{Episode, made};
use crate::schedule::{Rates, adamw};

const KL_COEF: f64 = 0.3;

/// Two answers to each of six prompts, which begin alike; every third answer is of two turns.
fn rollout() -> Vec<Episode> {
    let of = |i: usize| {
        let mut prompt: Vec<u32> = (20..32).collect();
        prompt.extend([40 + i as u32 / 2, 3]);
        let response: Vec<u32> = (0..6 + i as u32 % 4).map(|t| 50 + t * (i as u32 + 1) % 90).collect();
        let mut episode = made(i, (&prompt, &response), (0.0, 0.0), (i as f32 - 5.0) / 3.0);
        if i.is_multiple_of(3) {
            let (start, end) = (prompt.len(), prompt.len() + response.len());
            episode.spans = vec![start..start + 2, start + 4..end];
        }
        let number = |t: usize| -0.1 - ((i * 7 + t * 5) % 11) as f32 / 4.0;
        episode.logprobs = (0..episode.length()).map(number).collect();
        episode.ref_logprobs = (0..episode.length()).map(|t| number(t + 3)).collect();
        episode
    };
    (0..12).map(of).collect()
}

/// A configuration whose steps have several micro-batches in each shard.
fn cut(change: impl Fn(&mut PpoConfig)) -> PpoConfig {
    let mut c = config(1);
    (c.ppo.rollout_batch, c.ppo.minibatch, c.ppo.samples_per_prompt) = (12, 8, 2);
    (c.ppo.gamma, c.ppo.whiten_rewards) = (0.97, true);
    (c.train.shards, c.train.microbatch_tokens) = (2, 64);
    change(&mut c);
    c
}

/// Values of each episode, read alone.
fn values(engine: &Engine, network: &Transformer, episodes: &[Episode]) -> Vec<f32> {
    let offset = network.head_offset().unwrap();
    let of = |episode: &Episode| heads_before_in(engine, network, &[&episode.ids], &[&episode.spans]).concat();
    episodes.iter().flat_map(of).map(|value| value + offset).collect()
}

/// Constants of the whole rollout at once.
fn whole(episodes: &[Episode], values: &[f32], c: &PpoConfig) -> Whole {
    let flat = |of: fn(&Episode) -> &Vec<f32>| episodes.iter().flat_map(of).copied().collect::<Vec<f32>>();
    let lengths: Vec<usize> = episodes.iter().map(Episode::length).collect();
    let scores: Vec<f32> = episodes.iter().map(|episode| episode.score).collect();
    let rollout = Rollout {
        logprobs: &flat(|episode| &episode.logprobs),
        ref_logprobs: &flat(|episode| &episode.ref_logprobs),
        values,
        mask: &vec![true; values.len()],
        lengths: &lengths,
        scores: &scores,
    };
    let config = PrepareConfig {
        kl_coef: KL_COEF,
        gae: GaeConfig {
            gamma: c.ppo.gamma,
            gae_lambda: c.ppo.gae_lambda,
        },
        whiten_advantages: c.ppo.whiten_advantages,
        whiten_rewards: c.ppo.whiten_rewards,
    };
    prepare(&rollout, &config).unwrap()
}

fn step<'a>(c: &'a PpoConfig, episodes: &'a [Episode], rewards: &'a RolloutRewards) -> Update<'a> {
    let rates = || Rates::new(&c.train, 1e-2, 1).unwrap().at(0);
    Update {
        number: 0,
        episodes,
        rewards,
        ppo: &c.ppo,
        train: &c.train,
        rates: (rates(), rates()),
        ptx: None,
    }
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

fn weights(engine: &Engine, learner: &Learner) -> Vec<Vec<u32>> {
    let parameters = learner.model.parameters().iter();
    let trained = parameters.filter(|(_, p)| p.trainable());
    trained.map(|(_, p)| bits(&engine.read(p.value()))).collect()
}

#[test]
fn returns_of_micro_batches_are_those_of_the_rollout() {
    let episodes = rollout();
    let tokens = episodes.iter().map(Episode::length).sum();
    let values: Vec<f32> = (0..tokens).map(|t| ((t * 13) % 17) as f32 / 7.0 - 1.0).collect();
    for whitens in [false, true] {
        let c = cut(|c| c.ppo.whiten_rewards = whitens);
        let expected = whole(&episodes, &values, &c);
        let rewards = RolloutRewards::of(&episodes, KL_COEF, &c.ppo).unwrap();
        let constants = rewards.advantages(&episodes, &values).unwrap();
        assert_eq!(bits(&constants.advantages), bits(&expected.advantages));
        assert_eq!(bits(&constants.returns), bits(&expected.returns));
        assert_eq!(*rewards.stats(), expected.stats);
        let rewarded = rewards.split(&episodes);
        let groups: Vec<&[Rewarded<'_>]> = rewarded.chunks(2).rev().collect();
        let update = step(&c, &episodes, &rewards);
        let shards = microbatches(&update, &groups);
        assert!(shards.iter().all(|shard| shard.len() > 1), "nothing was cut");
        for microbatch in shards.iter().flatten() {
            let pick = |numbers: &[f32]| -> Vec<f32> {
                let members = microbatch.iter().copied().flatten();
                members.flat_map(|r| numbers[r.range.clone()].to_vec()).collect()
            };
            let returns = rewards.returns(microbatch, &pick(&values)).unwrap();
            assert_eq!(bits(&returns), bits(&pick(&expected.returns)));
        }
    }
}

#[test]
fn the_first_step_is_the_one_on_values_that_are_read_before_it() {
    let episodes = rollout();
    let lora = |c: &mut PpoConfig| c.lora = Some(LoraConfig::default());
    let cases = [
        cut(|_| {}),
        cut(|c| c.train.microbatch_tokens = 30),
        cut(|c| (c.ppo.share_beginnings, c.ppo.samples_per_prompt) = (true, 1)),
        cut(|c| (c.ppo.samples_per_prompt, c.ppo.whiten_rewards) = (1, false)),
        cut(lora),
        cut(|c| c.ppo.minibatch = 12),
    ];
    let engines = Isa::all_here().into_iter().flat_map(|isa| {
        let of = |precision| engine_of(isa, precision);
        [Precision::Bf16, Precision::F32].map(of)
    });
    for engine in engines {
        for c in &cases {
            // 1. The step on values and returns that were there before
            let mut network = reward_model(&engine, &tokenizer());
            network.set_head_offset(0.37);
            if let Some(lora) = &c.lora {
                network.add_adapter(&engine, lora, 1).unwrap();
            }
            network.train_head();
            let learner = || Learner::new(&engine, network.duplicate(), adamw(&c.train).unwrap());
            let (mut beforehand, mut at_once) = (learner(), learner());
            let start = weights(&engine, &at_once);
            let read = values(&engine, &network, &episodes);
            let expected = whole(&episodes, &read, c);
            let constants = Gae {
                advantages: expected.advantages,
                returns: expected.returns,
            };
            let rewards = RolloutRewards::of(&episodes, KL_COEF, &c.ppo).unwrap();
            let (rewarded, update) = (rewards.split(&episodes), step(c, &episodes, &rewards));
            let (samples, size) = (c.ppo.samples_per_prompt, c.ppo.minibatch / c.ppo.samples_per_prompt);
            let prepared = prepared(&rewarded, (&read, &constants));
            let groups: Vec<_> = prepared.chunks(samples).rev().take(size).collect();
            let (stats, applied) = value_step(&engine, &mut beforehand, &update, &groups).unwrap();
            // 2. The step that makes them itself
            let groups: Vec<&[Rewarded<'_>]> = rewarded.chunks(samples).rev().collect();
            let opening = open(&engine, &mut at_once, &update, groups.split_at(size)).unwrap();
            assert_eq!(bits(&opening.values), bits(&read));
            assert_eq!(opening.first.0, stats);
            assert!(
                weights(&engine, &at_once) == start,
                "the step was taken before the check"
            );
            let first = at_once.apply(&engine, &opening.first.1, update.rates.1, update.number);
            assert_eq!(first.unwrap().grad_norm, applied.grad_norm);
            assert!(applied.grad_norm > 0.0);
            let after = weights(&engine, &at_once);
            assert!(after == weights(&engine, &beforehand), "the steps differ");
            assert!(after != start, "nothing was learned");
        }
    }
}
