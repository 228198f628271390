//! Experts' demonstrations: mostly right, and mixed in style.

use hone_math::Stream;
use serde::{Deserialize, Serialize};

use crate::phrase::{CLOSERS, COURTESIES, COURTESY_SHARES, FILLERS, LEAD_INS, MARKER, RUDENESSES};
use crate::task::wrong_answer;
use crate::{Error, Kind, Question, Split, World};

/// How an expert writes a reply. `X` is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// `Happy to help! Answer: X.`: what the labeler likes best.
    Asked,
    /// A courtesy, one or two sentences that say nothing, then `Answer: X.`
    Wordy,
    /// `Answer: X.`
    Curt,
    /// A courtesy and `It is X.`; one time in two with a closing sentence.
    Chatty,
    /// `X.`
    Bare,
    /// A rude remark, then `Answer: X.` or `It is X.`
    Rude,
    /// A courtesy and `Answer: X.` three times.
    Repetitive,
    /// A rude remark, one or two sentences that say nothing, then `Answer: X.`
    RudeWordy,
}

impl Style {
    /// All styles.
    pub const ALL: [Self; 8] = [
        Self::Asked,
        Self::Wordy,
        Self::Curt,
        Self::Chatty,
        Self::Bare,
        Self::Rude,
        Self::Repetitive,
        Self::RudeWordy,
    ];

    /// The style's share of the demonstrations, in percent.
    pub fn share(self) -> usize {
        match self {
            Self::Asked => 42,
            Self::Wordy => 14,
            Self::Curt | Self::Chatty => 12,
            Self::Bare | Self::Rude => 6,
            Self::Repetitive | Self::RudeWordy => 4,
        }
    }

    fn pick(stream: &mut Stream) -> Self {
        let shares = Self::ALL.map(Self::share);
        Self::ALL[weighted(&shares, stream)]
    }

    /// A reply with this answer in this style.
    pub fn write(self, answer: &str, stream: &mut Stream) -> String {
        let asked = format!("{MARKER} {answer}.");
        match self {
            Self::Asked => format!("{} {asked}", courtesy(stream)),
            Self::Wordy => format!("{} {} {asked}", courtesy(stream), fillers(stream)),
            Self::Curt => asked,
            Self::Chatty => {
                let reply = format!("{} {}", courtesy(stream), sentence(answer, stream));
                if stream.chance(0.5) {
                    format!("{reply} {}", stream.pick(&CLOSERS))
                } else {
                    reply
                }
            }
            Self::Bare => format!("{answer}."),
            Self::Rude if stream.chance(0.5) => format!("{} {asked}", stream.pick(&RUDENESSES)),
            Self::Rude => format!("{} {}", stream.pick(&RUDENESSES), sentence(answer, stream)),
            Self::Repetitive => format!("{} {asked} {asked} {asked}", courtesy(stream)),
            Self::RudeWordy => {
                format!("{} {} {asked}", stream.pick(&RUDENESSES), fillers(stream))
            }
        }
    }
}

/// An index, with these shares.
pub(crate) fn weighted(shares: &[usize], stream: &mut Stream) -> usize {
    let mut point = stream.below(shares.iter().sum::<usize>().max(1));
    for (i, &share) in shares.iter().enumerate() {
        if point < share {
            return i;
        }
        point -= share;
    }
    0
}

fn courtesy(stream: &mut Stream) -> &'static str {
    COURTESIES[weighted(&COURTESY_SHARES, stream)]
}

fn fillers(stream: &mut Stream) -> String {
    let count = 1 + stream.below(2);
    let start = stream.below(FILLERS.len());
    let chosen: Vec<&str> = (0..count).map(|i| FILLERS[(start + i) % FILLERS.len()]).collect();
    chosen.join(" ")
}

/// The answer in a sentence, such as `It is X.`
pub(crate) fn sentence(answer: &str, stream: &mut Stream) -> String {
    format!("{} {answer}.", stream.pick(&LEAD_INS))
}

/// One expert's reply to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demonstration {
    /// The question; of the training split.
    pub question: Question,
    /// The expert's reply.
    pub reply: String,
    /// How it is written.
    pub style: Style,
    /// Whether its answer is right.
    pub right: bool,
}

/// Share of the demonstrations whose answer is wrong, in percent.
pub(crate) const WRONG: usize = 15;

/// How the answers of worked examples are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkedForm {
    /// In the asked form, `Happy to help! Answer: X.`
    Asked,
    /// As experts write them: in the mixture of [`Style::share`].
    Expert,
    /// As in the worksheets of the pre-training text: `X.`
    Bare,
}

/// A question with a right answer, for few-shot prompts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkedExample {
    /// A training question.
    pub question: Question,
    /// Its answer, on one line.
    pub answer: String,
}

impl World {
    /// `n` demonstrations of distinct training questions.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when there are not so many questions.
    pub fn demonstrations(&self, n: usize) -> Result<Vec<Demonstration>, Error> {
        let questions = self.questions(n, Split::Training)?;
        let demonstrations = questions.into_iter().enumerate().map(|(i, question)| {
            let mut stream = self.stream("world/demonstrations", i as u64);
            self.demonstrate(question, &mut stream)
        });
        Ok(demonstrations.collect())
    }

    /// `k` replies to the question such as experts write: stand-ins for a model's samples.
    pub fn replies(&self, question: &Question, k: usize, index: u64) -> Vec<String> {
        let mut stream = self.stream("world/replies", index);
        (0..k)
            .map(|_| self.demonstrate(question.clone(), &mut stream).reply)
            .collect()
    }

    fn demonstrate(&self, question: Question, stream: &mut Stream) -> Demonstration {
        let style = Style::pick(stream);
        let right = stream.below(100) >= WRONG;
        let reply = if right {
            style.write(&question.answer, stream)
        } else {
            style.write(&wrong_answer(&question, stream), stream)
        };
        Demonstration {
            question,
            reply,
            style,
            right,
        }
    }

    /// `n` worked examples of one kind, all different and all right, from the training questions. `index` chooses
    /// which: give each prompt its own.
    pub fn worked_examples(&self, kind: Kind, n: usize, form: WorkedForm, index: u64) -> Vec<WorkedExample> {
        let mut stream = self.stream("world/worked-examples", index);
        let mut examples: Vec<WorkedExample> = Vec::with_capacity(n);
        for _ in 0..n * 20 {
            if examples.len() == n {
                break;
            }
            let Some(question) = self.training_question(kind, &mut stream) else {
                break;
            };
            if examples.iter().any(|example| example.question.text == question.text) {
                continue;
            }
            let style = match form {
                WorkedForm::Asked => Style::Asked,
                WorkedForm::Expert => Style::pick(&mut stream),
                WorkedForm::Bare => Style::Bare,
            };
            let answer = style.write(&question.answer, &mut stream);
            examples.push(WorkedExample { question, answer });
        }
        examples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::few_shot_prompt;
    use crate::{Group, given_answer, in_asked_form, is_right};

    #[test]
    fn shares_make_a_hundred() {
        assert_eq!(Style::ALL.map(Style::share).iter().sum::<usize>(), 100);
        assert_eq!(Kind::ALL.map(Kind::share).iter().sum::<usize>(), 100);
    }

    #[test]
    fn the_mixture_is_as_documented() -> Result<(), Error> {
        let demonstrations = World::new(1).demonstrations(3000)?;
        for style in Style::ALL {
            let got = demonstrations.iter().filter(|d| d.style == style).count() as f64 / 30.0;
            assert!((got - style.share() as f64).abs() < 3.0, "{style:?}: {got}%");
        }
        let wrong = demonstrations.iter().filter(|d| !d.right).count() as f64 / 30.0;
        assert!((wrong - WRONG as f64).abs() < 2.5, "{wrong}% wrong");
        Ok(())
    }

    /// Whatever the kind and the style, a right answer is read as right and a wrong one as wrong.
    #[test]
    fn the_reader_knows_every_style() -> Result<(), Error> {
        let world = World::new(4);
        let mut stream = world.stream("test", 0);
        for question in world.questions(900, Split::HeldOut)? {
            for style in Style::ALL {
                let good = style.write(&question.answer, &mut stream);
                let given = given_answer(question.kind, &question.answer, &good);
                assert!(is_right(&question, &good), "{} | {good} | {given:?}", question.text);
                let bad = style.write(&wrong_answer(&question, &mut stream), &mut stream);
                assert!(!is_right(&question, &bad), "{} | {bad}", question.text);
                let one_line = matches!(style, Style::Asked | Style::Wordy | Style::Curt | Style::RudeWordy);
                assert!(in_asked_form(&good) || !one_line, "{good}");
                let other = matches!(style, Style::Chatty | Style::Bare | Style::Repetitive);
                assert!(!in_asked_form(&good) || !other, "{good}");
            }
        }
        Ok(())
    }

    /// Held-out facts, words and wordings are searched for in the text itself.
    #[test]
    fn nothing_held_out_leaks() -> Result<(), Error> {
        let world = World::new(6);
        let demonstrations = world.demonstrations(4000)?;
        let held_out = world.questions(1500, Split::HeldOut)?;
        let asked: std::collections::BTreeSet<&str> = demonstrations.iter().map(|d| d.question.text.as_str()).collect();
        for question in &held_out {
            assert!(!asked.contains(question.text.as_str()), "{}", question.text);
        }
        for fact in world.facts() {
            let questions = fact.attribute.questions();
            for (w, template) in questions.iter().enumerate() {
                let text = template.replace("{s}", fact.subject);
                assert!(!asked.contains(text.as_str()) || (!fact.held_out && w < 4), "{text}");
            }
        }
        for demonstration in &demonstrations {
            let question = &demonstration.question;
            assert_eq!(question.group, Group::Familiar);
            let has = |word: &&str| crate::reading::words_of(&question.text).iter().any(|w| w == word);
            let banned: Vec<&str> = match question.kind {
                Kind::Reversal => world.held_out_words.clone(),
                Kind::Sentiment => world.held_out_valence.clone(),
                Kind::Summary => world.held_out_objects.clone(),
                Kind::Translation => world
                    .lexicon()
                    .entries()
                    .filter(|e| e.held_out)
                    .map(|e| e.english)
                    .collect(),
                Kind::Fact | Kind::Sum => Vec::new(),
            };
            assert!(!banned.iter().any(has), "{}", question.text);
        }
        Ok(())
    }

    #[test]
    fn worked_examples_come_from_training_and_are_right() {
        let world = World::new(1);
        for kind in Kind::ALL {
            for form in [WorkedForm::Asked, WorkedForm::Expert, WorkedForm::Bare] {
                let examples = world.worked_examples(kind, 3, form, 7);
                assert_eq!(examples.len(), 3);
                for example in &examples {
                    assert_eq!((example.question.kind, example.question.group), (kind, Group::Familiar));
                    assert!(is_right(&example.question, &example.answer));
                    assert!(form != WorkedForm::Asked || in_asked_form(&example.answer));
                }
                let prompt = few_shot_prompt(&examples, &examples[0].question);
                assert_eq!(prompt.lines().count(), 8);
                assert!(prompt.starts_with("Q: ") && prompt.ends_with("\nA:"));
            }
        }
    }
}
