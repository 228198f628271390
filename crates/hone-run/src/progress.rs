//! What a run tells whoever watches it.

use std::time::Duration;

/// Something a person may want to see while a run goes on.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The loop begins.
    Started {
        /// The stage: `sft`, `ppo`.
        stage: String,
        /// Steps done before, by the checkpoint that was resumed.
        step: u64,
        /// Steps in all.
        total: u64,
    },
    /// An optimiser step (or an update, in reinforcement learning) is done.
    Step {
        /// Its number, from 1.
        step: u64,
        /// Steps in all.
        total: u64,
        /// Tokens this step read or generated.
        tokens: u64,
        /// The few figures worth a place on one line, in order: `loss`, `reward`, `kl`.
        headline: Vec<(String, f64)>,
    },
    /// A checkpoint is durable.
    Saved {
        /// Its step.
        step: u64,
    },
    /// One sentence for a person.
    Message(String),
    /// The loop ended.
    Finished {
        /// Steps done.
        step: u64,
        /// True when it was stopped before the end and can be resumed.
        stopped: bool,
    },
}

/// Watches a run. Libraries report here and never print; the program draws a bar or writes lines.
pub trait Observer: Send + Sync {
    /// Called on the training thread; must not block.
    fn event(&self, event: &Event);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: &Event) {}
}

/// Estimates the time left from the steps seen so far.
///
/// The estimate is (steps left) x (an exponentially weighted mean of the time a step took, weight 0.1 for the newest,
/// corrected for the start as Adam corrects its moments). The first step is left out when others follow: it warms
/// caches up. Time is passed in, so the estimate is a plain function.
#[derive(Debug, Clone)]
pub struct Eta {
    total: u64,
    step: u64,
    seen: u32,
    first: f64,
    mean: f64,
    weight: f64,
}

impl Eta {
    /// For a loop that has done `step` of `total` steps.
    #[must_use]
    pub fn new(step: u64, total: u64) -> Self {
        Self {
            total,
            step,
            seen: 0,
            first: 0.0,
            mean: 0.0,
            weight: 0.0,
        }
    }

    /// Step `step` is done and took `elapsed` since the one before.
    pub fn observe(&mut self, step: u64, elapsed: Duration) {
        let steps = step.saturating_sub(self.step).max(1);
        let seconds = elapsed.as_secs_f64() / steps as f64;
        self.step = step;
        if self.seen == 0 {
            self.first = seconds;
        } else {
            self.mean = 0.9 * self.mean + 0.1 * seconds;
            self.weight = 0.9 * self.weight + 0.1;
        }
        self.seen = self.seen.saturating_add(1);
    }

    /// Seconds a step takes; nothing before the first step.
    #[must_use]
    pub fn seconds_per_step(&self) -> Option<f64> {
        match self.seen {
            0 => None,
            1 => Some(self.first),
            _ => Some(self.mean / self.weight),
        }
    }

    /// The time left; nothing before the first step.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        let seconds = self.seconds_per_step()? * self.total.saturating_sub(self.step) as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// `45 s`, `12 min 05 s`, `3 h 20 min`, `2 d 04 h`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs() + u64::from(duration.subsec_millis() >= 500);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600, seconds / 60);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{minutes} min {:02} s", seconds % 60),
        3_600..86_400 => format!("{hours} h {:02} min", minutes % 60),
        _ => format!("{days} d {:02} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eta_leaves_the_first_step_out() {
        let mut eta = Eta::new(0, 10);
        assert_eq!(eta.remaining(), None);
        eta.observe(1, Duration::from_secs(60));
        assert_eq!(eta.remaining(), Some(Duration::from_secs(540)));
        eta.observe(2, Duration::from_secs(2));
        assert_eq!(eta.remaining(), Some(Duration::from_secs(16)));
        // 0.9 * 0.2 + 0.1 * 4 = 0.58 over a weight of 0.19, seven steps left.
        eta.observe(3, Duration::from_secs(4));
        let expected = 7.0 * 0.58 / 0.19;
        assert!((eta.remaining().unwrap().as_secs_f64() - expected).abs() < 1e-6);
    }

    #[test]
    fn several_steps_may_pass_between_observations() {
        let mut eta = Eta::new(100, 200);
        eta.observe(110, Duration::from_secs(20));
        assert_eq!(eta.remaining(), Some(Duration::from_secs(180)));
        assert_eq!(eta.seconds_per_step(), Some(2.0));
    }

    #[test]
    fn durations_read_well() {
        let text = |seconds| format_duration(Duration::from_secs(seconds));
        assert_eq!(text(59), "59 s");
        assert_eq!(text(725), "12 min 05 s");
        assert_eq!(text(12_000), "3 h 20 min");
        assert_eq!(text(187_200), "2 d 04 h");
        assert_eq!(format_duration(Duration::from_millis(59_600)), "1 min 00 s");
    }
}
