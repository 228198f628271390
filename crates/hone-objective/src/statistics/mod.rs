//! Statistics of what was measured: moments that add up, intervals, calibration, correlation, win rates.
//!
//! Sources and differences stand at the top of each file.

mod bootstrap;
mod calibration;
mod correlation;
mod interval;
mod moments;
mod win_rate;

pub use bootstrap::{Bootstrap, Paired, Resampled, bootstrap_interval, bootstrap_statistic, paired_bootstrap};
pub use calibration::{Bin, Calibration, Prediction, calibration};
pub use correlation::pearson;
pub use interval::{Interval, normal_quantile, wilson_interval};
pub use moments::Moments;
pub use win_rate::{Outcome, WinRate, win_rate};
