//! Shuffled orders that are functions of (seed, position) alone, so that resuming needs no state.

use hone_math::Key;

/// A random order of `0..n` whose elements are computed one at a time: a Feistel network over the next power of two,
/// walked until it falls inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    key: Key,
    n: u64,
    left_bits: u32,
    right_bits: u32,
}

const ROUNDS: u64 = 8;
/// A wider domain than small sets need, so that their orders are close to equally likely.
const LEAST_BITS: u32 = 10;

impl Permutation {
    /// The order of `0..n` that belongs to `key`; `n` must not be 0.
    pub fn new(key: Key, n: u64) -> Self {
        let bits = (64 - n.saturating_sub(1).leading_zeros()).max(LEAST_BITS);
        Self {
            key,
            n,
            left_bits: bits / 2,
            right_bits: bits - bits / 2,
        }
    }

    /// What stands at place `i` of the order; `i` must be below `n`.
    pub fn at(&self, i: u64) -> u64 {
        assert!(i < self.n, "place {i} of an order of {}", self.n);
        let mut x = i;
        loop {
            x = self.scramble(x);
            if x < self.n {
                return x;
            }
        }
    }

    fn scramble(&self, x: u64) -> u64 {
        let mask = |bits: u32| (1_u64 << bits) - 1;
        let (mut left, mut right) = (x >> self.right_bits, x & mask(self.right_bits));
        // each round changes one half by a function of the other: a bijection whatever the function is
        for round in 0..ROUNDS {
            if round % 2 == 0 {
                left ^= self.key.bits(round << 56 | right) & mask(self.left_bits);
            } else {
                right ^= self.key.bits(round << 56 | left) & mask(self.right_bits);
            }
        }
        left << self.right_bits | right
    }
}

/// Examples in shuffled epochs: each once an epoch, every epoch in its own order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochOrder {
    n: u64,
    seed: u64,
    member: u64,
}

impl EpochOrder {
    /// The order over `n` examples of source `member`, which differs from that of the others; `n` must not be 0.
    pub fn member(n: usize, seed: u64, member: u64) -> Self {
        assert!(n > 0, "an order of nothing");
        Self {
            n: n as u64,
            seed,
            member,
        }
    }

    /// Examples an epoch.
    pub fn len(&self) -> usize {
        self.n as usize
    }

    /// Never true: an order has at least one example.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The example drawn at `global_index`, counted from the start of training.
    pub fn example_at(&self, global_index: u64) -> usize {
        let epoch = global_index / self.n;
        let key = Key::new(self.seed, "data-order", epoch).child(self.member);
        Permutation::new(key, self.n).at(global_index % self.n) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_a_permutation() {
        for n in (1..200).chain([1023, 1024, 1025, 5000]) {
            let order = Permutation::new(Key::new(3, "test", n), n);
            let mut seen = vec![false; n as usize];
            for i in 0..n {
                let at = order.at(i) as usize;
                assert!(!seen[at], "{at} twice in an order of {n}");
                seen[at] = true;
            }
        }
    }

    #[test]
    fn the_six_orders_of_three_are_about_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..6000 {
            let order = Permutation::new(Key::new(seed, "test", 0), 3);
            *counts.entry([order.at(0), order.at(1), order.at(2)]).or_insert(0_i32) += 1;
        }
        assert_eq!(counts.len(), 6);
        // chi-square with 5 degrees of freedom: 20.5 at p = 0.001
        let chi: f64 = counts.values().map(|&c| f64::from(c - 1000).powi(2) / 1000.0).sum();
        assert!(chi < 20.5, "{chi} {counts:?}");
    }

    #[test]
    fn neighbours_are_scattered() {
        let n = 100_000;
        let order = Permutation::new(Key::new(1, "test", 0), n);
        let mean = (0..10_000).map(|i| order.at(i) as f64).sum::<f64>() / 10_000.0;
        // standard error 289
        assert!((mean - 50_000.0).abs() < 1_200.0, "{mean}");
        let close = (0..10_000)
            .filter(|&i| order.at(i).abs_diff(order.at(i + 1)) < 100)
            .count();
        // expected 20
        assert!(close < 50, "{close}");
    }

    #[test]
    fn an_epoch_holds_everything_once_and_epochs_differ() {
        let order = EpochOrder::member(37, 5, 0);
        let of = |order: &EpochOrder, e: u64| (e * 37..(e + 1) * 37).map(|i| order.example_at(i)).collect::<Vec<_>>();
        let epoch = |e| of(&order, e);
        for e in 0..5 {
            let mut all = epoch(e);
            all.sort_unstable();
            assert_eq!(all, (0..37).collect::<Vec<_>>());
        }
        assert_ne!(epoch(0), epoch(1));
        assert_ne!(epoch(0), of(&EpochOrder::member(37, 6, 0), 0));
        assert_ne!(epoch(0), of(&EpochOrder::member(37, 5, 1), 0));
    }
}
