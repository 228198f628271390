//! Episodes of a rehearsal, told apart.

use super::collect::Episode;

/// Lets the answers to a prompt share the prompt alone, whichever of them are taken together: they begin with tokens below
/// `kinds`, in turn.
pub(crate) fn tell_apart(episodes: &mut [Episode], kinds: usize) {
    for (i, episode) in episodes.iter_mut().enumerate() {
        let mut ids = episode.ids.to_vec();
        if let Some(span) = episode.spans.first() {
            ids[span.start] = (i % kinds) as u32;
        }
        episode.ids = ids.into();
    }
}
