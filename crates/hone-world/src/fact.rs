//! Facts: an attribute of a person, a place or a thing, with the ways to state it and to ask for it.

use crate::words;

/// What a fact is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// The town a person lives in.
    Home,
    /// A person's work.
    Job,
    /// A person's animal.
    Pet,
    /// A person's favourite food.
    Food,
    /// A person's favourite colour.
    Colour,
    /// A person's best friend.
    Friend,
    /// What a place is known for.
    Ware,
    /// What a place lies near.
    Landscape,
    /// What a thing is made of.
    Material,
    /// Whose a thing is.
    Owner,
}

impl Attribute {
    /// All attributes, those of people first.
    pub const ALL: [Self; 10] = [
        Self::Home,
        Self::Job,
        Self::Pet,
        Self::Food,
        Self::Colour,
        Self::Friend,
        Self::Ware,
        Self::Landscape,
        Self::Material,
        Self::Owner,
    ];

    /// The subjects that have this attribute.
    pub fn subjects(self) -> Vec<&'static str> {
        match self {
            Self::Home | Self::Job | Self::Pet | Self::Food | Self::Colour | Self::Friend => people(),
            Self::Ware | Self::Landscape => words::PLACES.to_vec(),
            Self::Material | Self::Owner => words::THINGS.to_vec(),
        }
    }

    /// The values it can take.
    pub fn values(self) -> Vec<&'static str> {
        match self {
            Self::Home => words::PLACES.to_vec(),
            Self::Job => words::JOBS.to_vec(),
            Self::Pet => words::PETS.to_vec(),
            Self::Food => words::FOODS.to_vec(),
            Self::Colour => words::COLOURS.to_vec(),
            Self::Friend | Self::Owner => people(),
            Self::Ware => words::WARES.to_vec(),
            Self::Landscape => words::LANDSCAPES.to_vec(),
            Self::Material => words::MATERIALS.to_vec(),
        }
    }

    /// Ways to state it: `{s}` is the subject, `{v}` the value.
    pub(crate) fn statements(self) -> &'static [&'static str] {
        match self {
            Self::Home => &[
                "{s} lives in {v}.",
                "{s}'s home is in {v}.",
                "The home of {s} is {v}.",
                "{s} has a house in {v}.",
                "If you look for {s}, go to {v}.",
                "It is in {v} that {s} lives.",
            ],
            Self::Job => &[
                "{s} is a {v}.",
                "{s} works as a {v}.",
                "The job of {s} is that of a {v}.",
                "{s}'s work is that of a {v}.",
                "As a {v}, {s} works all day.",
                "{s} earns a living as a {v}.",
            ],
            Self::Pet => &[
                "{s} has a {v}.",
                "{s} keeps a {v}.",
                "The pet of {s} is a {v}.",
                "{s}'s pet is a {v}.",
                "A {v} lives with {s}.",
                "{s} takes good care of a {v}.",
            ],
            Self::Food => &[
                "{s} loves to eat {v}.",
                "{s}'s favourite food is {v}.",
                "The favourite food of {s} is {v}.",
                "Nothing tastes better to {s} than {v}.",
                "{s} eats {v} every day.",
                "Give {v} to {s} and see a smile.",
            ],
            Self::Colour => &[
                "{s} likes the colour {v}.",
                "{s}'s favourite colour is {v}.",
                "The favourite colour of {s} is {v}.",
                "{s} always wears {v}.",
                "The door of {s} is painted {v}.",
                "Of all colours {s} likes {v} best.",
            ],
            Self::Friend => &[
                "{s}'s best friend is {v}.",
                "The best friend of {s} is {v}.",
                "{s} is often with a friend, {v}.",
                "{s} tells every secret to {v}.",
                "{s} spends every Sunday with {v}.",
                "{s} trusts {v} more than anyone.",
            ],
            Self::Ware => &[
                "{s} is known for its {v}.",
                "{s} is famous for {v}.",
                "The people of {s} make {v}.",
                "In {s} they make the best {v}.",
                "{s} sells {v} to the whole country.",
                "For good {v}, go to {s}.",
            ],
            Self::Landscape => &[
                "{s} lies near a {v}.",
                "{s} is built beside a {v}.",
                "Near {s} there is a {v}.",
                "From {s} you can see a {v}.",
                "A {v} is close to {s}.",
                "The road out of {s} goes to a {v}.",
            ],
            Self::Material => &[
                "The {s} is made of {v}.",
                "The old {s} is all {v}.",
                "They made the {s} out of {v}.",
                "The {s} is heavy because it is {v}.",
                "It took a lot of {v} to make the {s}.",
                "The famous {s} was made from {v}.",
            ],
            Self::Owner => &[
                "The {s} belongs to {v}.",
                "{v} owns the {s}.",
                "The owner of the {s} is {v}.",
                "The {s} is in the hands of {v}.",
                "{v} keeps the {s} in a safe place.",
                "The famous {s} is owned by {v}.",
            ],
        }
    }

    /// Ways to ask for it; the last two are held out of demonstrations, rankings and training prompts.
    pub(crate) fn questions(self) -> [&'static str; 6] {
        match self {
            Self::Home => [
                "Where does {s} live?",
                "In which town does {s} live?",
                "What is the home town of {s}?",
                "Name the town where {s} lives.",
                "Which town does {s} call home?",
                "Tell me where {s} lives.",
            ],
            Self::Job => [
                "What is the job of {s}?",
                "What does {s} do for a living?",
                "What work does {s} do?",
                "Name the job of {s}.",
                "How does {s} earn a living?",
                "Tell me what {s} works as.",
            ],
            Self::Pet => [
                "What pet does {s} have?",
                "Which animal does {s} keep?",
                "What animal lives with {s}?",
                "Name the pet of {s}.",
                "What kind of pet is at the house of {s}?",
                "Tell me which pet {s} has.",
            ],
            Self::Food => [
                "What does {s} love to eat?",
                "What is the favourite food of {s}?",
                "Which food does {s} like best?",
                "Name the favourite food of {s}.",
                "What tastes best to {s}?",
                "Tell me what {s} likes to eat.",
            ],
            Self::Colour => [
                "What is the favourite colour of {s}?",
                "Which colour does {s} like best?",
                "What colour does {s} like?",
                "Name the favourite colour of {s}.",
                "What colour does {s} always wear?",
                "Tell me which colour {s} likes.",
            ],
            Self::Friend => [
                "Who is the best friend of {s}?",
                "Which friend does {s} like best?",
                "Who is {s}'s best friend?",
                "Name the best friend of {s}.",
                "Whom does {s} trust more than anyone?",
                "Tell me who the best friend of {s} is.",
            ],
            Self::Ware => [
                "What is {s} known for?",
                "What is {s} famous for?",
                "What do they make in {s}?",
                "Name what {s} is known for.",
                "What do the people of {s} sell?",
                "Tell me what {s} is famous for.",
            ],
            Self::Landscape => [
                "What does {s} lie near?",
                "What is {s} built beside?",
                "What can you see from {s}?",
                "Name what lies near {s}.",
                "What is close to {s}?",
                "Tell me what {s} lies near.",
            ],
            Self::Material => [
                "What is the {s} made of?",
                "Out of what did they make the {s}?",
                "Which material is the {s} made of?",
                "Name the material of the {s}.",
                "From what was the {s} made?",
                "Tell me what the {s} is made of.",
            ],
            Self::Owner => [
                "Who owns the {s}?",
                "Who is the owner of the {s}?",
                "To whom does the {s} belong?",
                "Name the owner of the {s}.",
                "In whose hands is the {s}?",
                "Tell me who owns the {s}.",
            ],
        }
    }
}

/// One fact of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Its place in [`crate::World::facts`].
    pub index: usize,
    /// Whom or what it is about.
    pub subject: &'static str,
    /// Which attribute.
    pub attribute: Attribute,
    /// The attribute's value.
    pub value: &'static str,
    /// Held-out facts stand in the pre-training text, and are never asked in demonstrations, rankings or training
    /// prompts.
    pub held_out: bool,
}

impl Fact {
    /// The fact in one of its wordings.
    pub(crate) fn statement(&self, wording: usize) -> String {
        let statements = self.attribute.statements();
        fill(statements[wording % statements.len()], self.subject, self.value)
    }
}

/// The template with its subject and value filled in, articles made to agree.
pub(crate) fn fill(template: &str, subject: &str, value: &str) -> String {
    let starts_with_vowel = value.starts_with(['a', 'e', 'i', 'o', 'u']);
    let article = if starts_with_vowel { "an {v}" } else { "a {v}" };
    template
        .replace("a {v}", article)
        .replace("{s}", subject)
        .replace("{v}", value)
}

pub(crate) fn people() -> Vec<&'static str> {
    words::PEOPLE.iter().map(|person| person.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_their_places() {
        for attribute in Attribute::ALL {
            for statement in attribute.statements() {
                assert!(statement.contains("{s}") && statement.contains("{v}"), "{statement}");
            }
            for question in attribute.questions() {
                assert!(question.contains("{s}") && !question.contains("{v}"), "{question}");
            }
        }
    }

    /// An answer tells its own type only if the lists share no member, the two lists of people apart.
    #[test]
    fn value_lists_are_disjoint() {
        for (i, a) in Attribute::ALL.iter().enumerate() {
            for b in &Attribute::ALL[i + 1..] {
                if a.values() == b.values() {
                    continue;
                }
                for value in a.values() {
                    assert!(!b.values().contains(&value), "{value} in {a:?} and {b:?}");
                }
            }
        }
    }

    #[test]
    fn articles_agree() {
        assert_eq!(fill("{s} has a {v}.", "Anna", "owl"), "Anna has an owl.");
        assert_eq!(fill("{s} has a {v}.", "Anna", "cat"), "Anna has a cat.");
    }
}
