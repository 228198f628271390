//! `report.html`: one self-contained page with curves, tables and samples.
//!
//! Charts are drawn here as SVG, styles are inline, and a small script only adds read-outs under the pointer: the page
//! reads the same without it, from a mail or an archive, in light and dark. It is a function of its contents alone.

mod chart;
mod downsample;
mod from_run;
mod grouped;
mod heat_map;
mod html;
mod intervals;
mod scatter;

use std::path::Path;

pub use downsample::Downsampler;
pub use grouped::{ChartGroup, grouped, heading, prefix};

use crate::durable;
use crate::error::Result;
use crate::jsonl::Sample;

/// A page.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// Heading and window title.
    pub title: String,
    /// What follows, in order.
    pub sections: Vec<Section>,
}

/// A part of a page. Texts are plain: they are escaped, never interpreted.
#[derive(Debug, Clone, PartialEq)]
pub enum Section {
    /// Paragraphs, separated by empty lines.
    Text {
        /// Heading; may be empty.
        title: String,
        /// The paragraphs.
        text: String,
    },
    /// Text as it is (a configuration file, say), folded away until opened.
    Code {
        /// Heading.
        title: String,
        /// The text.
        text: String,
    },
    /// Names and values, side by side.
    KeyValues {
        /// Heading.
        title: String,
        /// Names and values.
        rows: Vec<(String, String)>,
    },
    /// A table. Columns of numbers are aligned to the right, long cells broken into lines, and such with lines of their own left as they are.
    Table {
        /// Heading.
        title: String,
        /// Column heads.
        columns: Vec<String>,
        /// Rows, each as long as `columns`.
        rows: Vec<Vec<String>>,
        /// A sentence under the table; may be empty.
        note: String,
    },
    /// Charts, two beside each other where there is room.
    Charts {
        /// Heading.
        title: String,
        /// The charts.
        charts: Vec<Chart>,
    },
    /// Values with their intervals, one a line: win rates, say.
    Intervals {
        /// Heading.
        title: String,
        /// What the values are.
        label: String,
        /// A value to compare with, drawn as a dashed line.
        reference: Option<f64>,
        /// The rows.
        rows: Vec<Interval>,
    },
    /// Pictures of named points, one under another.
    Scatters {
        /// Heading.
        title: String,
        /// The pictures.
        charts: Vec<Scatter>,
        /// A sentence under them; may be empty.
        note: String,
    },
    /// A square of numbers between -1 and 1, each cell coloured by its own.
    HeatMap {
        /// Heading.
        title: String,
        /// Names of rows and columns, in order.
        names: Vec<String>,
        /// Row by row, as many cells as names; none where there is no number.
        cells: Vec<Vec<Option<f64>>>,
        /// A sentence under it; may be empty.
        note: String,
    },
    /// Prompts and responses, folded away until opened.
    Samples {
        /// Heading.
        title: String,
        /// The samples.
        samples: Vec<Sample>,
    },
}

/// A chart of one or several series on the same axes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chart {
    /// Caption.
    pub title: String,
    /// What x is: `step`, `KL`.
    pub x_label: String,
    /// What y is; may be empty when the title says it.
    pub y_label: String,
    /// What is drawn.
    pub series: Vec<Series>,
}

impl Chart {
    /// The chart as a `<figure>`, drawn as SVG and escaped; it looks as it should under [`style`].
    #[must_use]
    pub fn to_html(&self) -> String {
        chart::figure(self)
    }
}

/// The style sheet of pages with charts, light and dark.
#[must_use]
pub fn style() -> String {
    html::style()
}

/// A script that reads charts out under the pointer. Pages read the same without it.
pub const HOVER_SCRIPT: &str = html::SCRIPT;

/// Text as it is safe between tags and inside quoted attributes. Characters that turn the text around them about, or that
/// nothing shows, are written out.
#[must_use]
pub fn escape(text: &str) -> String {
    html::escape(text)
}

/// A number in four significant digits, as it stands on a page.
#[must_use]
pub fn short(value: f64) -> String {
    chart::short(value)
}

/// A series of a chart.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// `(x, y)`, in the order they are joined; a `y` that is not finite leaves a gap.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub style: SeriesStyle,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SeriesStyle {
    /// A line through the points.
    #[default]
    Line,
    /// A faint line through the points and a moving average over a twenty-fifth of them; a plain line when they are few.
    Smoothed,
    /// A dot for each point, labelled with the series' name.
    Points,
    /// Dots joined by a line.
    LineAndPoints,
}

/// A value and where it may lie.
#[derive(Debug, Clone, PartialEq)]
pub struct Interval {
    /// Its name.
    pub name: String,
    /// The value.
    pub value: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// A picture of named points with what they are made of.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scatter {
    /// Caption.
    pub title: String,
    /// What x is.
    pub x_label: String,
    /// Whether x is drawn by its square root, which leaves room for small values beside large ones; ticks say x itself.
    pub x_by_root: bool,
    /// What y is.
    pub y_label: String,
    /// The points.
    pub marks: Vec<Mark>,
}

/// A named point of a [`Scatter`]. One whose place is not finite is left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Mark {
    /// Its name, written beside it.
    pub name: String,
    /// Its place.
    pub at: (f64, f64),
    /// Where x may lie.
    pub x_interval: Option<(f64, f64)>,
    /// Where y may lie.
    pub y_interval: Option<(f64, f64)>,
    /// What it is the mean of, such as one point a seed: small dots.
    pub parts: Vec<(f64, f64)>,
    /// Drawn as a ring: its place is a bound or a control, say.
    pub hollow: bool,
    /// Which colour, counted from 0 and round: one name has one in all pictures.
    pub colour: usize,
}

impl Report {
    /// The page.
    #[must_use]
    pub fn to_html(&self) -> String {
        html::page(self)
    }

    /// Writes the page, complete or not at all.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        durable::write_atomic(path, self.to_html().as_bytes())
    }

    /// The page of a run's folder: its result, all metrics' curves grouped by prefix, samples, configuration. Memory
    /// does not grow with the length of the run.
    ///
    /// # Errors
    /// When the folder's files cannot be read. Lines that are not valid are counted on the page.
    pub fn from_run(dir: &Path) -> Result<Self> {
        from_run::read(dir)
    }
}
