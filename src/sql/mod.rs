//! stub
pub mod cache;
pub mod class;
pub mod lexer;
pub mod literals;
pub mod proof;
