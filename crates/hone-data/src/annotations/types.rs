//! What a store holds: projects, items, annotators, judgements.
//!
//! Moments are milliseconds since 1970 (UTC). Nothing here reads a clock: whoever calls says what time it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check;
use super::problem::AnnotationProblem;
use crate::items::Message;

/// What an annotator is asked to do with an item. Whatever the kind, ratings, flags, a better answer and a comment may be given, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// Put 2 to 9 answers in order, ties allowed, or find all bad.
    Rank,
    /// Choose between two answers, and say by how much.
    Pair,
    /// Rate every answer from 1 to 7.
    Rate,
    /// Write an answer, or a better one than those shown.
    Write,
    /// Say something about it.
    Comment,
}

impl TaskKind {
    /// All kinds, in the order in which they are listed.
    pub const ALL: [TaskKind; 5] = [
        TaskKind::Rank,
        TaskKind::Pair,
        TaskKind::Rate,
        TaskKind::Write,
        TaskKind::Comment,
    ];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            TaskKind::Rank => "rank",
            TaskKind::Pair => "pair",
            TaskKind::Rate => "rate",
            TaskKind::Write => "write",
            TaskKind::Comment => "comment",
        }
    }

    /// The kind of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// An answer, and where it comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Response {
    /// What it says.
    pub text: String,
    /// Who gave it. Annotators never see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How it was sampled, such as `{"temperature": 1.0, "seed": 3}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Value>,
    /// Digest of the weights it was sampled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}

impl Response {
    /// An answer of unknown origin.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }
}

/// What is judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The conversation up to the answer.
    pub prompt: Vec<Message>,
    /// The answers.
    #[serde(default)]
    pub responses: Vec<Response>,
}

/// An item to put into a project.
#[derive(Clone, Debug, PartialEq)]
pub struct NewItem {
    /// What to do with it.
    pub kind: TaskKind,
    /// What is judged.
    pub input: Input,
    /// The judgement that is known to be right. Such an item is shown to everybody once, as
    /// long as `gold_share` is not 0, and counts for nobody's quota.
    pub gold: Option<Judgement>,
}

/// How much better the better of two answers is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Degree {
    /// Slightly better.
    Slightly,
    /// Better.
    Better,
    /// Much better.
    Much,
}

impl Degree {
    /// What is written as a pair's margin: 1/3, 2/3, 1, as for Llama 2's reward models (Touvron et al., 2023, table 27).
    pub fn margin(self) -> f64 {
        match self {
            Degree::Slightly => 1.0 / 3.0,
            Degree::Better => 2.0 / 3.0,
            Degree::Much => 1.0,
        }
    }
}

/// An answer that the annotator wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// The answer that it improves; nothing where it was written from scratch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<usize>,
    /// What it says.
    pub text: String,
}

/// What an annotator found. Indices are those of the item's answers as they are stored, whatever order they were shown in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Judgement {
    /// Groups of tied answers, the best first; each answer stands once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranking: Option<Vec<Vec<usize>>>,
    /// None of the answers is any good.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all_bad: bool,
    /// By how much the better of two answers is better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degree: Option<Degree>,
    /// From 1 to 7, one an answer, or none at all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ratings: Vec<Option<u8>>,
    /// Names of what is wrong, one list an answer, or none at all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Vec<String>>,
    /// A better answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    /// Anything else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// How a project is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Settings {
    /// How many annotators judge each item. Default 1.
    pub overlap: u32,
    /// How long a task is kept for the annotator who took it, in seconds. Default 1800.
    pub lease_seconds: u32,
    /// Where the order of items and answers comes from. Default 0.
    pub seed: u64,
    /// Share of tasks that show an item to its annotator a second time. Default 0.
    pub repeat_share: f64,
    /// How many other items lie between the two times, at least. Default 20.
    pub repeat_after: u32,
    /// Share of tasks that are gold items, while there are unseen ones. Default 0.1.
    pub gold_share: f64,
    /// What can be wrong with an answer.
    pub flags: Vec<String>,
    /// What annotators are told.
    pub guideline: String,
}

impl Settings {
    /// Whether every setting is within its range.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), AnnotationProblem> {
        check::settings(self)
    }
}

impl Default for Settings {
    fn default() -> Self {
        let flags = [
            "does not follow the instruction",
            "hallucination",
            "inappropriate",
            "unclear",
        ];
        Self {
            overlap: 1,
            lease_seconds: 1800,
            seed: 0,
            repeat_share: 0.0,
            repeat_after: 20,
            gold_share: 0.1,
            flags: flags.map(String::from).into(),
            guideline: String::new(),
        }
    }
}

/// A project as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Project {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// How it is run.
    pub settings: Settings,
    /// Digest of what annotators are told.
    pub guideline_digest: String,
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Judge, and see everything: progress, agreement, exports.
    Owner,
    /// Judge.
    Annotator,
}

impl Role {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Annotator => "annotator",
        }
    }
}

/// Somebody who judges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotator {
    /// Their number.
    pub id: i64,
    /// Their name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Digest of the invite that signs them in; none once it was used. The token itself is nowhere.
    pub token_digest: String,
}

/// A task that an annotator has taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// What it is handed in under.
    pub lease: i64,
    /// The item.
    pub item: i64,
    /// What to do with it.
    pub kind: TaskKind,
    /// What is judged.
    pub input: Input,
    /// Indices of the answers in the order in which they are shown.
    pub shown: Vec<usize>,
    /// When it was taken.
    pub claimed: i64,
    /// When it may go to somebody else.
    pub expires: i64,
    /// What was judged before, where an undo has brought the task back.
    pub earlier: Option<Judgement>,
    /// Milliseconds of attention that `earlier` had, where they were measured.
    pub spent: Option<i64>,
}

/// A judgement that is handed in.
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    /// The task.
    pub lease: i64,
    /// Who judged.
    pub annotator: i64,
    /// What was found.
    pub judgement: Judgement,
    /// When the task was last taken up, by opening it or by an undo that brought it back.
    pub started: i64,
    /// Milliseconds of attention: the page was in front and used. Nothing where that was not measured.
    pub active: Option<i64>,
}

/// What became of a judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The event.
    pub event: i64,
    /// It came after the lease had expired and others had filled the item's places: it is kept, but no export counts it.
    pub surplus: bool,
}

/// What an undo brought back.
#[derive(Clone, Debug, PartialEq)]
pub struct Undone {
    /// The event that was undone.
    pub event: i64,
    /// The task, open again; nothing where an edit was undone, or where others have filled the item since.
    pub task: Option<Task>,
}
