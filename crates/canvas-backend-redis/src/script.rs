//! What runs on the server, in one step that nothing comes between.

use std::sync::LazyLock;
use std::time::Duration;

use redis::Script;

pub(crate) static STORE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("store.lua")));
pub(crate) static OPEN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("open.lua")));
pub(crate) static GROW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("grow.lua")));
pub(crate) static ARRIVE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("arrive.lua")));
pub(crate) static CLOSE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("close.lua")));

/// A time as the scripts take it: in milliseconds, at least one.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// How long something lives, as the scripts take it: 0 for ever.
pub(crate) fn life(expires: Option<Duration>) -> u64 {
    // No time at all is Celery's word for ever.
    expires
        .filter(|expires| !expires.is_zero())
        .map_or(0, millis)
}
