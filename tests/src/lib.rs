//! Tests across the crates of canvas, and what they share.

pub mod faults;
pub mod faults_run;
pub mod interop;
pub mod random;
pub mod redis_server;
pub mod support;
pub mod undeferring;

/// The book: its code blocks are run as tests of this crate.
#[cfg(doctest)]
mod book;
