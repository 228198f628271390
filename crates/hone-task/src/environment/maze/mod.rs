//! Gold coins in a maze: a grid in text, moves as words, a limit on moves.
//!
//! ```text
//! @.o#
//! .#..
//! ...o
//! #..o
//! 9 moves left
//! ```
//! `@` is where the player stands, `o` a coin, `#` a wall, `.` free ground; the edges are walls. An action is any number of the words
//! `up`, `down`, `left`, `right`. Each word takes a move: into a wall it leads nowhere, and a word that is none of them does nothing but
//! takes a move, too, so that talking never pays. The reward of an action is the number of coins collected by it. An episode ends when all coins are
//! collected or no move is left.

mod generate;
mod players;
mod solve;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use self::players::{solver, wanderer};
pub use self::solve::Solution;
use super::{Environment, Saved, Status};
use crate::{BadSetting, Error};

/// The most coins a maze may have: the exact solver looks at every set of them.
pub const MOST_COINS: usize = 12;

/// How dense walls are, and how far the moves reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Difficulty {
    /// No walls; three moves for each cell of a side.
    Easy,
    /// A fifth of the cells are walls; two and a half moves for each cell of a side.
    #[default]
    Medium,
    /// A third of the cells are walls; two moves for each cell of a side: rarely enough for all coins.
    Hard,
}

/// Settings of the maze.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MazeConfig {
    /// Cells of a side, 2 to 20.
    pub size: usize,
    /// Walls and moves.
    pub difficulty: Difficulty,
    /// Coins, 1 to 12; absent: one fewer than a side has cells, at most 12.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coins: Option<usize>,
    /// Moves; absent: what the difficulty says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moves: Option<usize>,
    /// Moves that are taken from one action. Absent: all of them, and the episode has one turn, in which the whole way is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moves_per_turn: Option<usize>,
}

impl Default for MazeConfig {
    fn default() -> Self {
        Self {
            size: 5,
            difficulty: Difficulty::default(),
            coins: None,
            moves: None,
            moves_per_turn: None,
        }
    }
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// To the line above.
    Up,
    /// To the line below.
    Down,
    /// Towards the start of the line.
    Left,
    /// Towards its end.
    Right,
}

impl Move {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Up, Self::Down, Self::Left, Self::Right];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Left => "left",
            Self::Right => "right",
        }
    }

    /// What a word says, whatever its case and the punctuation around it.
    fn of(word: &str) -> Option<Self> {
        let bare = word
            .trim_matches(|c: char| c.is_ascii_punctuation())
            .to_ascii_lowercase();
        Self::ALL.into_iter().find(|direction| direction.word() == bare)
    }
}

/// Where walls, coins and the player are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Cells of a side.
    size: usize,
    /// By cell, line by line.
    walls: Vec<bool>,
    /// The cells of coins that are not collected.
    coins: Vec<usize>,
    player: usize,
    moves_left: usize,
}

impl Grid {
    /// The cell that a move leads to: the same where there is a wall.
    fn neighbour(&self, cell: usize, direction: Move) -> usize {
        let (line, column) = (cell / self.size, cell % self.size);
        let to = match direction {
            Move::Up if line > 0 => cell - self.size,
            Move::Down if line + 1 < self.size => cell + self.size,
            Move::Left if column > 0 => cell - 1,
            Move::Right if column + 1 < self.size => cell + 1,
            _ => cell,
        };
        if self.walls[to] { cell } else { to }
    }

    /// Takes a move, or none for a word that is no direction; whether a coin was collected.
    fn take(&mut self, direction: Option<Move>) -> bool {
        self.moves_left -= 1;
        if let Some(direction) = direction {
            self.player = self.neighbour(self.player, direction);
        }
        let before = self.coins.len();
        self.coins.retain(|coin| *coin != self.player);
        self.coins.len() < before
    }

    fn is_over(&self) -> bool {
        self.moves_left == 0 || self.coins.is_empty()
    }

    /// The grid as text, a line for each of its lines, each with its line end.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for cell in 0..self.size * self.size {
            text.push(match cell {
                _ if cell == self.player => '@',
                _ if self.walls[cell] => '#',
                _ if self.coins.contains(&cell) => 'o',
                _ => '.',
            });
            if (cell + 1) % self.size == 0 {
                text.push('\n');
            }
        }
        text
    }

    /// The grid as text with the way of an action drawn in: `+` where it leads, `*` where it collects a coin; the player stands where it
    /// began.
    pub fn drawn(&self, action: &str) -> String {
        let mut walked = self.clone();
        let mut signs: Vec<char> = self.text().chars().filter(|sign| *sign != '\n').collect();
        for word in action.split_whitespace() {
            if walked.is_over() {
                break;
            }
            let collected = walked.take(Move::of(word));
            let sign = &mut signs[walked.player];
            *sign = match *sign {
                _ if collected => '*',
                '.' => '+',
                as_it_was => as_it_was,
            };
        }
        let lines = signs
            .chunks(self.size)
            .map(|line| line.iter().collect::<String>() + "\n");
        lines.collect()
    }

    /// The most coins that can be collected from here, and a way that does it. Exact.
    pub fn solve(&self) -> Solution {
        solve::solve(self)
    }
}

/// The maze as an environment.
#[derive(Clone, Debug)]
pub struct Maze {
    config: MazeConfig,
    grid: Grid,
    optimum: usize,
    reward: f64,
    status: Status,
    saved: Saved,
}

impl Maze {
    /// A maze before its first episode.
    ///
    /// # Errors
    /// A setting out of its range.
    pub fn new(config: MazeConfig) -> Result<Self, Error> {
        let refuse = |key, got: usize, expected: String| {
            Err(Error::Environment {
                environment: "maze",
                source: BadSetting::new(key, got, expected),
            })
        };
        if !(2..=20).contains(&config.size) {
            return refuse("size", config.size, "2 to 20".to_owned());
        }
        let most = generate::most_coins(&config);
        if let Some(coins) = config.coins.filter(|coins| !(1..=most).contains(coins)) {
            let expected = format!("1 to {most} in a maze of this size and difficulty");
            return refuse("coins", coins, expected);
        }
        if let Some(moves) = config.moves.filter(|moves| !(1..=1000).contains(moves)) {
            return refuse("moves", moves, "1 to 1000".to_owned());
        }
        if config.moves_per_turn == Some(0) {
            return refuse(
                "moves_per_turn",
                0,
                "at least 1, or nothing for the whole way in one turn".to_owned(),
            );
        }
        Ok(Self {
            grid: generate::grid(&config, 0, 0),
            config,
            optimum: 0,
            reward: 0.0,
            status: Status::Ended,
            saved: Saved::default(),
        })
    }

    /// Where everything is now.
    pub fn grid(&self) -> &Grid {
        &self.grid
    }
}

impl Environment for Maze {
    fn name(&self) -> &'static str {
        "maze"
    }

    fn rules(&self) -> String {
        let turn = match self.config.moves_per_turn {
            None => "Write the whole way".to_owned(),
            Some(1) => "Write one move at a time".to_owned(),
            Some(moves) => format!("Write up to {moves} moves at a time"),
        };
        format!(
            "Collect as many coins (o) as you can. You are @, walls are #. {turn} with the words up, down, left and right; every word takes a move."
        )
    }

    fn reset(&mut self, seed: u64, index: u64) -> Result<(), Error> {
        self.grid = generate::grid(&self.config, seed, index);
        self.optimum = self.grid.solve().coins;
        self.reward = 0.0;
        self.status = Status::Running;
        self.saved = Saved {
            seed,
            index,
            actions: Vec::new(),
        };
        Ok(())
    }

    fn observe(&self) -> String {
        format!("{}{} moves left\n", self.grid.text(), self.grid.moves_left)
    }

    fn step(&mut self, action: &str) -> Result<Status, Error> {
        if self.status != Status::Running {
            return Err(Error::NotRunning {
                environment: self.name(),
            });
        }
        let most = self.config.moves_per_turn.unwrap_or(usize::MAX);
        let mut coins = 0;
        let mut words = action.split_whitespace().take(most).peekable();
        if words.peek().is_none() {
            // Saying nothing takes a move, so that every episode ends
            self.grid.take(None);
        }
        for word in words {
            if self.grid.is_over() {
                break;
            }
            coins += usize::from(self.grid.take(Move::of(word)));
        }
        self.reward = coins as f64;
        if self.grid.is_over() || self.config.moves_per_turn.is_none() {
            self.status = Status::Ended;
        }
        self.saved.actions.push(action.to_owned());
        Ok(self.status)
    }

    fn reward(&self) -> f64 {
        self.reward
    }

    fn status(&self) -> Status {
        self.status
    }

    fn optimum(&self) -> Option<f64> {
        Some(self.optimum as f64)
    }

    fn save(&self) -> Saved {
        self.saved.clone()
    }
}

/// Random moves, as many as asked for: the baseline that knows nothing. A function of the key.
pub fn random_moves(key: hone_math::Key, count: usize) -> String {
    let words: Vec<&str> = (0..count)
        .map(|i| Move::ALL[key.below(i as u64, 4) as usize].word())
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests;
