//! All runs of a folder, live: curves, samples, differences, and where to look.
//!
//! Runs are read and never written, and nothing of them is locked: [`store`] finds them and reads what came since the last
//! time ([`record`]), a page's figures are made from that ([`views`]) and shown as HTML or as JSON ([`render`]), and
//! [`server`] speaks HTTP and checks who asks. What deserves a look is decided in [`alerts`].
//!
//! Memory is bounded whatever a run holds: curves are thinned while they are read, and kept only of the runs that were
//! looked at last; samples are read from their file when they are shown.

mod alerts;
mod clock;
mod curves;
mod diff;
mod figures;
mod record;
mod render;
mod samples;
mod server;
mod store;
mod views;
mod words;

pub use alerts::{Bounds, RULES};
pub use server::{DASHBOARD_ROUTES, Dashboard, DashboardOptions};
