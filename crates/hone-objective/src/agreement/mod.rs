//! How far people who judge the same things agree, beyond what chance alone would give.
//!
//! | statistic | judges | judgements | missing ones |
//! |---|---|---|---|
//! | [`cohen_kappa`], [`weighted_kappa`] | two | categories, in order for weights | no |
//! | [`fleiss_kappa`] | any, the same number an item | categories | no |
//! | [`krippendorff_alpha`] | any | nominal, ordinal or interval | yes |
//! | [`kendall_tau_b`] | two | ranks, with ties | no |
//!
//! Each is 1 where all agree and about 0 where they agree no more than by chance; [`kendall_tau_b`] needs no correction and is -1 for
//! opposite orders. Where it is undefined, such as when nobody ever varied, the answer is `None`, not NaN.
//!
//! What varies from sample to sample is the item that was judged, so intervals draw items: [`crate::statistics::bootstrap_statistic`].

mod fleiss;
mod kappa;
mod kendall;
mod krippendorff;

pub use fleiss::fleiss_kappa;
pub use kappa::{Weights, cohen_kappa, weighted_kappa};
pub use kendall::kendall_tau_b;
pub use krippendorff::{Level, krippendorff_alpha};

use crate::Error;

/// Refuses a category that does not exist.
fn check_category(op: &'static str, category: usize, categories: usize) -> Result<(), Error> {
    crate::check_setting(
        op,
        "category",
        category as f64,
        category < categories,
        "less than the number of categories (they count from 0)",
    )
}
