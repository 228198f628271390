//! Packing examples into microbatches of a bounded number of tokens. Nothing is padded: a batch is a flat list of tokens
//! and the lengths of its segments, one segment an example; attention stays inside a segment and positions restart.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::error::DataError;

/// An example as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenExample {
    /// The tokens, `[t]`.
    pub ids: Vec<u32>,
    /// True where the token is a target that is trained on, `[t]`. The first token follows nothing, so never there.
    pub trained: Vec<bool>,
}

impl TokenExample {
    /// How many targets it has.
    pub fn targets(&self) -> usize {
        self.trained.iter().filter(|t| **t).count()
    }

    fn check(&self, index: usize) -> Result<(), DataError> {
        let fail = |got: String, expected: &str| {
            Err(DataError::Example {
                index,
                got,
                expected: expected.into(),
            })
        };
        if self.ids.len() != self.trained.len() {
            let got = format!("{} tokens and a mask of {}", self.ids.len(), self.trained.len());
            return fail(got, "as many of both");
        }
        if self.ids.is_empty() {
            return fail("no tokens".into(), "at least one");
        }
        if self.trained[0] {
            return fail(
                "the first token is trained on".into(),
                "a target that follows another token",
            );
        }
        Ok(())
    }
}

/// Examples side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedBatch {
    /// The tokens of all examples, one after another, `[t]`.
    pub ids: Vec<u32>,
    /// True where the token is a target that is trained on, `[t]`.
    pub trained: Vec<bool>,
    /// The length of each segment; they sum to `t`.
    pub segments: Vec<usize>,
    /// For each segment, the index of its example in the list that was packed.
    pub examples: Vec<usize>,
}

impl PackedBatch {
    /// The examples with these indices, side by side.
    pub fn of(examples: &[TokenExample], indices: &[usize]) -> Self {
        let mut batch = Self::default();
        for &index in indices {
            let example = &examples[index];
            batch.ids.extend_from_slice(&example.ids);
            batch.trained.extend_from_slice(&example.trained);
            batch.segments.push(example.ids.len());
            batch.examples.push(index);
        }
        batch
    }

    /// The position of each token in its segment, `[t]`.
    pub fn positions(&self) -> Vec<u32> {
        self.segments.iter().flat_map(|&n| 0..n as u32).collect()
    }

    /// How many targets it has.
    pub fn targets(&self) -> usize {
        self.trained.iter().filter(|t| **t).count()
    }
}

/// The result of [`pack`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// The microbatches.
    pub batches: Vec<PackedBatch>,
    /// Indices of the examples longer than allowed, which are in no batch.
    pub too_long: Vec<usize>,
}

/// How large examples and microbatches may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackLimits {
    /// The longest example in tokens.
    pub max_length: usize,
    /// The most tokens of a microbatch, at least `max_length`.
    pub batch_tokens: usize,
}

/// Packs by best fit, longest first: each example goes where the least room is left that still holds it. Ties go to the
/// earlier example and the earlier batch, so the result depends on the examples alone. Inside a batch, and among
/// batches, order follows the examples.
///
/// # Errors
/// Limits that contradict each other; an example without tokens, with a mask of another length, or with a trained first
/// token.
pub fn pack(examples: &[TokenExample], limits: PackLimits) -> Result<Packed, DataError> {
    for (i, example) in examples.iter().enumerate() {
        example.check(i)?;
    }
    let lengths: Vec<usize> = examples.iter().map(|e| e.ids.len()).collect();
    let (bins, too_long) = best_fit(&lengths, limits)?;
    let batches = bins.iter().map(|bin| PackedBatch::of(examples, bin)).collect();
    Ok(Packed { batches, too_long })
}

/// The plan behind [`pack`], on lengths alone: the indices of each batch, and those too long for any.
///
/// # Errors
/// Limits that contradict each other.
pub fn best_fit(lengths: &[usize], limits: PackLimits) -> Result<(Vec<Vec<usize>>, Vec<usize>), DataError> {
    if limits.max_length == 0 || limits.batch_tokens < limits.max_length {
        return Err(DataError::Option {
            option: "batch_tokens",
            got: limits.batch_tokens.to_string(),
            expected: format!("at least max_length, {} (itself at least 1)", limits.max_length),
        });
    }
    let (mut order, too_long): (Vec<usize>, Vec<usize>) =
        (0..lengths.len()).partition(|&i| lengths[i] <= limits.max_length);
    order.sort_by_key(|&i| (std::cmp::Reverse(lengths[i]), i));
    let mut bins: Vec<Vec<usize>> = Vec::new();
    let mut room: BTreeSet<(usize, usize)> = BTreeSet::new();
    for i in order {
        let length = lengths[i];
        let (left, bin) = match room.range((length, 0)..).next().copied() {
            Some(found) => {
                room.remove(&found);
                found
            }
            None => {
                bins.push(Vec::new());
                (limits.batch_tokens, bins.len() - 1)
            }
        };
        bins[bin].push(i);
        room.insert((left - length, bin));
    }
    for bin in &mut bins {
        bin.sort_unstable();
    }
    bins.sort_unstable_by_key(|bin| bin[0]);
    Ok((bins, too_long))
}

/// Cuts a sequence of groups into consecutive runs of at most `batch_tokens` tokens, without changing their order: for
/// where the order of a batch is given, and a group (the answers to one prompt) must not be split. A group that is larger
/// by itself is a run of its own.
pub fn runs_in_order(group_tokens: &[usize], batch_tokens: usize) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut filled) = (0, 0);
    for (i, &tokens) in group_tokens.iter().enumerate() {
        if i > start && filled + tokens > batch_tokens {
            runs.push(start..i);
            (start, filled) = (i, 0);
        }
        filled += tokens;
    }
    if start < group_tokens.len() {
        runs.push(start..group_tokens.len());
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_math::Key;

    fn example(first: u32, length: usize) -> TokenExample {
        TokenExample {
            ids: (first..first + length as u32).collect(),
            trained: (0..length).map(|i| i >= length.div_ceil(2)).collect(),
        }
    }

    const LIMITS: PackLimits = PackLimits {
        max_length: 8,
        batch_tokens: 10,
    };

    #[test]
    fn best_fit_by_hand() {
        // longest first: 8 (0), 6 (2), 4 (1) beside the 6, 2 (3) beside the 8
        let (bins, too_long) = best_fit(&[8, 4, 6, 2, 9], LIMITS).unwrap();
        assert_eq!((bins, too_long), (vec![vec![0, 3], vec![1, 2]], vec![4]));
        assert_eq!(best_fit(&[], LIMITS).unwrap(), (vec![], vec![]));
        assert!(
            best_fit(
                &[1],
                PackLimits {
                    max_length: 8,
                    batch_tokens: 7
                }
            )
            .is_err()
        );
    }

    #[test]
    fn a_batch_keeps_examples_apart() {
        let examples = [example(10, 4), example(20, 3)];
        let packed = pack(&examples, LIMITS).unwrap();
        assert_eq!(packed.batches.len(), 1);
        let batch = &packed.batches[0];
        assert_eq!(batch.ids, [10, 11, 12, 13, 20, 21, 22]);
        assert_eq!(batch.trained, [false, false, true, true, false, false, true]);
        assert_eq!(
            (batch.segments.as_slice(), batch.examples.as_slice()),
            ([4, 3].as_slice(), [0, 1].as_slice())
        );
        assert_eq!(batch.positions(), [0, 1, 2, 3, 0, 1, 2]);
        assert_eq!(
            batch.targets(),
            examples.iter().map(TokenExample::targets).sum::<usize>()
        );
    }

    #[test]
    fn everything_is_packed_once_within_bounds() {
        for seed in 0..50 {
            let key = Key::new(seed, "test", 0);
            let n = key.below(0, 60) as usize;
            let examples: Vec<TokenExample> = (0..n)
                .map(|i| example(i as u32 * 100, 1 + key.below(1 + i as u64, 10) as usize))
                .collect();
            let packed = pack(&examples, LIMITS).unwrap();
            let mut seen: Vec<usize> = packed.too_long.clone();
            for batch in &packed.batches {
                assert!(batch.ids.len() <= 10 && !batch.ids.is_empty());
                let mut at = 0;
                for (&index, &length) in batch.examples.iter().zip(&batch.segments) {
                    assert_eq!(batch.ids[at..at + length], examples[index].ids);
                    assert_eq!(batch.trained[at..at + length], examples[index].trained);
                    at += length;
                }
                assert_eq!(at, batch.ids.len());
                seen.extend(&batch.examples);
            }
            assert!(packed.too_long.iter().all(|&i| examples[i].ids.len() > 8));
            seen.sort_unstable();
            assert_eq!(seen, (0..n).collect::<Vec<_>>());
            // two batches that are at most half full would have been one
            let half_empty = packed.batches.iter().filter(|b| b.ids.len() * 2 <= 10).count();
            assert!(half_empty <= 1);
            assert_eq!(packed, pack(&examples, LIMITS).unwrap());
        }
    }

    #[test]
    fn wrong_examples_are_named() {
        let mut wrong = example(0, 3);
        wrong.trained.pop();
        let error = pack(&[example(0, 2), wrong], LIMITS).unwrap_err().to_string();
        assert!(error.contains("example 1: 3 tokens and a mask of 2"), "{error}");
        assert!(pack(&[TokenExample::default()], LIMITS).is_err());
        let first = TokenExample {
            ids: vec![1],
            trained: vec![true],
        };
        assert!(pack(&[first], LIMITS).unwrap_err().to_string().contains("first token"));
    }

    #[test]
    fn runs_keep_order_and_groups() {
        assert_eq!(runs_in_order(&[3, 3, 3, 5, 12, 1], 9), [0..3, 3..4, 4..5, 5..6]);
        assert_eq!(runs_in_order(&[], 9), []);
        assert_eq!(runs_in_order(&[10, 10], 9), [0..1, 1..2]);
    }
}
