//! A list of requests, sampled in batches.

use hone_compute::Engine;
use hone_model::Transformer;

use crate::request::{Completion, Extras, GenerateError, Request, TokenEvent};
use crate::session::Session;

/// How much runs at once.
#[derive(Clone, Copy, Debug)]
pub struct GeneratorOptions {
    /// Sequences decoded together; at least one is.
    pub max_batch: usize,
    /// Tokens of prompts computed together.
    pub prefill_tokens: usize,
    /// Beginnings that prompts share are computed once if they are at least so long, in tokens.
    pub least_shared: usize,
    /// Tokens of sequences that ended whose keys and values are kept, so that a conversation that goes on is not read again
    /// from its beginning. Results do not depend on it.
    pub kept_tokens: usize,
}

impl Default for GeneratorOptions {
    fn default() -> Self {
        Self {
            max_batch: 64,
            prefill_tokens: 2048,
            least_shared: 32,
            kept_tokens: 0,
        }
    }
}

/// Samples completions from a model.
pub struct Generator<'m> {
    engine: &'m Engine,
    model: &'m Transformer,
    options: GeneratorOptions,
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

    /// A session to which requests can be added while others run.
    pub fn session(&self) -> Session<'m> {
        Session::new(self.engine, self.model, self.options)
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
        let mut session = self.session();
        // Requests are numbered as they come: a number is a place in the list
        for request in requests {
            session.submit(request.clone(), Extras::default())?;
        }
        while !session.is_idle() {
            session.step_with(on_token)?;
        }
        let mut finished = session.take_finished();
        finished.sort_unstable_by_key(|(id, _)| *id);
        Ok(finished.into_iter().map(|(_, completion)| completion).collect())
    }
}
