//! Where to look: rules over what a run has told so far.
//!
//! A rule says that something is unusual and where it stands, not that it is wrong. Each looks at means of
//! [`WINDOW`] values, so that one odd step does not raise it, except where a single value says it all.

use std::time::SystemTime;

use hone_run::report::short;
use serde_json::{Value, json};

use super::clock::{State, unix};
use super::figures::{Figure, WINDOW};
use super::record::Record;
use super::words::{count, date};

/// All rules by their names. `docs/dashboard.md` says when each is raised.
pub const RULES: [&str; 14] = [
    "not-finite",
    "skipped-steps",
    "loss-rose",
    "held-out-loss-rose",
    "kl-high",
    "entropy-collapse",
    "length-runaway",
    "unended",
    "parting",
    "mismatch",
    "quiet",
    "stopped",
    "unreadable",
    "configuration",
];

/// A loss that is higher than its lowest mean by this share has risen.
const LOSS_RISE: f64 = 0.2;
/// The same of a loss on held-out data, which is measured rarely and over many examples.
const HELD_OUT_RISE: f64 = 0.05;
/// KL is the mean of this many updates.
const KL_VALUES: usize = 5;
/// Less than this share of the entropy at the start is a collapse.
const ENTROPY_LEFT: f64 = 0.2;
/// Responses this many times as long as at the start, and by so many tokens, run away.
const LENGTH_TIMES: f64 = 2.0;
const LENGTH_MORE: f64 = 16.0;
/// Less than this share of those that ended at the start.
const ENDED_LEFT: f64 = 0.5;
/// Of what the gold score had gained at its best.
const GOLD_LOST: f64 = 0.1;

/// Bounds that the user sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// KL to the starting policy, in nats a response, above which a look is asked for.
    pub kl: f64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { kl: 30.0 }
    }
}

/// Something that deserves a look.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Alert {
    /// One of [`RULES`].
    pub rule: &'static str,
    /// What there is to see, as the end of a sentence.
    pub text: String,
    /// The metric, where it is one.
    pub metric: Option<String>,
    /// The step.
    pub step: Option<u64>,
}

impl Alert {
    pub fn to_json(&self) -> Value {
        let text = format!("look here: {}", self.text);
        json!({"rule": self.rule, "text": text, "metric": self.metric, "step": self.step})
    }
}

/// What deserves a look in a run, in the order of [`RULES`].
pub(super) fn alerts(record: &Record, state: State, bounds: &Bounds) -> Vec<Alert> {
    let mut found = Found(Vec::new());
    not_finite(record, &mut found);
    losses(record, &mut found);
    kl(record, bounds, &mut found);
    collapses(record, &mut found);
    parting(record, &mut found);
    mismatch(record, &mut found);
    standstill(record, state, &mut found);
    files(record, &mut found);
    found.0
}

struct Found(Vec<Alert>);

impl Found {
    fn add(&mut self, rule: &'static str, text: String, (metric, step): (Option<&str>, Option<u64>)) {
        debug_assert!(RULES.contains(&rule));
        self.0.push(Alert {
            rule,
            text,
            metric: metric.map(str::to_owned),
            step,
        });
    }
}

fn last_step(figure: &Figure) -> Option<u64> {
    figure.last.map(|last| last.step)
}

fn not_finite(record: &Record, found: &mut Found) {
    let figures = &record.figures;
    if let Some((name, step)) = &figures.not_finite_last {
        let values = count(figures.not_finite, "value");
        let were = if figures.not_finite == 1 { "was" } else { "were" };
        let text = format!("{values} {were} not finite, the last of `{name}` at step {step}");
        found.add("not-finite", text, (Some(name), Some(*step)));
    }
    let name = "train/skipped_steps";
    if let Some(first) = figures.get(name).and_then(|figure| figure.first_nonzero) {
        let text = format!(
            "steps were skipped because a gradient was not finite, the first at step {}",
            first.step
        );
        found.add("skipped-steps", text, (Some(name), Some(first.step)));
    }
}

fn losses(record: &Record, found: &mut Found) {
    let name = "train/loss";
    if let Some(figure) = record.figures.get(name)
        && figure.count >= 3 * WINDOW as u64
        && let (Some(now), Some(lowest)) = (figure.recent_mean(), figure.lowest_mean)
        && now > lowest.value + LOSS_RISE * lowest.value.abs()
    {
        let text = format!(
            "`{name}` rose: its mean over the last {WINDOW} steps is {}, at step {} it was {}",
            short(now),
            lowest.step,
            short(lowest.value)
        );
        found.add("loss-rose", text, (Some(name), last_step(figure)));
    }
    let name = "eval/loss";
    if let Some(figure) = record.figures.get(name)
        && figure.since_least >= 2
        && let (Some(now), Some(least)) = (figure.last, figure.least)
        && now.value > least.value + HELD_OUT_RISE * least.value.abs()
    {
        let text = format!(
            "`{name}` rose from {} at step {} to {}: the run may be learning its examples by heart",
            short(least.value),
            least.step,
            short(now.value)
        );
        found.add("held-out-loss-rose", text, (Some(name), Some(now.step)));
    }
}

fn kl(record: &Record, bounds: &Bounds, found: &mut Found) {
    for name in ["objective/kl", "eval/kl"] {
        let Some(figure) = record.figures.get(name) else {
            continue;
        };
        if let Some(mean) = figure.mean_of_last(KL_VALUES).filter(|mean| *mean > bounds.kl) {
            let text = format!(
                "`{name}` is {} nats a response, above the bound of {}: the policy is far from where it started",
                short(mean),
                short(bounds.kl)
            );
            found.add("kl-high", text, (Some(name), last_step(figure)));
        }
    }
}

/// What shrinks or grows against its own beginning.
fn collapses(record: &Record, found: &mut Found) {
    let compared = |name: &'static str| {
        let figure = record
            .figures
            .get(name)
            .filter(|figure| figure.count >= 2 * WINDOW as u64)?;
        Some((name, figure, figure.first_mean?, figure.recent_mean()?))
    };
    let entropy = compared("policy/entropy_avg").or_else(|| compared("objective/entropy"));
    if let Some((name, figure, first, now)) = entropy.filter(|(_, _, first, now)| *now < ENTROPY_LEFT * first) {
        let text = format!(
            "`{name}` fell from {} to {}: responses may have become all alike",
            short(first),
            short(now)
        );
        found.add("entropy-collapse", text, (Some(name), last_step(figure)));
    }
    let runs_away = |first: f64, now: f64| now > LENGTH_TIMES * first && now - first >= LENGTH_MORE;
    if let Some((name, figure, first, now)) =
        compared("completions/mean_length").filter(|(_, _, first, now)| runs_away(*first, *now))
    {
        let text = format!("responses grew from {} to {} tokens", short(first), short(now));
        found.add("length-runaway", text, (Some(name), last_step(figure)));
    }
    if let Some((name, figure, first, now)) =
        compared("completions/ended").filter(|(_, _, first, now)| *now < ENDED_LEFT * first)
    {
        let text = format!(
            "the share of responses that end by themselves fell from {} to {}",
            short(first),
            short(now)
        );
        found.add("unended", text, (Some(name), last_step(figure)));
    }
}

/// The score that is optimised rises while the one that is meant falls.
fn parting(record: &Record, found: &mut Found) {
    let proxy_name = "objective/scores";
    let is_gold =
        |name: &str| name.rsplit('/').next().is_some_and(|last| last.starts_with("gold")) || name.starts_with("gold/");
    let Some(proxy) = record.figures.get(proxy_name) else {
        return;
    };
    let (Some(proxy_first), Some(proxy_now)) = (proxy.first_mean, proxy.recent_mean()) else {
        return;
    };
    for (name, gold) in record.figures.iter().filter(|(name, _)| is_gold(name)) {
        let (Some(first), Some(best), Some(now)) = (gold.first, gold.greatest, gold.last) else {
            continue;
        };
        let lost = best.value - now.value > GOLD_LOST * (best.value - first) && best.value > first;
        if proxy_now > proxy_first && gold.since_greatest >= 2 && lost {
            let text = format!(
                "`{proxy_name}` rose from {} to {} while `{name}` fell from {} at step {} to {}: the score may be exploited",
                short(proxy_first),
                short(proxy_now),
                short(best.value),
                best.step,
                short(now.value)
            );
            found.add("parting", text, (Some(name), Some(now.step)));
        }
    }
}

fn mismatch(record: &Record, found: &mut Found) {
    let named = |name: &str| {
        name.rsplit('/')
            .next()
            .is_some_and(|last| last.starts_with("logprob_mismatch"))
    };
    for (name, figure) in record.figures.iter().filter(|(name, _)| named(name)) {
        if let Some(first) = figure.first_nonzero {
            let text = format!(
                "`{name}` is {} at step {}; expected exactly 0: sampling and training computed different log-probabilities",
                short(first.value),
                first.step
            );
            found.add("mismatch", text, (Some(name), Some(first.step)));
        }
    }
}

fn standstill(record: &Record, state: State, found: &mut Found) {
    let since = record
        .written()
        .map_or_else(|| "it began".to_owned(), |written| date(unix(written)));
    let step = record.step();
    match state {
        State::Quiet => {
            let usual = record
                .clock
                .seconds_per_step()
                .map_or_else(String::new, |seconds| format!("; a step took {} s", short(seconds)));
            found.add("quiet", format!("no line since {since}{usual}"), (None, Some(step)));
        }
        State::Stopped => {
            let total = record.total().map_or_else(String::new, |total| format!(" of {total}"));
            let text = format!(
                "stopped at step {step}{total}, last written {since}; the same command goes on from its last checkpoint"
            );
            found.add("stopped", text, (None, Some(step)));
        }
        State::Running | State::Finished => {}
    }
}

fn files(record: &Record, found: &mut Found) {
    let bad = record.bad_lines();
    if bad > 0 {
        let lines = count(bad, "line");
        found.add(
            "unreadable",
            format!(
                "{lines} of its files could not be read and {} left out",
                if bad == 1 { "is" } else { "are" }
            ),
            (None, None),
        );
    }
    if let Some(reason) = &record.refused {
        found.add("unreadable", format!("a file cannot be read: {reason}"), (None, None));
    }
    if let Some(reason) = &record.settings.problem {
        found.add(
            "configuration",
            format!("its configuration cannot be read: {reason}"),
            (None, None),
        );
    }
}

/// What a run is doing, and what deserves a look in it.
pub(super) fn judged(record: &Record, bounds: &Bounds, now: SystemTime) -> (State, Vec<Alert>) {
    let state = record.state(now);
    (state, alerts(record, state, bounds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record::new("run".into(), std::path::PathBuf::from("absent"))
    }

    /// The rules that a run raises whose metric has these values, beside what others are given.
    fn raised(columns: &[(&str, Vec<f64>)]) -> Vec<&'static str> {
        let mut record = record();
        let longest = columns.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
        for step in 0..longest {
            let fields: Vec<(&str, f64)> = columns
                .iter()
                .filter_map(|(name, values)| Some((*name, *values.get(step)?)))
                .collect();
            record
                .figures
                .take(hone_run::metric_line(step as u64 + 1, &fields).as_bytes());
        }
        let found = alerts(&record, State::Finished, &Bounds::default());
        found.iter().map(|alert| alert.rule).collect()
    }

    fn ramp(from: f64, to: f64, count: usize) -> Vec<f64> {
        (0..count)
            .map(|i| from + (to - from) * i as f64 / (count - 1) as f64)
            .collect()
    }

    #[test]
    fn each_rule_is_raised_by_what_it_is_for_and_by_nothing_less() {
        let down_and_up = |to: f64| [ramp(2.0, 1.0, 30), ramp(1.0, to, 30)].concat();
        assert_eq!(raised(&[("train/loss", down_and_up(1.6))]), ["loss-rose"]);
        assert!(raised(&[("train/loss", down_and_up(1.1))]).is_empty());
        assert!(raised(&[("train/loss", ramp(3.0, 1.0, 100))]).is_empty());
        assert_eq!(
            raised(&[("eval/loss", vec![2.0, 1.0, 1.1, 1.2])]),
            ["held-out-loss-rose"]
        );
        assert!(raised(&[("eval/loss", vec![2.0, 1.0, 1.2])]).is_empty());
        assert!(raised(&[("eval/loss", vec![2.0, 1.0, 1.01, 1.02])]).is_empty());
        assert_eq!(raised(&[("loss", vec![1.0, f64::NAN])]), ["not-finite"]);
        assert_eq!(raised(&[("train/skipped_steps", vec![0.0, 1.0])]), ["skipped-steps"]);
        assert_eq!(raised(&[("objective/kl", ramp(0.0, 60.0, 30))]), ["kl-high"]);
        assert!(raised(&[("objective/kl", ramp(0.0, 25.0, 30))]).is_empty());
        // One high value is no drift
        assert!(raised(&[("objective/kl", vec![1.0, 1.0, 1.0, 1.0, 100.0])]).is_empty());
        assert_eq!(
            raised(&[("policy/entropy_avg", ramp(1.0, 0.01, 40))]),
            ["entropy-collapse"]
        );
        assert!(raised(&[("policy/entropy_avg", ramp(1.0, 0.5, 40))]).is_empty());
        assert_eq!(
            raised(&[("completions/mean_length", ramp(20.0, 90.0, 40))]),
            ["length-runaway"]
        );
        assert!(raised(&[("completions/mean_length", ramp(2.0, 9.0, 40))]).is_empty());
        assert_eq!(raised(&[("completions/ended", ramp(1.0, 0.1, 40))]), ["unended"]);
        assert_eq!(
            raised(&[("policy/logprob_mismatch_max", vec![0.0, 1e-7])]),
            ["mismatch"]
        );
        assert!(raised(&[("policy/logprob_mismatch_max", vec![0.0; 50])]).is_empty());
    }

    #[test]
    fn proxy_and_gold_part() {
        let proxy = ("objective/scores", ramp(0.0, 3.0, 40));
        let gold = |values: &[f64]| ("eval/gold_score", values.to_vec());
        assert_eq!(raised(&[proxy.clone(), gold(&[0.0, 1.0, 0.8, 0.5])]), ["parting"]);
        assert!(raised(&[proxy.clone(), gold(&[0.0, 1.0, 1.2, 1.4])]).is_empty());
        assert!(raised(&[proxy, gold(&[0.0, 1.0, 0.99, 0.98])]).is_empty());
        assert!(raised(&[("objective/scores", ramp(3.0, 0.0, 40)), gold(&[0.0, 1.0, 0.8, 0.5])]).is_empty());
    }

    #[test]
    fn a_standstill_is_said_with_its_step() {
        let mut record = record();
        record.figures.take(b"{\"step\":7,\"loss\":1}");
        record.settings.values.insert("ppo.updates".into(), "20".into());
        record.figures.take(b"half a li");
        let rules = |state| {
            alerts(&record, state, &Bounds::default())
                .into_iter()
                .map(|alert| (alert.rule, alert.text))
                .collect::<Vec<_>>()
        };
        let stopped = rules(State::Stopped);
        assert_eq!((stopped[0].0, stopped[1].0), ("stopped", "unreadable"));
        assert!(
            stopped[0].1.starts_with("stopped at step 7 of 20, last written"),
            "{}",
            stopped[0].1
        );
        assert_eq!(stopped[1].1, "1 line of its files could not be read and is left out");
        assert_eq!(rules(State::Quiet)[0].0, "quiet");
        assert_eq!(rules(State::Running).len(), 1);
    }
}
