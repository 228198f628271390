//! Rewards, verifiers and environments.
