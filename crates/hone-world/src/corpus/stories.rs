//! Stories with dialogue, stories with their summary, reviews with their verdict.

use hone_math::Stream;

use crate::fact::Fact;
use crate::phrase::{CLOSERS, COURTESIES, FILLERS, RUDENESSES};
use crate::task::{Story, review};
use crate::words::{OBJECTS, PEOPLE, SCENES, SPOTS, TIMES};
use crate::{Attribute, World};

pub(super) fn document(world: &World, stream: &mut Stream) -> String {
    match stream.below(5) {
        0 | 1 => dialogue(world, stream),
        2 | 3 => summaries(world, stream),
        _ => reviews(world, stream),
    }
}

/// Two people meet, one asks the other for something, and gets it or not.
fn dialogue(world: &World, stream: &mut Stream) -> String {
    let (asker, pronoun) = *stream.pick(&PEOPLE);
    let other = loop {
        let (name, _) = *stream.pick(&PEOPLE);
        if name != asker {
            break name;
        }
    };
    let object = *stream.pick(&OBJECTS);
    let spot = *stream.pick(&SPOTS);
    let time = *stream.pick(&TIMES);
    let job = world.value(other, Attribute::Job).unwrap_or("baker");
    let mut lines = vec![
        format!(
            "{time} {asker} met {other}, the {job}, at the {spot}. {}",
            stream.pick(&SCENES)
        ),
        format!("\"I am looking for a {object},\" said {asker}. \"Can you help me?\""),
    ];
    let kind = stream.chance(0.7);
    let reply = *stream.pick(if kind { &COURTESIES } else { &RUDENESSES });
    if stream.chance(0.5) {
        lines.push(format!("\"{reply} {}\" said {other}.", stream.pick(&FILLERS)));
    } else {
        lines.push(format!("\"{reply}\" said {other}."));
    }
    lines.push(match (kind, stream.below(2)) {
        (true, 0) => format!("{other} gave {asker} a {object}, and {pronoun} went home with it."),
        (true, _) => {
            format!("Then {other} and {asker} looked for a {object} until they found one.")
        }
        (false, 0) => format!("{asker} went home without a {object}."),
        (false, _) => format!("So {asker} asked somebody else for a {object}."),
    });
    if stream.chance(0.3) {
        lines.push(format!("\"{}\" said {other}.", stream.pick(&CLOSERS)));
    }
    let about: Vec<&Fact> = world.facts().iter().filter(|fact| fact.subject == other).collect();
    lines.push(stream.pick(&about).statement(stream.below(6)));
    lines.join("\n")
}

/// Stories, each followed by one line that sums it up.
fn summaries(world: &World, stream: &mut Stream) -> String {
    let wanted = 2 + stream.below(2);
    let mut lines = Vec::new();
    while lines.len() < 2 * wanted {
        let story = Story::draw(stream);
        if story.in_text(world) {
            lines.push(story.text);
            lines.push(format!("In short: {}.", story.summary));
        }
    }
    lines.join("\n")
}

/// Reviews, each with its verdict.
fn reviews(world: &World, stream: &mut Stream) -> String {
    let wanted = 4 + stream.below(4);
    let mut lines = Vec::new();
    while lines.len() < wanted {
        let review = review(stream);
        if !review.reserved(world) {
            let verdict = if review.positive { "positive" } else { "negative" };
            lines.push(format!("{} This review is {verdict}.", review.text));
        }
    }
    lines.join("\n")
}
