//! Players of the maze that are no models, for ways that a model can imitate. A way is a function of the grid and the key.

use hone_math::Key;

use super::solve::distances;
use super::{Grid, Move};

/// A way with the most coins, cut to `most` moves.
pub(in crate::environment) fn solver(grid: &Grid, most: usize, key: Key) -> String {
    let mut way = grid.solve().way;
    way.truncate(most);
    if way.is_empty() {
        // No coin is within reach, and an empty way says nothing that could be imitated
        way.push(any(key));
    }
    words(&way)
}

/// Up to `most` moves of an imperfect player: with probability `skill` a step on a shortest way to a coin, which is drawn and kept until
/// it is collected, otherwise a step in any direction, walls included.
pub(in crate::environment) fn wanderer(grid: &Grid, most: usize, skill: f64, key: Key) -> String {
    let mut grid = grid.clone();
    let mut way = Vec::new();
    let mut aim: Option<usize> = None;
    while !grid.is_over() && way.len() < most {
        let draws = key.child(way.len() as u64);
        let direction = if draws.uniform(0) < skill {
            let kept = aim.filter(|coin| grid.coins.contains(coin));
            let drawn = || grid.coins[draws.below(1, grid.coins.len() as u64) as usize];
            let coin = kept.unwrap_or_else(drawn);
            aim = Some(coin);
            towards(&grid, coin)
        } else {
            any(draws)
        };
        grid.take(Some(direction));
        way.push(direction);
    }
    words(&way)
}

/// The first step of a shortest way.
fn towards(grid: &Grid, cell: usize) -> Move {
    let left = distances(grid, cell);
    let after = |direction: &Move| left[grid.neighbour(grid.player, *direction)];
    Move::ALL.into_iter().min_by_key(after).unwrap_or(Move::Up)
}

fn any(key: Key) -> Move {
    Move::ALL[key.below(2, 4) as usize]
}

fn words(way: &[Move]) -> String {
    let words: Vec<&str> = way.iter().map(|direction| direction.word()).collect();
    words.join(" ")
}
