use super::*;
use hone_math::Key;
use std::collections::HashSet;

fn maze(text: &str) -> Maze {
    Maze::new(toml::from_str(text).unwrap()).unwrap()
}

/// The grid of a text; `moves` from its start.
fn grid(text: &str, moves: usize) -> Grid {
    let lines: Vec<&str> = text.split_whitespace().collect();
    let cells: Vec<char> = lines.concat().chars().collect();
    let places = |what: char| {
        cells
            .iter()
            .enumerate()
            .filter(move |(_, c)| **c == what)
            .map(|(i, _)| i)
    };
    Grid {
        size: lines.len(),
        walls: cells.iter().map(|c| *c == '#').collect(),
        coins: places('o').collect(),
        player: places('@').next().unwrap(),
        moves_left: moves,
    }
}

/// The optimum by looking at every state that any sequence of moves can lead to.
fn by_search(start: &Grid) -> usize {
    let mut states = HashSet::from([(start.player, start.coins.clone())]);
    let mut best = 0;
    for _ in 0..start.moves_left {
        let mut after = HashSet::new();
        for (player, coins) in states {
            for direction in Move::ALL {
                let player = start.neighbour(player, direction);
                let coins: Vec<usize> = coins.iter().copied().filter(|coin| *coin != player).collect();
                best = best.max(start.coins.len() - coins.len());
                after.insert((player, coins));
            }
        }
        states = after;
    }
    best
}

#[test]
fn a_maze_by_hand() {
    let start = grid("@.o  .#.  ..o", 4);
    assert_eq!(start.text(), "@.o\n.#.\n..o\n");
    let solution = start.solve();
    assert_eq!((solution.coins, &solution.words()[..]), (2, "right right down down"));
    // One move fewer reaches one coin only
    assert_eq!(grid("@.o  .#.  ..o", 3).solve().words(), "right right");
    assert_eq!(grid("@.o  .#.  ..o", 1).solve().coins, 0);
    // Around a wall
    let walled = grid("@#o  ...  ...", 4);
    assert_eq!(
        (walled.solve().coins, &walled.solve().words()[..]),
        (1, "down right right up")
    );
    assert_eq!(grid("@#o  ...  ...", 3).solve().coins, 0);
    // Nearest first would take the single coin and miss the two
    let greedy = grid("..... ..... o.@.. ....o ....o", 5);
    assert_eq!((greedy.solve().coins, greedy.solve().way.len()), (2, 4));
}

#[test]
fn a_way_is_drawn_into_the_grid() {
    let start = grid("@.o  .#.  ..o", 5);
    assert_eq!(start.drawn("right right down Down, right"), "@+*\n.#+\n..*\n");
    // Walls and words lead nowhere, moves run out, and what was passed keeps its sign
    assert_eq!(start.drawn("down right hello down right right"), "@.o\n+#.\n++o\n");
    assert_eq!(start.drawn(""), start.text());
}

#[test]
fn the_solver_agrees_with_a_search_of_all_states() {
    let configs = [
        "size = 3\ncoins = 3",
        "size = 4\ndifficulty = 'hard'\ncoins = 5\nmoves = 7",
        "size = 4\ndifficulty = 'easy'\ncoins = 6\nmoves = 9",
        "size = 5\nmoves = 11",
        "size = 2\ndifficulty = 'easy'\ncoins = 3\nmoves = 2",
    ];
    for text in configs {
        let mut environment = maze(text);
        let mut seen = HashSet::new();
        for index in 0..40 {
            environment.reset(1, index).unwrap();
            let solution = environment.grid().solve();
            assert_eq!(
                solution.coins,
                by_search(environment.grid()),
                "{text}, {index}\n{}",
                environment.observe()
            );
            seen.insert(solution.coins);
            // The way does what the solution says
            environment.step(&solution.words()).unwrap();
            assert_eq!(environment.reward(), solution.coins as f64);
            assert_eq!(environment.optimum(), Some(solution.coins as f64));
        }
        assert!(seen.len() > 1 || text.contains("coins = 3"), "{text}: always {seen:?}");
    }
}

#[test]
fn no_sequence_of_words_beats_the_solver() {
    let mut environment = maze("size = 4\ncoins = 4\nmoves = 6");
    for index in 0..3 {
        let mut best = 0.0_f64;
        for sequence in 0..4_usize.pow(6) {
            environment.reset(2, index).unwrap();
            let words: Vec<&str> = (0..6).map(|i| Move::ALL[sequence >> (2 * i) & 3].word()).collect();
            environment.step(&words.join(" ")).unwrap();
            best = best.max(environment.reward());
        }
        assert_eq!(Some(best), environment.optimum(), "{index}");
    }
}

#[test]
fn random_moves_never_beat_the_optimum_and_find_some_coins() {
    for difficulty in ["easy", "medium", "hard"] {
        for size in [3, 5, 8, 13] {
            let mut environment = maze(&format!("size = {size}\ndifficulty = '{difficulty}'"));
            let (mut random, mut optimum) = (0.0, 0.0);
            for index in 0..30 {
                environment.reset(3, index).unwrap();
                let moves = environment.grid().moves_left;
                environment
                    .step(&random_moves(Key::new(3, "random", index), moves))
                    .unwrap();
                let most = environment.optimum().unwrap();
                assert!(environment.reward() <= most);
                random += environment.reward();
                optimum += most;
            }
            assert!(
                0.0 < random && random < 0.9 * optimum,
                "{difficulty} {size}: {random} of {optimum}"
            );
        }
    }
}

#[test]
fn every_maze_is_connected_and_has_what_its_settings_say() {
    for (difficulty, walls) in [("easy", 0), ("medium", 7), ("hard", 12)] {
        let mut environment = maze(&format!("size = 6\ndifficulty = '{difficulty}'\ncoins = 4"));
        let mut texts = HashSet::new();
        for index in 0..50 {
            environment.reset(4, index).unwrap();
            let start = environment.grid().clone();
            assert_eq!(start.walls.iter().filter(|wall| **wall).count(), walls);
            assert_eq!(start.coins.len(), 4);
            let far = Grid {
                moves_left: 1000,
                ..start
            };
            assert_eq!(far.solve().coins, 4, "every coin can be reached");
            texts.insert(environment.observe());
        }
        assert!(texts.len() >= 49, "mazes differ");
    }
}

#[test]
fn a_maze_is_a_function_of_seed_and_index() {
    let mut environment = maze("size = 5\ndifficulty = 'hard'");
    environment.reset(1, 0).unwrap();
    let first = environment.observe();
    // Recorded: a change of this text changes every experiment on mazes
    assert_eq!(first, RECORDED, "{first}");
    environment.reset(1, 1).unwrap();
    assert_ne!(environment.observe(), first);
    environment.step("up up").unwrap();
    environment.reset(2, 0).unwrap();
    assert_ne!(environment.observe(), first);
    environment.reset(1, 0).unwrap();
    assert_eq!(environment.observe(), first);
}

const RECORDED: &str = "...#.\n#.@oo\n###..\n.##o#\n...o.\n10 moves left\n";

#[test]
fn words_cost_moves_and_turns_take_only_so_many() {
    let mut environment = maze("size = 3\ndifficulty = 'easy'\ncoins = 1\nmoves = 5\nmoves_per_turn = 2");
    environment.grid = grid("@..  ...  ..o", 5);
    environment.status = Status::Running;
    // The third word is not looked at, and "hop" does nothing
    assert_eq!(environment.step("Right, hop down").unwrap(), Status::Running);
    assert_eq!(environment.observe(), ".@.\n...\n..o\n3 moves left\n");
    // Into the wall, and nothing at all
    environment.step("UP").unwrap();
    environment.step("").unwrap();
    assert_eq!(environment.observe(), ".@.\n...\n..o\n1 moves left\n");
    assert_eq!(environment.step("down").unwrap(), Status::Ended);
    assert_eq!(environment.reward(), 0.0);
    assert!(environment.step("down").is_err());

    // A wall inside the maze holds as the edges do
    environment.grid = grid("@#o  ...  ...", 5);
    environment.status = Status::Running;
    environment.step("right right").unwrap();
    assert_eq!(environment.observe(), "@#o\n...\n...\n3 moves left\n");

    // The whole way in one turn; what stands after the last coin is not looked at
    let mut environment = maze("size = 3\ndifficulty = 'easy'\ncoins = 1");
    environment.grid = grid("@..  ...  ..o", 9);
    environment.status = Status::Running;
    assert_eq!(
        environment.step("right\nright, down down down down").unwrap(),
        Status::Ended
    );
    assert_eq!((environment.reward(), environment.grid().moves_left), (1.0, 5));
    environment.reset(0, 0).unwrap();
    assert_eq!(environment.step("I don't know").unwrap(), Status::Ended);
}

#[test]
fn settings_out_of_range_are_refused() {
    let refused = |text: &str| Maze::new(toml::from_str(text).unwrap()).unwrap_err().to_string();
    assert_eq!(refused("size = 21"), "environment maze: `size` is 21; expected 2 to 20");
    assert_eq!(
        refused("size = 3\ndifficulty = 'hard'\ncoins = 6"),
        "environment maze: `coins` is 6; expected 1 to 5 in a maze of this size and difficulty"
    );
    assert!(refused("coins = 13").contains("expected 1 to 12"));
    assert!(refused("coins = 0").contains("`coins` is 0"));
    assert!(refused("moves = 0").contains("expected 1 to 1000"));
    assert!(refused("moves_per_turn = 0").contains("expected at least 1"));
}

#[test]
fn the_rules_say_how_to_answer() {
    assert!(
        maze("")
            .rules()
            .contains("Write the whole way with the words up, down, left and right")
    );
    assert!(maze("moves_per_turn = 1").rules().contains("one move at a time"));
    assert!(maze("moves_per_turn = 3").rules().contains("up to 3 moves at a time"));
}
