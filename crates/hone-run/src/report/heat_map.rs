//! A square of numbers between -1 and 1 as SVG, coloured by sign and size.

use std::fmt::Write as _;

use super::html::escape;

const CELL: f64 = 52.0;
const LINE: f64 = 26.0;
const LETTER: f64 = 6.6;
const LONGEST_NAME: usize = 40;

/// The square as a `<figure>`.
pub(super) fn figure(title: &str, names: &[String], cells: &[Vec<Option<f64>>]) -> String {
    if names.is_empty() {
        return "<p class=\"empty\">no data</p>\n".to_owned();
    }
    let letters = names.iter().map(|name| name.chars().count().min(LONGEST_NAME)).max();
    let left = LETTER * letters.unwrap_or(0) as f64 + 16.0;
    // Names over the columns are turned by 45 degrees: they need their height, and at the right end their width
    let slant = (left - 16.0) * std::f64::consts::FRAC_1_SQRT_2 + 14.0;
    let (width, height) = (
        left + CELL * names.len() as f64 + slant,
        slant + LINE * names.len() as f64 + 6.0,
    );
    let mut out = format!(
        "<figure class=\"chart wide\"><svg viewBox=\"0 0 {width:.1} {height:.1}\" style=\"max-width: {width:.0}px\" \
         role=\"img\" aria-label=\"{}\">",
        escape(title)
    );
    for (i, name) in names.iter().enumerate() {
        let name: String = name.chars().take(LONGEST_NAME).collect();
        let name = escape(&name);
        let (column, line) = (left + CELL * (i as f64 + 0.5), slant + LINE * (i as f64 + 0.5));
        let _ = write!(
            out,
            "<text class=\"tick\" transform=\"translate({column:.1} {:.1}) rotate(-45)\">{name}</text>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
            slant - 6.0,
            left - 8.0,
            line + 4.0
        );
    }
    for (i, row) in cells.iter().enumerate().take(names.len()) {
        for (j, cell) in row.iter().enumerate().take(names.len()) {
            let Some(value) = cell.filter(|value| value.is_finite()) else {
                continue;
            };
            let (x, y) = (left + CELL * j as f64, slant + LINE * i as f64);
            let colour = if value < 0.0 { 1 } else { 0 };
            let _ = write!(
                out,
                "<rect class=\"cell f{colour}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{CELL}\" height=\"{LINE}\" \
                 fill-opacity=\"{:.2}\"/>\
                 <text class=\"cell-text\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                0.75 * value.abs().min(1.0),
                x + CELL / 2.0,
                y + LINE / 2.0 + 4.0,
                number(value)
            );
        }
    }
    out.push_str("</svg></figure>\n");
    out
}

/// Two places, without a minus before zero.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    if text == "-0.00" { "0.00".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_their_colour_and_number() {
        let names = ["a<b".to_owned(), "c".to_owned()];
        let cells = vec![vec![Some(1.0), Some(-0.5)], vec![Some(-0.001), None]];
        let svg = figure("cosine", &names, &cells);
        for part in [
            "class=\"cell f0\"",
            "fill-opacity=\"0.75\"",
            ">1.00<",
            "class=\"cell f1\"",
            "fill-opacity=\"0.38\"",
            ">-0.50<",
            ">0.00<",
            "a&lt;b",
        ] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        assert_eq!(svg.matches("<rect").count(), 3);
        assert!(figure("t", &[], &[]).contains("no data"));
    }
}
