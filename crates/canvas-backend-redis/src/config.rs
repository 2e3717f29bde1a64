//! What can be set.

use std::time::Duration;

use canvas_redis::{SentinelOptions, ServerOptions};

/// Settings of a [`RedisBackend`](crate::RedisBackend), apart from its URL.
///
/// ```
/// use std::time::Duration;
/// use canvas_backend_redis::RedisBackendConfig;
///
/// let mut config = RedisBackendConfig::default();
/// config.global_keyprefix = "shop".to_owned();
/// config.result_expires = Some(Duration::from_secs(3_600));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisBackendConfig {
    /// What all keys begin with: Celery's setting of that name, in
    /// `result_backend_transport_options`. One that does not end
    /// in `:`, `_`, `-` or `.` is followed by a `_`, as in Celery.
    pub global_keyprefix: String,
    /// How long results, groups and kept continuations live: Celery's
    /// `result_expires`. `None` for ever. A day by default.
    pub result_expires: Option<Duration>,
    /// How long a join lives after the last of its members that has arrived:
    /// Celery's `result_chord_expires`. `None` for ever. A day by default.
    pub join_expires: Option<Duration>,
    /// How long after a member arrived the size of its chord may still be
    /// unknown, before the join counts as lost. 30 seconds by default.
    ///
    /// A Python process tells the size when it sends the last member of the
    /// header, so the first ones may arrive before that. Where no Python
    /// process sends chords this may be zero, and a lost join is then found at
    /// once.
    pub header_grace: Duration,
    /// After how long to look for results that nobody told of: at first, and
    /// then twice as long each time, up to twelve times this. 5 seconds by
    /// default.
    pub look_again: Duration,
    /// How long a connection may take. 5 seconds by default.
    pub connect_timeout: Duration,
    /// How long an answer may take, before the connection counts as dead.
    /// 5 seconds by default.
    pub response_timeout: Duration,
    /// What the sentinels of a `sentinel://` URL must be told.
    pub sentinel: SentinelOptions,
    /// How long a call is tried again through lost connections, before it
    /// fails. 15 seconds by default.
    pub retry_for: Duration,
}

impl RedisBackendConfig {
    /// The defaults, but all that is stored lives this long; `None` for ever.
    #[must_use]
    pub fn expiring(expires: Option<Duration>) -> Self {
        Self {
            result_expires: expires,
            join_expires: expires,
            ..Self::default()
        }
    }

    pub(crate) fn server(&self) -> ServerOptions {
        ServerOptions {
            port: "backend",
            connect_timeout: self.connect_timeout,
            response_timeout: self.response_timeout,
            sentinel: self.sentinel.clone(),
        }
    }
}

impl Default for RedisBackendConfig {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            global_keyprefix: String::new(),
            result_expires: Some(DAY),
            join_expires: Some(DAY),
            header_grace: Duration::from_secs(30),
            look_again: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(5),
            sentinel: SentinelOptions::default(),
            retry_for: Duration::from_secs(15),
        }
    }
}
