//! Naive f64 oracles and tiny models for tests.
