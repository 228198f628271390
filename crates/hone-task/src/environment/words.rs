//! Guessing a word: the policy guesses, the environment hints, for a limited number of turns.
//!
//! An action's last word is the guess. A guess that is not in the list costs a turn and gets no hint. Who finds the word earns 1 in the
//! first turn, and an equal part less for each turn more: `1 - (turn - 1) / turns`; who does not earns nothing.

use hone_math::Key;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Environment, Saved, Status};
use crate::{BadSetting, Error};

/// Words of five letters that everybody knows.
const WORDS: &str = "apple beach bread brick bring chair clean cloud crane dance dream drink earth field flame floor fruit glass grain \
                     grape green heart horse house knife lemon light lunch mango money month mouse music night ocean paint paper pearl \
                     piano plant plate queen quiet river robin round sheep shirt slate sleep small smile snake spoon stone storm sugar \
                     table tiger train truck water whale wheat white world young zebra";

/// What a guess is answered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Hints {
    /// A sign for each letter: `=` in its place, `+` elsewhere in the word, `-` not in it (or not once more).
    #[default]
    Letters,
    /// Whether the word stands before or after the guess in the alphabet.
    Alphabet,
}

/// Settings of the word game.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WordGameConfig {
    /// The words that may be asked for: small letters, all of one length. Absent: 68 words of five letters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
    /// What a guess is answered with.
    pub hints: Hints,
    /// Guesses, 1 to 100.
    pub turns: usize,
}

impl Default for WordGameConfig {
    fn default() -> Self {
        Self {
            words: Vec::new(),
            hints: Hints::default(),
            turns: 6,
        }
    }
}

/// The word game as an environment.
#[derive(Clone, Debug)]
pub struct WordGame {
    words: Vec<String>,
    hints: Hints,
    turns: usize,
    secret: usize,
    said: String,
    reward: f64,
    status: Status,
    saved: Saved,
}

impl WordGame {
    /// A game before its first episode.
    ///
    /// # Errors
    /// Words of other letters, of different lengths or twice; too few or too many turns.
    pub fn new(config: WordGameConfig) -> Result<Self, Error> {
        let refuse = |key, got: String, expected: &str| {
            Err(Error::Environment {
                environment: "word-game",
                source: BadSetting::new(key, got, expected),
            })
        };
        if !(1..=100).contains(&config.turns) {
            return refuse("turns", config.turns.to_string(), "1 to 100");
        }
        let mut words = config.words;
        if words.is_empty() {
            words = WORDS.split_whitespace().map(str::to_owned).collect();
        }
        let letters = words[0].len();
        let plain = |word: &String| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
        if let Some(word) = words.iter().find(|word| !plain(word) || word.len() != letters) {
            let expected = format!(
                "words of small letters a to z, all of {} letters as the first",
                words[0].len()
            );
            return refuse("words", format!("{word:?} among others"), &expected);
        }
        words.sort_unstable();
        if let Some(twice) = words.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse("words", format!("{:?} twice", twice[0]), "each word once");
        }
        if words.len() < 2 {
            return refuse("words", format!("{words:?}"), "two words or more");
        }
        Ok(Self {
            words,
            hints: config.hints,
            turns: config.turns,
            secret: 0,
            said: String::new(),
            reward: 0.0,
            status: Status::Ended,
            saved: Saved::default(),
        })
    }

    /// The words that may be asked for, in alphabetical order.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The word to be found.
    pub fn secret(&self) -> &str {
        &self.words[self.secret]
    }

    /// The words that fit all hints so far: what a perfect memory knows.
    pub fn possible(&self) -> Vec<&str> {
        let fits = |word: &&String| {
            self.saved.actions.iter().all(|action| {
                let guess = guess(action);
                !self.words.contains(&guess) || self.hint(&guess, word) == self.hint(&guess, self.secret())
            })
        };
        self.words.iter().filter(fits).map(String::as_str).collect()
    }

    fn hint(&self, guess: &str, secret: &str) -> String {
        match self.hints {
            Hints::Letters => signs(guess, secret),
            Hints::Alphabet if secret < guess => "before".to_owned(),
            Hints::Alphabet if secret > guess => "after".to_owned(),
            Hints::Alphabet => "found".to_owned(),
        }
    }
}

/// The last word of letters in an action, in small letters.
fn guess(action: &str) -> String {
    let mut words = action
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| !word.is_empty());
    words.next_back().unwrap_or_default().to_ascii_lowercase()
}

/// `=`, `+` or `-` a letter. A letter of the secret answers for one letter of the guess: those in place first, then from the left.
fn signs(guess: &str, secret: &str) -> String {
    let (guess, secret) = (guess.as_bytes(), secret.as_bytes());
    let mut free: Vec<u8> = (0..secret.len())
        .filter(|i| guess[*i] != secret[*i])
        .map(|i| secret[i])
        .collect();
    let mut signs = String::new();
    for (i, letter) in guess.iter().enumerate() {
        let elsewhere = free.iter().position(|other| other == letter);
        signs.push(match elsewhere {
            _ if *letter == secret[i] => '=',
            Some(at) => {
                free.swap_remove(at);
                '+'
            }
            None => '-',
        });
    }
    signs
}

impl Environment for WordGame {
    fn name(&self) -> &'static str {
        "word-game"
    }

    fn rules(&self) -> String {
        let hint = match self.hints {
            Hints::Letters => {
                "After each guess, = says that a letter is in its place, + that it belongs elsewhere, - that it is not in the word."
            }
            Hints::Alphabet => "After each guess you learn whether the word comes before or after it in the alphabet.",
        };
        format!(
            "Guess the word of {} letters. {hint} You have {} guesses; write one word each time.",
            self.words[0].len(),
            self.turns
        )
    }

    fn reset(&mut self, seed: u64, index: u64) -> Result<(), Error> {
        self.secret = Key::new(seed, "word-game", index).below(0, self.words.len() as u64) as usize;
        self.said = format!("{} letters, {} guesses left\n", self.words[0].len(), self.turns);
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
        self.said.clone()
    }

    fn step(&mut self, action: &str) -> Result<Status, Error> {
        if self.status != Status::Running {
            return Err(Error::NotRunning {
                environment: self.name(),
            });
        }
        let guess = guess(action);
        self.saved.actions.push(action.to_owned());
        let done = self.saved.actions.len();
        let left = self.turns - done;
        self.reward = 0.0;
        if guess == self.secret() {
            self.reward = 1.0 - (done - 1) as f64 / self.turns as f64;
            self.said = format!("{guess}: found\n");
            self.status = Status::Ended;
            return Ok(self.status);
        }
        self.said = if self.words.binary_search(&guess).is_ok() {
            format!("{guess}: {}, {left} guesses left\n", self.hint(&guess, self.secret()))
        } else {
            format!("not a word of the list, {left} guesses left\n")
        };
        if left == 0 {
            self.status = Status::Ended;
        }
        Ok(self.status)
    }

    fn reward(&self) -> f64 {
        self.reward
    }

    fn status(&self) -> Status {
        self.status
    }

    /// 1: the first guess can be right, though only luck finds it.
    fn optimum(&self) -> Option<f64> {
        Some(1.0)
    }

    fn save(&self) -> Saved {
        self.saved.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::run_episode;

    fn game(text: &str) -> WordGame {
        WordGame::new(toml::from_str(text).unwrap()).unwrap()
    }

    #[test]
    fn signs_by_hand() {
        assert_eq!(signs("crane", "crane"), "=====");
        assert_eq!(signs("slate", "steal"), "=++++");
        assert_eq!(signs("month", "zebra"), "-----");
        // One e in the secret answers for one e of the guess, the one in place first
        assert_eq!(signs("eerie", "crane"), "--+-=");
        assert_eq!(signs("eagle", "apple"), "-+-==");
        assert_eq!(signs("allow", "llama"), "+=+--");
        // Two for two, and none for the third
        assert_eq!(signs("geese", "eager"), "+++--");
    }

    #[test]
    fn a_dialogue() {
        let mut game = game("words = ['crane', 'slate', 'plant']\nturns = 4");
        let index = (0..).find(|index| {
            game.reset(1, *index).unwrap();
            game.secret() == "plant"
        });
        assert_eq!(game.save().index, index.unwrap());
        assert_eq!(game.observe(), "5 letters, 4 guesses left\n");
        game.step("Perhaps it is Slate.").unwrap();
        assert_eq!(game.observe(), "slate: -==+-, 3 guesses left\n");
        assert_eq!(game.possible(), ["plant"]);
        game.step("xyzzy").unwrap();
        assert_eq!(game.observe(), "not a word of the list, 2 guesses left\n");
        assert_eq!(game.step("plant!").unwrap(), Status::Ended);
        assert_eq!((game.observe(), game.reward()), ("plant: found\n".to_owned(), 0.5));
        game.reset(1, index.unwrap()).unwrap();
        for _ in 0..4 {
            game.step("").unwrap();
        }
        assert_eq!((game.status(), game.reward()), (Status::Ended, 0.0));
    }

    #[test]
    fn the_alphabet_halves_what_is_possible() {
        let mut game = game("hints = 'alphabet'\nturns = 7");
        assert_eq!(game.words().len(), 68);
        for index in 0..30 {
            game.reset(2, index).unwrap();
            while game.status() == Status::Running {
                let possible = game.possible();
                let middle = possible[possible.len() / 2].to_owned();
                game.step(&middle).unwrap();
            }
            // 68 words are fewer than 2^7
            assert!(game.observe().ends_with("found\n"), "{}", game.observe());
        }
        game.reset(2, 0).unwrap();
        let (secret, other) = (
            game.secret().to_owned(),
            if game.secret() < "mango" { "zebra" } else { "apple" },
        );
        game.step(other).unwrap();
        let side = if &*secret < "mango" { "before" } else { "after" };
        assert_eq!(game.observe(), format!("{other}: {side}, 6 guesses left\n"));
    }

    #[test]
    fn who_uses_the_hints_beats_who_guesses_at_random() {
        let mut game = game("");
        let play = |game: &mut WordGame, index: u64, remembers: bool| {
            game.reset(3, index).unwrap();
            let key = Key::new(4, "guess", index);
            let mut total = 0.0;
            let mut turn = 0;
            while game.status() == Status::Running {
                let words: Vec<String> = if remembers {
                    game.possible().into_iter().map(str::to_owned).collect()
                } else {
                    game.words().to_vec()
                };
                game.step(&words[key.below(turn, words.len() as u64) as usize]).unwrap();
                total += game.reward();
                turn += 1;
            }
            total
        };
        let of =
            |game: &mut WordGame, remembers| (0..100).map(|index| play(game, index, remembers)).sum::<f64>() / 100.0;
        let (random, careful) = (of(&mut game, false), of(&mut game, true));
        assert!(random < 0.2 && careful > 0.5, "{random} {careful}");
    }

    #[test]
    fn episodes_are_cut_off_by_the_callers_limit() {
        let mut game = game("");
        game.reset(5, 0).unwrap();
        let episode = run_episode(&mut game, 2, |turns, observation| {
            assert_eq!(observation.contains("6 guesses left"), turns.is_empty());
            Ok("none".to_owned())
        })
        .unwrap();
        assert_eq!(
            (episode.turns.len(), episode.status, episode.total_reward()),
            (2, Status::CutOff, 0.0)
        );
    }

    #[test]
    fn lists_that_cannot_be_played_are_refused() {
        let refused = |text: &str| WordGame::new(toml::from_str(text).unwrap()).unwrap_err().to_string();
        assert_eq!(
            refused("words = ['abc', 'abcd']"),
            "environment word-game: `words` is \"abcd\" among others; expected words of small letters a to z, all of 3 letters as the first"
        );
        assert!(refused("words = ['Abc', 'abd']").contains("\"Abc\" among others"));
        assert!(refused("words = ['abc', 'abd', 'abc']").contains("\"abc\" twice"));
        assert!(refused("words = ['abc']").contains("two words or more"));
        assert!(refused("words = ['']").contains("words of small letters"));
        assert!(refused("turns = 0").contains("`turns` is 0; expected 1 to 100"));
    }
}
