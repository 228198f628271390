//! Sampling in bulk: completions are given out in the order of their requests, each as soon as it and all before it are done.

use crate::batch::Generator;
use crate::request::{Completion, GenerateError, Request, TokenEvent};

impl Generator<'_> {
    /// Samples all requests and hands each completion to `sink` with its request's index, in order. `on_token` sees every token
    /// as it comes; where it gives false everything stops: what was not handed over by then is dropped, and can be sampled again
    /// to the same bits. Whether all were handed over.
    ///
    /// # Errors
    /// As [`Generator::run`], after the completions before the one at fault were handed over; and what `sink` returns.
    pub fn run_in_order<E: From<GenerateError>>(
        &self,
        requests: &[Request],
        on_token: &mut dyn FnMut(TokenEvent) -> bool,
        sink: &mut dyn FnMut(usize, Completion) -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut line = Line {
            held: vec![None; requests.len()],
            // A request for no tokens is done before it begins
            done: requests.iter().map(|request| request.max_new_tokens == 0).collect(),
            next: 0,
        };
        line.hand_over(sink)?;
        let (mut failure, mut stopped) = (None, false);
        let sampled = self.run_with(requests, &mut |event| {
            if stopped || failure.is_some() {
                return false;
            }
            line.take(&event);
            if event.finish.is_some() {
                failure = line.hand_over(sink).err();
            }
            stopped = !on_token(event);
            !stopped && failure.is_none()
        });
        match failure {
            Some(error) => Err(error),
            None => {
                sampled?;
                Ok(line.next == requests.len())
            }
        }
    }
}

/// Completions that wait for those before them.
struct Line {
    held: Vec<Option<Completion>>,
    done: Vec<bool>,
    next: usize,
}

impl Line {
    fn take(&mut self, event: &TokenEvent) {
        let completion = self.held[event.request].get_or_insert_with(Completion::empty);
        completion.ids.push(event.token);
        completion.logprobs.push(event.logprob);
        if let Some(finish) = event.finish {
            completion.finish = finish;
            self.done[event.request] = true;
        }
    }

    fn hand_over<E>(&mut self, sink: &mut dyn FnMut(usize, Completion) -> Result<(), E>) -> Result<(), E> {
        while self.done.get(self.next) == Some(&true) {
            let completion = self.held[self.next].take().unwrap_or_else(Completion::empty);
            self.next += 1;
            sink(self.next - 1, completion)?;
        }
        Ok(())
    }
}
