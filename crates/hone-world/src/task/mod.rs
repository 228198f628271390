//! The six kinds of question, their splits and their plain `Q:`/`A:` form.

mod fact;
mod reversal;
mod sentiment;
mod sum;
mod summary;
mod translation;

use std::collections::BTreeSet;
use std::fmt;

use hone_math::Stream;
use serde::{Deserialize, Serialize};

use crate::demonstration::WorkedExample;
use crate::{Error, World};

pub(crate) use sentiment::review;
pub(crate) use sum::{addends, expression};
pub(crate) use summary::Story;
pub(crate) use translation::phrase;

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An attribute of a person, place or thing.
    Fact,
    /// The sum of two or three small numbers, in words.
    Sum,
    /// Two to four words in the opposite order.
    Reversal,
    /// One to three words into the invented language.
    Translation,
    /// Whether a review is positive or negative.
    Sentiment,
    /// Who did what where, in one line.
    Summary,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Fact,
        Self::Sum,
        Self::Reversal,
        Self::Translation,
        Self::Sentiment,
        Self::Summary,
    ];

    /// The kind's share of the prompts, in percent.
    pub fn share(self) -> usize {
        match self {
            Self::Fact => 30,
            Self::Sum => 20,
            Self::Reversal | Self::Translation => 15,
            Self::Sentiment | Self::Summary => 10,
        }
    }

    /// The kind's name, as in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fact => "fact",
            Self::Sum => "sum",
            Self::Reversal => "reversal",
            Self::Translation => "translation",
            Self::Sentiment => "sentiment",
            Self::Summary => "summary",
        }
    }

    fn pick(stream: &mut Stream) -> Self {
        let mut point = stream.below(100);
        for kind in Self::ALL {
            if point < kind.share() {
                return kind;
            }
            point -= kind.share();
        }
        Self::Fact
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far a question is from those of the training prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Content and wording of the kinds seen in training prompts; in the held-out split, never this very question.
    Familiar,
    /// A wording that is never used in training prompts.
    NewPhrasing,
    /// A fact, number pair or word that is never asked about in training prompts.
    NewContent,
}

impl Group {
    /// All groups.
    pub const ALL: [Self; 3] = [Self::Familiar, Self::NewPhrasing, Self::NewContent];
}

/// Which questions to draw from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// For demonstrations, rankings and practice.
    Training,
    /// For evaluation: half familiar, a quarter in a new phrasing, a quarter with new content.
    HeldOut,
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::HeldOut => "held-out",
        }
    }
}

/// A question and its right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its kind.
    pub kind: Kind,
    /// What is asked, on one line.
    pub text: String,
    /// The right answer, without punctuation.
    pub answer: String,
    /// Whether it has a held-out wording or content.
    pub group: Group,
}

impl Question {
    /// The bare question in `Q:`/`A:` form, up to where the answer begins. An answer ends at the line's end.
    pub fn bare_prompt(&self) -> String {
        format!("Q: {}\nA:", self.text)
    }
}

/// Worked examples in `Q:`/`A:` form, then the bare question.
pub fn few_shot_prompt(examples: &[WorkedExample], question: &Question) -> String {
    let mut prompt = String::new();
    for example in examples {
        prompt.push_str(&format!("Q: {}\nA: {}\n", example.question.text, example.answer));
    }
    prompt + &question.bare_prompt()
}

/// A question with the places where it may be used.
pub(crate) struct Draft {
    pub(crate) question: Question,
    /// May stand in the pre-training text.
    pub(crate) in_text: bool,
    /// The split it belongs to, if any.
    pub(crate) split: Option<Split>,
}

/// What a kind's generator knows of the question it made.
pub(crate) struct Marks {
    pub(crate) new_phrasing: bool,
    pub(crate) new_content: bool,
    /// Reserved for evaluation.
    pub(crate) reserved: bool,
}

impl Draft {
    /// For facts and sums: pre-training has them all; what is reserved is a wording of a fact or sum.
    fn closed(kind: Kind, text: String, answer: String, marks: Marks) -> Self {
        let group = group_of(&marks);
        let split = match group {
            None => None,
            Some(Group::Familiar) if !marks.reserved => Some(Split::Training),
            Some(_) => Some(Split::HeldOut),
        };
        let group = group.unwrap_or(Group::NewContent);
        Self {
            question: Question {
                kind,
                text,
                answer,
                group,
            },
            in_text: true,
            split,
        }
    }

    /// For the other kinds: reserved contents stand nowhere but in the evaluation.
    fn open(kind: Kind, text: String, answer: String, marks: Marks) -> Self {
        let group = group_of(&marks);
        let split = match group {
            Some(Group::Familiar) if !marks.reserved => Some(Split::Training),
            Some(_) if marks.reserved => Some(Split::HeldOut),
            _ => None,
        };
        let in_text = !marks.reserved;
        let group = group.unwrap_or(Group::NewContent);
        Self {
            question: Question {
                kind,
                text,
                answer,
                group,
            },
            in_text,
            split,
        }
    }
}

/// None where both the wording and the content are new: such a question would belong to neither group.
fn group_of(marks: &Marks) -> Option<Group> {
    match (marks.new_phrasing, marks.new_content) {
        (false, false) => Some(Group::Familiar),
        (true, false) => Some(Group::NewPhrasing),
        (false, true) => Some(Group::NewContent),
        (true, true) => None,
    }
}

/// The groups of the held-out split, each as often as it stands here.
const HELD_OUT_GROUPS: [Group; 4] = [Group::Familiar, Group::Familiar, Group::NewPhrasing, Group::NewContent];

/// Tries before a draw gives up: the rarest group of an open kind has about one draft in fifty.
const TRIES: usize = 4000;

impl World {
    /// `n` distinct questions of a split, in random order, in the shares of [`Kind::share`] while they last: a closed
    /// kind (facts, sums) that runs out leaves its place to the others. The first `m` of `n` are the `m` that are
    /// drawn when `m` are asked for.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when there are no more.
    pub fn questions(&self, n: usize, split: Split) -> Result<Vec<Question>, Error> {
        self.distinct(n, split, None)
    }

    /// `n` distinct questions of one kind.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when there are no more.
    pub fn questions_of(&self, kind: Kind, n: usize, split: Split) -> Result<Vec<Question>, Error> {
        self.distinct(n, split, Some(kind))
    }

    fn distinct(&self, n: usize, split: Split, only: Option<Kind>) -> Result<Vec<Question>, Error> {
        let purpose = match split {
            Split::Training => "world/questions/training",
            Split::HeldOut => "world/questions/held-out",
        };
        let mut seen = BTreeSet::new();
        let mut spent = BTreeSet::new();
        let mut questions = Vec::with_capacity(n.min(1 << 20));
        let mut fruitless = 0;
        for index in 0.. {
            if questions.len() == n {
                break;
            }
            // every kind and group has been picked by then
            if fruitless > 500 {
                let got = questions.len();
                return Err(Error::Exhausted {
                    split: split.name(),
                    expected: n,
                    got,
                });
            }
            let mut stream = self.stream(purpose, index);
            let picked = Kind::pick(&mut stream);
            let kind = only.unwrap_or(picked);
            let group = match split {
                Split::Training => Group::Familiar,
                Split::HeldOut => HELD_OUT_GROUPS[stream.below(4)],
            };
            if spent.contains(&(kind, group)) {
                fruitless += 1;
                continue;
            }
            let found = self.draw(kind, &mut stream, |draft| {
                let wanted = draft.split == Some(split) && draft.question.group == group;
                wanted && !seen.contains(&draft.question.text)
            });
            match found {
                Some(question) => {
                    seen.insert(question.text.clone());
                    questions.push(question);
                    fruitless = 0;
                }
                None => {
                    spent.insert((kind, group));
                }
            }
        }
        Ok(questions)
    }

    /// A question of the kind that may stand in the pre-training text.
    pub(crate) fn text_question(&self, kind: Kind, stream: &mut Stream) -> Option<Question> {
        self.draw(kind, stream, |draft| draft.in_text)
    }

    /// A training question of the kind.
    pub(crate) fn training_question(&self, kind: Kind, stream: &mut Stream) -> Option<Question> {
        self.draw(kind, stream, |draft| draft.split == Some(Split::Training))
    }

    fn draw(&self, kind: Kind, stream: &mut Stream, wanted: impl Fn(&Draft) -> bool) -> Option<Question> {
        for _ in 0..TRIES {
            let draft = match kind {
                Kind::Fact => fact::draft(self, stream),
                Kind::Sum => sum::draft(self, stream),
                Kind::Reversal => reversal::draft(self, stream),
                Kind::Translation => translation::draft(self, stream),
                Kind::Sentiment => sentiment::draft(self, stream),
                Kind::Summary => summary::draft(self, stream),
            };
            if wanted(&draft) {
                return Some(draft.question);
            }
        }
        None
    }
}

/// A wrong answer of the right type: what a careless expert writes.
pub(crate) fn wrong_answer(question: &Question, stream: &mut Stream) -> String {
    loop {
        let wrong = match question.kind {
            Kind::Fact => fact::another_value(&question.answer, stream),
            Kind::Sum => sum::near_miss(&question.answer, stream),
            Kind::Reversal => reversal::misordered(&question.answer, stream),
            Kind::Translation => translation::mistaken(&question.answer, stream),
            Kind::Sentiment => sentiment::other(&question.answer),
            Kind::Summary => summary::mistaken(&question.answer, stream),
        };
        if wrong != question.answer {
            return wrong;
        }
    }
}

/// One of the wordings of a kind, and whether it is held out: the last two of six are.
fn wording<'a>(wordings: &[&'a str; 6], stream: &mut Stream) -> (&'a str, bool) {
    let w = stream.below(6);
    (wordings[w], w >= 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reaches_every_group() -> Result<(), Error> {
        let world = World::new(1);
        let held_out = world.questions(1200, Split::HeldOut)?;
        for kind in Kind::ALL {
            for group in Group::ALL {
                let count = held_out.iter().filter(|q| q.kind == kind && q.group == group).count();
                assert!(count >= 12, "{kind} {group:?}: {count}");
            }
        }
        Ok(())
    }

    #[test]
    fn questions_are_distinct_and_splits_disjoint() -> Result<(), Error> {
        let world = World::new(2);
        let training = world.questions(3000, Split::Training)?;
        let held_out = world.questions(1500, Split::HeldOut)?;
        let training_texts: BTreeSet<&str> = training.iter().map(|q| q.text.as_str()).collect();
        let held_out_texts: BTreeSet<&str> = held_out.iter().map(|q| q.text.as_str()).collect();
        assert_eq!((training_texts.len(), held_out_texts.len()), (3000, 1500));
        assert!(training_texts.is_disjoint(&held_out_texts));
        assert!(training.iter().all(|q| q.group == Group::Familiar));
        Ok(())
    }

    #[test]
    fn a_longer_draw_begins_with_the_shorter() -> Result<(), Error> {
        let world = World::new(5);
        let long = world.questions(60, Split::Training)?;
        assert_eq!(long[..20], world.questions(20, Split::Training)?);
        Ok(())
    }

    /// 128 facts are not held out; each has four wordings, of which a quarter is reserved.
    #[test]
    fn the_closed_world_says_when_it_is_exhausted() {
        let world = World::new(1);
        match world.questions_of(Kind::Fact, 10_000, Split::Training) {
            Err(Error::Exhausted {
                expected: 10_000, got, ..
            }) => {
                assert!((340..430).contains(&got), "{got}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn wrong_answers_are_wrong_and_of_the_same_type() -> Result<(), Error> {
        let world = World::new(3);
        let mut stream = world.stream("test", 1);
        for question in world.questions(600, Split::HeldOut)? {
            let wrong = wrong_answer(&question, &mut stream);
            assert_ne!(wrong, question.answer, "{}", question.text);
            assert!(!wrong.is_empty() && !wrong.contains('\n'));
        }
        Ok(())
    }
}
