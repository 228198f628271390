//! What the pages show, as values: HTML is made from them, and tools get them as they are.

mod compare;
mod list;
mod run;
mod samples;

use std::time::SystemTime;

use axum::http::StatusCode;
use hone_run::report::{Chart, ChartGroup, Downsampler, SeriesStyle, short};
use serde_json::{Value, json};

pub(super) use compare::{compare, named};
pub(super) use list::list;
pub(super) use run::run;
pub(super) use samples::{Wanted, samples};

use super::alerts::{Alert, Bounds, judged};
use super::clock::{State, unix};
use super::curves::Axis;
use super::record::Record;
use super::words::{date, encode};

/// Buckets of a curve on a page, each with two points.
const BUCKETS: usize = 100;
/// Figures of a run in the list: the first of these that it has.
const HEADLINE: [&str; 9] = [
    "objective/scores",
    "objective/kl",
    "environment/reward_mean",
    "eval/bits_per_byte",
    "eval/accuracy",
    "eval/loss",
    "train/loss",
    "rewards/accuracies",
    "completions/mean_length",
];
const HEADLINE_FIGURES: usize = 3;

/// A page's contents.
pub(super) struct View {
    /// The file that makes HTML of it.
    pub template: &'static str,
    pub title: String,
    pub value: Value,
    pub charts: Vec<ChartGroup>,
}

/// Why there is no page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub message: String,
}

impl Refusal {
    pub fn bad(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
        }
    }

    pub fn absent(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            message: message.into(),
        }
    }
}

/// What was asked for, beside the path.
pub(super) struct Ask {
    parameters: Vec<(String, String)>,
}

impl Ask {
    pub fn new(parameters: Vec<(String, String)>) -> Self {
        Self { parameters }
    }

    /// Refuses parameters that a page does not have.
    pub fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        let other = self
            .parameters
            .iter()
            .find(|(name, _)| name != "format" && !known.contains(&name.as_str()));
        other.map_or(Ok(()), |(name, _)| {
            let name: String = name.chars().take(100).collect();
            Err(Refusal::bad(format!(
                "`{name}` is no parameter of this page; expected {}, or format",
                known.join(", ")
            )))
        })
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self
            .parameters
            .iter()
            .find(|(known, value)| known == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let found = self
            .parameters
            .iter()
            .filter(move |(known, value)| known == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    /// A whole number, where it is given.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| Refusal::bad(format!("`{name}` is {text:?}; expected a whole number")))
        };
        self.get(name).map(parse).transpose()
    }

    /// Which of the pages, from 1.
    fn page(&self) -> Result<usize, Refusal> {
        let page = self.number("page")?.unwrap_or(1);
        Ok(usize::try_from(page).unwrap_or(usize::MAX).max(1))
    }

    fn axis(&self) -> Result<Axis, Refusal> {
        let Some(name) = self.get("x") else {
            return Ok(Axis::Step);
        };
        Axis::ALL.into_iter().find(|axis| axis.name() == name).ok_or_else(|| {
            let shown: String = name.chars().take(100).collect();
            Refusal::bad(format!("`x` is {shown:?}; expected step, tokens, time or kl"))
        })
    }

    /// Whether a metric is to be shown: all are, unless some are named.
    fn wants(&self, metric: &str) -> bool {
        let mut named = self.all("metric").peekable();
        named.peek().is_none() || named.any(|name| name == metric)
    }

    /// The same address with another value of one parameter; an empty one takes it away.
    fn with(&self, path: &str, name: &str, value: &str) -> String {
        let kept = self
            .parameters
            .iter()
            .filter(|(known, _)| known != name && known != "format");
        let mut pairs: Vec<String> = kept
            .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
            .collect();
        if !value.is_empty() {
            pairs.push(format!("{}={}", encode(name), encode(value)));
        }
        if pairs.is_empty() {
            path.to_owned()
        } else {
            format!("{path}?{}", pairs.join("&"))
        }
    }

    /// The address of this page as JSON.
    pub fn twin(&self, path: &str) -> String {
        self.with(path, "format", "json")
    }
}

/// What is the same for all pages of a request.
#[derive(Clone, Copy)]
pub(super) struct Circumstances<'a> {
    pub bounds: &'a Bounds,
    pub now: SystemTime,
}

/// The address of a run.
fn href(name: &str) -> String {
    format!("/run/{}", encode(name))
}

/// What the list says of a run, and its own page at its top.
fn summary(record: &Record, at: Circumstances<'_>) -> (State, Vec<Alert>, Value) {
    let (state, alerts) = judged(record, at.bounds, at.now);
    let (step, total) = (record.step(), record.total());
    let fraction = total
        .filter(|total| *total > 0)
        .map(|total| (step as f64 / total as f64).min(1.0));
    let progress = match total {
        Some(total) => format!("step {step} of {total}"),
        None => format!("step {step}"),
    };
    let left = record.left(state);
    let figures = HEADLINE.iter().filter_map(|name| {
        let last = record.figures.get(name)?.last?;
        Some(json!({"name": name, "value": last.value, "text": short(last.value), "step": last.step}))
    });
    let written = record.written().map(unix);
    let value = json!({
        "name": record.name,
        "href": href(&record.name),
        "stage": record.stage(),
        "state": state.name(),
        "step": step,
        "total": total,
        "fraction": fraction,
        "percent": fraction.map(|fraction| format!("{:.0}", (100.0 * fraction).floor())),
        "progress": progress,
        "left_seconds": left.map(|left| left.as_secs_f64().round() as u64),
        "left": left.map(hone_run::format_duration),
        "figures": figures.take(HEADLINE_FIGURES).collect::<Vec<_>>(),
        "alerts": alerts.iter().map(Alert::to_json).collect::<Vec<_>>(),
        "written": written,
        "written_text": written.map(date),
    });
    (state, alerts, value)
}

/// The choice of what stands on the horizontal axis, where a page may have each or not.
fn axes((ask, path): (&Ask, &str), current: Axis, has: impl Fn(Axis) -> bool) -> Value {
    let one = |axis: Axis| {
        let value = if axis == Axis::Step { "" } else { axis.name() };
        json!({
            "name": axis.name(),
            "label": axis.label(),
            "href": ask.with(path, "x", value),
            "current": axis == current,
            "available": has(axis),
        })
    };
    Axis::ALL.into_iter().map(one).collect()
}

/// A curve's points for a page.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if points.len() <= 2 * BUCKETS {
        return points;
    }
    let mut sampler = Downsampler::new(BUCKETS);
    points.into_iter().for_each(|(x, y)| sampler.push(x, y));
    sampler.points()
}

/// Over KL a curve goes to and fro, so a mean along it would say nothing.
fn style_over(axis: Axis) -> SeriesStyle {
    if axis == Axis::Kl {
        SeriesStyle::Line
    } else {
        SeriesStyle::Smoothed
    }
}

/// Charts as tools get them.
pub(super) fn charts_json(groups: &[ChartGroup]) -> Value {
    let chart = |group: &ChartGroup, chart: &Chart| {
        let series = |series: &hone_run::report::Series| json!({"name": series.name, "points": series.points});
        json!({
            "group": group.title,
            "title": chart.title,
            "x": chart.x_label,
            "series": chart.series.iter().map(series).collect::<Vec<_>>(),
        })
    };
    groups
        .iter()
        .flat_map(|group| group.charts.iter().map(move |one| chart(group, one)))
        .collect()
}

/// The way to the pages before and after.
fn paging((ask, path): (&Ask, &str), page: usize, pages: usize) -> Value {
    let to = |page: usize| ask.with(path, "page", &page.to_string());
    json!({
        "page": page,
        "pages": pages,
        "before": (page > 1).then(|| to(page.min(pages + 1) - 1)),
        "after": (page < pages).then(|| to(page + 1)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(query: &str) -> Ask {
        Ask::new(crate::urlencoded::parameters(query).unwrap())
    }

    #[test]
    fn parameters_are_checked() {
        assert!(ask("q=a&format=json").only(&["q", "page"]).is_ok());
        let refused = ask("q=a&pgae=2").only(&["q", "page"]).unwrap_err();
        assert_eq!(
            refused.message,
            "`pgae` is no parameter of this page; expected q, page, or format"
        );
        assert!(
            ask("page=x")
                .page()
                .unwrap_err()
                .message
                .contains("expected a whole number")
        );
        assert_eq!(
            (ask("page=0").page(), ask("").page(), ask("page=7").page()),
            (Ok(1), Ok(1), Ok(7))
        );
        assert!(ask("x=kl").axis() == Ok(Axis::Kl) && ask("").axis() == Ok(Axis::Step));
        assert!(
            ask("x=loss")
                .axis()
                .unwrap_err()
                .message
                .contains("expected step, tokens, time or kl")
        );
        assert!(ask("").wants("a") && ask("metric=a&metric=b").wants("b") && !ask("metric=a").wants("b"));
    }

    #[test]
    fn addresses_keep_what_else_was_asked() {
        let asked = ask("q=a+b&page=2&format=json");
        assert_eq!(asked.with("/", "page", "3"), "/?q=a%20b&page=3");
        assert_eq!(asked.with("/", "page", ""), "/?q=a%20b");
        assert_eq!(asked.twin("/run/x"), "/run/x?q=a%20b&page=2&format=json");
        assert_eq!(ask("").with("/", "x", ""), "/");
    }

    #[test]
    fn pages_follow_one_another() {
        let asked = ask("");
        assert_eq!(
            paging((&asked, "/"), 1, 1),
            json!({"page": 1, "pages": 1, "before": null, "after": null})
        );
        assert_eq!(paging((&asked, "/"), 2, 3)["before"], "/?page=1");
        assert_eq!(paging((&asked, "/"), 2, 3)["after"], "/?page=3");
        assert_eq!(paging((&asked, "/"), 900, 3)["before"], "/?page=3");
    }
}
