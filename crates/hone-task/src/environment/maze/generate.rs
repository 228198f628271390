//! A maze out of (seed, index).

use hone_math::Key;

use super::{Difficulty, Grid, MOST_COINS, MazeConfig, Move};

/// Cells that are walls.
fn walls(config: &MazeConfig) -> usize {
    let cells = config.size * config.size;
    match config.difficulty {
        Difficulty::Easy => 0,
        Difficulty::Medium => cells / 5,
        Difficulty::Hard => cells / 3,
    }
}

/// The most coins that fit beside the walls and the player.
pub(super) fn most_coins(config: &MazeConfig) -> usize {
    (config.size * config.size - walls(config) - 1).min(MOST_COINS)
}

/// The maze's start. The player's place is drawn first, then walls, each where all free ground stays connected, so that every coin can
/// be reached; then coins on free ground.
pub(super) fn grid(config: &MazeConfig, seed: u64, index: u64) -> Grid {
    let cells = config.size * config.size;
    let key = Key::new(seed, "maze", index);
    let player = key.child(0).below(0, cells as u64) as usize;
    let moves = match config.difficulty {
        Difficulty::Easy => 3 * config.size,
        Difficulty::Medium => 5 * config.size / 2,
        Difficulty::Hard => 2 * config.size,
    };
    let mut grid = Grid {
        size: config.size,
        walls: vec![false; cells],
        coins: Vec::new(),
        player,
        moves_left: config.moves.unwrap_or(moves),
    };
    let mut left = walls(config);
    for cell in key.child(1).permutation(cells) {
        if left == 0 {
            break;
        }
        if cell != player {
            grid.walls[cell] = true;
            if connected(&grid) {
                left -= 1;
            } else {
                grid.walls[cell] = false;
            }
        }
    }
    let coins = config.coins.unwrap_or(config.size - 1).min(most_coins(config));
    let free = key.child(2).permutation(cells).into_iter();
    grid.coins = free
        .filter(|cell| *cell != player && !grid.walls[*cell])
        .take(coins)
        .collect();
    grid.coins.sort_unstable();
    grid
}

/// Whether all free ground can be reached from the player.
fn connected(grid: &Grid) -> bool {
    let mut seen = grid.walls.clone();
    let mut next = vec![grid.player];
    seen[grid.player] = true;
    while let Some(cell) = next.pop() {
        for direction in Move::ALL {
            let to = grid.neighbour(cell, direction);
            if !seen[to] {
                seen[to] = true;
                next.push(to);
            }
        }
    }
    seen.into_iter().all(|seen| seen)
}
