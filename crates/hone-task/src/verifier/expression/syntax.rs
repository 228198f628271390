//! The parts of a rule, and what is known of their types before a row is seen.

use regex::Regex;

/// What a part gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Number,
    Text,
    /// A column's value: known when the row is.
    Either,
}

/// Why a text is no rule.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Bytes before the place.
    pub(super) at: usize,
    pub(super) expected: String,
}

impl Refusal {
    pub(super) fn new(at: usize, expected: impl Into<String>) -> Self {
        Self {
            at,
            expected: expected.into(),
        }
    }
}

/// A part with its place in the source, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Number(f64),
    Text(String),
    Prompt,
    Response,
    Tokens,
    Column(String),
    Negative(Box<Node>),
    Not(Box<Node>),
    Two(Operator, Box<Node>, Box<Node>),
    Matches(Box<Node>, Regex),
    CountMatches(Box<Node>, Regex),
    Call(Function, Vec<Node>),
}

impl Node {
    pub(super) fn kind(&self) -> Kind {
        match &self.what {
            What::Text(_) | What::Prompt | What::Response => Kind::Text,
            What::Column(_) => Kind::Either,
            What::Call(Function::If, arguments) => {
                let (a, b) = (arguments[1].kind(), arguments[2].kind());
                if a == b { a } else { Kind::Either }
            }
            What::Call(Function::Lower | Function::Upper | Function::Trim | Function::Text, _) => Kind::Text,
            _ => Kind::Number,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Or,
    And,
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    If,
    Contains,
    StartsWith,
    EndsWith,
    Count,
    Words,
    Characters,
    Lines,
    Lower,
    Upper,
    Trim,
    Text,
    Number,
    Min,
    Max,
    Clamp,
    Abs,
    Floor,
    Ceil,
    Round,
    Sqrt,
    Exp,
    Ln,
}

/// A function's name, its fewest and most arguments, and the kind of these.
pub(super) type Signature = (&'static str, Function, usize, usize, &'static [Kind]);

const NUMBER: &[Kind] = &[Kind::Number; 8];
const TEXT: &[Kind] = &[Kind::Text; 2];

/// All functions but those whose argument must be written out (`column`, `matches`, `count_matches`).
pub(super) const FUNCTIONS: &[Signature] = &[
    ("if", Function::If, 3, 3, &[Kind::Number, Kind::Either, Kind::Either]),
    ("contains", Function::Contains, 2, 2, TEXT),
    ("starts_with", Function::StartsWith, 2, 2, TEXT),
    ("ends_with", Function::EndsWith, 2, 2, TEXT),
    ("count", Function::Count, 2, 2, TEXT),
    ("words", Function::Words, 1, 1, TEXT),
    ("characters", Function::Characters, 1, 1, TEXT),
    ("lines", Function::Lines, 1, 1, TEXT),
    ("lower", Function::Lower, 1, 1, TEXT),
    ("upper", Function::Upper, 1, 1, TEXT),
    ("trim", Function::Trim, 1, 1, TEXT),
    ("text", Function::Text, 1, 1, &[Kind::Either]),
    ("number", Function::Number, 1, 2, &[Kind::Either, Kind::Number]),
    ("min", Function::Min, 2, 8, NUMBER),
    ("max", Function::Max, 2, 8, NUMBER),
    ("clamp", Function::Clamp, 3, 3, NUMBER),
    ("abs", Function::Abs, 1, 1, NUMBER),
    ("floor", Function::Floor, 1, 1, NUMBER),
    ("ceil", Function::Ceil, 1, 1, NUMBER),
    ("round", Function::Round, 1, 1, NUMBER),
    ("sqrt", Function::Sqrt, 1, 1, NUMBER),
    ("exp", Function::Exp, 1, 1, NUMBER),
    ("ln", Function::Ln, 1, 1, NUMBER),
];
