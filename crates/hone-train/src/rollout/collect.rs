//! A rollout: prompts answered by the policy, or episodes of an environment that it plays, with every number that an
//! update needs of them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use hone_compute::{Engine, SamplingParameters};
use hone_generate::{
    Dialogue, FinishReason, Generator, GeneratorOptions, Played, Request, logprobs_in, play, text_after, without_stop,
};
use hone_math::Key;
use hone_model::Transformer;
use hone_objective::rewards::RewardInputs;
use hone_run::Shutdown;
use hone_task::environment::{Status, Turn};
use hone_text::{Chat, Tokenizer};
use serde_json::{Map, Value};

use super::acting::Acting;
use super::figures::Figures;
use super::judge::{Asked, Judge, Judged, named, prompt_text};
use super::prompts::PreparedPrompt;
use super::score::Response;
use super::sections::{MissingEos, RolloutSettings};
use crate::error::Result;

/// A prompt and its response, or an episode of several turns.
pub(crate) struct Episode {
    /// Which of its rollout.
    pub index: usize,
    /// All of its tokens, `[n]`.
    pub ids: Arc<[u32]>,
    /// Where those lie that the policy sampled: of a response one span to the end, of several turns one a turn. In order;
    /// what lies before and between them is the prompt's and the environment's.
    pub spans: Vec<Range<usize>>,
    /// Log-probabilities of the sampled tokens as they were sampled, `[t]`.
    pub logprobs: Vec<f32>,
    /// The same under the reference, `[t]`; without one, `[0]`.
    pub ref_logprobs: Vec<f32>,
    /// What is maximised, or what replaces it.
    pub score: f32,
    /// Whether the response ended by itself; of several turns, whether the episode did.
    pub ended: bool,
    /// Whether a reward model could not read it.
    pub unscorable: bool,
    /// The prompt and the response as text.
    pub text: (String, String),
    /// What else its line of `samples.jsonl` says.
    pub extra: Map<String, Value>,
}

impl Episode {
    /// Tokens that the policy sampled.
    pub fn length(&self) -> usize {
        self.spans.iter().map(ExactSizeIterator::len).sum()
    }

    /// The tokens behind the prompt: the response's; of several turns also what the environment says between them.
    pub fn response(&self) -> &[u32] {
        &self.ids[self.spans.first().map_or(self.ids.len(), |span| span.start)..]
    }

    /// The tokens that the policy sampled, `[t]`.
    pub fn sampled(&self) -> impl Iterator<Item = u32> {
        self.spans.iter().flat_map(|span| &self.ids[span.clone()]).copied()
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

/// What rewards follow from: numbers of the sampled tokens of some episodes, one episode after another, and a score each.
pub(crate) struct ScoredTokens<'a> {
    logprobs: Vec<f32>,
    ref_logprobs: Vec<f32>,
    mask: Vec<bool>,
    lengths: Vec<usize>,
    scores: &'a [f32],
}

impl<'a> ScoredTokens<'a> {
    /// Of episodes whose scores are these.
    pub fn new(episodes: &[Episode], scores: &'a [f32]) -> Self {
        let flat = |of: fn(&Episode) -> &[f32]| -> Vec<f32> { episodes.iter().flat_map(of).copied().collect() };
        let logprobs = flat(|e| &e.logprobs);
        Self {
            mask: vec![true; logprobs.len()],
            logprobs,
            ref_logprobs: flat(|e| &e.ref_logprobs),
            lengths: episodes.iter().map(Episode::length).collect(),
            scores,
        }
    }

    /// The same as the objectives take it.
    pub fn inputs(&self) -> RewardInputs<'_> {
        RewardInputs {
            logprobs: &self.logprobs,
            ref_logprobs: &self.ref_logprobs,
            mask: &self.mask,
            lengths: &self.lengths,
            scores: self.scores,
        }
    }
}

/// What a rollout reads.
#[derive(Clone, Copy)]
pub(crate) struct Models<'a> {
    pub policy: &'a Transformer,
    pub reference: Option<&'a Transformer>,
    pub judge: &'a Judge,
    pub tokenizer: &'a Tokenizer,
    pub chat: Option<&'a Chat>,
    pub stop: &'a Arc<[u32]>,
    pub shutdown: &'a Shutdown,
}

/// A rollout.
pub(crate) struct Collected {
    pub episodes: Vec<Episode>,
    /// Why the first response that could not be scored could not be.
    pub first_refusal: Option<String>,
    /// Sums over all of its episodes.
    pub figures: Figures,
    /// Seconds that its parts took, by their key in `timings.jsonl`.
    pub seconds: Vec<(&'static str, f64)>,
}

/// Samples responses to `prompts` and judges them; none if the run is asked to stop on the way. Nothing has changed then.
/// `rollout` says which one this is.
pub(crate) fn collect(
    engine: &Engine,
    models: &Models<'_>,
    prompts: &[&PreparedPrompt],
    settings: &RolloutSettings,
    (rollout, key): (u64, Key),
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
    let spans: Vec<Vec<Range<usize>>> = prompts
        .iter()
        .zip(&sequences)
        .map(|(p, s)| std::iter::once(p.ids.len()..s.len()).collect())
        .collect();
    // 2. What the reference says of the same tokens
    let references = references(engine, models, (&sequences, &spans), (settings, &mut clock));
    if stops() {
        return Ok(None);
    }
    // 3. Scores; one that is replaced is not asked for
    let text = |(completion, prompt): (_, &&PreparedPrompt)| {
        let raw = models.chat.is_none().then_some(&*prompt.ids);
        Ok(text_after(
            models.tokenizer,
            raw,
            without_stop(completion, models.stop),
        )?)
    };
    let responses: Vec<String> = completions.iter().zip(prompts).map(text).collect::<Result<_>>()?;
    let ended: Vec<bool> = completions.iter().map(|c| c.finish == FinishReason::Stop).collect();
    let asked: Vec<usize> = (0..prompts.len())
        .filter(|&i| ended[i] || settings.missing_eos == MissingEos::Keep)
        .collect();
    let to_score: Vec<Response<'_>> = asked
        .iter()
        .map(|&i| Response {
            index: i,
            prompt: prompts[i],
            ids: without_stop(&completions[i], models.stop),
            text: &responses[i],
        })
        .collect();
    let judged = models.judge.scores(
        engine,
        &Asked {
            responses: &to_score,
            tokenizer: models.tokenizer,
            update: rollout + 1,
            shutdown: models.shutdown,
        },
    )?;
    let Some(Judged {
        scores: given,
        parts,
        first_refusal,
    }) = judged
    else {
        return Ok(None);
    };
    clock.lap("time/scores");
    let names = models.judge.names();
    let figures = Figures::of_parts(names, &parts);
    let mut scores = vec![settings.missing_eos_score as f32; prompts.len()];
    let mut unscorable = vec![false; prompts.len()];
    let mut extras = vec![Map::new(); prompts.len()];
    for ((i, score), parts) in asked.into_iter().zip(given).zip(parts) {
        unscorable[i] = score.is_none();
        scores[i] = score.unwrap_or(scores[i]);
        if !parts.is_empty() {
            extras[i].insert("parts".into(), named(names, &parts).into());
        }
    }
    let mut episodes = Vec::with_capacity(prompts.len());
    for (i, ((completion, ref_logprobs), (ids, spans))) in completions
        .into_iter()
        .zip(references)
        .zip(sequences.into_iter().zip(spans))
        .enumerate()
    {
        episodes.push(Episode {
            index: i,
            ids,
            spans,
            logprobs: completion.logprobs,
            ref_logprobs,
            score: scores[i],
            ended: ended[i],
            unscorable: unscorable[i],
            text: (prompt_text(&prompts[i].prompt.input), responses[i].clone()),
            extra: std::mem::take(&mut extras[i]),
        });
    }
    Ok(Some(Collected {
        figures: figures.with_tokens(&episodes),
        episodes,
        first_refusal,
        seconds: clock.laps,
    }))
}

/// Plays the environment's episodes of a rollout; none if the run is asked to stop on the way. Nothing has changed then.
pub(crate) fn collect_episodes(
    engine: &Engine,
    models: &Models<'_>,
    acting: &Acting,
    settings: &RolloutSettings,
    (rollout, key): (u64, Key),
) -> Result<Option<Collected>> {
    let stops = || models.shutdown.requested();
    let mut clock = Clock::start();
    // 1. Turn by turn, with the log-probabilities that the tokens of actions had
    let indices = acting.episodes(rollout, settings).into_iter().enumerate();
    let episodes: Vec<(u64, Key)> = indices.map(|(i, index)| (index, key.child(i as u64))).collect();
    let dialogue = Dialogue::new(models.tokenizer, models.chat)?;
    let played = play(
        (engine, models.policy),
        &dialogue,
        &acting.setting,
        (&episodes, &acting.settings(settings)),
        &mut || !stops(),
    )?;
    clock.lap("time/sampling");
    let Some(played) = played else { return Ok(None) };
    let sequences: Vec<Arc<[u32]>> = played.iter().map(|episode| Arc::clone(&episode.ids)).collect();
    let spans: Vec<Vec<Range<usize>>> = played.iter().map(|episode| episode.spans.clone()).collect();
    // 2. What the reference says of the same tokens
    let references = references(engine, models, (&sequences, &spans), (settings, &mut clock));
    if stops() {
        return Ok(None);
    }
    let figures = Figures::of_played(&played);
    let episodes: Vec<Episode> = played
        .into_iter()
        .zip(references)
        .enumerate()
        .map(|(i, (played, ref_logprobs))| Episode {
            index: i,
            text: text_of_turns(&played.turns),
            extra: extra_of(&played),
            ids: played.ids,
            spans: played.spans,
            logprobs: played.logprobs,
            ref_logprobs,
            score: played.reward as f32,
            ended: played.status == Status::Ended,
            unscorable: false,
        })
        .collect();
    Ok(Some(Collected {
        figures: figures.with_tokens(&episodes),
        episodes,
        first_refusal: None,
        seconds: clock.laps,
    }))
}

/// All tokens of each sequence, and where in it the sampled ones lie.
type Sequences<'a> = (&'a [Arc<[u32]>], &'a [Vec<Range<usize>>]);

/// The reference's log-probabilities of the sampled tokens of each sequence, under the policy's temperature, `[t]`; without a
/// reference, `[0]`.
fn references(
    engine: &Engine,
    models: &Models<'_>,
    (sequences, spans): Sequences<'_>,
    (settings, clock): (&RolloutSettings, &mut Clock),
) -> Vec<Vec<f32>> {
    let Some(reference) = models.reference else {
        return vec![Vec::new(); sequences.len()];
    };
    let sequences: Vec<&[u32]> = sequences.iter().map(|s| &**s).collect();
    let spans: Vec<&[Range<usize>]> = spans.iter().map(Vec::as_slice).collect();
    let scores = logprobs_in(engine, reference, (&sequences, &spans), settings.temperature as f32);
    clock.lap("time/reference");
    scores.into_iter().map(|scores| scores.logprobs).collect()
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

/// What was shown first, and what was done and shown from then on, for people to read.
fn text_of_turns(turns: &[Turn]) -> (String, String) {
    let Some((first, later)) = turns.split_first() else {
        return (String::new(), String::new());
    };
    let mut response = first.action.clone();
    for turn in later {
        response += &format!("\n\n{}\n> {}", turn.observation.trim_end(), turn.action);
    }
    (first.observation.clone(), response)
}

fn extra_of(played: &Played) -> Map<String, Value> {
    let mut extra = Map::new();
    extra.insert("turns".into(), played.turns.len().into());
    if let Some(optimum) = played.optimum {
        extra.insert("optimum".into(), optimum.into());
    }
    extra
}
