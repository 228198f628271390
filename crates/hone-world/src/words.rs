//! The closed vocabulary: every list from which the world is made.
//!
//! Lists whose members can be answers to fact questions are disjoint, so that an answer tells its own type.

/// A person's name and pronoun.
pub(crate) const PEOPLE: [(&str, &str); 20] = [
    ("Anna", "she"),
    ("Ben", "he"),
    ("Clara", "she"),
    ("David", "he"),
    ("Emma", "she"),
    ("Felix", "he"),
    ("Grace", "she"),
    ("Henry", "he"),
    ("Iris", "she"),
    ("Jack", "he"),
    ("Karen", "she"),
    ("Leo", "he"),
    ("Mary", "she"),
    ("Noah", "he"),
    ("Olga", "she"),
    ("Paul", "he"),
    ("Rosa", "she"),
    ("Simon", "he"),
    ("Tina", "she"),
    ("Victor", "he"),
];

pub(crate) const PLACES: [&str; 10] = [
    "Harrow",
    "Millbrook",
    "Oakley",
    "Redford",
    "Stoneham",
    "Westport",
    "Ashton",
    "Fairfield",
    "Kingsley",
    "Langley",
];

pub(crate) const JOBS: [&str; 10] = [
    "baker",
    "doctor",
    "farmer",
    "teacher",
    "painter",
    "sailor",
    "tailor",
    "gardener",
    "miller",
    "carpenter",
];

pub(crate) const PETS: [&str; 10] = [
    "cat", "dog", "horse", "parrot", "rabbit", "goat", "turtle", "pony", "duck", "sheep",
];

pub(crate) const FOODS: [&str; 10] = [
    "soup", "bread", "cheese", "honey", "rice", "apples", "plums", "nuts", "cake", "fish",
];

pub(crate) const COLOURS: [&str; 10] = [
    "red", "blue", "green", "yellow", "white", "black", "purple", "orange", "pink", "brown",
];

/// What a place is known for.
pub(crate) const WARES: [&str; 10] = [
    "bells", "clocks", "candles", "hats", "kites", "drums", "carpets", "lamps", "boats", "baskets",
];

/// What a place lies near.
pub(crate) const LANDSCAPES: [&str; 10] = [
    "sea",
    "river",
    "lake",
    "forest",
    "hill",
    "desert",
    "marsh",
    "canyon",
    "waterfall",
    "volcano",
];

pub(crate) const THINGS: [&str; 10] = [
    "crown", "mirror", "flute", "ring", "cup", "sword", "statue", "box", "spoon", "chain",
];

pub(crate) const MATERIALS: [&str; 10] = [
    "gold", "silver", "glass", "iron", "copper", "stone", "oak", "bronze", "ivory", "clay",
];

/// Number words; the index is the number.
pub(crate) const NUMBERS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

/// Words whose order is reversed.
pub(crate) const PLAIN_WORDS: [&str; 14] = [
    "tree", "moon", "chair", "bird", "rain", "hand", "door", "milk", "snow", "leaf", "wall", "song", "star", "wind",
];

/// English nouns, adjectives and verbs that have a word in the invented language.
pub(crate) const NOUNS: [&str; 16] = [
    "bird", "child", "tree", "house", "river", "dog", "moon", "king", "wolf", "boat", "bear", "queen", "fox", "wind",
    "frog", "cow",
];
pub(crate) const ADJECTIVES: [&str; 12] = [
    "big", "small", "red", "old", "young", "quiet", "happy", "cold", "warm", "white", "fast", "brave",
];
pub(crate) const VERBS: [&str; 12] = [
    "sings", "sleeps", "runs", "falls", "waits", "jumps", "swims", "laughs", "grows", "eats", "dances", "comes",
];

pub(crate) const SUBJECTS: [&str; 12] = [
    "soup", "bed", "room", "waiter", "music", "garden", "play", "boat", "bread", "host", "film", "market",
];
pub(crate) const GOOD: [&str; 12] = [
    "wonderful",
    "lovely",
    "great",
    "excellent",
    "charming",
    "perfect",
    "superb",
    "splendid",
    "pleasant",
    "brilliant",
    "delightful",
    "fantastic",
];
pub(crate) const BAD: [&str; 12] = [
    "awful",
    "terrible",
    "dreadful",
    "horrible",
    "nasty",
    "boring",
    "dirty",
    "broken",
    "rotten",
    "ugly",
    "noisy",
    "disgusting",
];

/// Where a short story happens.
pub(crate) const SPOTS: [&str; 6] = ["market", "garden", "harbour", "station", "school", "bridge"];
pub(crate) const DEEDS: [&str; 4] = ["found", "lost", "bought", "painted"];
pub(crate) const OBJECTS: [&str; 8] = ["key", "hat", "drum", "kite", "book", "lamp", "clock", "basket"];
pub(crate) const SCENES: [&str; 10] = [
    "The sun was shining.",
    "It was raining a little.",
    "Many people were there.",
    "Nobody else was there.",
    "A dog was barking.",
    "The wind was cold.",
    "Some children were playing.",
    "It was very quiet.",
    "The bells were ringing.",
    "Snow lay on the ground.",
];
pub(crate) const TIMES: [&str; 6] = [
    "One morning",
    "One day",
    "Last week",
    "On Monday",
    "One evening",
    "Yesterday",
];

/// Whether the list holds the word, letter case aside.
pub(crate) fn holds(list: &[&str], word: &str) -> bool {
    list.iter().any(|item| item.eq_ignore_ascii_case(word))
}
