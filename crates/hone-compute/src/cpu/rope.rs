//! Rotary position embeddings, applied in place.
//!
//! # Soundness
//! As in [`norm`](super::norm).

use super::Cpu;
use super::elementwise::{Map, map_here, row_grain, rows};
use super::simd::Simd;
use crate::pool::Parts;
use crate::rope::RopeTable;

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    /// The inverse turn, which takes a gradient back: the transpose (and factor) of the forward one.
    Backward,
}

struct Turn;

impl Map<2, 2> for Turn {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [cos, sin]: [S::V; 2], [a, b]: [S::V; 2]) -> [S::V; 2] {
        unsafe {
            [
                S::sub(S::mul(a, cos), S::mul(b, sin)),
                S::add(S::mul(b, cos), S::mul(a, sin)),
            ]
        }
    }
}

struct TurnBack;

impl Map<2, 2> for TurnBack {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, [cos, sin]: [S::V; 2], [a, b]: [S::V; 2]) -> [S::V; 2] {
        unsafe {
            [
                S::add(S::mul(a, cos), S::mul(b, sin)),
                S::sub(S::mul(b, cos), S::mul(a, sin)),
            ]
        }
    }
}

/// Turns the pairs (`i`, `i + half`) of every head by its row's position, in place; `x` is `[n, heads head_dim]`,
/// `positions` `[n]`, each below the table's. Of a head the first `2 half` dimensions turn, the others stay. This is
/// the split-halves layout of Hugging Face's Llama.
pub(crate) fn rotate(
    cpu: &Cpu,
    x: &mut [f32],
    heads: usize,
    head_dim: usize,
    positions: &[u32],
    table: &RopeTable,
    direction: Direction,
) {
    let d = heads * head_dim;
    let n = rows(x.len(), d);
    let half = table.half;
    assert_eq!(positions.len(), n, "positions for {n} rows");
    assert!(2 * half <= head_dim, "{} of {head_dim} dimensions turn", 2 * half);
    let x = Parts::new(x);
    cpu.pool.ranges(n, row_grain(d), &|range| {
        // SAFETY: the rows of two tasks do not overlap.
        let x = unsafe { x.get(range.start * d..range.end * d) };
        for (x, &position) in x.chunks_exact_mut(d).zip(&positions[range]) {
            let at = position as usize * half;
            let angles = [&table.cos[at..at + half], &table.sin[at..at + half]];
            for head in x.chunks_exact_mut(head_dim) {
                let (a, b) = head[..2 * half].split_at_mut(half);
                match direction {
                    Direction::Forward => map_here(cpu.level, &Turn, angles, [a, b]),
                    Direction::Backward => map_here(cpu.level, &TurnBack, angles, [a, b]),
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{assert_close, bits, cpus, f64s, ids, normal};
    use crate::rope::{RopeScaling, inverse_frequencies};

    #[test]
    fn a_quarter_turn_by_hand() {
        let table = RopeTable {
            cos: vec![1.0, 1.0, 0.0, 0.6],
            sin: vec![0.0, 0.0, 1.0, 0.8],
            half: 2,
        };
        for cpu in cpus() {
            // The fifth dimension stays.
            let mut x = [1.0, 2.0, 3.0, 4.0, 5.0];
            rotate(&cpu, &mut x, 1, 5, &[1], &table, Direction::Forward);
            assert_close(&x, &[-3.0, 1.2 - 3.2, 1.0, 2.4 + 1.6, 5.0], 1e-6);
            rotate(&cpu, &mut x, 1, 5, &[1], &table, Direction::Backward);
            assert_close(&x, &[1.0, 2.0, 3.0, 4.0, 5.0], 1e-6);
        }
    }

    #[test]
    fn agrees_with_the_oracle_and_backward_is_the_transpose() {
        for (heads, head_dim) in [(1, 2), (3, 14), (2, 64), (5, 80)] {
            let (frequencies, factor) = inverse_frequencies(head_dim, 1e4, &RopeScaling::Default).expect("valid");
            let table = RopeTable::new(&frequencies, 1.5 * factor, 200);
            let (n, d, half) = (23, heads * head_dim, head_dim / 2);
            let (x, dy) = (normal(1, n * d), normal(2, n * d));
            let positions = ids(3, n, 200);
            let mut expected = f64s(&x);
            for (row, &position) in positions.iter().enumerate() {
                for head in 0..heads {
                    for i in 0..half {
                        let at = row * d + head * head_dim + i;
                        let angle = f64::from(position as f32 * frequencies[i] as f32);
                        let (s, c) = angle.sin_cos();
                        let (a, b) = (expected[at], expected[at + half]);
                        expected[at] = 1.5 * (a * c - b * s);
                        expected[at + half] = 1.5 * (b * c + a * s);
                    }
                }
            }
            let mut first = None;
            for cpu in cpus() {
                let mut y = x.clone();
                rotate(&cpu, &mut y, heads, head_dim, &positions, &table, Direction::Forward);
                assert_close(&y, &expected, 1e-6);
                let mut alone = x[7 * d..8 * d].to_vec();
                rotate(
                    &cpu,
                    &mut alone,
                    heads,
                    head_dim,
                    &positions[7..8],
                    &table,
                    Direction::Forward,
                );
                assert_eq!(bits(&alone), bits(&y[7 * d..8 * d]));
                // Plain products and sums: one result for every instruction set.
                assert_eq!(*first.get_or_insert_with(|| bits(&y)), bits(&y));

                let mut dx = dy.clone();
                rotate(&cpu, &mut dx, heads, head_dim, &positions, &table, Direction::Backward);
                let product = |a: &[f32], b: &[f32]| crate::cpu::testing::dot(&f64s(a), &f64s(b));
                let (forward, backward) = (product(&y, &dy), product(&x, &dx));
                assert!((forward - backward).abs() < 1e-4, "{forward} {backward}");
            }
        }
    }
}
