//! The commands that a person types, other than running the proxy and the sandbox.
//!
//! | part | command |
//! |---|---|
//! | [`check`] | `pglockstep check`: is a configuration in order, and what does it come to? |
//! | [`setup`] | `pglockstep setup`: prepares the nodes, once |

pub mod check;
pub mod setup;
