//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
//!
//! A number is a function of (seed, purpose, step, index) and of nothing else, so that order of evaluation, threads,
//! batching and resuming cannot change it.

use crate::elementary::{cos, ln};

/// What a family of random numbers is for, at one step. Copy it freely: it has no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    key: [u32; 2],
    step: u64,
}

impl Key {
    /// The numbers of `seed` for `purpose` (such as `"init"`, `"shuffle"`, `"sample"`) at `step`.
    pub fn new(seed: u64, purpose: &str, step: u64) -> Self {
        // FNV-1a of the purpose, mixed with the seed by the finaliser of SplitMix64
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in purpose.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        let mixed = mix(seed ^ mix(hash));
        Self {
            key: [mixed as u32, (mixed >> 32) as u32],
            step,
        }
    }

    /// A family of its own for one member, such as a request of a batch or an item of a data set.
    pub fn child(self, index: u64) -> Self {
        let [a, b, ..] = self.block(index ^ (1 << 63));
        Self {
            key: [a, b],
            step: self.step,
        }
    }

    fn block(self, index: u64) -> [u32; 4] {
        let counter = [
            index as u32,
            (index >> 32) as u32,
            self.step as u32,
            (self.step >> 32) as u32,
        ];
        philox4x32_10(counter, self.key)
    }

    /// 64 random bits.
    pub fn bits(self, index: u64) -> u64 {
        let [a, b, ..] = self.block(index);
        u64::from(a) | u64::from(b) << 32
    }

    /// Uniform in (0, 1), both ends excluded.
    pub fn uniform(self, index: u64) -> f64 {
        ((self.bits(index) >> 12) as f64 + 0.5) * (1.0 / 4_503_599_627_370_496.0)
    }

    /// Uniform in `0..n`; `n` must not be 0.
    pub fn below(self, index: u64, n: u64) -> u64 {
        ((u128::from(self.bits(index)) * u128::from(n)) >> 64) as u64
    }

    /// Standard normal (Box and Muller).
    pub fn normal(self, index: u64) -> f64 {
        let [a, b, c, d] = self.block(index);
        let scale = 1.0 / 4_503_599_627_370_496.0;
        let u = (((u64::from(a) | u64::from(b) << 32) >> 12) as f64 + 0.5) * scale;
        let v = (((u64::from(c) | u64::from(d) << 32) >> 12) as f64 + 0.5) * scale;
        (-2.0 * ln(u)).sqrt() * cos(2.0 * std::f64::consts::PI * v)
    }

    /// A random order of `0..n` (Fisher and Yates).
    pub fn permutation(self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            let j = self.below(i as u64, i as u64 + 1) as usize;
            order.swap(i, j);
        }
        order
    }

    /// The numbers of this key one after another, for code that draws an unknown count of them in sequence.
    pub fn stream(self) -> Stream {
        Stream { key: self, index: 0 }
    }
}

/// Draws the numbers of a [`Key`] in order. Its only state is the position.
#[derive(Clone, Debug)]
pub struct Stream {
    key: Key,
    index: u64,
}

impl Stream {
    fn next_index(&mut self) -> u64 {
        self.index += 1;
        self.index - 1
    }

    /// Uniform in (0, 1).
    pub fn uniform(&mut self) -> f64 {
        let i = self.next_index();
        self.key.uniform(i)
    }

    /// Uniform in `0..n`; `n` must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        let i = self.next_index();
        self.key.below(i, n as u64) as usize
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        let i = self.next_index();
        self.key.normal(i)
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }

    /// One of the items, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let i = self.below(items.len());
        &items[i]
    }
}

fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn philox4x32_10(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(c[0]) * 0xd251_1f53;
        let p1 = u64::from(c[2]) * 0xcd9e_8d57;
        c = [
            (p1 >> 32) as u32 ^ c[1] ^ k[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ c[3] ^ k[1],
            p0 as u32,
        ];
        k = [k[0].wrapping_add(0x9e37_79b9), k[1].wrapping_add(0xbb67_ae85)];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the reference implementation (Random123, `kat_vectors`).
    #[test]
    fn philox_known_answers() {
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn moments() {
        let key = Key::new(7, "test", 3);
        let n = 100_000;
        let mean = (0..n).map(|i| key.normal(i)).sum::<f64>() / n as f64;
        let variance = (0..n).map(|i| key.normal(i).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        let uniform = (0..n).map(|i| key.uniform(i)).sum::<f64>() / n as f64;
        assert!((uniform - 0.5).abs() < 0.005);
    }

    #[test]
    fn purposes_steps_and_children_differ() {
        let a = Key::new(1, "a", 0);
        assert_ne!(a.bits(0), Key::new(1, "b", 0).bits(0));
        assert_ne!(a.bits(0), Key::new(2, "a", 0).bits(0));
        assert_ne!(a.bits(0), Key::new(1, "a", 1).bits(0));
        assert_ne!(a.child(0).bits(0), a.child(1).bits(0));
        assert_eq!(a.child(5).bits(9), a.child(5).bits(9));
    }

    #[test]
    fn a_permutation_holds_everything_once() {
        let mut order = Key::new(1, "shuffle", 0).permutation(1000);
        assert_ne!(order[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }
}
