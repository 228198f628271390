//! Metrics and judging.
