//! Named points with intervals, as SVG: methods beside each other in one picture.

use std::fmt::Write as _;

use super::chart::{Axis, BOTTOM, COLOURS, axes, padded, root, short};
use super::html::escape;
use super::{Mark, Scatter};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 430.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 16.0;
/// About the width of a letter of a name, and the height of a name.
const LETTER: f64 = 6.4;
const LINE: f64 = 14.0;

/// The picture as a `<figure>`.
pub(super) fn figure(scatter: &Scatter) -> String {
    let mut out = format!(
        "<figure class=\"chart wide\"><figcaption><strong>{}</strong></figcaption>",
        escape(&scatter.title)
    );
    let marks: Vec<&Mark> = scatter.marks.iter().filter(|mark| is_finite(mark.at)).collect();
    if marks.is_empty() {
        out.push_str("<p class=\"empty\">no data</p></figure>\n");
        return out;
    }
    let (x, y) = (
        axis_of(&marks, Side::X, scatter.x_by_root),
        axis_of(&marks, Side::Y, false),
    );
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(&scatter.title)
    );
    axes(&mut out, (&scatter.x_label, &scatter.y_label), &x, &y);
    for mark in &marks {
        draw_spread(&mut out, mark, (&x, &y));
    }
    // Dots lie over all intervals, names over all dots
    for mark in &marks {
        draw_dot(&mut out, mark, (&x, &y));
    }
    for (mark, place) in marks.iter().zip(places(&marks, (&x, &y))) {
        let _ = write!(
            out,
            "<text class=\"dot\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{}\">{}</text>",
            place.x,
            place.y,
            place.anchor,
            escape(&mark.name)
        );
    }
    out.push_str("</svg></figure>\n");
    out
}

fn is_finite((x, y): (f64, f64)) -> bool {
    x.is_finite() && y.is_finite()
}

#[derive(Clone, Copy)]
enum Side {
    X,
    Y,
}

impl Side {
    fn of(self, (x, y): (f64, f64)) -> f64 {
        match self {
            Self::X => x,
            Self::Y => y,
        }
    }
}

/// The axis that has room for everything of all marks.
fn axis_of(marks: &[&Mark], side: Side, by_root: bool) -> Axis {
    let values = marks.iter().flat_map(|mark| {
        let interval = match side {
            Side::X => mark.x_interval,
            Side::Y => mark.y_interval,
        };
        let ends = interval.into_iter().flat_map(|(low, high)| [low, high]);
        let parts = mark.parts.iter().copied().filter(|part| is_finite(*part));
        std::iter::once(side.of(mark.at))
            .chain(ends)
            .chain(parts.map(move |part| side.of(part)))
    });
    let values = values.filter(|value| value.is_finite());
    let (low, high) = padded(values.map(|value| if by_root { root(value) } else { value }), 0.07);
    let (from, to) = match side {
        Side::X => (LEFT, WIDTH - RIGHT),
        Side::Y => (HEIGHT - BOTTOM, TOP),
    };
    Axis {
        low,
        high,
        from,
        to,
        by_root,
    }
}

fn draw_spread(out: &mut String, mark: &Mark, (x, y): (&Axis, &Axis)) {
    let colour = mark.colour % COLOURS;
    let (cx, cy) = (x.pixel(mark.at.0), y.pixel(mark.at.1));
    if let Some((low, high)) = mark.x_interval.filter(|ends| is_finite(*ends)) {
        let _ = write!(
            out,
            "<path class=\"whisker c{colour}\" d=\"M{:.1} {cy:.1}L{:.1} {cy:.1}\"/>",
            x.pixel(low),
            x.pixel(high)
        );
    }
    if let Some((low, high)) = mark.y_interval.filter(|ends| is_finite(*ends)) {
        let _ = write!(
            out,
            "<path class=\"whisker c{colour}\" d=\"M{cx:.1} {:.1}L{cx:.1} {:.1}\"/>",
            y.pixel(low),
            y.pixel(high)
        );
    }
    for part in mark.parts.iter().filter(|part| is_finite(**part)) {
        let _ = write!(
            out,
            "<circle class=\"part f{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\"/>",
            x.pixel(part.0),
            y.pixel(part.1)
        );
    }
}

fn draw_dot(out: &mut String, mark: &Mark, (x, y): (&Axis, &Axis)) {
    let colour = mark.colour % COLOURS;
    let class = if mark.hollow {
        format!("ring c{colour}")
    } else {
        format!("f{colour}")
    };
    let interval = |ends: Option<(f64, f64)>| {
        ends.filter(|ends| is_finite(*ends))
            .map_or(String::new(), |(low, high)| {
                format!(" [{}, {}]", short(low), short(high))
            })
    };
    let _ = write!(
        out,
        "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\"><title>{}: {}{}, {}{}</title></circle>",
        x.pixel(mark.at.0),
        y.pixel(mark.at.1),
        escape(&mark.name),
        short(mark.at.0),
        interval(mark.x_interval),
        short(mark.at.1),
        interval(mark.y_interval)
    );
}

/// Where a name is written.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    x: f64,
    y: f64,
    anchor: &'static str,
}

/// A rectangle by its edges: left, top, right, bottom.
type Box4 = [f64; 4];

fn meet(a: &Box4, b: &Box4) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

/// A place for each name beside its dot, where it covers no dot, no earlier name and no edge; to the right where there is none.
fn places(marks: &[&Mark], (x, y): (&Axis, &Axis)) -> Vec<Place> {
    let dots: Vec<(f64, f64)> = marks
        .iter()
        .map(|mark| (x.pixel(mark.at.0), y.pixel(mark.at.1)))
        .collect();
    let mut taken: Vec<Box4> = dots
        .iter()
        .map(|(cx, cy)| [cx - 6.0, cy - 6.0, cx + 6.0, cy + 6.0])
        .collect();
    let mut places = Vec::with_capacity(marks.len());
    for (mark, (cx, cy)) in marks.iter().zip(dots) {
        let width = LETTER * mark.name.chars().count() as f64;
        let mut candidates = Vec::new();
        for away in [0.0, 1.0, -1.0, 2.0, -2.0] {
            let base = cy + 4.0 + away * LINE;
            candidates.push((cx + 9.0, base, "start"));
            candidates.push((cx - 9.0, base, "end"));
        }
        let boxed = |(at, base, anchor): (f64, f64, &str)| -> Box4 {
            let left = if anchor == "start" { at } else { at - width };
            [left, base - 11.0, left + width, base + 3.0]
        };
        let free = |candidate: &(f64, f64, &'static str)| {
            let own = boxed(*candidate);
            let inside = own[0] >= x.from && own[2] <= WIDTH && own[1] >= 0.0 && own[3] <= y.from;
            inside && !taken.iter().any(|other| meet(&own, other))
        };
        let chosen = candidates.iter().copied().find(free).unwrap_or(candidates[0]);
        taken.push(boxed(chosen));
        places.push(Place {
            x: chosen.0,
            y: chosen.1,
            anchor: chosen.2,
        });
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(name: &str, at: (f64, f64)) -> Mark {
        Mark {
            name: name.into(),
            at,
            ..Mark::default()
        }
    }

    #[test]
    fn dots_intervals_and_parts_land_where_the_axes_say() {
        let scatter = Scatter {
            title: "t".into(),
            marks: vec![
                Mark {
                    y_interval: Some((0.0, 1.0)),
                    x_interval: Some((0.0, 10.0)),
                    parts: vec![(0.0, 1.0), (f64::NAN, 1.0)],
                    ..mark("a <b>", (5.0, 0.5))
                },
                Mark {
                    hollow: true,
                    colour: COLOURS + 1,
                    ..mark("ring", (10.0, 1.0))
                },
                mark("absent", (f64::NAN, 1.0)),
            ],
            ..Scatter::default()
        };
        let svg = figure(&scatter);
        // x: 0..10 padded by 7% over 62..836, so 5 is at the middle, 449; 0 at 62 + 774 * 0.7 / 11.4 = 109.5, 10 at 788.5.
        // y: 0..1 padded by 7% over 388..16, so 0.5 is at 202; 0 at 388 - 372 * 0.07 / 1.14 = 365.2, 1 at 38.8.
        for part in [
            "<circle class=\"f0\" cx=\"449.0\" cy=\"202.0\" r=\"5\"><title>a &lt;b&gt;: 5 [0, 10], 0.5 [0, 1]</title>",
            "d=\"M109.5 202.0L788.5 202.0\"",
            "d=\"M449.0 365.2L449.0 38.8\"",
            "<circle class=\"part f0\" cx=\"109.5\" cy=\"38.8\" r=\"2.6\"/>",
            "<circle class=\"ring c1\" cx=\"788.5\" cy=\"38.8\"",
        ] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("absent"), "{svg}");
        assert_eq!(svg.matches("class=\"part").count(), 1);
    }

    #[test]
    fn names_keep_off_each_other() {
        let marks: Vec<Mark> = (0..6)
            .map(|i| mark(&format!("method {i}"), (1.0 + 0.001 * f64::from(i), 0.5)))
            .chain([mark("far", (0.0, 0.0)), mark("away", (2.0, 1.0))])
            .collect();
        let marks: Vec<&Mark> = marks.iter().collect();
        let (x, y) = (axis_of(&marks, Side::X, false), axis_of(&marks, Side::Y, false));
        let places = places(&marks, (&x, &y));
        let boxes: Vec<Box4> = places
            .iter()
            .zip(&marks)
            .map(|(place, mark)| {
                let width = LETTER * mark.name.len() as f64;
                let left = if place.anchor == "start" {
                    place.x
                } else {
                    place.x - width
                };
                [left, place.y - 11.0, left + width, place.y + 3.0]
            })
            .collect();
        for i in 0..boxes.len() {
            assert!(
                !boxes[..i].iter().any(|other| meet(&boxes[i], other)),
                "{i}: {places:?}"
            );
        }
    }

    #[test]
    fn nothing_to_draw_is_said() {
        assert!(figure(&Scatter::default()).contains("no data"));
        let one = Scatter {
            marks: vec![mark("a", (1e300, -1e-300))],
            ..Scatter::default()
        };
        let svg = figure(&one);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
