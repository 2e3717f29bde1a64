//! How long to wait before trying again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double from one failure to the next, each of them cut short by
/// chance: so that all the clients of a server do not come back at once.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Backoff {
    /// Begins with the shortest.
    #[expect(clippy::new_without_default, reason = "there is nothing to default to")]
    pub fn new() -> Self {
        Self(FIRST)
    }

    /// Begins anew: it has worked.
    pub fn reset(&mut self) {
        self.0 = FIRST;
    }

    /// How long to wait this time.
    pub fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (self.0 * 2).min(LONGEST);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit() {
        let mut backoff = Backoff::new();
        let waits: Vec<Duration> = (0..20).map(|_| backoff.pause()).collect();
        assert!(waits[0] <= FIRST && waits[0] >= FIRST / 2);
        assert!(waits[19] <= LONGEST && waits[19] >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }
}
