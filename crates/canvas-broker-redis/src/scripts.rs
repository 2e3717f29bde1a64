//! The scripts, each of which is one step that nobody sees half done.

use std::sync::LazyLock;

use redis::Script;

/// Takes messages and records that they are out.
pub(crate) static FETCH: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("fetch.lua")));

/// Ends deliveries for good.
pub(crate) static ACK: LazyLock<Script> = LazyLock::new(|| Script::new(ACK_SOURCE));

/// The text of [`ACK`].
pub(crate) const ACK_SOURCE: &str = include_str!("ack.lua");

/// Starts leases anew.
pub(crate) static RENEW: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("renew.lua")));

/// Finds deliveries whose lease has ended.
pub(crate) static DUE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("due.lua")));

/// Ends deliveries and puts their messages somewhere else.
pub(crate) static MOVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("move.lua")));
