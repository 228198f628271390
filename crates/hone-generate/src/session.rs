//! Continuous batching: requests come and go while others run, and a place that a finished sequence leaves is taken at
//! once.
//!
//! What a request's tokens are does not depend on when it came nor on what ran beside it: see the crate's first page.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hone_compute::{Adjustment, BestRow, Choice, Engine, Layout, SampleRow, SamplingError, SequenceCache, Tape, Var};
use hone_model::{Tokens, Transformer};

use crate::batch::GeneratorOptions;
use crate::prefix::Prefixes;
use crate::request::{Completion, Extras, FinishReason, GenerateError, Request, RequestId, TokenEvent};

/// Requests that are sampled together, to which others can be added between two steps.
pub struct Session<'m> {
    engine: &'m Engine,
    model: &'m Transformer,
    options: GeneratorOptions,
    next: RequestId,
    waiting: VecDeque<Waiting>,
    prefixes: Prefixes,
    active: Vec<Active>,
    finished: Vec<(RequestId, Completion)>,
    /// Tokens of a step that failed, to be told of at the next.
    untold: Vec<TokenEvent>,
}

/// A request with its number.
struct Asked {
    id: RequestId,
    request: Request,
    extras: Extras,
}

/// A sequence that is being decoded.
struct Active {
    asked: Asked,
    cache: SequenceCache,
    completion: Completion,
    /// The token to be read next.
    last: u32,
    text: Vec<u8>,
    /// How often each token was sampled, and, where they count, those of the prompt with 0.
    seen: BTreeMap<u32, u32>,
}

/// Requests that wait, those with one prompt together.
struct Waiting {
    prompt: Arc<[u32]>,
    requests: VecDeque<Asked>,
    /// The cache of the prompt's beginning, where it is computed in parts.
    begun: Option<SequenceCache>,
    /// The prompt's cache and last hidden state, once computed.
    ready: Option<(SequenceCache, Vec<f32>)>,
}

/// A token that was drawn for a sequence.
struct Drawn {
    choice: Choice,
    alternatives: Vec<Choice>,
}

impl<'m> Session<'m> {
    /// Without requests.
    pub(crate) fn new(engine: &'m Engine, model: &'m Transformer, options: GeneratorOptions) -> Self {
        Self {
            engine,
            model,
            options,
            next: 0,
            waiting: VecDeque::new(),
            prefixes: Prefixes::default(),
            active: Vec::new(),
            finished: Vec::new(),
            untold: Vec::new(),
        }
    }

    /// Adds a request, behind those that wait already; requests are numbered from 0. One for no tokens is finished as it
    /// comes.
    ///
    /// # Errors
    /// If the prompt is empty, too long or of another vocabulary, or a token of the extras is.
    pub fn submit(&mut self, request: Request, extras: Extras) -> Result<RequestId, GenerateError> {
        let id = self.next;
        self.check(id, &request, &extras)?;
        self.next += 1;
        if request.max_new_tokens == 0 {
            self.finished.push((id, Completion::empty()));
            return Ok(id);
        }
        let asked = Asked { id, request, extras };
        match self.waiting.back_mut() {
            Some(group) if group.prompt == asked.request.prompt => group.requests.push_back(asked),
            _ => self.waiting.push_back(Waiting {
                prompt: Arc::clone(&asked.request.prompt),
                requests: VecDeque::from([asked]),
                begun: None,
                ready: None,
            }),
        }
        Ok(id)
    }

    /// Takes a request out; its place is free at once. False if it is not there: it has ended, or never was.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        if let Some(at) = self.active.iter().position(|active| active.asked.id == id) {
            let mut active = self.active.remove(at);
            active.completion.finish = FinishReason::Cancelled;
            self.finished.push((id, active.completion));
            return true;
        }
        for group in &mut self.waiting {
            if let Some(at) = group.requests.iter().position(|asked| asked.id == id) {
                group.requests.remove(at);
                self.waiting.retain(|group| !group.requests.is_empty());
                let completion = Completion {
                    finish: FinishReason::Cancelled,
                    ..Completion::empty()
                };
                self.finished.push((id, completion));
                return true;
            }
        }
        false
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.active.is_empty() && self.waiting.iter().all(|group| group.requests.is_empty())
    }

    /// Sequences that are being decoded.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    /// Requests that have no place yet.
    pub fn waiting(&self) -> usize {
        self.waiting.iter().map(|group| group.requests.len()).sum()
    }

    /// Bytes of the caches of all sequences that are being decoded, shared pages counted once for each.
    pub fn cache_bytes(&self) -> usize {
        self.active.iter().map(|active| active.cache.bytes()).sum()
    }

    /// The completions that ended since this was last asked, in the order in which they ended.
    pub fn take_finished(&mut self) -> Vec<(RequestId, Completion)> {
        std::mem::take(&mut self.finished)
    }

    /// Gives free places to requests that wait, with a first token each, and one more token to every sequence.
    ///
    /// # Errors
    /// If the model gives a request no token to draw. That request is taken out, and the others go on at the next step as
    /// if it had not been there.
    pub fn step(&mut self) -> Result<Vec<TokenEvent>, GenerateError> {
        let mut events = std::mem::take(&mut self.untold);
        let stepped = self.step_with(&mut |event| {
            events.push(event);
            true
        });
        match stepped {
            Ok(()) => Ok(events),
            Err(error) => {
                self.untold = events;
                Err(error)
            }
        }
    }

    /// The same, and tells of every token as it comes. A request for whose token `on_token` gives false is cancelled: its
    /// place is free before the next token.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn step_with(&mut self, on_token: &mut dyn FnMut(TokenEvent) -> bool) -> Result<(), GenerateError> {
        // 1. Fill free places, computing prompts in packs
        self.admit(on_token)?;
        if self.active.is_empty() {
            return Ok(());
        }
        // 2. One token for every active sequence
        let ids: Arc<[u32]> = self.active.iter().map(|a| a.last).collect();
        let layout = Layout::continued(self.active.iter().map(|a| (a.cache.len(), 1)));
        let mut tape = Tape::decoding(self.engine, self.model.parameters());
        let mut caches: Vec<&mut SequenceCache> = self.active.iter_mut().map(|a| &mut a.cache).collect();
        let tokens = Tokens {
            ids: &ids,
            layout: &layout,
        };
        let hidden = self.model.hidden_cached(&mut tape, &tokens, &mut caches);
        let drawn = match self.sample(&mut tape, &hidden, &self.active) {
            Ok(drawn) => drawn,
            Err((row, source)) => return Err(self.without(row, source)),
        };
        // 3. Those that end leave their places
        let mut kept = Vec::with_capacity(self.active.len());
        for (mut sequence, drawn) in std::mem::take(&mut self.active).into_iter().zip(drawn) {
            if self.take(&mut sequence, drawn, on_token) {
                kept.push(sequence);
            } else {
                self.end(sequence);
            }
        }
        self.active = kept;
        Ok(())
    }

    /// A sequence leaves its place.
    fn end(&mut self, sequence: Active) {
        let Active {
            asked,
            cache,
            completion,
            ..
        } = sequence;
        if self.options.kept_tokens > 0 {
            // The last token was not read
            let all = asked.request.prompt.iter().chain(&completion.ids);
            let tokens: Arc<[u32]> = all.take(cache.len()).copied().collect();
            let prompt = asked.request.prompt.len().min(tokens.len());
            self.prefixes
                .keep_ended(tokens, prompt, cache, self.options.kept_tokens);
        }
        self.finished.push((asked.id, completion));
    }

    /// Takes out the sequence for which nothing could be drawn; the others read their last token again.
    fn without(&mut self, row: usize, source: SamplingError) -> GenerateError {
        let failed = self.active.remove(row);
        for active in &mut self.active {
            active.cache.truncate(active.cache.len() - 1);
        }
        GenerateError::Sampling {
            request: failed.asked.id,
            source,
        }
    }

    fn check(&self, request: RequestId, r: &Request, extras: &Extras) -> Result<(), GenerateError> {
        let (context, vocabulary) = (self.model.architecture().context, self.model.architecture().vocab_size);
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
        let changed = extras.bias.iter().map(|(id, _)| id);
        if let Some(&id) = r.prompt.iter().chain(changed).find(|&&id| id as usize >= vocabulary) {
            return Err(GenerateError::UnknownToken {
                request,
                id,
                vocabulary,
            });
        }
        Ok(())
    }

    fn admit(&mut self, on_token: &mut dyn FnMut(TokenEvent) -> bool) -> Result<(), GenerateError> {
        let mut computed = false;
        while self.active.len() < self.options.max_batch && !self.waiting.is_empty() {
            if self.waiting[0].ready.is_none() {
                // One pack a step, which may be a part of a prompt: those that are being decoded do not wait for more
                if computed || self.begin_long() {
                    break;
                }
                computed = true;
                self.prefill(self.options.max_batch - self.active.len());
            }
            let mut first = Vec::new();
            let mut hidden = Vec::new();
            while self.active.len() + first.len() < self.options.max_batch {
                let Some(group) = self.waiting.front_mut() else { break };
                let Some((cache, last_hidden)) = &group.ready else {
                    break;
                };
                let Some(asked) = group.requests.pop_front() else {
                    self.waiting.pop_front();
                    continue;
                };
                hidden.extend_from_slice(last_hidden);
                first.push(Active::new(asked, cache.clone()));
            }
            // Groups whose requests have all begun were dropped: look at the next ones
            if first.is_empty() {
                continue;
            }
            let width = self.model.architecture().width;
            let mut tape = Tape::decoding(self.engine, self.model.parameters());
            let states = tape.constant(self.engine.tensor(first.len(), width, &hidden));
            let drawn = match self.sample(&mut tape, &states, &first) {
                Ok(drawn) => drawn,
                Err((row, source)) => return Err(self.put_back(first, &hidden, (row, source))),
            };
            for (mut sequence, drawn) in first.into_iter().zip(drawn) {
                if self.take(&mut sequence, drawn, on_token) {
                    self.active.push(sequence);
                } else {
                    self.end(sequence);
                }
            }
        }
        // Nothing holds the cache of a prompt whose requests have all begun
        while self.waiting.front().is_some_and(|group| group.requests.is_empty()) {
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Lets sequences wait again, but for the one for which no first token could be drawn.
    fn put_back(&mut self, first: Vec<Active>, hidden: &[f32], (row, source): (usize, SamplingError)) -> GenerateError {
        let request = first[row].asked.id;
        let width = self.model.architecture().width;
        for (i, sequence) in first.into_iter().enumerate().rev().filter(|(i, _)| *i != row) {
            self.waiting.push_front(Waiting {
                prompt: Arc::clone(&sequence.asked.request.prompt),
                requests: VecDeque::from([sequence.asked]),
                begun: None,
                ready: Some((sequence.cache, hidden[i * width..(i + 1) * width].to_vec())),
            });
        }
        GenerateError::Sampling { request, source }
    }

    /// Computes the prompts of the next groups, as many as fill `places` or the limit of tokens.
    fn prefill(&mut self, places: usize) {
        let (mut count, mut tokens, mut requests) = (0, 0, 0);
        for group in &self.waiting {
            let left = group.left();
            let over = tokens + left > self.options.prefill_tokens;
            if group.ready.is_some() || requests >= places || (count > 0 && over) {
                break;
            }
            (count, tokens, requests) = (count + 1, tokens + left, requests + group.requests.len());
        }
        let prompts: Vec<Arc<[u32]>> = self.waiting.iter().take(count).map(|g| Arc::clone(&g.prompt)).collect();
        // 1. What several of them begin with
        let slices: Vec<&[u32]> = prompts.iter().map(|prompt| &**prompt).collect();
        let missing = self.prefixes.missing(&slices, self.options.least_shared);
        if !missing.is_empty() {
            let nothing = missing.iter().map(|_| None).collect();
            let (caches, _) = self.read(&missing, nothing);
            for (tokens, cache) in missing.into_iter().zip(caches) {
                self.prefixes.keep(tokens, cache);
            }
        }
        // 2. The rest of each
        let groups = self.waiting.iter_mut().take(count);
        let begun = groups.map(|group| group.begun.take()).collect();
        let (caches, last) = self.read(&prompts, begun);
        let width = self.model.architecture().width;
        for ((group, cache), hidden) in self.waiting.iter_mut().zip(caches).zip(last.chunks(width)) {
            group.ready = Some((cache, hidden.to_vec()));
        }
        let to_come = self.waiting.iter().skip(count).map(|group| &*group.prompt);
        self.prefixes.forget_all_but(to_come);
    }

    /// Computes a part of the first prompt, if it has more tokens left than are computed together. Keys and values do not
    /// depend on how a sequence is cut.
    fn begin_long(&mut self) -> bool {
        let part = self.options.prefill_tokens.max(1);
        let Some(group) = self.waiting.front_mut().filter(|group| group.left() > part) else {
            return false;
        };
        let (prompt, begun) = (Arc::clone(&group.prompt), group.begun.take());
        let known = self.prefixes.longest(&prompt).map_or(0, |cache| cache.len());
        let from = known.max(begun.as_ref().map_or(0, SequenceCache::len));
        let until: Arc<[u32]> = prompt[..prompt.len().min(from + part)].into();
        let is_part = until.len() < prompt.len();
        let begun = match is_part {
            true => self.read(&[until], vec![begun]).0.pop(),
            false => begun,
        };
        if let Some(group) = self.waiting.front_mut() {
            group.begun = begun;
        }
        is_part
    }

    /// The caches of these sequences and their last hidden states, one after another; what is known of their beginnings
    /// is not computed again, nor what is `begun` of each.
    fn read(&self, sequences: &[Arc<[u32]>], begun: Vec<Option<SequenceCache>>) -> (Vec<SequenceCache>, Vec<f32>) {
        let mut caches: Vec<_> = sequences
            .iter()
            .zip(begun)
            .map(|(tokens, begun)| {
                let known = [self.prefixes.longest(tokens), begun].into_iter().flatten();
                let known = known.max_by_key(SequenceCache::len);
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
        let mut tape = Tape::decoding(self.engine, self.model.parameters());
        let mut places: Vec<_> = caches.iter_mut().collect();
        let wanted = vec![1; sequences.len()];
        let last = self.model.hidden_last(&mut tape, &tokens, &wanted, Some(&mut places));
        let states = self.engine.read(last.value());
        (caches, states)
    }

    /// A token for each sequence from its hidden state, or the row for which there is none.
    fn sample(
        &self,
        tape: &mut Tape<'_>,
        hidden: &Var,
        sequences: &[Active],
    ) -> Result<Vec<Drawn>, (usize, SamplingError)> {
        let rows: Vec<SampleRow> = sequences.iter().map(Active::row).collect();
        let adjusts = sequences.iter().any(|s| s.asked.extras.adjusts());
        let adjustments: Vec<Vec<Adjustment>> = match adjusts {
            true => sequences.iter().map(Active::adjustments).collect(),
            false => Vec::new(),
        };
        let choices = tape.sample_adjusted(hidden, self.model.output(), &rows, &adjustments)?;
        let mut drawn: Vec<Drawn> = choices
            .into_iter()
            .map(|choice| Drawn {
                choice,
                alternatives: Vec::new(),
            })
            .collect();
        let asking: Arc<[u32]> = (0..sequences.len() as u32)
            .filter(|&row| sequences[row as usize].asked.extras.alternatives > 0)
            .collect();
        if !asking.is_empty() {
            let states = tape.select_rows(hidden, &asking);
            let best: Vec<BestRow> = asking.iter().map(|&row| sequences[row as usize].best_row()).collect();
            let found = tape.best(&states, self.model.output(), &best);
            let found = found.map_err(|(row, source)| (asking[row] as usize, source))?;
            for (&row, alternatives) in asking.iter().zip(found) {
                drawn[row as usize].alternatives = alternatives;
            }
        }
        Ok(drawn)
    }

    /// Adds a token to a sequence; false if that ends it.
    fn take(&self, sequence: &mut Active, drawn: Drawn, on_token: &mut dyn FnMut(TokenEvent) -> bool) -> bool {
        let Choice { token, logprob } = drawn.choice;
        let request = &sequence.asked.request;
        let completion = &mut sequence.completion;
        completion.ids.push(token);
        completion.logprobs.push(logprob);
        sequence.last = token;
        if sequence.asked.extras.adjusts() {
            *sequence.seen.entry(token).or_default() += 1;
        }
        let mut finish = None;
        if request.stop_tokens.contains(&token) || text_stops(request, &mut sequence.text, token) {
            finish = Some(FinishReason::Stop);
        } else if completion.ids.len() >= request.max_new_tokens
            || request.prompt.len() + completion.ids.len() >= self.model.architecture().context
        {
            finish = Some(FinishReason::Length);
        }
        let goes_on = on_token(TokenEvent {
            request: sequence.asked.id,
            token,
            logprob,
            alternatives: drawn.alternatives,
            finish,
        });
        if finish.is_none() && !goes_on {
            finish = Some(FinishReason::Cancelled);
        }
        completion.finish = finish.unwrap_or(FinishReason::Length);
        finish.is_none()
    }
}

impl Waiting {
    /// Tokens of the prompt that are not computed yet.
    fn left(&self) -> usize {
        self.prompt.len() - self.begun.as_ref().map_or(0, SequenceCache::len)
    }
}

impl Active {
    fn new(asked: Asked, cache: SequenceCache) -> Self {
        let mut seen = BTreeMap::new();
        if asked.extras.repetition_penalty != 1.0 {
            seen.extend(asked.request.prompt.iter().map(|&token| (token, 0)));
        }
        Self {
            asked,
            cache,
            completion: Completion::empty(),
            last: 0,
            text: Vec::new(),
            seen,
        }
    }

    fn row(&self) -> SampleRow {
        SampleRow {
            parameters: self.asked.request.sampling,
            uniform: self.asked.request.key.uniform(self.completion.ids.len() as u64),
        }
    }

    fn best_row(&self) -> BestRow {
        let temperature = self.asked.request.sampling.temperature;
        BestRow {
            count: self.asked.extras.alternatives,
            temperature: if temperature > 0.0 { temperature } else { 1.0 },
        }
    }

    /// What its extras make of the logits of its next token, a token once.
    fn adjustments(&self) -> Vec<Adjustment> {
        let extras = &self.asked.extras;
        if !extras.adjusts() {
            return Vec::new();
        }
        let mut changes: BTreeMap<u32, Adjustment> = BTreeMap::new();
        for (&token, &count) in &self.seen {
            let present = if count > 0 { extras.presence_penalty } else { 0.0 };
            let change = Adjustment {
                token,
                penalty: extras.repetition_penalty,
                bias: -(extras.frequency_penalty * count as f32 + present),
            };
            changes.insert(token, change);
        }
        for &(token, bias) in extras.bias.iter() {
            let none = Adjustment {
                token,
                penalty: 1.0,
                bias: 0.0,
            };
            changes.entry(token).or_insert(none).bias += bias;
        }
        changes.into_values().collect()
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
