//! The judge's table, for people.

use super::{Bought, JudgeConfig, Row};

/// The table as Markdown, with what each label cost and what is assumed.
pub(super) fn text(c: &JudgeConfig, prompts: usize, rows: &[Row], bought: &[Vec<Bought>]) -> String {
    let mut page = format!(
        "# What the labels cost and brought\n\n\
         Win rates against `{}` on {prompts} prompts, with 95% intervals over prompts.\n\n\
         | model | win rate | interval | less the row before | interval | judgements | pairs told apart | demonstrations \
         | hours of labeling |\n|---|---|---|---|---|---|---|---|---|\n",
        c.against
    );
    for row in rows {
        let cells = [
            row.name.clone(),
            percent(row.win_rate),
            format!("{} to {}", percent(row.low), percent(row.high)),
            row.difference.map_or(String::new(), points),
            match (row.difference_low, row.difference_high) {
                (Some(low), Some(high)) => format!("{} to {}", points(low), points(high)),
                _ => String::new(),
            },
            row.judgements.to_string(),
            row.comparisons.to_string(),
            row.demonstrations.to_string(),
            row.seconds
                .map_or("not measured".into(), |seconds| format!("{:.1}", seconds / 3600.0)),
        ];
        page += &format!("| {} |\n", cells.join(" | "));
    }
    page += &side_by_side(c, rows);
    page += "\n## Labels\n";
    let mut told: Vec<&Bought> = Vec::new();
    for one in bought.iter().flatten() {
        if !told.contains(&one) {
            page += &format!("- {}: {}\n", one.stage, one.labels.sentence());
            told.push(one);
        }
    }
    if told.iter().any(|one| one.labels.assumed) {
        page += "\nTimes of simulated annotators are assumed, not measured: nobody spent them. What an hour of labeling brings follows \
                 from the assumed seconds a ranking and a demonstration, and is no better than these.\n";
    }
    page
}

/// For every model with labels: what one of them took, and what they brought.
fn side_by_side(c: &JudgeConfig, rows: &[Row]) -> String {
    let mut lines = String::new();
    for row in rows {
        let (number, label) = match (row.comparisons, row.demonstrations) {
            (0, 0) => continue,
            (0, written) => (written, "demonstrations"),
            (pairs, 0) => (pairs, "comparisons"),
            (pairs, written) => (pairs + written, "comparisons and demonstrations"),
        };
        let cells = [
            row.name.clone(),
            label.to_string(),
            number.to_string(),
            row.seconds.map_or("not measured".into(), |seconds| {
                format!("{:.1}", seconds / number as f64)
            }),
            row.seconds
                .map_or(String::new(), |seconds| format!("{:.1}", seconds / 3600.0)),
            points(row.gain),
            points(row.gain / number as f64 * 100.0),
            row.gain_an_hour.map_or(String::new(), points),
        ];
        lines += &format!("| {} |\n", cells.join(" | "));
    }
    match lines.is_empty() {
        true => String::new(),
        false => format!(
            "\n## What a label costs and brings\n\
             | model | labels | number | seconds each | hours in all | points over `{}` | points for a hundred labels \
             | points an hour |\n|---|---|---|---|---|---|---|---|\n{lines}",
            c.against
        ),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// A difference of shares, in percentage points.
fn points(difference: f64) -> String {
    format!("{:+.1}", difference * 100.0)
}
