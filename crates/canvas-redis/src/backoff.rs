//! Pauses between attempts.

use std::time::Duration;

/// Waits about twice as long each time, up to a limit, and never twice the
/// same: not all clients of a server are to come at the same moment.
#[derive(Debug)]
pub struct Backoff {
    wait: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(20);
    const LONGEST: Duration = Duration::from_secs(1);

    /// The first pause is of about 20 ms.
    pub fn new() -> Self {
        Self { wait: Self::FIRST }
    }

    /// How long to wait this time.
    #[must_use]
    pub fn pause(&mut self) -> Duration {
        let wait = self.wait.mul_f64(0.75 + fastrand::f64() / 2.0);
        self.wait = (self.wait * 2).min(Self::LONGEST);
        wait
    }

    /// Begins anew: the last attempt went well.
    pub fn reset(&mut self) {
        self.wait = Self::FIRST;
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}
