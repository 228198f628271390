//! The training stages.
