//! Beginnings that several prompts share (a system message, worked examples, a conversation so far), computed once.
//!
//! A cache that has a beginning is cloned, which shares its pages, and cut where the prompt departs from it. That changes
//! no bit: a position's keys and values do not depend on what comes after it, nor on how the sequence was cut.

use std::collections::VecDeque;
use std::sync::Arc;

use hone_compute::SequenceCache;
use hone_model::common_prefix;

/// Caches of beginnings.
#[derive(Default)]
pub(crate) struct Prefixes {
    /// Of prompts that wait.
    kept: Vec<(Arc<[u32]>, SequenceCache)>,
    /// Of sequences that ended, from which a conversation may go on; the latest last.
    ended: VecDeque<Ended>,
}

/// A sequence that ended.
struct Ended {
    tokens: Arc<[u32]>,
    /// How many of them were its prompt.
    prompt: usize,
    cache: SequenceCache,
}

impl Prefixes {
    /// A cache with the longest known beginning of `prompt` and nothing else; the prompt's last token is not among it,
    /// for its hidden state is wanted.
    pub fn longest(&self, prompt: &[u32]) -> Option<SequenceCache> {
        let (length, cache) = self.find(prompt)?;
        let mut cache = cache.clone();
        cache.truncate(length);
        Some(cache)
    }

    /// Tokens of the longest known beginning of `prompt`.
    fn known(&self, prompt: &[u32]) -> usize {
        self.find(prompt).map_or(0, |(length, _)| length)
    }

    fn find(&self, prompt: &[u32]) -> Option<(usize, &SequenceCache)> {
        let kept = self.kept.iter().map(|(tokens, cache)| (&**tokens, cache));
        let ended = self.ended.iter().map(|ended| (&*ended.tokens, &ended.cache));
        let lengths = kept
            .chain(ended)
            .map(|(tokens, cache)| (common_prefix(tokens, prompt), cache));
        lengths
            .map(|(length, cache)| (length.min(prompt.len().saturating_sub(1)), cache))
            .filter(|(length, _)| *length > 0)
            .max_by_key(|(length, _)| *length)
    }

    /// Keeps the cache of a beginning.
    pub fn keep(&mut self, tokens: Arc<[u32]>, cache: SequenceCache) {
        self.kept.push((tokens, cache));
    }

    /// Keeps what a sequence that ended has read, `prompt` of whose tokens were its prompt: at most `room` tokens of all such
    /// sequences, the latest. Of those with one prompt, and of those that it goes on from, only it is kept.
    pub fn keep_ended(&mut self, tokens: Arc<[u32]>, prompt: usize, cache: SequenceCache, room: usize) {
        if tokens.len() > room {
            return;
        }
        let asked = &tokens[..prompt];
        self.ended
            .retain(|ended| ended.tokens[..ended.prompt] != *asked && !tokens.starts_with(&ended.tokens));
        let mut sum = tokens.len() + self.ended.iter().map(|ended| ended.tokens.len()).sum::<usize>();
        while sum > room {
            sum -= self.ended.pop_front().map_or(sum, |ended| ended.tokens.len());
        }
        self.ended.push_back(Ended { tokens, prompt, cache });
    }

    /// Forgets those that no prompt to come begins with; what ended is kept.
    pub fn forget_all_but<'a>(&mut self, prompts: impl Iterator<Item = &'a [u32]> + Clone) {
        self.kept
            .retain(|(tokens, _)| prompts.clone().any(|prompt| prompt.starts_with(tokens)));
    }

    /// Beginnings that two of these prompts share, by `least` tokens more than is known, and that are no beginning of
    /// another such.
    pub fn missing(&self, prompts: &[&[u32]], least: usize) -> Vec<Arc<[u32]>> {
        let mut sorted = prompts.to_vec();
        sorted.sort_unstable();
        let mut found: Vec<&[u32]> = Vec::new();
        for pair in sorted.windows(2) {
            // The last token of each prompt is its own
            let length = common_prefix(pair[0], pair[1]).min(pair[0].len().saturating_sub(1));
            if length >= self.known(pair[0]).max(self.known(pair[1])) + least.max(1) {
                found.push(&pair[0][..length]);
            }
        }
        found.sort_unstable();
        found.dedup();
        // In this order a beginning stands right before what goes on from it
        let goes_on = |i: usize| found.get(i + 1).is_some_and(|next| next.starts_with(found[i]));
        (0..found.len())
            .filter(|&i| !goes_on(i))
            .map(|i| Arc::from(found[i]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(prompts: &[&[u32]], least: usize) -> Vec<Vec<u32>> {
        let found = Prefixes::default().missing(prompts, least);
        found.iter().map(|tokens| tokens.to_vec()).collect()
    }

    #[test]
    fn what_two_prompts_share_is_found() {
        let (a, b, c): (&[u32], &[u32], &[u32]) = (&[1, 2, 3, 4], &[1, 2, 3, 5, 6], &[9, 2, 3]);
        assert_eq!(missing(&[c, b, a], 1), [vec![1, 2, 3]]);
        assert_eq!(missing(&[c, b, a], 3), [vec![1, 2, 3]]);
        assert!(missing(&[c, b, a], 4).is_empty());
        assert!(missing(&[a, c], 1).is_empty());
        assert!(missing(&[], 1).is_empty());
    }

    #[test]
    fn of_what_ended_the_latest_is_kept() {
        let engine = hone_compute::Engine::rehearsal(&hone_compute::EngineOptions::default()).expect("a rehearsal");
        let shape = hone_compute::AttentionShape {
            heads: 1,
            kv_heads: 1,
            head_dim: 8,
            scale: 1.0,
            mask: hone_compute::Mask::Causal,
        };
        let mut prefixes = Prefixes::default();
        let mut keep = |tokens: &[u32], prompt: usize| {
            prefixes.keep_ended(tokens.into(), prompt, SequenceCache::new(&engine, 1, &shape), 10);
            let kept = prefixes.ended.iter().map(|ended| ended.tokens.to_vec());
            kept.collect::<Vec<_>>()
        };
        assert_eq!(keep(&[1, 2, 3], 2), [vec![1, 2, 3]]);
        // Another answer to the same prompt, and the conversation gone on with, take its place
        assert_eq!(keep(&[1, 2, 4], 2), [vec![1, 2, 4]]);
        assert_eq!(keep(&[1, 2, 4, 5, 6], 4), [vec![1, 2, 4, 5, 6]]);
        assert_eq!(keep(&[7, 8, 9], 1), [vec![1, 2, 4, 5, 6], vec![7, 8, 9]]);
        // Ten tokens at most
        assert_eq!(keep(&[3, 3, 3, 3], 1), [vec![7, 8, 9], vec![3, 3, 3, 3]]);
        assert_eq!(keep(&[5; 11], 1).len(), 2);
        assert_eq!(keep(&[5; 10], 1), [vec![5; 10]]);
    }

    #[test]
    fn the_last_token_of_a_prompt_is_computed_for_it() {
        assert_eq!(missing(&[&[1, 2, 3], &[1, 2, 3]], 1), [vec![1, 2]]);
        assert_eq!(missing(&[&[1, 2, 3], &[1, 2, 3, 4]], 1), [vec![1, 2]]);
        assert!(missing(&[&[1], &[1]], 1).is_empty());
    }

    #[test]
    fn of_nested_beginnings_the_longest_is_computed() {
        let prompts: [&[u32]; 4] = [&[1, 2, 9], &[1, 2, 3, 4, 7], &[1, 2, 3, 4, 8], &[1, 5]];
        assert_eq!(missing(&prompts, 1), [vec![1, 2, 3, 4]]);
    }
}
