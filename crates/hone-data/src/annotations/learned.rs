//! What can be learned from a record.

use super::record::Record;
use crate::items::{Demonstration, Message, Ranking, Unpaired};

/// Ratings from here on say that an answer is good, on a scale from 1 to 7.
const GOOD: u8 = 5;
/// Ratings up to here say that it is bad.
const BAD: u8 = 3;

impl Record {
    /// The order of the answers: nothing where the record does not count, where no order was given, or where all are tied.
    pub fn ranking(&self) -> Option<Ranking> {
        let judgement = self.judgement.as_ref().filter(|_| self.counts())?;
        let groups = judgement.ranking.as_ref().filter(|groups| groups.len() > 1)?;
        Some(Ranking {
            prompt: self.prompt.clone(),
            responses: self.responses.iter().map(|response| response.text.clone()).collect(),
            groups: groups.clone(),
            margins: judgement.degree.map(|degree| vec![degree.margin()]),
        })
    }

    /// The conversation with the answer that the annotator wrote, if they wrote one and the record counts. Project, item and annotator stand
    /// among its other columns.
    pub fn demonstration(&self) -> Option<Demonstration> {
        let judgement = self.judgement.as_ref().filter(|_| self.counts())?;
        let written = judgement.rewrite.as_ref()?;
        let mut messages = self.prompt.clone();
        messages.push(Message::assistant(written.text.as_str()));
        let extra = [
            ("project", self.project.as_str().into()),
            ("item", self.item.into()),
            ("annotator", self.annotator.as_str().into()),
        ];
        Some(Demonstration {
            messages,
            extra: extra.map(|(key, value)| (key.to_string(), value)).into_iter().collect(),
        })
    }

    /// Answers that were found good or bad by themselves. Bad: all of them where all were found bad; those rated up to 3 of 7; unrated
    /// ones with a flag. Good: those rated from 5 on, and what the annotator wrote. Others say nothing.
    pub fn unpaired(&self) -> Vec<Unpaired> {
        let Some(judgement) = self.judgement.as_ref().filter(|_| self.counts()) else {
            return Vec::new();
        };
        let one = |completion: &str, label| Unpaired {
            prompt: self.prompt.clone(),
            completion: completion.into(),
            label,
        };
        let mut found = Vec::new();
        for (i, response) in self.responses.iter().enumerate() {
            let flagged = judgement.flags.get(i).is_some_and(|flags| !flags.is_empty());
            let label = match judgement.ratings.get(i).copied().flatten() {
                _ if judgement.all_bad => Some(false),
                Some(rating) if rating >= GOOD => Some(true),
                Some(rating) if rating <= BAD => Some(false),
                Some(_) => None,
                None => flagged.then_some(false),
            };
            // A reply of nothing is no reply
            found.extend(
                label
                    .filter(|_| !response.text.trim().is_empty())
                    .map(|l| one(&response.text, l)),
            );
        }
        found.extend(judgement.rewrite.as_ref().map(|written| one(&written.text, true)));
        found
    }
}
