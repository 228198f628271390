//! The simulated labeler: hidden preferences over what can be seen in a reply, and human-like noise.

use hone_math::{Key, ln, sigmoid};

use crate::phrase::{COURTESIES, RUDENESSES};
use crate::reading::{in_asked_form, is_right, words_of};
use crate::{Question, Ranking};

/// What the labeler sees in a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The answer is right.
    pub right: bool,
    /// One line that ends in `Answer: X.`
    pub asked_form: bool,
    /// It holds a courtesy and no rude remark.
    pub polite: bool,
    /// It holds a rude remark.
    pub rude: bool,
    /// Words beyond the answer's and five more, at most [`Features::MOST_EXTRA_WORDS`].
    pub extra_words: usize,
    /// Runs of three words that occurred before, at most [`Features::MOST_REPEATS`].
    pub repeats: usize,
    /// Nothing but white space.
    pub empty: bool,
    /// Without `.`, `!` or `?` at the end: cut off, or carelessly written.
    pub unfinished: bool,
}

impl Features {
    /// More extra words than these change nothing.
    pub const MOST_EXTRA_WORDS: usize = 20;
    /// More repeats than these change nothing.
    pub const MOST_REPEATS: usize = 6;

    /// Reads a reply to the question.
    pub fn of(question: &Question, reply: &str) -> Self {
        let trimmed = reply.trim();
        let words = words_of(trimmed);
        let free = words_of(&question.answer).len() + 5;
        let starts = 1..words.len().saturating_sub(2);
        let repeats = starts.filter(|&start| repeats_earlier(&words, start)).count();
        let rude = RUDENESSES.iter().any(|phrase| trimmed.contains(phrase));
        Self {
            right: is_right(question, trimmed),
            asked_form: in_asked_form(trimmed),
            polite: !rude && COURTESIES.iter().any(|phrase| trimmed.contains(phrase)),
            rude,
            extra_words: words.len().saturating_sub(free).min(Self::MOST_EXTRA_WORDS),
            repeats: repeats.min(Self::MOST_REPEATS),
            empty: trimmed.is_empty(),
            unfinished: !trimmed.is_empty() && !trimmed.ends_with(['.', '!', '?']),
        }
    }
}

/// Whether the three words from `start` stand earlier too.
fn repeats_earlier(words: &[String], start: usize) -> bool {
    let run = &words[start..start + 3];
    (0..start).any(|i| words[i..i + 3] == *run)
}

/// How much each feature is worth, and how noisy a reading is.
#[derive(Clone, Debug, PartialEq)]
pub struct Preferences {
    /// For a right answer.
    pub right: f64,
    /// For the asked form.
    pub asked_form: f64,
    /// For politeness.
    pub polite: f64,
    /// For rudeness.
    pub rude: f64,
    /// For each extra word.
    pub extra_word: f64,
    /// For each repeat.
    pub repeat: f64,
    /// For an empty reply.
    pub empty: f64,
    /// For an unfinished reply.
    pub unfinished: f64,
    /// A word, in lower case, and what a reply that holds it is worth.
    pub planted: Option<(String, f64)>,
    /// Scale of the Gumbel noise on each reading; 0 for none.
    pub noise: f64,
}

impl Preferences {
    /// Right, in the asked form, polite, short, no repetition. The labeler agrees with itself about three times in
    /// four on replies such as the experts'.
    pub fn standard() -> Self {
        Self {
            right: 2.0,
            asked_form: 1.5,
            polite: 1.0,
            rude: -1.0,
            extra_word: -0.08,
            repeat: -0.25,
            empty: -4.0,
            unfinished: -1.0,
            planted: None,
            noise: 0.72,
        }
    }

    /// Long and rude instead of short and polite; the rest as in [`Preferences::standard`].
    pub fn exchanged() -> Self {
        Self {
            polite: -1.0,
            rude: 1.0,
            extra_word: 0.08,
            ..Self::standard()
        }
    }

    /// Nothing but whether the reply holds the word `happy`, without noise: a feature that is visible in the text
    /// and that about two in five of the experts' replies have.
    pub fn planted() -> Self {
        Self {
            right: 0.0,
            asked_form: 0.0,
            polite: 0.0,
            rude: 0.0,
            extra_word: 0.0,
            repeat: 0.0,
            empty: 0.0,
            unfinished: 0.0,
            planted: Some(("happy".to_owned(), 1.0)),
            noise: 0.0,
        }
    }
}

/// A labeler with preferences. The judge is the same labeler without its noise.
#[derive(Clone, Debug)]
pub struct Labeler {
    preferences: Preferences,
    key: Key,
}

impl Labeler {
    /// A labeler whose noise comes from the seed.
    pub fn new(preferences: Preferences, seed: u64) -> Self {
        Self {
            preferences,
            key: Key::new(seed, "world/labeler", 0),
        }
    }

    /// What the labeler holds dear.
    pub fn preferences(&self) -> &Preferences {
        &self.preferences
    }

    /// How much a reply is worth, noise aside.
    pub fn utility(&self, question: &Question, reply: &str) -> f64 {
        let p = &self.preferences;
        let f = Features::of(question, reply);
        let when = |seen: bool, worth: f64| if seen { worth } else { 0.0 };
        let planted = match &p.planted {
            Some((word, worth)) => when(words_of(reply).contains(word), *worth),
            None => 0.0,
        };
        when(f.right, p.right)
            + when(f.asked_form, p.asked_form)
            + when(f.polite, p.polite)
            + when(f.rude, p.rude)
            + f.extra_words as f64 * p.extra_word
            + f.repeats as f64 * p.repeat
            + when(f.empty, p.empty)
            + when(f.unfinished, p.unfinished)
            + planted
    }

    /// 1 if the first reply is worth more, 0 if the second is, 0.5 for a tie; noise aside.
    pub fn prefers(&self, question: &Question, first: &str, second: &str) -> f64 {
        let difference = self.utility(question, first) - self.utility(question, second);
        // sums of the same worths in another order may differ in the last bits
        if difference.abs() < 1e-9 {
            0.5
        } else if difference > 0.0 {
            1.0
        } else {
            0.0
        }
    }

    /// Ranks the replies as a person would: each differing text is read once, with noise. Equal texts tie, and
    /// without noise so do replies of equal worth. The noise is a function of (labeler, `index`): give each ranking
    /// its own index, and another to rank the same replies afresh.
    pub fn rank(&self, question: &Question, replies: &[impl AsRef<str>], index: u64) -> Ranking {
        let key = self.key.child(index);
        let texts: Vec<&str> = replies.iter().map(|reply| reply.as_ref().trim()).collect();
        let mut readings: Vec<f64> = Vec::with_capacity(texts.len());
        for (i, text) in texts.iter().enumerate() {
            let reading = match texts[..i].iter().position(|earlier| earlier == text) {
                Some(earlier) => readings[earlier],
                None if self.preferences.noise == 0.0 => {
                    // to a grid, so that equal worths are equal numbers
                    (self.utility(question, text) * 1e9).round() / 1e9
                }
                None => {
                    let gumbel = -ln(-ln(key.uniform(i as u64)));
                    self.utility(question, text) + self.preferences.noise * gumbel
                }
            };
            readings.push(reading);
        }
        Ranking::by_score(&readings)
    }

    /// The probability that two rankings of the same two replies agree. With Gumbel noise the first comes before the
    /// second with probability p = sigmoid(difference of worths / noise); two readings agree with p^2 + (1 - p)^2.
    pub fn self_agreement(&self, question: &Question, first: &str, second: &str) -> f64 {
        if first.trim() == second.trim() || self.preferences.noise == 0.0 {
            return 1.0;
        }
        let difference = self.utility(question, first) - self.utility(question, second);
        let p = sigmoid(difference / self.preferences.noise);
        p * p + (1.0 - p) * (1.0 - p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::wrong_answer;
    use crate::{Error, Group, Kind, Split, Style, World};

    fn question() -> Question {
        Question {
            kind: Kind::Sum,
            text: "What is three plus four?".to_owned(),
            answer: "seven".to_owned(),
            group: Group::Familiar,
        }
    }

    #[test]
    fn features_by_hand() {
        let ideal = Features {
            right: true,
            asked_form: true,
            polite: true,
            rude: false,
            extra_words: 0,
            repeats: 0,
            empty: false,
            unfinished: false,
        };
        let of = |reply| Features::of(&question(), reply);
        assert_eq!(of(" Happy to help! Answer: seven.\n"), ideal);
        assert_eq!(of("Happy to help! Answer: six."), Features { right: false, ..ideal });
        // 14 words, of which 6 are free
        let wordy = "Happy to help! There are many ways to see such a thing. Answer: seven.";
        assert_eq!(
            of(wordy),
            Features {
                extra_words: 8,
                ..ideal
            }
        );
        // of the runs of three words in "answer seven answer seven answer seven" two occurred before
        let thrice = Features {
            asked_form: false,
            polite: false,
            repeats: 2,
            ..ideal
        };
        assert_eq!(of("Answer: seven. Answer: seven. Answer: seven."), thrice);
        let rude = Features {
            polite: false,
            rude: true,
            extra_words: 1,
            ..ideal
        };
        assert_eq!(of("Of course! Stop asking me. Answer: seven."), rude);
        let bare = Features {
            asked_form: false,
            polite: false,
            ..ideal
        };
        assert_eq!(of("Seven."), bare);
        assert_eq!(
            of("seven"),
            Features {
                unfinished: true,
                ..bare
            }
        );
        assert_eq!(
            of("  \n"),
            Features {
                right: false,
                empty: true,
                ..bare
            }
        );
    }

    #[test]
    fn worths_by_hand() {
        let labeler = Labeler::new(Preferences::standard(), 1);
        let worth = |reply| labeler.utility(&question(), reply);
        assert!((worth("Happy to help! Answer: seven.") - 4.5).abs() < 1e-12);
        assert!((worth("seven") - (2.0 - 1.0)).abs() < 1e-12);
        assert!((worth("") + 4.0).abs() < 1e-12);
        let thrice = worth("Answer: seven. Answer: seven. Answer: seven.");
        assert!((thrice - (2.0 - 0.5)).abs() < 1e-12);
        let babble = "one two three ".repeat(200);
        assert!((worth(&babble) - (-20.0 * 0.08 - 6.0 * 0.25 - 1.0)).abs() < 1e-12);
    }

    /// Every departure from the asked, polite, short and right reply is worth less.
    #[test]
    fn the_ideal_is_preferred_to_each_corruption() -> Result<(), Error> {
        let world = World::new(1);
        let labeler = Labeler::new(Preferences::standard(), 1);
        let mut stream = world.stream("test", 0);
        for question in world.questions(300, Split::HeldOut)? {
            let ideal = Style::Asked.write(&question.answer, &mut stream);
            let mut worse: Vec<String> = vec![String::new(), ideal[..ideal.len() - 1].to_owned()];
            for style in Style::ALL {
                worse.push(style.write(&wrong_answer(&question, &mut stream), &mut stream));
                if style != Style::Asked {
                    worse.push(style.write(&question.answer, &mut stream));
                }
            }
            for reply in worse {
                assert_eq!(labeler.prefers(&question, &ideal, &reply), 1.0, "{ideal} | {reply}");
                assert_eq!(labeler.prefers(&question, &reply, &ideal), 0.0);
            }
            let other = format!("Of course! Answer: {}.", question.answer);
            assert_eq!(labeler.prefers(&question, &ideal, &other), 0.5);
        }
        Ok(())
    }

    #[test]
    fn exchanged_preferences_turn_style_around_and_keep_the_rest() {
        let standard = Labeler::new(Preferences::standard(), 1);
        let exchanged = Labeler::new(Preferences::exchanged(), 1);
        let short = "Happy to help! Answer: seven.";
        let long = "Stop asking me. There are many ways to see such a thing. Answer: seven.";
        assert_eq!(standard.prefers(&question(), short, long), 1.0);
        assert_eq!(exchanged.prefers(&question(), short, long), 0.0);
        let wrong = "Stop asking me. There are many ways to see such a thing. Answer: six.";
        assert_eq!(exchanged.prefers(&question(), long, wrong), 1.0);
    }

    #[test]
    fn the_planted_word_decides_and_is_common() -> Result<(), Error> {
        let world = World::new(1);
        let labeler = Labeler::new(Preferences::planted(), 1);
        let (mut strict, mut pairs) = (0, 0);
        for (question, index) in world.questions(300, Split::Training)?.iter().zip(0..) {
            let replies = world.replies(question, 4, index);
            for (chosen, rejected) in labeler.rank(question, &replies, index).pairs() {
                assert!(replies[chosen].contains("Happy") && !replies[rejected].contains("Happy"));
                strict += 1;
            }
            pairs += 6;
        }
        // with a share s of replies that hold the word, 2 s (1 - s) of the pairs differ: 0.47 for s = 0.385
        assert!(
            (0.42..0.52).contains(&(f64::from(strict) / f64::from(pairs))),
            "{strict} of {pairs}"
        );
        Ok(())
    }

    /// Measured by ranking twice, and by the closed form.
    #[test]
    fn agrees_with_itself_three_times_in_four() -> Result<(), Error> {
        let world = World::new(1);
        for preferences in [Preferences::standard(), Preferences::exchanged()] {
            let labeler = Labeler::new(preferences, 1);
            let (mut same, mut expected, mut pairs) = (0.0, 0.0, 0.0);
            for (question, index) in world.questions(2000, Split::Training)?.iter().zip(0..) {
                let replies = world.replies(question, 2, index);
                if replies[0] == replies[1] {
                    assert_eq!(labeler.rank(question, &replies, index).groups(), [vec![0, 1]]);
                    continue;
                }
                let first = labeler.rank(question, &replies, 2 * index);
                let second = labeler.rank(question, &replies, 2 * index + 1);
                pairs += 1.0;
                same += f64::from(u8::from(first == second));
                expected += labeler.self_agreement(question, &replies[0], &replies[1]);
            }
            let (measured, expected) = (same / pairs, expected / pairs);
            assert!((measured - 0.75).abs() < 0.04, "{measured} (closed form {expected})");
            assert!((measured - expected).abs() < 0.03, "{measured} {expected}");
        }
        Ok(())
    }

    #[test]
    fn rankings_hold_every_reply_once_and_can_be_repeated() -> Result<(), Error> {
        let world = World::new(2);
        let labeler = Labeler::new(Preferences::standard(), 5);
        for (question, index) in world.questions(200, Split::Training)?.iter().zip(0..) {
            for k in [1, 2, 4, 9] {
                let replies = world.replies(question, k, index);
                let ranking = labeler.rank(question, &replies, index);
                ranking.check(k)?;
                assert_eq!(ranking, labeler.rank(question, &replies, index));
            }
        }
        Ok(())
    }
}
