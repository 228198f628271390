//! `compare.html`: all methods in one picture, their figures, answers side by side, updates, and where proxy and judge part.

use hone_run::Sample;
use hone_run::report::{Chart, Interval, Mark, Report, Scatter, Section, Series, SeriesStyle};
use serde_json::Value;

use super::config::METHODS;
use super::results::{CompareResult, Figure, Measures, MethodResult, sampled_in};
use super::updates::{Updates, methods_of, pair_means};
use super::{Bench, PAGE, Row, Took};
use crate::error::Result;
use crate::files::read_lines;

mod parting;

/// Writes the page.
pub(super) fn write(bench: &Bench<'_>, (result, rows): (&CompareResult, &[Row]), times: &[Took]) -> Result<()> {
    let mut sections = vec![
        opening(result),
        pictures(result),
        figures(result),
        win_rates(result),
        costs(result),
    ];
    sections.extend(practice(bench, rows)?);
    if result.overoptimisation.is_some() {
        sections.extend(parting::sections(result));
    }
    if let Some(updates) = &result.updates {
        sections.extend(update_sections(updates));
    }
    sections.extend(examples(rows));
    sections.extend(side_by_side(bench, rows)?);
    sections.extend(overlaps(result));
    if !times.is_empty() {
        sections.push(took(times));
    }
    let settings = toml::to_string_pretty(bench.config).unwrap_or_default();
    sections.push(Section::Code {
        title: "Settings".into(),
        text: settings,
    });
    let report = Report {
        title: format!("Comparison: {}", result.recipe),
        sections,
    };
    Ok(report.write(&bench.out.join(PAGE))?)
}

fn opening(result: &CompareResult) -> Section {
    let unit = if result.judge.starts_with("environment") {
        "episodes"
    } else {
        "prompts"
    };
    let answers = match result.samples {
        1 => "one answer".to_owned(),
        count => format!("{count} answers"),
    };
    let several = result.methods.iter().any(|method| method.seeds.len() > 1);
    let dots = if several { "; small dots are seeds" } else { "" };
    let seeds = match result.methods.first().map_or(0, |method| method.seeds.len()) {
        1 => "one seed".to_owned(),
        count => format!("{count} seeds"),
    };
    Section::Text {
        title: String::new(),
        text: format!(
            "{} methods from one start, {seeds} each, on the same {} {unit} under the same judge ({}): {answers} \
             to each at temperature {}, at most {} tokens long. Intervals are 95% bootstrap intervals over {unit}{dots}. Win rates and \
             differences are against {}.",
            result.methods.len(),
            result.prompts,
            result.judge,
            result.temperature,
            result.max_new_tokens,
            result.baseline
        ),
    }
}

fn ends(figure: &Figure) -> (f64, f64) {
    (figure.low, figure.high)
}

/// A method as a point of reward over some other figure.
fn mark(
    (colour, method): (usize, &MethodResult),
    x: &dyn Fn(&Measures) -> Option<Figure>,
    y: &dyn Fn(&Measures) -> Option<Figure>,
) -> Option<Mark> {
    let (own_x, own_y) = (x(&method.measures)?, y(&method.measures)?);
    let parts = method
        .seeds
        .iter()
        .filter_map(|seed| Some((x(&seed.measures)?.mean, y(&seed.measures)?.mean)));
    Some(Mark {
        name: method.name.clone(),
        at: (own_x.mean, own_y.mean),
        x_interval: (own_x.low < own_x.high).then(|| ends(&own_x)),
        y_interval: Some(ends(&own_y)),
        parts: if method.seeds.len() > 1 {
            parts.collect()
        } else {
            Vec::new()
        },
        hollow: method.control || method.measures.kl_is_bound,
        colour,
    })
}

/// A number without an interval.
fn point(value: f64) -> Figure {
    Figure {
        mean: value,
        low: value,
        high: value,
    }
}

fn pictures(result: &CompareResult) -> Section {
    let reward = |m: &Measures| Some(m.reward);
    let against = |x: &dyn Fn(&Measures) -> Option<Figure>| -> Vec<Mark> {
        let marks = result
            .methods
            .iter()
            .enumerate()
            .filter_map(|method| mark(method, x, &reward));
        marks.collect()
    };
    let absent: Vec<&str> = result
        .methods
        .iter()
        .filter(|method| method.measures.kl.is_none())
        .map(|method| method.name.as_str())
        .collect();
    let absent = match absent.as_slice() {
        [] => String::new(),
        names => format!(
            " Without KL, since it is not defined or not measured: {}.",
            names.join(", ")
        ),
    };
    Section::Scatters {
        title: "Reward against KL, and against what it took".into(),
        charts: vec![
            Scatter {
                title: "What answers are worth to the judge, and how far the method moved".into(),
                x_label: "KL to the start, nats an answer (drawn by its square root)".into(),
                x_by_root: true,
                y_label: "reward".into(),
                marks: against(&|m| m.kl),
            },
            Scatter {
                title: "What answers are worth to the judge, and what practice took".into(),
                x_label: "tokens sampled in practice".into(),
                x_by_root: false,
                y_label: "reward".into(),
                marks: against(&|m| m.tokens_sampled.map(point)),
            },
        ],
        note: format!(
            "Rings are controls, and best-of-N, whose KL is a bound and whose tokens are sampled when it answers instead of \
             in practice.{absent}"
        ),
    }
}

fn number(value: Option<f64>, places: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.places$}"))
}

fn between(figure: &Figure, places: usize) -> String {
    format!(
        "{:.places$} [{:.places$}, {:.places$}]",
        figure.mean, figure.low, figure.high
    )
}

fn figures(result: &CompareResult) -> Section {
    let mut columns = vec!["", "reward", "less the baseline's"];
    // Of one seed there is no deviation
    let deviation = result.methods.iter().any(|m| m.reward_seed_deviation.is_some());
    columns.extend(deviation.then_some("seeds' deviation"));
    let optimum = result.methods.iter().any(|m| m.measures.share_of_optimum.is_some());
    let proxy = result.methods.iter().any(|m| m.measures.proxy.is_some());
    columns.extend(optimum.then_some("share of optimum"));
    columns.extend(proxy.then_some("proxy"));
    columns.extend(["KL", "win rate", "at equal length"]);
    let row = |method: &MethodResult| {
        let m = &method.measures;
        let mut cells = vec![marked(method), between(&m.reward, 3), between(&m.difference, 3)];
        cells.extend(deviation.then(|| number(method.reward_seed_deviation, 3)));
        cells.extend(optimum.then(|| number(m.share_of_optimum, 3)));
        cells.extend(proxy.then(|| m.proxy.as_ref().map_or("-".into(), |proxy| between(proxy, 3))));
        let kl = number(m.kl.map(|kl| kl.mean), 3);
        cells.push(if m.kl_is_bound { format!("{kl} (bound)") } else { kl });
        cells.extend([between(&m.win_rate, 3), number(Some(m.length_controlled_win_rate), 3)]);
        cells
    };
    Section::Table {
        title: "Figures".into(),
        columns: columns.into_iter().map(String::from).collect(),
        rows: result.methods.iter().map(row).collect(),
        note: bound_note(result)
            + "Less the baseline's: taken prompt by prompt; a method is better where the interval lies above 0. At equal length: \
               the win rate that a logistic regression on the difference in length gives where there is none.",
    }
}

/// A method's name with what is to be known of it.
fn marked(method: &MethodResult) -> String {
    let control = if method.control { " (control)" } else { "" };
    let bound = if method.is_upper_bound() { " *" } else { "" };
    format!("{}{control}{bound}", method.name)
}

/// How long answers are, and what they and their practice took.
fn costs(result: &CompareResult) -> Section {
    let columns = [
        "",
        "tokens of an answer",
        "ended",
        "sampled for an answer",
        "sampled in practice",
        "trained on",
    ];
    let row = |method: &MethodResult| {
        let m = &method.measures;
        vec![
            marked(method),
            number(Some(m.mean_length), 1),
            number(Some(m.ended), 2),
            number(Some(m.tokens_per_answer), 1),
            number(m.tokens_sampled, 0),
            number(m.tokens_trained, 0),
        ]
    };
    Section::Table {
        title: "Lengths, and what it took".into(),
        columns: columns.map(String::from).to_vec(),
        rows: result.methods.iter().map(row).collect(),
        note: "In tokens, means over seeds; ended: the share of answers that ended by themselves.".into(),
    }
}

/// What the asterisk of a method says; nothing without one.
fn bound_note(result: &CompareResult) -> String {
    if !result.methods.iter().any(MethodResult::is_upper_bound) {
        return String::new();
    }
    "* The judge itself chose among the samples: an upper bound, not what somebody would get who cannot ask the judge. "
        .to_owned()
}

fn win_rates(result: &CompareResult) -> Section {
    let row = |method: &MethodResult| {
        let rate = &method.measures.win_rate;
        Interval {
            name: method.name.clone(),
            value: rate.mean,
            low: rate.low,
            high: rate.high,
        }
    };
    Section::Intervals {
        title: "Win rates".into(),
        label: format!("win rate against {}", result.baseline),
        reference: Some(0.5),
        rows: result.methods.iter().map(row).collect(),
    }
}

fn update_sections(updates: &Updates) -> Vec<Section> {
    let pairs = pair_means(&updates.names, &updates.cosines);
    let name = |first: &str, second: &str| match first == second {
        true => format!("{first}, between seeds"),
        false => format!("{first} ~ {second}"),
    };
    let told: Vec<usize> = (0..pairs.len()).filter(|&i| pairs[i].mean.is_some()).collect();
    let column = |title: String, cosines: &[Vec<Option<f64>>]| {
        let means = pair_means(&updates.names, cosines);
        let cells = told.iter().map(|&i| number(means[i].mean, 2));
        std::iter::once(title).chain(cells).collect::<Vec<String>>()
    };
    let pairs_told = told.iter().map(|&i| name(&pairs[i].first, &pairs[i].second));
    let mut parts = vec![
        std::iter::once(String::new()).chain(pairs_told).collect(),
        column("all".into(), &updates.cosines),
    ];
    parts.extend(updates.parts.iter().map(|part| {
        let title = match part.block {
            Some(block) => format!("{block} {}", part.kind),
            None => part.kind.clone(),
        };
        column(title, &part.cosines)
    }));
    // What there is more of goes down the page
    let mut layers = if told.len() > parts.len() {
        turned(&parts)
    } else {
        parts
    };
    let columns = layers.remove(0);
    let left: Vec<String> = updates
        .left_out
        .iter()
        .map(|left| format!("{} ({})", left.name, left.reason))
        .collect();
    let left = if left.is_empty() {
        String::new()
    } else {
        format!(" Left out: {}.", left.join("; "))
    };
    let lengths = methods_of(&updates.names).into_iter().map(|method| {
        let of_method = |name: &&String| name.rsplit_once('/').is_some_and(|(m, _)| m == method);
        let own = updates
            .names
            .iter()
            .zip(&updates.norms)
            .filter(|(name, _)| of_method(name));
        let own: Vec<String> = own.map(|(_, norm)| format!("{norm:.3}")).collect();
        vec![method, own.join(", ")]
    });
    vec![
        Section::HeatMap {
            title: "How alike the weights moved".into(),
            names: updates.names.clone(),
            cells: updates.cosines.clone(),
            note: format!(
                "Cosine of the angle between updates (result less start) of all weights, METHOD/SEED. 1: the same direction; \
                 0: nothing in common.{left}"
            ),
        },
        Section::Table {
            title: String::new(),
            columns: vec!["".into(), "length of the update, seed by seed".into()],
            rows: lengths.collect(),
            note: String::new(),
        },
        Section::Table {
            title: "The same, layer by layer".into(),
            columns,
            rows: layers,
            note: "Cosines by block and kind of matrix; means over pairs of seeds.".into(),
        },
    ]
}

/// Columns as rows.
fn turned(columns: &[Vec<String>]) -> Vec<Vec<String>> {
    let rows = columns.first().map_or(0, Vec::len);
    (0..rows)
        .map(|row| columns.iter().map(|column| column[row].clone()).collect())
        .collect()
}

/// What methods with rollouts say of their own practice, with the first seed.
fn practice(bench: &Bench<'_>, rows: &[Row]) -> Result<Option<Section>> {
    let (mut scores, mut divergences) = (Vec::new(), Vec::new());
    for row in rows {
        let Some(path) = row.models.first().map(|model| model.with_file_name("metrics.jsonl")) else {
            continue;
        };
        if !path.starts_with(bench.out.join(METHODS)) || !path.is_file() {
            continue;
        }
        let (mut tokens, mut score, mut kl) = (0.0, Vec::new(), Vec::new());
        for line in read_lines::<Value>(&path)? {
            let Some(sampled) = sampled_in(&line) else { continue };
            tokens += sampled;
            score.extend(line["objective/scores"].as_f64().map(|value| (tokens, value)));
            kl.extend(line["objective/kl"].as_f64().map(|value| (tokens, value)));
        }
        for (all, points) in [(&mut scores, score), (&mut divergences, kl)] {
            if !points.is_empty() {
                all.push(Series {
                    name: row.name.clone(),
                    points,
                    style: SeriesStyle::Smoothed,
                });
            }
        }
    }
    if scores.is_empty() {
        return Ok(None);
    }
    let chart = |title: &str, y_label: &str, series| Chart {
        title: title.into(),
        x_label: "tokens sampled".into(),
        y_label: y_label.into(),
        series,
    };
    Ok(Some(Section::Charts {
        title: "Practice, first seed".into(),
        charts: vec![
            chart("What they practised for", "score", scores),
            chart("KL to the start", "nats", divergences),
        ],
    }))
}

/// What few-shot methods show.
fn examples(rows: &[Row]) -> Vec<Section> {
    let mut sections = Vec::new();
    for row in rows {
        let Some(first) = row.judged.first().filter(|judged| !judged.practice.examples.is_empty()) else {
            continue;
        };
        let samples = first.practice.examples.iter().map(|(prompt, response)| Sample {
            prompt: prompt.clone(),
            response: response.clone(),
            ..Sample::default()
        });
        sections.push(Section::Samples {
            title: format!("Examples that {} shows, the best last", row.name),
            samples: samples.collect(),
        });
    }
    sections
}

/// First answers of all methods with the first seed to the first prompts.
fn side_by_side(bench: &Bench<'_>, rows: &[Row]) -> Result<Vec<Section>> {
    let samples = bench.config.compare.samples;
    let proxy = bench.config.proxy.is_some();
    let mut columns = vec!["", "answer", "judge"];
    columns.extend(proxy.then_some("proxy"));
    columns.push("KL");
    let mut sections = Vec::new();
    for (i, task) in bench.tasks.tasks.iter().enumerate().take(bench.config.compare.shown) {
        let mut shown = vec![vec!["prompt".to_owned(), task.shown.clone()]];
        shown[0].resize(columns.len(), String::new());
        for row in rows {
            let Some(verdict) = row.judged.first().map(|judged| &judged.verdicts[i * samples]) else {
                continue;
            };
            let mut response = verdict.response.clone();
            if let Some(drawn) = bench.tasks.drawn(i, &verdict.response)? {
                response += &format!("\n\n{drawn}");
            }
            let mut cells = vec![row.name.clone(), response, number(Some(verdict.reward), 3)];
            cells.extend(proxy.then(|| number(verdict.proxy, 3)));
            cells.push(number(verdict.kl, 3));
            shown.push(cells);
        }
        let optimum = task.optimum().map(|optimum| format!("At best {optimum:.3}."));
        sections.push(Section::Table {
            title: format!("Answers side by side: prompt {}", i + 1),
            columns: columns.iter().copied().map(String::from).collect(),
            rows: shown,
            note: optimum.unwrap_or_default(),
        });
    }
    Ok(sections)
}

/// What is practised on of what is judged.
fn overlaps(result: &CompareResult) -> Option<Section> {
    let row = |overlap: &super::Overlap| {
        let (judged, all, practised) = (overlap.judged, result.prompts, overlap.practised);
        (
            overlap.by.clone(),
            format!("{judged} of {all} judged, among {practised}"),
        )
    };
    if result.overlaps.is_empty() {
        return Some(Section::Text {
            title: "What is practised on of what is judged".into(),
            text: "Nothing could be looked at: no stage or method names prompts or mazes of its own, or what is judged hides what it asks, \
                   as a word game does."
                .into(),
        });
    }
    Some(Section::KeyValues {
        title: "What is practised on of what is judged".into(),
        rows: result.overlaps.iter().map(row).collect(),
    })
}

fn took(times: &[Took]) -> Section {
    let row = |took: &Took| {
        let planned = took
            .planned
            .map_or(String::new(), |minutes| format!(" of {minutes:.1} planned"));
        (
            format!("{}, seed {}", took.method, took.seed),
            format!("{:.1} min{planned}", took.minutes),
        )
    };
    Section::KeyValues {
        title: "Time of practice".into(),
        rows: times.iter().map(row).collect(),
    }
}
