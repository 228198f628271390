//! One to three English words to be said in the invented language.

use hone_math::Stream;

use super::{Draft, Kind, Marks, wording};
use crate::language::{Entry, LANGUAGE, Lexicon};
use crate::{World, words};

const WORDINGS: [&str; 6] = [
    "Say in {l}: {x}",
    "Translate into {l}: {x}",
    "What is this in {l}: {x}",
    "Put this into {l}: {x}",
    "How do the {l} people say this: {x}",
    "Write for a {l} friend: {x}",
];
const RESERVED: u64 = 20;

pub(super) fn draft(world: &World, stream: &mut Stream) -> Draft {
    let pair = phrase(world.lexicon(), stream);
    let (template, new_phrasing) = wording(&WORDINGS, stream);
    // there are few single words: reserving some would keep them out of the text
    let single = !pair.english.contains(' ');
    let reserved = if single {
        pair.held_out || new_phrasing || world.reserved(&format!("{template}{}", pair.english), RESERVED)
    } else {
        world.reserved(&pair.english, RESERVED)
    };
    let text = template.replace("{l}", LANGUAGE).replace("{x}", &pair.english);
    let marks = Marks {
        new_phrasing,
        new_content: pair.held_out,
        reserved,
    };
    let mut draft = Draft::open(Kind::Translation, text, pair.lumi, marks);
    draft.in_text |= single;
    draft
}

/// A phrase in both languages.
pub(crate) struct Phrase {
    pub(crate) english: String,
    pub(crate) lumi: String,
    /// Holds a word that is held out.
    held_out: bool,
    /// May stand in the pre-training text.
    single: bool,
}

impl Phrase {
    /// Whether it may stand in the pre-training text.
    pub(crate) fn in_text(&self, world: &World) -> bool {
        self.single || !world.reserved(&self.english, RESERVED)
    }
}

/// One word (three in ten), adjective and noun (four in ten), or adjective, noun and verb.
pub(crate) fn phrase(lexicon: &Lexicon, stream: &mut Stream) -> Phrase {
    let noun = stream.pick(&lexicon.nouns);
    let adjective = stream.pick(&lexicon.adjectives);
    let verb = stream.pick(&lexicon.verbs);
    let (english, lumi): (Vec<&Entry>, Vec<&Entry>) = match stream.below(10) {
        0..3 => {
            let word = *stream.pick(&[noun, adjective, verb]);
            (vec![word], vec![word])
        }
        3..7 => (vec![adjective, noun], vec![noun, adjective]),
        _ => (vec![adjective, noun, verb], vec![noun, adjective, verb]),
    };
    let held_out = english.iter().any(|entry| entry.held_out);
    let single = english.len() == 1;
    let join = |words: Vec<&str>| words.join(" ");
    Phrase {
        english: join(english.iter().map(|entry| entry.english).collect()),
        lumi: join(lumi.iter().map(|entry| entry.lumi.as_str()).collect()),
        held_out,
        single,
    }
}

/// The words in another order, a letter changed, or a word left in English.
pub(super) fn mistaken(answer: &str, stream: &mut Stream) -> String {
    let mut parts: Vec<String> = answer.split(' ').map(str::to_owned).collect();
    let i = stream.below(parts.len());
    match stream.below(3) {
        0 => parts.reverse(),
        1 => {
            let vowel = *stream.pick(&["a", "e", "i", "o", "u"]);
            let part = &parts[i];
            if part.len() == 4 {
                parts[i] = format!("{}{vowel}{}", &part[..1], &part[2..]);
            }
        }
        _ => parts[i] = (*stream.pick(&words::NOUNS)).to_owned(),
    }
    parts.join(" ")
}
