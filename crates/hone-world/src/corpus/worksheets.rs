//! Worksheets: `Q:`/`A:` lines of one kind, all answered in one form, so that a reader learns to go on in the form of
//! the lines before.

use hone_math::Stream;

use crate::demonstration::weighted;
use crate::phrase::MARKER;
use crate::{Kind, World};

/// A worksheet's form of answer.
#[derive(Clone, Copy)]
enum Form {
    /// `X`
    Word,
    /// `X.`
    Bare,
    /// `It is X.`
    Sentence,
    /// `The answer is X.`
    TheAnswer,
    /// `Answer: X.`
    Marked,
    /// A pupil who does not know.
    Blank,
}

const FORMS: [Form; 6] = [
    Form::Word,
    Form::Bare,
    Form::Sentence,
    Form::TheAnswer,
    Form::Marked,
    Form::Blank,
];
const FORM_SHARES: [usize; 6] = [42, 16, 13, 13, 2, 14];
const BLANKS: [&str; 4] = [
    "I do not know.",
    "I forgot.",
    "I have no idea.",
    "Ask me again tomorrow.",
];
const KIND_SHARES: [usize; 6] = [22, 16, 24, 12, 8, 18];

pub(super) fn document(world: &World, stream: &mut Stream) -> String {
    let kind = Kind::ALL[weighted(&KIND_SHARES, stream)];
    let form = FORMS[weighted(&FORM_SHARES, stream)];
    let unknown = *stream.pick(&BLANKS);
    let count = 4 + stream.below(7);
    let mut lines = Vec::with_capacity(2 * count);
    while lines.len() < 2 * count {
        let Some(question) = world.text_question(kind, stream) else {
            break;
        };
        let answer = &question.answer;
        lines.push(format!("Q: {}", question.text));
        lines.push(match form {
            Form::Word => format!("A: {answer}"),
            Form::Bare => format!("A: {answer}."),
            Form::Sentence => format!("A: It is {answer}."),
            Form::TheAnswer => format!("A: The answer is {answer}."),
            Form::Marked => format!("A: {MARKER} {answer}."),
            Form::Blank => format!("A: {unknown}"),
        });
    }
    lines.join("\n")
}
