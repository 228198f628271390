//! Checks of the repository itself: rules that need a tool to hold.

mod documents;
mod files;
mod layers;
mod source;
