//! Configuration, run directory, manifest, metrics and report.
