//! What can be set.

use std::time::Duration;

use memcache::exp::Ttl;

/// Settings of a [`MemcacheBackend`](crate::MemcacheBackend), apart from its URL.
///
/// ```
/// use std::time::Duration;
/// use canvas_backend_memcache::MemcacheBackendConfig;
///
/// let mut config = MemcacheBackendConfig::default();
/// config.global_keyprefix = "shop".to_owned();
/// config.result_expires = Some(Duration::from_secs(3_600));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemcacheBackendConfig {
    /// What all keys begin with: Celery's setting of that name, in
    /// `result_backend_transport_options`. One that does not end
    /// in `:`, `_`, `-` or `.` is followed by a `_`, as in Celery.
    pub global_keyprefix: String,
    /// How long results, groups and kept continuations live: Celery's
    /// `result_expires`. `None` for ever. A day by default. Memcached counts
    /// whole seconds.
    pub result_expires: Option<Duration>,
    /// How long a join lives after the last of its members that has arrived:
    /// Celery's `result_chord_expires`. `None` for ever. A day by default.
    pub join_expires: Option<Duration>,
    /// The longest pause between two looks at what is waited for. A quarter of a
    /// second by default.
    pub poll: Duration,
    /// How many connections there may be to each server. 16 by default.
    pub max_connections: usize,
    /// How long a connection may take. 5 seconds by default.
    pub connect_timeout: Duration,
    /// How long an answer may take, before the connection counts as dead.
    /// 5 seconds by default.
    pub response_timeout: Duration,
    /// How long a call is tried again through lost connections, before it
    /// fails. 15 seconds by default.
    pub retry_for: Duration,
}

impl MemcacheBackendConfig {
    /// The defaults, but all that is stored lives this long; `None` for ever.
    #[must_use]
    pub fn expiring(expires: Option<Duration>) -> Self {
        Self {
            result_expires: expires,
            join_expires: expires,
            ..Self::default()
        }
    }
}

impl Default for MemcacheBackendConfig {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            global_keyprefix: String::new(),
            result_expires: Some(DAY),
            join_expires: Some(DAY),
            poll: Duration::from_millis(250),
            max_connections: 16,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(5),
            retry_for: Duration::from_secs(15),
        }
    }
}

/// How long an item lives. What is longer than 30 days is sent as the time at
/// which it ends, as memcached wants it.
pub(crate) fn ttl(life: Option<Duration>) -> Ttl {
    /// Longer than the time that memcached can write down.
    const FOR_EVER: Duration = Duration::from_secs(50 * 365 * 86_400);
    match life {
        Some(life) if !life.is_zero() && life < FOR_EVER => Ttl::from(life),
        _ => Ttl::NEVER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_counted_in_seconds_that_have_begun() {
        assert_eq!(ttl(Some(Duration::from_millis(1_001))), Ttl::secs(2));
        assert_eq!(ttl(Some(Duration::from_secs(60))), Ttl::secs(60));
    }

    #[test]
    fn no_life_and_more_than_memcached_can_count_are_for_ever() {
        for life in [None, Some(Duration::ZERO), Some(Duration::MAX)] {
            assert_eq!(ttl(life), Ttl::NEVER);
        }
    }
}
