//! Whether a server can be reached: each change is logged once.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The health of a server, for all connections to it.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// What calls look at that go well, which is nearly all of them.
    is_down: AtomicBool,
    changes: Mutex<Changes>,
}

#[derive(Debug, Default)]
struct Changes {
    lost_at: Option<Instant>,
    back_at: Option<Instant>,
}

impl Health {
    /// A connection that was made at `made` broke, or, if there was none,
    /// could not be made.
    pub(crate) fn lost(
        &self,
        url: &str,
        connection: &str,
        made: Option<Instant>,
        error: &dyn fmt::Display,
    ) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is older than the server's return tells nothing new.
        let is_old = made
            .zip(changes.back_at)
            .is_some_and(|(made, back)| made < back);
        if changes.lost_at.is_some() || is_old {
            return;
        }
        changes.lost_at = Some(Instant::now());
        self.is_down.store(true, Ordering::Release);
        tracing::warn!(server = url, connection, %error, "connection to Redis lost");
    }

    /// The server has answered on a connection that was made at `made`.
    pub(crate) fn answered(&self, url: &str, made: Instant) {
        if !self.is_down.load(Ordering::Acquire) {
            return;
        }
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        // An answer that was on its way when the server went tells nothing.
        if let Some(lost) = changes.lost_at.take_if(|lost| *lost <= made) {
            changes.back_at = Some(Instant::now());
            self.is_down.store(false, Ordering::Release);
            let after = lost.elapsed();
            tracing::info!(server = url, ?after, "connected to Redis again");
        }
    }
}
