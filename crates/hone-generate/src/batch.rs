//! Continuous batching: a place that a finished sequence leaves is taken at once.

use std::collections::VecDeque;
use std::sync::Arc;

use hone_compute::{Engine, Layout, SampleRow, SequenceCache, Tape, Var};
use hone_model::{Tokens, Transformer};

use crate::prefix::Prefixes;
use crate::request::{Completion, FinishReason, GenerateError, Request, TokenEvent};

/// How much runs at once.
#[derive(Clone, Copy, Debug)]
pub struct GeneratorOptions {
    /// Sequences decoded together; at least one is.
    pub max_batch: usize,
    /// Tokens of prompts computed together.
    pub prefill_tokens: usize,
    /// Beginnings that prompts share are computed once if they are at least so long, in tokens.
    pub least_shared: usize,
}

impl Default for GeneratorOptions {
    fn default() -> Self {
        Self {
            max_batch: 64,
            prefill_tokens: 2048,
            least_shared: 32,
        }
    }
}

/// Samples completions from a model.
pub struct Generator<'m> {
    engine: &'m Engine,
    model: &'m Transformer,
    options: GeneratorOptions,
}

/// A sequence that is being decoded.
struct Active {
    request: usize,
    cache: SequenceCache,
    completion: Completion,
    /// The token to be read next.
    last: u32,
    text: Vec<u8>,
}

/// Requests that wait, those with one prompt together.
struct Waiting {
    prompt: Arc<[u32]>,
    requests: VecDeque<usize>,
    /// The prompt's cache and last hidden state, once computed.
    ready: Option<(SequenceCache, Vec<f32>)>,
}

impl<'m> Generator<'m> {
    /// A sampler for this model.
    pub fn new(engine: &'m Engine, model: &'m Transformer, options: GeneratorOptions) -> Self {
        let options = GeneratorOptions {
            max_batch: options.max_batch.max(1),
            ..options
        };
        Self { engine, model, options }
    }

    /// Samples all requests; the result is in their order.
    ///
    /// # Errors
    /// If a prompt is empty, too long or of another vocabulary, or the model diverged.
    pub fn run(&self, requests: &[Request]) -> Result<Vec<Completion>, GenerateError> {
        self.run_with(requests, &mut |_| true)
    }

    /// The same, and tells of every token as it comes. A request for whose token `on_token` gives false is cancelled.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_with(
        &self,
        requests: &[Request],
        on_token: &mut dyn FnMut(TokenEvent) -> bool,
    ) -> Result<Vec<Completion>, GenerateError> {
        self.check(requests)?;
        let mut done: Vec<Option<Completion>> = requests.iter().map(|_| None).collect();
        // A request for no tokens is done before it begins
        for (done, _) in done.iter_mut().zip(requests).filter(|(_, r)| r.max_new_tokens == 0) {
            *done = Some(Completion::empty());
        }
        let mut waiting = group_by_prompt(requests);
        let mut prefixes = Prefixes::default();
        let mut active: Vec<Active> = Vec::new();
        loop {
            // 1. Fill free places, computing prompts in packs
            self.admit(
                requests,
                (&mut waiting, &mut prefixes),
                &mut active,
                &mut done,
                on_token,
            )?;
            if active.is_empty() {
                break;
            }
            // 2. One token for every active sequence
            let ids: Arc<[u32]> = active.iter().map(|a| a.last).collect();
            let layout = Layout::continued(active.iter().map(|a| (a.cache.len(), 1)));
            let mut tape = Tape::inference(self.engine, self.model.parameters());
            let mut caches: Vec<&mut SequenceCache> = active.iter_mut().map(|a| &mut a.cache).collect();
            let hidden = self.model.hidden_cached(
                &mut tape,
                &Tokens {
                    ids: &ids,
                    layout: &layout,
                },
                &mut caches,
            );
            let rows: Vec<_> = active
                .iter()
                .map(|a| sample_row(&requests[a.request], a.completion.ids.len()))
                .collect();
            let chosen = self.sample(&tape, &hidden, &rows, &active)?;
            // 3. Those that end leave their places
            let mut kept = Vec::with_capacity(active.len());
            for (mut sequence, (token, logprob)) in active.into_iter().zip(chosen) {
                if self.take(&mut sequence, requests, (token, logprob), on_token) {
                    kept.push(sequence);
                } else {
                    done[sequence.request] = Some(sequence.completion);
                }
            }
            active = kept;
        }
        Ok(done.into_iter().flatten().collect())
    }

    fn check(&self, requests: &[Request]) -> Result<(), GenerateError> {
        let (context, vocabulary) = (self.model.architecture().context, self.model.architecture().vocab_size);
        for (request, r) in requests.iter().enumerate() {
            if r.prompt.is_empty() {
                return Err(GenerateError::EmptyPrompt { request });
            }
            if r.prompt.len() >= context {
                return Err(GenerateError::PromptTooLong {
                    request,
                    got: r.prompt.len(),
                    context,
                });
            }
            if let Some(&id) = r.prompt.iter().find(|&&id| id as usize >= vocabulary) {
                return Err(GenerateError::UnknownToken {
                    request,
                    id,
                    vocabulary,
                });
            }
        }
        Ok(())
    }

    fn admit(
        &self,
        requests: &[Request],
        (waiting, prefixes): (&mut VecDeque<Waiting>, &mut Prefixes),
        active: &mut Vec<Active>,
        done: &mut [Option<Completion>],
        on_token: &mut dyn FnMut(TokenEvent) -> bool,
    ) -> Result<(), GenerateError> {
        while active.len() < self.options.max_batch && !waiting.is_empty() {
            if waiting[0].ready.is_none() {
                self.prefill(waiting, prefixes, self.options.max_batch - active.len());
            }
            let mut first = Vec::new();
            let mut hidden = Vec::new();
            while active.len() + first.len() < self.options.max_batch {
                let Some(group) = waiting.front_mut() else { break };
                let Some((cache, last_hidden)) = &group.ready else {
                    break;
                };
                let Some(request) = group.requests.pop_front() else {
                    waiting.pop_front();
                    continue;
                };
                hidden.extend_from_slice(last_hidden);
                first.push(Active {
                    request,
                    cache: cache.clone(),
                    completion: Completion::empty(),
                    last: 0,
                    text: Vec::new(),
                });
            }
            // Groups whose requests have all begun were dropped: look at the next ones
            if first.is_empty() {
                continue;
            }
            let tape = Tape::inference(self.engine, self.model.parameters());
            let hidden = tape.constant(
                self.engine
                    .tensor(first.len(), self.model.architecture().width, &hidden),
            );
            let rows: Vec<_> = first.iter().map(|a| sample_row(&requests[a.request], 0)).collect();
            let chosen = self.sample(&tape, &hidden, &rows, &first)?;
            for (mut sequence, (token, logprob)) in first.into_iter().zip(chosen) {
                if self.take(&mut sequence, requests, (token, logprob), on_token) {
                    active.push(sequence);
                } else {
                    done[sequence.request] = Some(sequence.completion);
                }
            }
        }
        Ok(())
    }

    /// Computes the prompts of the next groups, as many as fill `places` or the limit of tokens.
    fn prefill(&self, waiting: &mut VecDeque<Waiting>, prefixes: &mut Prefixes, places: usize) {
        let (mut count, mut tokens, mut requests) = (0, 0, 0);
        for group in waiting.iter() {
            let over = tokens + group.prompt.len() > self.options.prefill_tokens;
            if group.ready.is_some() || requests >= places || (count > 0 && over) {
                break;
            }
            (count, tokens, requests) = (count + 1, tokens + group.prompt.len(), requests + group.requests.len());
        }
        let mut groups: Vec<&mut Waiting> = waiting.iter_mut().take(count).collect();
        // 1. What several of them begin with
        let prompts: Vec<&[u32]> = groups.iter().map(|group| &*group.prompt).collect();
        let missing = prefixes.missing(&prompts, self.options.least_shared);
        if !missing.is_empty() {
            let (caches, _) = self.read(&missing, prefixes);
            for (tokens, cache) in missing.into_iter().zip(caches) {
                prefixes.keep(tokens, cache);
            }
        }
        // 2. The rest of each
        let prompts: Vec<_> = groups.iter().map(|group| Arc::clone(&group.prompt)).collect();
        let (caches, last) = self.read(&prompts, prefixes);
        let width = self.model.architecture().width;
        for ((group, cache), hidden) in groups.iter_mut().zip(caches).zip(last.chunks(width)) {
            group.ready = Some((cache, hidden.to_vec()));
        }
        prefixes.forget_all_but(waiting.iter().skip(count).map(|group| &*group.prompt));
    }

    /// The caches of these sequences and their last hidden states, one after another; what is known of their beginnings
    /// is not computed again.
    fn read(&self, sequences: &[Arc<[u32]>], prefixes: &Prefixes) -> (Vec<SequenceCache>, Vec<f32>) {
        let mut caches: Vec<_> = sequences
            .iter()
            .map(|tokens| {
                let known = prefixes.longest(tokens);
                known.unwrap_or_else(|| self.model.new_cache(self.engine))
            })
            .collect();
        let rest = sequences
            .iter()
            .zip(&caches)
            .map(|(tokens, cache)| &tokens[cache.len()..]);
        let ids: Arc<[u32]> = rest.flatten().copied().collect();
        let parts = sequences.iter().zip(&caches);
        let layout = Layout::continued(parts.map(|(tokens, cache)| (cache.len(), tokens.len() - cache.len())));
        let tokens = Tokens {
            ids: &ids,
            layout: &layout,
        };
        let mut tape = Tape::inference(self.engine, self.model.parameters());
        let mut places: Vec<_> = caches.iter_mut().collect();
        let wanted = vec![1; sequences.len()];
        let last = self.model.hidden_last(&mut tape, &tokens, &wanted, Some(&mut places));
        (caches, self.engine.read(last.value()))
    }

    fn sample(
        &self,
        tape: &Tape<'_>,
        hidden: &Var,
        rows: &[SampleRow],
        sequences: &[Active],
    ) -> Result<Vec<(u32, f32)>, GenerateError> {
        let choices = tape.sample(hidden, self.model.output(), rows);
        let choices = choices.map_err(|(row, source)| GenerateError::Sampling {
            request: sequences[row].request,
            source,
        })?;
        Ok(choices.into_iter().map(|c| (c.token, c.logprob)).collect())
    }

    /// Adds a token to a sequence; false if that ends it.
    fn take(
        &self,
        sequence: &mut Active,
        requests: &[Request],
        (token, logprob): (u32, f32),
        on_token: &mut dyn FnMut(TokenEvent) -> bool,
    ) -> bool {
        let request = &requests[sequence.request];
        let completion = &mut sequence.completion;
        completion.ids.push(token);
        completion.logprobs.push(logprob);
        sequence.last = token;
        let mut finish = None;
        if request.stop_tokens.contains(&token) || text_stops(request, &mut sequence.text, token) {
            finish = Some(FinishReason::Stop);
        } else if completion.ids.len() >= request.max_new_tokens
            || request.prompt.len() + completion.ids.len() >= self.model.architecture().context
        {
            finish = Some(FinishReason::Length);
        }
        let goes_on = on_token(TokenEvent {
            request: sequence.request,
            token,
            logprob,
            finish,
        });
        if finish.is_none() && !goes_on {
            finish = Some(FinishReason::Cancelled);
        }
        completion.finish = finish.unwrap_or(FinishReason::Length);
        finish.is_none()
    }
}

fn sample_row(request: &Request, token: usize) -> SampleRow {
    SampleRow {
        parameters: request.sampling,
        uniform: request.key.uniform(token as u64),
    }
}

fn text_stops(request: &Request, text: &mut Vec<u8>, token: u32) -> bool {
    let Some(stop) = &request.stop_texts else { return false };
    let known = text.len();
    text.extend((stop.bytes)(token));
    stop.texts.iter().filter(|stop| !stop.is_empty()).any(|stop| {
        let from = known.saturating_sub(stop.len() - 1);
        text[from..].windows(stop.len()).any(|window| window == stop.as_bytes())
    })
}

/// Requests for at least one token, those with the same prompt next to each other together.
fn group_by_prompt(requests: &[Request]) -> VecDeque<Waiting> {
    let mut groups: VecDeque<Waiting> = VecDeque::new();
    for (index, request) in requests.iter().enumerate().filter(|(_, r)| r.max_new_tokens > 0) {
        match groups.back_mut() {
            Some(group) if group.prompt == request.prompt => group.requests.push_back(index),
            _ => groups.push_back(Waiting {
                prompt: Arc::clone(&request.prompt),
                requests: VecDeque::from([index]),
                ready: None,
            }),
        }
    }
    groups
}
