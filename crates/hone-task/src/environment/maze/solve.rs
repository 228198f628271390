//! The optimum, exactly.
//!
//! Held and Karp's dynamic programme over sets of coins: `fewest[set][last]` is the fewest moves that collect all of `set` and end at
//! `last`. An optimal way is a chain of shortest ways between the coins in the order of their collection; coins that lie on
//! such a way are in that order themselves, so nothing is lost by asking for shortest ways only. Every set of at most 12 coins is looked
//! at, so the largest one within the limit is the optimum.

use std::collections::VecDeque;

use super::{Grid, Move};

/// The most coins that can be collected, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solution {
    /// Coins.
    pub coins: usize,
    /// A way with the fewest moves that collects as many.
    pub way: Vec<Move>,
}

impl Solution {
    /// The way as an action.
    pub fn words(&self) -> String {
        let words: Vec<&str> = self.way.iter().map(|direction| direction.word()).collect();
        words.join(" ")
    }
}

/// Out of reach, with room for sums.
const FAR: u32 = u32::MAX / 4;

/// Fewest moves from `from` to every cell.
pub(super) fn distances(grid: &Grid, from: usize) -> Vec<u32> {
    let mut distances = vec![FAR; grid.walls.len()];
    distances[from] = 0;
    let mut next = VecDeque::from([from]);
    while let Some(cell) = next.pop_front() {
        for direction in Move::ALL {
            let to = grid.neighbour(cell, direction);
            if distances[to] == FAR {
                distances[to] = distances[cell] + 1;
                next.push_back(to);
            }
        }
    }
    distances
}

pub(super) fn solve(grid: &Grid) -> Solution {
    let count = grid.coins.len();
    // Moves can be turned around, so distances from a coin are distances to it
    let from_coin: Vec<Vec<u32>> = grid.coins.iter().map(|coin| distances(grid, *coin)).collect();
    let mut fewest = vec![FAR; (1 << count) * count];
    for last in 0..count {
        fewest[(1 << last) * count + last] = from_coin[last][grid.player];
    }
    for set in 1_usize..1 << count {
        for last in (0..count).filter(|last| set >> last & 1 == 1) {
            let so_far = fewest[set * count + last];
            for next in (0..count).filter(|next| set >> next & 1 == 0) {
                let with = &mut fewest[(set | 1 << next) * count + next];
                *with = (*with).min(so_far + from_coin[next][grid.coins[last]]);
            }
        }
    }
    let within = |(_, moves): &(usize, u32)| *moves as usize <= grid.moves_left;
    let ends = fewest.iter().copied().enumerate().filter(within);
    // Most coins, then fewest moves, then the first, so that the way is always the same
    let best = ends.min_by_key(|(at, moves)| (usize::MAX - (at / count).count_ones() as usize, *moves, *at));
    let Some((at, _)) = best else {
        return Solution {
            coins: 0,
            way: Vec::new(),
        };
    };
    let mut order = vec![at % count];
    let mut set = at / count;
    while set.count_ones() > 1 {
        let last = order[order.len() - 1];
        let moves = fewest[set * count + last];
        set &= !(1 << last);
        let before = (0..count).find(|coin| {
            set >> coin & 1 == 1 && fewest[set * count + coin] + from_coin[last][grid.coins[*coin]] == moves
        });
        match before {
            Some(coin) => order.push(coin),
            None => unreachable!("each number but the first row's was made from one before it"),
        }
    }
    let mut way = Vec::new();
    let mut cell = grid.player;
    for coin in order.into_iter().rev() {
        while cell != grid.coins[coin] {
            let distance = |direction: &Move| from_coin[coin][grid.neighbour(cell, *direction)];
            let direction = Move::ALL.into_iter().min_by_key(distance).unwrap_or(Move::Up);
            cell = grid.neighbour(cell, direction);
            way.push(direction);
        }
    }
    Solution {
        coins: (at / count).count_ones() as usize,
        way,
    }
}
