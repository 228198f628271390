//! A rollout: prompts answered by the policy, with every number that an update needs of them.

use std::sync::Arc;
use std::time::Instant;

use hone_compute::{Engine, SamplingParameters};
use hone_data::PromptInput;
use hone_generate::{Completion, FinishReason, Generator, GeneratorOptions, Request, heads_before, logprobs_from};
use hone_math::Key;
use hone_model::Transformer;
use hone_run::Shutdown;
use hone_text::Tokenizer;

use super::prompts::PreparedPrompt;
use super::score::{Reading, Response, Scores, text_of};
use super::sections::{MissingEos, RolloutSettings};
use crate::error::Result;
use crate::scorer::Scorer;

/// One prompt and its response.
pub(crate) struct Episode {
    /// Which of its rollout.
    pub index: usize,
    /// Prompt and response, `[p + t]`.
    pub ids: Arc<[u32]>,
    /// Tokens of the prompt.
    pub prompt_length: usize,
    /// Log-probabilities of the response's tokens as they were sampled, `[t]`.
    pub logprobs: Vec<f32>,
    /// The same under the reference, `[t]`; without one, `[0]`.
    pub ref_logprobs: Vec<f32>,
    /// Values read at the position before each token, `[t]`; without a value network, `[0]`.
    pub values: Vec<f32>,
    /// The reward model's score, or what replaces it.
    pub score: f32,
    /// Whether the response ended by itself.
    pub ended: bool,
    /// Whether the reward model could not read it.
    pub unscorable: bool,
    /// The prompt and the response as text.
    pub text: (String, String),
}

impl Episode {
    /// Tokens of the response.
    pub fn length(&self) -> usize {
        self.ids.len() - self.prompt_length
    }

    /// The response's tokens.
    pub fn response(&self) -> &[u32] {
        &self.ids[self.prompt_length..]
    }

    /// Summed log-ratio to the reference, in nats.
    pub fn kl(&self) -> f64 {
        self.logprobs
            .iter()
            .zip(&self.ref_logprobs)
            .map(|(&p, &r)| f64::from(p) - f64::from(r))
            .sum()
    }
}

/// The models that a rollout reads.
#[derive(Clone, Copy)]
pub(crate) struct Models<'a> {
    pub policy: &'a Transformer,
    pub reference: Option<&'a Transformer>,
    pub value: Option<&'a Transformer>,
    pub scorer: &'a Scorer,
    pub reading: Reading,
    pub tokenizer: &'a Tokenizer,
    pub stop: &'a Arc<[u32]>,
    pub shutdown: &'a Shutdown,
}

/// A rollout.
pub(crate) struct Collected {
    pub episodes: Vec<Episode>,
    /// Why the first response that could not be scored could not be.
    pub first_refusal: Option<String>,
    /// Seconds that its parts took, by their key in `timings.jsonl`.
    pub seconds: Vec<(&'static str, f64)>,
}

/// Samples responses to `prompts` and scores them; none if the run is asked to stop on the way. Nothing has changed then.
pub(crate) fn collect(
    engine: &Engine,
    models: &Models<'_>,
    prompts: &[&PreparedPrompt],
    settings: &RolloutSettings,
    key: Key,
) -> Result<Option<Collected>> {
    let stops = || models.shutdown.requested();
    let mut clock = Clock::start();
    // 1. Responses, with the log-probabilities that their tokens had
    let sampling = SamplingParameters {
        temperature: settings.temperature as f32,
        ..SamplingParameters::default()
    };
    let requests: Vec<Request> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| Request {
            prompt: Arc::clone(&prompt.ids),
            sampling,
            key: key.child(i as u64),
            max_new_tokens: settings.max_new_tokens,
            stop_tokens: Arc::clone(models.stop),
            stop_texts: None,
        })
        .collect();
    let generator = Generator::new(engine, models.policy, GeneratorOptions::default());
    let completions = generator.run_with(&requests, &mut |_| !stops())?;
    clock.lap("time/sampling");
    if stops() {
        return Ok(None);
    }
    let sequences: Vec<Arc<[u32]>> = prompts
        .iter()
        .zip(&completions)
        .map(|(p, c)| p.ids.iter().chain(&c.ids).copied().collect())
        .collect();
    let slices: Vec<&[u32]> = sequences.iter().map(|s| &**s).collect();
    // 2. The reference's log-probabilities of the same tokens, under the same temperature
    let from: Vec<usize> = prompts.iter().map(|p| p.ids.len()).collect();
    let references = models.reference.map(|reference| {
        let scores = logprobs_from(engine, reference, (&slices, &from), settings.temperature as f32);
        clock.lap("time/reference");
        scores
    });
    if stops() {
        return Ok(None);
    }
    // 3. Values at the position before each token
    let values = models.value.map(|value| {
        let values = heads_before(engine, value, &slices, &from);
        clock.lap("time/values");
        (values, value.head_offset().unwrap_or(0.0))
    });
    if stops() {
        return Ok(None);
    }
    // 4. Scores; one that is replaced is not asked for
    let responses: Vec<String> = completions
        .iter()
        .map(|c| text_of(models.tokenizer, without_stop(c)))
        .collect::<Result<_>>()?;
    let ended: Vec<bool> = completions.iter().map(|c| c.finish == FinishReason::Stop).collect();
    let asked: Vec<usize> = (0..prompts.len())
        .filter(|&i| ended[i] || settings.missing_eos == MissingEos::Keep)
        .collect();
    let to_score: Vec<Response<'_>> = asked
        .iter()
        .map(|&i| Response {
            prompt: prompts[i],
            ids: without_stop(&completions[i]),
            text: &responses[i],
        })
        .collect();
    let Scores {
        scores: given,
        first_refusal,
    } = models.reading.scores(engine, models.scorer, &to_score)?;
    clock.lap("time/scores");
    let mut scores = vec![settings.missing_eos_score as f32; prompts.len()];
    let mut unscorable = vec![false; prompts.len()];
    for (i, score) in asked.into_iter().zip(given) {
        unscorable[i] = score.is_none();
        scores[i] = score.unwrap_or(scores[i]);
    }
    let mut episodes = Vec::with_capacity(prompts.len());
    for (i, completion) in completions.into_iter().enumerate() {
        let prompt_length = prompts[i].ids.len();
        let with_offset = |(values, offset): &(Vec<Vec<f32>>, f32)| values[i].iter().map(|v| v + offset).collect();
        episodes.push(Episode {
            index: i,
            ids: Arc::clone(&sequences[i]),
            prompt_length,
            logprobs: completion.logprobs,
            ref_logprobs: references
                .as_ref()
                .map(|all| all[i].logprobs.clone())
                .unwrap_or_default(),
            values: values.as_ref().map(with_offset).unwrap_or_default(),
            score: scores[i],
            ended: ended[i],
            unscorable: unscorable[i],
            text: (prompt_text(&prompts[i].prompt.input), responses[i].clone()),
        });
    }
    Ok(Some(Collected {
        episodes,
        first_refusal,
        seconds: clock.laps,
    }))
}

/// Seconds of one part of an update after another.
struct Clock {
    last: Instant,
    laps: Vec<(&'static str, f64)>,
}

impl Clock {
    fn start() -> Self {
        Self {
            last: Instant::now(),
            laps: Vec::new(),
        }
    }

    /// What was done since the last lap was this part.
    fn lap(&mut self, part: &'static str) {
        let now = Instant::now();
        self.laps.push((part, (now - self.last).as_secs_f64()));
        self.last = now;
    }
}

/// A completion's tokens without the one that stopped it.
fn without_stop(completion: &Completion) -> &[u32] {
    match (completion.finish, completion.ids.split_last()) {
        (FinishReason::Stop, Some((_, before))) => before,
        _ => &completion.ids,
    }
}

/// What was asked last, for people to read.
fn prompt_text(input: &PromptInput) -> String {
    input
        .to_messages()
        .pop()
        .map_or_else(String::new, |message| message.content)
}
