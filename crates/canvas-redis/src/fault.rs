//! What went wrong with a call, and what to do about it.

use std::fmt;
use std::time::Duration;

use canvas_core::Error;
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// What went wrong with a call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection broke, there is none, or the server cannot serve yet:
    /// the same call may succeed in a moment. Whether the server did what it
    /// was asked is not known.
    Lost(Error),
    /// The server answered, and will not do it.
    Refused(Error),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Lost(error) | Fault::Refused(error) => error,
        }
    }
}

impl Fault {
    /// The error of a call that was tried again for so long.
    #[must_use]
    pub fn after(self, time: Duration) -> Error {
        match self {
            Self::Lost(Error::Connection { operation, reason }) => Error::Connection {
                operation,
                reason: format!("{reason}; tried for {time:.1?}"),
            },
            other => other.into(),
        }
    }

    /// What an error of the driver means.
    pub(crate) fn of(url: &str, operation: &'static str, error: &RedisError) -> Self {
        if is_login(error) {
            return Self::Refused(Error::Config(format!(
                "{operation}: {url} refuses the login ({error}); check the user and the password \
                 in the URL"
            )));
        }
        if error.kind() == ErrorKind::MasterNameNotFoundBySentinel {
            return Self::Refused(Error::Config(format!(
                "{operation}: {url}: {error}; check master_name"
            )));
        }
        if error.is_io_error() && is_tls(error) {
            return Self::Refused(Error::Config(format!(
                "{operation}: {url}: {error}; check ssl_ca_certs, ssl_certfile and ssl_keyfile in \
                 the URL, and that the port is one for TLS"
            )));
        }
        let hint = match error.code().unwrap_or_default() {
            "WRONGTYPE" => {
                return Self::Refused(Error::Unsupported {
                    operation,
                    driver: url.to_owned(),
                    hint: wrong_type(error),
                });
            }
            "NOPERM" => "; give the user the commands and keys that it needs",
            "OOM" => "; the server's memory is full: raise maxmemory, or let results expire sooner",
            "READONLY" => "; it is a replica: give the URL of the master, or of its sentinels",
            _ if error.kind() == ErrorKind::RESP3NotSupported => "; Redis 6 or later is needed",
            _ if error.is_timeout() && url.starts_with("rediss") => {
                "; is it running, and is the port one for TLS?"
            }
            _ if error.is_io_error() => "; is it running, and reachable from here?",
            _ => "",
        };
        let reason = format!("{url}: {error}{hint}");
        let described = Error::Connection { operation, reason };
        if is_passing(error) {
            Self::Lost(described)
        } else {
            Self::Refused(described)
        }
    }
}

/// What to do where a key holds something else than ours do.
pub fn wrong_type(error: &dyn fmt::Display) -> String {
    format!(
        "a key holds another kind of value ({error}): leave the database to Celery and canvas, \
         and result_chord_ordered on in Python workers, as it is by default"
    )
}

pub(crate) fn is_login(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("WRONGPASS" | "NOAUTH"))
}

/// Whether it is TLS that the two do not agree on: the driver has no kind for
/// that.
fn is_tls(error: &RedisError) -> bool {
    let text = error.to_string();
    ["invalid peer certificate", "fatal alert", "corrupt message"]
        .iter()
        .any(|sign| text.contains(sign))
}

/// Whether the same call may succeed in a moment, on a new connection.
pub(crate) fn is_passing(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain};
    match error.kind() {
        // A time limit that has passed counts: the peer may be gone without a
        // word, and answers that come late would only be thrown away.
        ErrorKind::Io => true,
        // READONLY comes from a replica that was the master before a failover.
        ErrorKind::Server(BusyLoading | ClusterDown | MasterDown | ReadOnly | TryAgain) => true,
        // BUSY: somebody's script runs for long.
        _ => error.is_unrecoverable_error() || error.code() == Some("BUSY"),
    }
}
