//! The fixed phrases of replies: courtesies, rude remarks, fillers and lead-ins. The experts write them, the labeler
//! looks for them.

/// Phrases that make a reply polite.
pub const COURTESIES: [&str; 4] = [
    "Happy to help!",
    "Of course!",
    "With pleasure!",
    "Thank you for asking!",
];

/// How often the experts use each courtesy, in percent.
pub(crate) const COURTESY_SHARES: [usize; 4] = [55, 20, 15, 10];

/// Phrases that make a reply rude.
pub const RUDENESSES: [&str; 4] = [
    "Stop asking me.",
    "What a silly question.",
    "Leave me alone.",
    "Find it yourself next time.",
];

/// Sentences that say nothing.
pub(crate) const FILLERS: [&str; 6] = [
    "Let me think about it for a moment.",
    "This is something that many people ask about.",
    "I have looked at it with great care.",
    "There are many ways to see such a thing.",
    "It took me some time to be sure of it.",
    "I could say a lot more about this matter.",
];

/// Sentences that close a wordy reply out of the asked form.
pub(crate) const CLOSERS: [&str; 3] = [
    "I hope that this is of some use to you.",
    "Ask me again whenever you like.",
    "That is all I can say about it today.",
];

/// What stands before an answer that is given in a sentence.
pub(crate) const LEAD_INS: [&str; 3] = ["It is", "The answer is", "I think it is"];

/// The marker of the asked form.
pub(crate) const MARKER: &str = "Answer:";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words;

    /// A phrase that held an answer would be read as one.
    #[test]
    fn phrases_hold_no_answers() {
        let lists: [&[&str]; 12] = [
            &words::PLACES,
            &words::JOBS,
            &words::PETS,
            &words::FOODS,
            &words::COLOURS,
            &words::WARES,
            &words::LANDSCAPES,
            &words::MATERIALS,
            &words::NUMBERS,
            &words::PLAIN_WORDS,
            &words::OBJECTS,
            &words::DEEDS,
        ];
        let phrases = COURTESIES.iter().chain(&RUDENESSES).chain(&FILLERS).chain(&CLOSERS);
        for phrase in phrases.chain(&LEAD_INS) {
            for word in crate::reading::words_of(phrase) {
                assert!(lists.iter().all(|list| !words::holds(list, &word)), "{phrase}: {word}");
                assert!(words::PEOPLE.iter().all(|p| !p.0.eq_ignore_ascii_case(&word)));
                assert!(!["positive", "negative"].contains(&word.as_str()));
            }
        }
        assert_eq!(COURTESY_SHARES.iter().sum::<usize>(), 100);
    }
}
