//! Waiting for people.

use std::path::Path;
use std::time::{Duration, Instant};

use hone_data::annotations::Store;
use hone_run::Event;

use crate::error::{PipelineError, Result};
use crate::recipe::Kitchen;

/// How often the store is looked at.
const EVERY: Duration = Duration::from_millis(500);

/// Waits until every item of the project has all of its judgements. How the project is run is read anew each time, since its owner may
/// change it.
///
/// # Errors
/// [`PipelineError::Stopped`] when it was asked to stop.
pub(super) fn wait(kitchen: &Kitchen, name: &str, path: &Path) -> Result<()> {
    let store = Store::open_to_read(path)?;
    let look = || -> Result<_> { Ok(store.progress(&store.project(name)?)?) };
    let first = look()?;
    if first.complete < first.items {
        kitchen.say(format!(
            "{name}: {} judgements are wanted. In another terminal: hone annotate --db \"{}\"; it prints a link to the pages \
             (http://127.0.0.1:8008 unless --host or --port say otherwise). This goes on by itself once all are there; Ctrl+C \
             stops it, and the same command waits again",
            first.wanted - first.judged,
            path.display()
        ));
    }
    kitchen.observer.event(&Event::Started {
        stage: format!("{name}: people"),
        step: first.judged,
        total: first.wanted,
    });
    let (begun, mut before) = (Instant::now(), first.judged);
    loop {
        let progress = look()?;
        if progress.judged != before {
            before = progress.judged;
            kitchen.observer.event(&Event::Step {
                step: progress.judged,
                total: progress.wanted,
                tokens: 0,
                headline: pace(first.judged, (progress.judged, progress.wanted), begun.elapsed()),
            });
        }
        let step = progress.judged;
        if progress.complete >= progress.items {
            kitchen.observer.event(&Event::Finished { step, stopped: false });
            return Ok(());
        }
        if kitchen.shutdown.requested() {
            kitchen.observer.event(&Event::Finished { step, stopped: true });
            let stage = name.to_owned();
            return Err(PipelineError::Stopped { stage, step });
        }
        std::thread::sleep(EVERY);
    }
}

/// Judgements an hour since the waiting began, and the hours that are left at that pace; nothing where none has come.
fn pace(first: u64, (judged, wanted): (u64, u64), elapsed: Duration) -> Vec<(String, f64)> {
    let come = judged.saturating_sub(first) as f64;
    let hours = elapsed.as_secs_f64() / 3600.0;
    if come == 0.0 || hours == 0.0 {
        return Vec::new();
    }
    let rate = come / hours;
    let left = wanted.saturating_sub(judged) as f64 / rate;
    vec![("an hour".into(), rate), ("hours left".into(), left)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_since_the_waiting_began() {
        let found = pace(10, (30, 90), Duration::from_secs(1800));
        assert_eq!(found, [("an hour".to_string(), 40.0), ("hours left".to_string(), 1.5)]);
        assert!(pace(10, (10, 90), Duration::from_secs(1800)).is_empty());
    }
}
