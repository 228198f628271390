//! Sequences side by side, of which those that begin alike share the rows of their beginning: the answers to a prompt, the
//! ranked responses of a comparison.
//!
//! What a row gives does not depend on what comes after it, so no result of a sequence changes. The gradient of a
//! beginning is that of all that follows it.

use std::ops::Range;
use std::sync::Arc;

use hone_compute::{Layout, Tape, Var};

use crate::transformer::{Tokens, Transformer};

/// Tokens of a common beginning that are worth its own rows.
const LEAST: usize = 8;

/// Sequences of a batch.
pub struct SharedPrefixes {
    ids: Arc<[u32]>,
    layout: Layout,
    /// One a sequence.
    places: Vec<Place>,
}

/// Where a sequence is.
struct Place {
    /// Its length.
    length: usize,
    /// Tokens of its beginning, and the span that they are.
    shared: usize,
    beginning: usize,
    /// The span of what follows, if anything does.
    own: Option<usize>,
}

impl SharedPrefixes {
    /// Sequences in groups: for each, how many tokens its members begin with in common (all of the first at most).
    ///
    /// # Panics
    /// If a member does not begin like the others of its group, or several share nothing.
    pub fn new<'a>(groups: impl IntoIterator<Item = (usize, &'a [&'a [u32]])>) -> Self {
        let (mut ids, mut sizes, mut places, mut spans) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (shared, members) in groups {
            let Some(first) = members.first() else { continue };
            assert!(
                shared > 0 || members.len() == 1,
                "sequences that share nothing are no group"
            );
            ids.extend_from_slice(&first[..shared]);
            let beginning = spans;
            spans += 1;
            let mut branches = Vec::with_capacity(members.len());
            for member in members {
                assert_eq!(member[..shared], first[..shared], "members of a group begin alike");
                let own = &member[shared..];
                ids.extend_from_slice(own);
                branches.push(own.len());
                places.push(Place {
                    length: member.len(),
                    shared,
                    beginning,
                    own: (!own.is_empty()).then_some(spans),
                });
                spans += usize::from(!own.is_empty());
            }
            sizes.push((shared, branches));
        }
        Self {
            ids: ids.into(),
            layout: Layout::branching(sizes.iter().map(|(shared, branches)| (*shared, &**branches))),
            places,
        }
    }

    /// Groups whose members share as much as they begin with in common, if that is worth it.
    pub fn of_groups<'a>(groups: impl IntoIterator<Item = &'a [&'a [u32]]>) -> Self {
        let groups = groups.into_iter().flat_map(|members| match shared(members) {
            0 => members.chunks(1).map(|alone| (alone[0].len(), alone)).collect(),
            shared => vec![(shared, members)],
        });
        Self::new(groups)
    }

    /// The rows that a group takes there.
    pub fn rows_of(members: &[&[u32]]) -> usize {
        let all: usize = members.iter().map(|member| member.len()).sum();
        all - shared(members) * members.len().saturating_sub(1)
    }

    /// Neighbours that begin alike make a group, by at most `most(i)` tokens of sequence i; where nothing is gained, a
    /// sequence is alone.
    pub fn find(sequences: &[&[u32]], most: impl Fn(usize) -> usize) -> Self {
        let runs = runs(sequences, most);
        Self::new(runs.into_iter().map(|(shared, run)| (shared, &sequences[run])))
    }

    /// The tokens, for [`Transformer::hidden`].
    pub fn tokens(&self) -> Tokens<'_> {
        Tokens {
            ids: &self.ids,
            layout: &self.layout,
        }
    }

    /// The row of a position of a sequence.
    ///
    /// # Panics
    /// If the sequence has no such position.
    pub fn row(&self, sequence: usize, position: usize) -> u32 {
        let place = &self.places[sequence];
        assert!(
            position < place.length,
            "position {position} of {} tokens",
            place.length
        );
        let (span, before) = match place.own {
            Some(own) if position >= place.shared => (own, place.shared),
            _ => (place.beginning, 0),
        };
        (self.layout.spans()[span].row + position - before) as u32
    }

    /// Last hidden states of the positions from `from[i]` on of each sequence, one after another; at least one each. The
    /// last block computes hardly any others. Not for training.
    ///
    /// # Panics
    /// If nothing is wanted of a sequence.
    pub fn hidden_from<'p>(&self, tape: &mut Tape<'p>, model: &'p Transformer, from: &[usize]) -> Var {
        assert_eq!(self.places.len(), from.len(), "a position for each sequence");
        // 1. How many rows are wanted of each span, counted from its end
        let spans = self.layout.spans();
        let mut wanted = vec![1; spans.len()];
        for (place, &from) in self.places.iter().zip(from) {
            assert!(from < place.length, "from {from} of {} tokens", place.length);
            if from < place.shared {
                let beginning = &mut wanted[place.beginning];
                *beginning = place.shared.saturating_sub(from).max(*beginning);
            }
            if let Some(own) = place.own {
                wanted[own] = place.length - from.max(place.shared);
            }
        }
        let hidden = model.hidden_last(tape, &self.tokens(), &wanted, None);
        let apart = self.places.len() == spans.len() && self.layout.is_plain();
        if apart {
            return hidden;
        }
        // 2. Those of each sequence: the end of its beginning, then its own
        let mut ends = Vec::with_capacity(spans.len());
        for count in wanted {
            ends.push(ends.last().copied().unwrap_or(0) + count);
        }
        let mut rows = Vec::new();
        for (place, &from) in self.places.iter().zip(from) {
            let of_beginning = place.shared.saturating_sub(from);
            rows.extend(ends[place.beginning] - of_beginning..ends[place.beginning]);
            if let Some(own) = place.own {
                rows.extend(ends[own] - (place.length - from.max(place.shared))..ends[own]);
            }
        }
        let rows: Arc<[u32]> = rows.into_iter().map(|row| row as u32).collect();
        tape.select_rows(&hidden, &rows)
    }
}

/// How many tokens two sequences begin with in common.
pub fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// What all of a group begin with in common, if that is worth its own rows.
fn shared(members: &[&[u32]]) -> usize {
    let Some((first, others)) = members.split_first() else {
        return 0;
    };
    let common = others.iter().map(|other| common_prefix(first, other)).min();
    Some(common.unwrap_or(first.len()))
        .filter(|&common| common >= LEAST)
        .unwrap_or(0)
}

/// Runs of neighbours and what they share; a run grows while that saves more than before.
fn runs(sequences: &[&[u32]], most: impl Fn(usize) -> usize) -> Vec<(usize, Range<usize>)> {
    let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
    for (i, sequence) in sequences.iter().enumerate() {
        let own = most(i).min(sequence.len());
        if let Some((shared, run)) = runs.last_mut() {
            let together = (*shared).min(own).min(common_prefix(sequences[run.start], sequence));
            if together >= LEAST && together * run.len() >= *shared * (run.len() - 1) {
                (*shared, run.end) = (together, i + 1);
                continue;
            }
        }
        runs.push((own, i..i + 1));
    }
    for (shared, run) in &mut runs {
        if run.len() == 1 {
            *shared = sequences[run.start].len();
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(beginning: u32, shared: usize, own: usize, seed: u32) -> Vec<u32> {
        let tokens = |seed: u32, count: usize| (0..count as u32).map(move |i| (seed * 31 + i * 7) % 97);
        tokens(beginning, shared).chain(tokens(seed, own)).collect()
    }

    #[test]
    fn neighbours_that_begin_alike_are_found() {
        let (a, b) = (sequence(1, 40, 5, 10), sequence(1, 40, 9, 11));
        let (c, d) = (sequence(2, 30, 5, 12), sequence(2, 30, 1, 13));
        let all: Vec<&[u32]> = vec![&a, &b, &c, &d, &a];
        assert_eq!(runs(&all, |_| 100), [(40, 0..2), (30, 2..4), (45, 4..5)]);
        assert_eq!(
            runs(&all, |i| [20, 40, 7, 30, 9][i]),
            [(20, 0..2), (35, 2..3), (31, 3..4), (45, 4..5)]
        );
        // One that shares less than it would cost the others begins anew
        let e = sequence(1, 18, 50, 14);
        let all: Vec<&[u32]> = vec![&a, &b, &e];
        assert_eq!(runs(&all, |_| 100), [(40, 0..2), (68, 2..3)]);
        assert!(runs(&[], |_| 100).is_empty());
    }

    #[test]
    fn a_group_shares_what_all_of_it_begin_with() {
        let (a, b, c) = (sequence(1, 40, 5, 10), sequence(1, 40, 9, 11), sequence(1, 12, 9, 12));
        let short = sequence(1, 7, 9, 13);
        let groups: [&[&[u32]]; 4] = [&[&a, &b], &[&a, &b, &c], &[&a, &short], &[&short]];
        let rows: Vec<usize> = groups.iter().map(|group| SharedPrefixes::rows_of(group)).collect();
        assert_eq!(rows, [40 + 5 + 9, 12 + 33 + 37 + 9, 45 + 16, 16]);
        for (group, rows) in groups.into_iter().zip(rows) {
            assert_eq!(SharedPrefixes::of_groups([group]).ids.len(), rows);
        }
        assert_eq!(SharedPrefixes::of_groups(groups).places.len(), 8);
    }

    #[test]
    fn rows_are_where_the_tokens_are() {
        let (a, b, c) = (sequence(1, 40, 5, 10), sequence(1, 40, 9, 11), sequence(2, 6, 0, 12));
        let shared = &a[..40];
        let all: [&[u32]; 4] = [&a, shared, &b, &c];
        let groups = SharedPrefixes::new([(40, &all[..3]), (6, &all[3..])]);
        assert_eq!(groups.ids.len(), 40 + 5 + 9 + 6);
        for (i, sequence) in all.iter().enumerate() {
            for (position, &id) in sequence.iter().enumerate() {
                let row = groups.row(i, position) as usize;
                assert_eq!((groups.ids[row], groups.layout.positions()[row]), (id, position as u32));
            }
        }
    }
}
