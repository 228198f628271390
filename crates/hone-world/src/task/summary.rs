//! A story of a few sentences, summed up as who did what where.

use hone_math::Stream;

use super::{Draft, Kind, Marks, wording};
use crate::World;
use crate::words::{DEEDS, OBJECTS, PEOPLE, SCENES, SPOTS, TIMES};

const WORDINGS: [&str; 6] = [
    "Sum up in one line: {x}",
    "What happens here, in one line? {x}",
    "Make this story short: {x}",
    "Who did what, and where? {x}",
    "Give the heart of this story: {x}",
    "Say it all in a few words: {x}",
];
const RESERVED: u64 = 15;

pub(super) fn draft(world: &World, stream: &mut Stream) -> Draft {
    let story = Story::draw(stream);
    let (template, new_phrasing) = wording(&WORDINGS, stream);
    let new_content = world.held_out_objects.contains(&story.object);
    let marks = Marks {
        new_phrasing,
        new_content,
        reserved: !story.in_text(world),
    };
    Draft::open(
        Kind::Summary,
        template.replace("{x}", &story.text),
        story.summary,
        marks,
    )
}

/// A story with its summary.
pub(crate) struct Story {
    pub(crate) text: String,
    pub(crate) summary: String,
    object: &'static str,
}

impl Story {
    /// Two to four sentences about one deed.
    pub(crate) fn draw(stream: &mut Stream) -> Self {
        let (name, pronoun) = *stream.pick(&PEOPLE);
        let deed = *stream.pick(&DEEDS);
        let object = *stream.pick(&OBJECTS);
        let spot = *stream.pick(&SPOTS);
        let scene = *stream.pick(&SCENES);
        let time = *stream.pick(&TIMES);
        let text = match stream.below(4) {
            0 => format!("{time} {name} went to the {spot}. {scene} There {pronoun} {deed} a {object}."),
            1 => format!("{scene} {name} was at the {spot}. That is where {pronoun} {deed} a {object}."),
            2 => format!("{name} was at the {spot}. {scene} After a while {pronoun} {deed} a {object}."),
            _ => format!("{time} {name} {deed} a {object}. {scene} All this was at the {spot}."),
        };
        let summary = format!("{name} {deed} a {object} at the {spot}");
        Self { text, summary, object }
    }

    /// Whether it may stand in the pre-training text.
    pub(crate) fn in_text(&self, world: &World) -> bool {
        !world.reserved(&self.summary, RESERVED)
    }
}

/// Another person, deed, object or place.
pub(super) fn mistaken(answer: &str, stream: &mut Stream) -> String {
    let mut words: Vec<&str> = answer.split(' ').collect();
    let last = words.len() - 1;
    match stream.below(4) {
        0 => words[0] = stream.pick(&PEOPLE).0,
        1 => words[1 % (last + 1)] = *stream.pick(&DEEDS),
        2 => words[3.min(last)] = *stream.pick(&OBJECTS),
        _ => words[last] = *stream.pick(&SPOTS),
    }
    words.join(" ")
}
