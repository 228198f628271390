//! Objectives as pure functions on slices.
