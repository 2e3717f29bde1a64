//! What went wrong with a call, and what to do about it.

use std::time::Duration;

use canvas_core::Error;
use sqlx::error::{DatabaseError, ErrorKind};

/// What went wrong with a call.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The connection broke, or others were in the way: the same call may
    /// succeed in a moment. Whether the database did what it was asked is not
    /// known.
    Passing(Error),
    /// The database answered, and will not do it.
    Final(Error),
    /// What was to be added is there already.
    Duplicate(Error),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Passing(error) | Fault::Final(error) | Fault::Duplicate(error) => error,
        }
    }
}

impl From<Error> for Fault {
    /// An error of ours, such as a row that cannot be read.
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Fault {
    /// The error of a call that was tried again for so long.
    pub(crate) fn after(self, time: Duration) -> Error {
        match self {
            Self::Passing(Error::Connection { operation, reason }) => Error::Connection {
                operation,
                reason: format!("{reason}; tried for {time:.1?}"),
            },
            other => other.into(),
        }
    }

    /// A call that was not answered in time.
    pub(crate) fn silence(url: &str, operation: &'static str, limit: Duration) -> Self {
        Self::Passing(Error::Connection {
            operation,
            reason: format!("{url}: no answer within {limit:.1?}"),
        })
    }

    /// What an error of the driver means.
    pub(crate) fn of(url: &str, operation: &'static str, error: sqlx::Error) -> Self {
        let connection = |hint: &str| Error::Connection {
            operation,
            reason: format!("{url}: {error}{hint}"),
        };
        match &error {
            // The pool itself tries again for as long as it may.
            sqlx::Error::PoolTimedOut => Self::Final(Error::Connection {
                operation,
                reason: format!(
                    "{url}: no connection to be had; is it running, and reachable from here? Or \
                     raise max_connections"
                ),
            }),
            sqlx::Error::Database(answer) => {
                let hint = hint(answer.as_ref());
                let config = || Error::Config(format!("{operation}: {url}: {answer}{hint}"));
                match Meaning::of(answer.as_ref()) {
                    Meaning::Passing => Self::Passing(connection(hint)),
                    Meaning::Duplicate => Self::Duplicate(connection(hint)),
                    Meaning::TooLong => Self::Final(Error::Encoding {
                        action: "store",
                        what: "a value".to_owned(),
                        reason: format!("{operation}: {url}: {answer}{hint}"),
                    }),
                    Meaning::Setup => Self::Final(config()),
                    Meaning::Other => Self::Final(connection(hint)),
                }
            }
            sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => Self::Final(Error::Config(
                format!("{operation}: {url}: {error}; check the URL"),
            )),
            sqlx::Error::Io(_) => {
                Self::Passing(connection("; is it running, and reachable from here?"))
            }
            sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed | sqlx::Error::BeginFailed => {
                Self::Passing(connection(""))
            }
            _ => Self::Final(connection("")),
        }
    }
}

/// What an error of a database means for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Passing,
    Duplicate,
    TooLong,
    /// The login, or something that is not there.
    Setup,
    Other,
}

impl Meaning {
    fn of(error: &dyn DatabaseError) -> Self {
        if error.kind() == ErrorKind::UniqueViolation {
            return Self::Duplicate;
        }
        match number(error) {
            Some(Number::Sqlite(code)) => Self::of_sqlite(code),
            Some(Number::MySql(number)) => Self::of_mysql(number),
            None => Self::of_postgres(error.code().unwrap_or_default().as_ref()),
        }
    }

    /// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
    fn of_postgres(code: &str) -> Self {
        match code {
            // Of two that were in each other's way, one had to go; or the
            // server is going down, starting, or full.
            "40001" | "40P01" | "55P03" | "57P01" | "57P02" | "57P03" | "53300" | "57014" => {
                Self::Passing
            }
            // Two that made the same table at the same time.
            "42P07" | "42710" | "XX000" => Self::Passing,
            "22001" => Self::TooLong,
            "28000" | "28P01" | "3D000" | "42501" | "42P01" | "42703" => Self::Setup,
            code if code.starts_with("08") => Self::Passing,
            _ => Self::Other,
        }
    }

    /// <https://mariadb.com/kb/en/mariadb-error-code-reference/>
    fn of_mysql(number: u16) -> Self {
        match number {
            1040 | 1053 | 1158..=1161 | 1205 | 1213 | 1317 | 1927 | 1020 => Self::Passing,
            1406 | 1153 | 1264 => Self::TooLong,
            1044 | 1045 | 1049 | 1054 | 1142 | 1146 | 1364 => Self::Setup,
            _ => Self::Other,
        }
    }

    /// <https://www.sqlite.org/rescode.html>
    fn of_sqlite(code: u32) -> Self {
        match code & 0xff {
            // Busy, locked, and the lock that could not be had because of it.
            5 | 6 | 15 => Self::Passing,
            // No permission, read-only, cannot open, no database.
            3 | 8 | 14 | 23 | 26 => Self::Setup,
            1 => Self::Setup,
            18 => Self::TooLong,
            _ => Self::Other,
        }
    }
}

enum Number {
    #[cfg_attr(not(feature = "mysql"), expect(dead_code, reason = "not compiled in"))]
    MySql(u16),
    #[cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "not compiled in"))]
    Sqlite(u32),
}

/// The number of an error, where the database has those.
#[cfg_attr(
    not(any(feature = "mysql", feature = "sqlite")),
    expect(unused_variables, reason = "neither is compiled in")
)]
fn number(error: &dyn DatabaseError) -> Option<Number> {
    #[cfg(feature = "mysql")]
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return Some(Number::MySql(error.number()));
    }
    #[cfg(feature = "sqlite")]
    if error
        .try_downcast_ref::<sqlx::sqlite::SqliteError>()
        .is_some()
    {
        return Some(Number::Sqlite(error.code()?.parse().ok()?));
    }
    None
}

fn hint(error: &dyn DatabaseError) -> &'static str {
    match number(error) {
        Some(Number::MySql(1044 | 1045)) => "; check the user and the password in the URL",
        Some(Number::MySql(1054 | 1146)) => MISSING,
        Some(Number::MySql(1406 | 1264)) => {
            "; a table that Celery made holds results of up to 64 kB: MODIFY the column to LONGBLOB"
        }
        Some(Number::MySql(1153)) => "; raise max_allowed_packet",
        Some(Number::Sqlite(code)) => match code & 0xff {
            1 => MISSING,
            14 => "; does the folder exist, and may this user write there?",
            13 => "; the disk is full",
            _ => "",
        },
        None => match error.code().unwrap_or_default().as_ref() {
            "28000" | "28P01" => "; check the user and the password in the URL",
            "3D000" => "; make it with createdb",
            "42501" => "; give the user the rights it needs",
            "42P01" | "42703" => MISSING,
            _ => "",
        },
        _ => "",
    }
}

const MISSING: &str = "; a table or column is missing: switch create_tables on, or run migrate() \
                       as a user who may make it";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_from_what_stays() {
        assert_eq!(Meaning::of_postgres("40P01"), Meaning::Passing);
        assert_eq!(Meaning::of_postgres("08006"), Meaning::Passing);
        assert_eq!(Meaning::of_postgres("28P01"), Meaning::Setup);
        assert_eq!(Meaning::of_postgres("22001"), Meaning::TooLong);
        assert_eq!(Meaning::of_mysql(1213), Meaning::Passing);
        assert_eq!(Meaning::of_mysql(1045), Meaning::Setup);
        assert_eq!(Meaning::of_mysql(1406), Meaning::TooLong);
        // SQLITE_BUSY_SNAPSHOT.
        assert_eq!(Meaning::of_sqlite(517), Meaning::Passing);
        assert_eq!(Meaning::of_sqlite(14), Meaning::Setup);
        assert_eq!(Meaning::of_sqlite(11), Meaning::Other);
    }
}
