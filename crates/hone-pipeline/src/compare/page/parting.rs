//! Of the page: what the methods could see, and what counts.

use hone_objective::overoptimisation::{Fit, Form};
use hone_run::report::{Chart, Scatter, Section, Series, SeriesStyle};

use super::super::course;
use super::super::overoptimisation::{Alarm, Curve, FORMS, Gains, Overoptimisation, gains};
use super::super::results::{CompareResult, Figure, Measures};
use super::{mark, number};

/// A peak at so many times the farthest KL is none.
const FAR: f64 = 10.0;
/// Points of a fitted curve.
const DRAWN: usize = 40;

/// Sections on proxy and judge; none without a proxy.
pub(super) fn sections(result: &CompareResult) -> Vec<Section> {
    let Some(found) = &result.overoptimisation else {
        return Vec::new();
    };
    let (proxy, reward) = (|m: &Measures| m.proxy, |m: &Measures| Some(m.reward));
    let marks = result
        .methods
        .iter()
        .enumerate()
        .filter_map(|method| mark(method, &proxy, &reward));
    let mut sections = vec![
        Section::Text {
            title: "What the methods could see, and what counts".into(),
            text: said(found),
        },
        Section::Scatters {
            title: String::new(),
            charts: vec![Scatter {
                title: "Judge against proxy".into(),
                x_label: "proxy".into(),
                x_by_root: false,
                y_label: "reward".into(),
                marks: marks.collect(),
            }],
            note: String::new(),
        },
    ];
    if !found.alarms.is_empty() {
        sections.push(disagreements(found));
    }
    let charts = charts(result, found);
    if !charts.is_empty() {
        sections.push(Section::Charts {
            title: "Gain over the start, with the distance from it".into(),
            charts,
        });
    }
    if !found.curves.is_empty() {
        sections.push(table(found));
    }
    sections
}

fn between(figure: &Figure) -> String {
    format!("{:+.3} [{:+.3}, {:+.3}]", figure.mean, figure.low, figure.high)
}

/// The pairs of methods of which proxy and judge prefer different ones.
fn disagreements(found: &Overoptimisation) -> Section {
    let row = |alarm: &Alarm| {
        vec![
            alarm.method.clone(),
            alarm.than.clone(),
            between(&alarm.proxy),
            between(&alarm.reward),
        ]
    };
    let columns = ["method", "other", "difference in proxy", "difference in reward"];
    Section::Table {
        title: "Pairs that the methods' view and the judge put in different orders".into(),
        columns: columns.map(String::from).to_vec(),
        rows: found.alarms.iter().map(row).collect(),
        note: "The method's less the other's, prompt by prompt, with their 95% intervals.".into(),
    }
}

/// The alarms, where each run would have been stopped, what was compared at all, and what was not.
fn said(found: &Overoptimisation) -> String {
    let mut told: Vec<String> = Vec::new();
    told.extend(found.looks().into_iter().map(|look| format!("Look here: {look}.")));
    for course in &found.courses {
        let Some(parted) = &course.parted else { continue };
        let seen = if course.best_step == 0 {
            "the start".to_owned()
        } else {
            format!("{} updates", course.best_step)
        };
        told.push(format!(
            "Look here: from {seen} to the last look at {}, seed {}, what it maximised rose ({}) while what counts fell ({}). The best step was chosen \
             on one half of the prompts, and both were compared on the other ({} prompts or more).",
            course.method,
            course.seed,
            between(&parted.proxy),
            between(&parted.reward),
            course.tested_on.unwrap_or_default()
        ));
    }
    if found.alarms.is_empty() && found.pairs > 0 {
        told.push(
            "No method is above another in what the methods could see and below it in what counts, beyond the intervals of both differences."
                .to_owned(),
        );
    }
    let compared = found.courses.iter().filter(|course| course.tested_on.is_some()).count();
    if compared > 0 && found.courses.iter().all(|course| course.parted.is_none()) {
        told.push(
            "Of the runs that were looked at on their way, none loses in what counts while it gains in what it maximises, beyond the intervals \
             of both differences."
                .to_owned(),
        );
    }
    told.push(format!(
        "Compared: {} pairs of methods and {compared} runs on their way. Each interval is one of 95% by itself: of pairs or runs in which the proxy \
         differs and what counts does not, about one in forty is told of by chance. Intervals of pairs are over prompts alone; seeds are taken as they \
         came out.",
        found.pairs
    ));
    let few = found.courses.len() - compared;
    if few > 0 {
        told.push(format!(
            "{few} runs have answers to too few prompts to be compared on their way."
        ));
    }
    for left_out in &found.left_out {
        told.push(format!(
            "Not looked at on its way: {}, since {}.",
            left_out.name, left_out.reason
        ));
    }
    told.join("\n\n")
}

fn table(found: &Overoptimisation) -> Section {
    let curve = |c: &Curve| {
        vec![
            c.family.clone(),
            c.of.clone(),
            c.form.clone(),
            number(Some(c.alpha), 4),
            number(Some(c.beta), 4),
            number(Some(c.rmse), 4),
            c.peak_kl.map_or_else(|| "-".into(), |peak| within(peak, c.farthest_kl)),
            number(Some(c.farthest_kl), 2),
            c.points.to_string(),
        ]
    };
    let columns = [
        "",
        "gain in",
        "form",
        "alpha",
        "beta",
        "error",
        "highest at KL",
        "farthest KL",
        "points",
    ];
    Section::Table {
        title: "Curves of over-optimisation".into(),
        columns: columns.map(String::from).to_vec(),
        rows: found.curves.iter().map(curve).collect(),
        note: "Gain over the start, with d the root of KL: best-of-n is d (alpha - beta d), reinforcement-learning d (alpha - beta ln d) (Gao et \
               al., 2023). Best-of and training are of several methods, a seed a point, and methods are no steps of one run; the others are of a \
               method's own runs, a look a point. A peak beyond the farthest KL was not seen. Of two forms, the one with the smaller error describes the points better \
               only where they lie at more than a few distances: three, as of best-of-N at three N, cannot tell."
            .into(),
    }
}

/// A peak, as far as it means anything: far behind the last point it is none.
fn within(peak: f64, farthest: f64) -> String {
    match peak > FAR * farthest {
        true => "far beyond".into(),
        false => format!("{peak:.2}"),
    }
}

/// A picture of each family: gains in proxy and for the judge over the root of KL, and the better of the two forms for each.
fn charts(result: &CompareResult, found: &Overoptimisation) -> Vec<Chart> {
    let mut families = Vec::new();
    if let Some(gains) = gains(&result.methods, &|method| method.measures.kl_is_bound) {
        families.push(("best-of".to_owned(), gains));
    }
    for method in &result.methods {
        families.push((method.name.clone(), course::gains(&found.courses, &method.name)));
    }
    let drawn = |(family, gains): (String, Gains)| {
        let curves: Vec<&Curve> = found.curves.iter().filter(|curve| curve.family == family).collect();
        if curves.is_empty() {
            return None;
        }
        let mut series = Vec::new();
        for (of, gain) in [("proxy", &gains.proxy), ("reward", &gains.reward)] {
            let mut points: Vec<(f64, f64)> = gains.kl.iter().map(|kl| kl.sqrt()).zip(gain.iter().copied()).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            series.push(Series {
                name: of.to_owned(),
                points,
                style: SeriesStyle::Smoothed,
            });
            let own = curves.iter().filter(|curve| curve.of == of);
            series.extend(
                own.min_by(|a, b| a.rmse.total_cmp(&b.rmse))
                    .and_then(|curve| fitted(curve)),
            );
        }
        Some(Chart {
            title: family,
            x_label: "root of KL".into(),
            y_label: "gain".into(),
            series,
        })
    };
    families.into_iter().filter_map(drawn).collect()
}

/// A fitted curve up to the farthest point.
fn fitted(curve: &Curve) -> Option<Series> {
    let (name, form): (&str, Form) = *FORMS.iter().find(|(name, _)| *name == curve.form)?;
    let fit = Fit {
        form,
        alpha: curve.alpha,
        beta: curve.beta,
        rmse: curve.rmse,
    };
    let farthest = curve.farthest_kl.sqrt();
    let points = (0..=DRAWN).map(|i| {
        let d = farthest * i as f64 / DRAWN as f64;
        (d, fit.gain(d * d))
    });
    Some(Series {
        name: format!("{}, {name}", curve.of),
        points: points.collect(),
        style: SeriesStyle::Line,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::course::{Course, Parted};
    use super::super::super::results::Figure;
    use super::super::super::updates::LeftOut;
    use super::*;

    fn nothing() -> Overoptimisation {
        Overoptimisation {
            pairs: 0,
            alarms: Vec::new(),
            curves: Vec::new(),
            courses: Vec::new(),
            left_out: Vec::new(),
        }
    }

    #[test]
    fn what_was_not_looked_at_is_not_called_clean() {
        let mut found = nothing();
        found.left_out.push(LeftOut {
            name: "rlhf".into(),
            reason: "it wrote no answers down".into(),
        });
        let text = said(&found);
        assert!(
            !text.contains("none loses") && !text.contains("No method is above"),
            "{text}"
        );
        assert!(text.contains("Compared: 0 pairs of methods and 0 runs"), "{text}");
        assert!(text.contains("Not looked at on its way: rlhf, since it wrote no answers down."));
        // A run of too few prompts is no run that was compared
        let mut course = Course {
            method: "ppo".into(),
            seed: 3,
            points: Vec::new(),
            unjudged: 0,
            best_step: 7,
            tested_on: None,
            parted: None,
        };
        found.pairs = 3;
        found.courses = vec![course.clone()];
        let text = said(&found);
        assert!(
            text.contains("No method is above") && !text.contains("none loses"),
            "{text}"
        );
        assert!(text.contains("1 runs have answers to too few prompts"), "{text}");
        course.tested_on = Some(9);
        found.courses = vec![course.clone()];
        assert!(said(&found).contains("none loses"));
        let figure = |mean: f64| Figure {
            mean,
            low: mean - 0.1,
            high: mean + 0.1,
        };
        course.parted = Some(Parted {
            proxy: figure(1.0),
            reward: figure(-1.0),
        });
        found.courses.push(course);
        let text = said(&found);
        assert!(
            text.contains("Look here: from 7 updates to the last look at ppo, seed 3"),
            "{text}"
        );
        assert!(!text.contains("none loses"), "{text}");
    }
}
