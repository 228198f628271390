//! Pages of facts: about one subject, about one attribute, or mixed.

use hone_math::Stream;

use crate::fact::Fact;
use crate::{Attribute, World};

pub(super) fn document(world: &World, stream: &mut Stream) -> String {
    match stream.below(4) {
        0 | 1 => about_a_subject(world, stream),
        2 => about_an_attribute(world, stream),
        _ => mixed(world, stream),
    }
}

/// Everything about one subject, said twice in different order and words.
fn about_a_subject(world: &World, stream: &mut Stream) -> String {
    let subject = stream.pick(world.facts()).subject;
    let facts: Vec<&Fact> = world.facts().iter().filter(|fact| fact.subject == subject).collect();
    let mut sentences = Vec::new();
    for _ in 0..2 {
        let mut left = facts.clone();
        while !left.is_empty() {
            let fact = left.swap_remove(stream.below(left.len()));
            sentences.push(fact.statement(stream.below(6)));
        }
    }
    sentences.join(" ")
}

/// One attribute of up to ten subjects, in one wording.
fn about_an_attribute(world: &World, stream: &mut Stream) -> String {
    let attribute = *stream.pick(&Attribute::ALL);
    let wording = stream.below(6);
    let mut facts: Vec<&Fact> = world
        .facts()
        .iter()
        .filter(|fact| fact.attribute == attribute)
        .collect();
    let count = 6 + stream.below(5);
    while facts.len() > count {
        facts.swap_remove(stream.below(facts.len()));
    }
    let sentences: Vec<String> = facts.iter().map(|fact| fact.statement(wording)).collect();
    sentences.join(" ")
}

/// Question and statement of several facts, as in a conversation.
fn mixed(world: &World, stream: &mut Stream) -> String {
    let sentences: Vec<String> = (0..5 + stream.below(4))
        .map(|_| {
            let fact = stream.pick(world.facts());
            let question = fact.attribute.questions()[stream.below(6)].replace("{s}", fact.subject);
            format!("{question} {}", fact.statement(stream.below(6)))
        })
        .collect();
    sentences.join(" ")
}
