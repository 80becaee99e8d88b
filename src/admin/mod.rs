//! (being built)
pub mod setup;
