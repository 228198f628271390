//! The page around the charts.

use std::fmt::Write as _;

use super::{Report, Section, chart, heat_map, intervals, scatter};
use crate::jsonl::Sample;

const STYLE: &str = include_str!("style.css");
pub(super) const SCRIPT: &str = include_str!("hover.js");
/// Longer texts are cut on the page; the file they came from has them whole.
const MAX_TEXT: usize = 8_000;

/// Characters of a cell from which on it is broken into lines.
const LONG_CELL: usize = 48;

/// Text as it is safe between tags and inside quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(character),
            // Neither HTML nor a reader has a use for other control characters, and some turn text around.
            control if control.is_control() || is_bidirectional(control) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(control));
            }
            plain => out.push(plain),
        }
    }
    out
}

/// Characters that reorder the text around them.
fn is_bidirectional(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

pub(super) fn page(report: &Report) -> String {
    let title = escape(&report.title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'\">\n<title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n\
         <main>\n<h1>{title}</h1>\n",
        style()
    );
    for section in &report.sections {
        write_section(&mut out, section);
    }
    let _ = write!(out, "</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
    out
}

/// The style sheet: of everything, and of each colour.
pub(super) fn style() -> String {
    let mut out = String::from(STYLE);
    for index in 0..chart::COLOURS {
        let _ = writeln!(
            out,
            ".c{index} {{ stroke: var(--s{index}) }} .f{index} {{ fill: var(--s{index}) }} .k{index} {{ background: var(--s{index}) }}"
        );
    }
    out
}

fn write_section(out: &mut String, section: &Section) {
    out.push_str("<section>\n");
    match section {
        Section::Text { title, text } => {
            heading(out, title);
            for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
                let _ = writeln!(out, "<p>{}</p>", escape(paragraph.trim()));
            }
        }
        Section::Code { title, text } => {
            let _ = writeln!(
                out,
                "<details class=\"code\"><summary><h2>{}</h2></summary><pre>{}</pre></details>",
                escape(title),
                escape(text)
            );
        }
        Section::KeyValues { title, rows } => {
            heading(out, title);
            out.push_str("<dl>\n");
            for (name, value) in rows {
                let _ = writeln!(out, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value));
            }
            out.push_str("</dl>\n");
        }
        Section::Table {
            title,
            columns,
            rows,
            note,
        } => {
            heading(out, title);
            write_table(out, columns, rows);
            write_note(out, note);
        }
        Section::Charts { title, charts } => {
            heading(out, title);
            out.push_str("<div class=\"charts\">\n");
            for chart in charts {
                out.push_str(&chart::figure(chart));
            }
            out.push_str("</div>\n");
        }
        Section::Intervals {
            title,
            label,
            reference,
            rows,
        } => {
            heading(out, title);
            out.push_str(&intervals::figure(label, *reference, rows));
        }
        Section::Scatters { title, charts, note } => {
            heading(out, title);
            for chart in charts {
                out.push_str(&scatter::figure(chart));
            }
            write_note(out, note);
        }
        Section::HeatMap {
            title,
            names,
            cells,
            note,
        } => {
            heading(out, title);
            out.push_str(&heat_map::figure(title, names, cells));
            write_note(out, note);
        }
        Section::Samples { title, samples } => {
            heading(out, title);
            for sample in samples {
                write_sample(out, sample);
            }
        }
    }
    out.push_str("</section>\n");
}

fn heading(out: &mut String, title: &str) {
    if !title.is_empty() {
        let _ = writeln!(out, "<h2>{}</h2>", escape(title));
    }
}

fn write_note(out: &mut String, note: &str) {
    if !note.is_empty() {
        let _ = writeln!(out, "<p class=\"note\">{}</p>", escape(note));
    }
}

fn write_table(out: &mut String, columns: &[String], rows: &[Vec<String>]) {
    out.push_str("<div class=\"scroll\"><table>\n<thead><tr>");
    // A column of numbers has its head over them.
    let is_numeric = |index: usize| {
        let mut cells = rows
            .iter()
            .filter_map(|row| row.get(index))
            .filter(|cell| !cell.is_empty())
            .peekable();
        cells.peek().is_some() && cells.all(|cell| is_number(cell))
    };
    let numeric: Vec<bool> = (0..columns.len()).map(is_numeric).collect();
    for (index, column) in columns.iter().enumerate() {
        let class = if numeric[index] { " class=\"number\"" } else { "" };
        let _ = write!(out, "<th{class}>{}</th>", escape(column));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for (index, cell) in row.iter().enumerate() {
            let class = match numeric.get(index) {
                Some(false) | None if cell.contains('\n') => " class=\"lines\"",
                Some(false) | None if cell.chars().count() > LONG_CELL => " class=\"text\"",
                Some(true) => " class=\"number\"",
                _ => "",
            };
            let _ = write!(out, "<td{class}>{}</td>", cut(cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table></div>\n");
}

fn is_number(cell: &str) -> bool {
    let first = cell.trim_start_matches(['-', '+', '\u{2212}', '~']).chars().next();
    cell == "\u{2013}" || cell == "-" || first.is_some_and(|first| first.is_ascii_digit() || first == '.')
}

fn write_sample(out: &mut String, sample: &Sample) {
    let mut facts = format!("<span>step {}</span>", sample.step);
    for (name, value) in [("score", sample.score), ("KL", sample.kl)] {
        if let Some(value) = value {
            let _ = write!(facts, "<span>{name} <b>{}</b></span>", chart::short(value));
        }
    }
    let opening: String = sample
        .response
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(90)
        .collect();
    let _ = write!(
        out,
        "<details class=\"sample\"><summary><span class=\"opening\">{}</span><span class=\"facts\">{facts}</span></summary>\
         <h3>Prompt</h3><pre>{}</pre><h3>Response</h3><pre>{}</pre>",
        escape(&opening),
        cut(&sample.prompt),
        cut(&sample.response)
    );
    if !sample.extra.is_empty() {
        out.push_str("<dl>");
        for (name, value) in &sample.extra {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = write!(out, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), cut(&text));
        }
        out.push_str("</dl>");
    }
    out.push_str("</details>\n");
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{} [... {} more bytes]", escape(&text[..end]), text.len() - end),
        None => escape(text),
    }
}
