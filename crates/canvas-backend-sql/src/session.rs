//! One connection of any of the three databases: statements in, rows out.

use std::sync::Arc;

use canvas_core::Error;
use chrono::{DateTime, NaiveDateTime, Utc};
use sqlx::{AssertSqlSafe, Row as _, TypeInfo as _, ValueRef as _};

use crate::fault::Fault;
use crate::url::Dialect;

/// A statement, with `?` where the arguments go.
///
/// What is not an argument in it are names of tables, which are quoted.
#[derive(Debug, Clone)]
pub(crate) struct Sql(Arc<str>);

impl Sql {
    pub(crate) fn new(dialect: Dialect, text: &str) -> Self {
        if dialect != Dialect::Postgres {
            return Self(text.into());
        }
        let mut pieces = text.split('?');
        let mut numbered = pieces.next().unwrap_or_default().to_owned();
        for (number, piece) in pieces.enumerate() {
            numbered.push_str(&format!("${}", number + 1));
            numbered.push_str(piece);
        }
        Self(numbered.into())
    }

    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// An argument. `None` is NULL, which has a type in PostgreSQL.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg<'a> {
    Int(Option<i64>),
    Text(Option<&'a str>),
    Bytes(Option<&'a [u8]>),
    Time(Option<NaiveDateTime>),
}

impl From<i64> for Arg<'_> {
    fn from(value: i64) -> Self {
        Self::Int(Some(value))
    }
}

impl<'a> From<&'a str> for Arg<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(Some(value))
    }
}

impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(Some(value))
    }
}

impl From<NaiveDateTime> for Arg<'_> {
    fn from(value: NaiveDateTime) -> Self {
        Self::Time(Some(value))
    }
}

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
    /// Where the database has a type for it.
    #[cfg_attr(
        not(any(feature = "postgres", feature = "mysql")),
        expect(dead_code, reason = "not compiled in")
    )]
    Time(NaiveDateTime),
}

/// A row. Its values are taken out in order.
#[derive(Debug)]
pub(crate) struct Row(std::vec::IntoIter<Cell>);

impl Row {
    fn cell(&mut self) -> Cell {
        self.0.next().unwrap_or(Cell::Null)
    }

    pub(crate) fn int(&mut self) -> Result<Option<i64>, Error> {
        match self.cell() {
            Cell::Null => Ok(None),
            Cell::Int(value) => Ok(Some(value)),
            other => Err(unexpected("a number", &other)),
        }
    }

    /// A number that is never NULL.
    pub(crate) fn count(&mut self) -> Result<u64, Error> {
        let value = self.int()?.and_then(|value| u64::try_from(value).ok());
        value.ok_or_else(|| unexpected("a count", &Cell::Null))
    }

    pub(crate) fn text(&mut self) -> Result<Option<String>, Error> {
        match self.cell() {
            Cell::Null => Ok(None),
            Cell::Text(value) => Ok(Some(value)),
            Cell::Bytes(value) => match String::from_utf8(value) {
                Ok(text) => Ok(Some(text)),
                Err(bytes) => Err(unexpected("text", &Cell::Bytes(bytes.into_bytes()))),
            },
            other => Err(unexpected("text", &other)),
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<Option<Vec<u8>>, Error> {
        match self.cell() {
            Cell::Null => Ok(None),
            Cell::Bytes(value) => Ok(Some(value)),
            Cell::Text(value) => Ok(Some(value.into_bytes())),
            other => Err(unexpected("bytes", &other)),
        }
    }

    pub(crate) fn time(&mut self) -> Result<Option<DateTime<Utc>>, Error> {
        let time = match self.cell() {
            Cell::Null => return Ok(None),
            Cell::Time(value) => Some(value),
            // SQLite has no type for it.
            Cell::Text(text) => NaiveDateTime::parse_from_str(&text, SQLITE_TIME).ok(),
            _ => None,
        };
        let time = time.ok_or_else(|| unexpected("a time", &Cell::Null))?;
        Ok(Some(time.and_utc()))
    }
}

/// How SQLAlchemy writes times in SQLite: always with microseconds, so that
/// they sort as text.
const SQLITE_TIME: &str = "%Y-%m-%d %H:%M:%S%.f";

fn unexpected(wanted: &str, found: &Cell) -> Error {
    let kind = match found {
        Cell::Null => "none",
        Cell::Int(_) => "a number",
        Cell::Text(_) => "text",
        Cell::Bytes(_) => "bytes",
        Cell::Time(_) => "a time",
    };
    Error::Encoding {
        action: "decode",
        what: "a row of the database".to_owned(),
        reason: format!("a column should hold {wanted}, and holds {kind}"),
    }
}

/// A connection that is somebody's for now.
#[derive(Debug)]
pub(crate) enum Connection<'c> {
    #[cfg(feature = "postgres")]
    Postgres(&'c mut sqlx::PgConnection),
    #[cfg(feature = "mysql")]
    MySql(&'c mut sqlx::MySqlConnection),
    #[cfg(feature = "sqlite")]
    Sqlite(&'c mut sqlx::SqliteConnection),
}

/// A connection, and what it is used for.
#[derive(Debug)]
pub(crate) struct Session<'c> {
    pub(crate) connection: Connection<'c>,
    pub(crate) operation: &'static str,
    pub(crate) url: &'c str,
    /// Whether there is anything to commit.
    pub(crate) changed: bool,
}

/// Binds arguments to a query.
macro_rules! bound {
    ($sql:expr, $args:expr, $time:expr) => {{
        let mut query = sqlx::query(AssertSqlSafe($sql.0.clone()));
        for arg in $args {
            query = match *arg {
                Arg::Int(value) => query.bind(value),
                Arg::Text(value) => query.bind(value),
                Arg::Bytes(value) => query.bind(value),
                Arg::Time(value) => query.bind($time(value)),
            };
        }
        query
    }};
}

/// As SQLAlchemy writes it.
#[cfg(feature = "sqlite")]
fn sqlite_time(time: Option<NaiveDateTime>) -> Option<String> {
    time.map(|time| time.format("%Y-%m-%d %H:%M:%S%.6f").to_string())
}

impl Session<'_> {
    /// Runs a statement; gives how many rows it touched.
    pub(crate) async fn execute(&mut self, sql: &Sql, args: &[Arg<'_>]) -> Result<u64, Fault> {
        let done = match &mut self.connection {
            #[cfg(feature = "postgres")]
            Connection::Postgres(on) => {
                let query = bound!(sql, args, std::convert::identity);
                query
                    .execute(&mut **on)
                    .await
                    .map(|done| done.rows_affected())
            }
            #[cfg(feature = "mysql")]
            Connection::MySql(on) => {
                let query = bound!(sql, args, std::convert::identity);
                query
                    .execute(&mut **on)
                    .await
                    .map(|done| done.rows_affected())
            }
            #[cfg(feature = "sqlite")]
            Connection::Sqlite(on) => {
                let query = bound!(sql, args, sqlite_time);
                query
                    .execute(&mut **on)
                    .await
                    .map(|done| done.rows_affected())
            }
        };
        let touched = done.map_err(|error| self.fault(error))?;
        self.changed |= touched > 0;
        Ok(touched)
    }

    /// Adds a row; gives whether it was not there yet. The statement says so
    /// itself where the database has words for it.
    pub(crate) async fn insert(&mut self, sql: &Sql, args: &[Arg<'_>]) -> Result<bool, Fault> {
        match self.execute(sql, args).await {
            Ok(added) => Ok(added > 0),
            Err(Fault::Duplicate(_)) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Runs a query; gives its rows.
    pub(crate) async fn fetch(&mut self, sql: &Sql, args: &[Arg<'_>]) -> Result<Vec<Row>, Fault> {
        let rows = match &mut self.connection {
            #[cfg(feature = "postgres")]
            Connection::Postgres(on) => {
                let query = bound!(sql, args, std::convert::identity);
                let rows = query.fetch_all(&mut **on).await;
                rows.and_then(|rows| rows.iter().map(postgres::row).collect())
            }
            #[cfg(feature = "mysql")]
            Connection::MySql(on) => {
                let query = bound!(sql, args, std::convert::identity);
                let rows = query.fetch_all(&mut **on).await;
                rows.and_then(|rows| rows.iter().map(mysql::row).collect())
            }
            #[cfg(feature = "sqlite")]
            Connection::Sqlite(on) => {
                let query = bound!(sql, args, sqlite_time);
                let rows = query.fetch_all(&mut **on).await;
                rows.and_then(|rows| rows.iter().map(sqlite::row).collect())
            }
        };
        rows.map_err(|error| self.fault(error))
    }

    /// The first row of a query.
    pub(crate) async fn first(
        &mut self,
        sql: &Sql,
        args: &[Arg<'_>],
    ) -> Result<Option<Row>, Fault> {
        Ok(self.fetch(sql, args).await?.into_iter().next())
    }

    /// Runs a statement that takes no arguments and is used once: one that
    /// makes a table.
    pub(crate) async fn run(&mut self, text: &str) -> Result<(), Fault> {
        let query = sqlx::raw_sql(AssertSqlSafe(text.to_owned()));
        let done = match &mut self.connection {
            #[cfg(feature = "postgres")]
            Connection::Postgres(on) => query.execute(&mut **on).await.map(drop),
            #[cfg(feature = "mysql")]
            Connection::MySql(on) => query.execute(&mut **on).await.map(drop),
            #[cfg(feature = "sqlite")]
            Connection::Sqlite(on) => query.execute(&mut **on).await.map(drop),
        };
        self.changed = true;
        done.map_err(|error| self.fault(error))
    }

    pub(crate) fn fault(&self, error: sqlx::Error) -> Fault {
        Fault::of(self.url, self.operation, error)
    }
}

/// Reads rows by the types that the database says they have: a table may have
/// been made by Celery, with others than ours.
macro_rules! rows {
    ($module:ident, $row:ty: $($($name:literal)|+ => $type:ty, $cell:expr;)+) => {
        mod $module {
            use super::*;

            pub(super) fn row(row: &$row) -> sqlx::Result<Row> {
                let cells: sqlx::Result<Vec<Cell>> =
                    (0..row.len()).map(|at| cell(row, at)).collect();
                Ok(Row(cells?.into_iter()))
            }

            fn cell(row: &$row, at: usize) -> sqlx::Result<Cell> {
                let value = row.try_get_raw(at)?;
                if value.is_null() {
                    return Ok(Cell::Null);
                }
                let kind = value.type_info().name().to_owned();
                Ok(match kind.as_str() {
                    $($($name)|+ => $cell(row.try_get::<$type, _>(at)?),)+
                    other => {
                        let other = format!("a column of type {other}");
                        return Err(sqlx::Error::Decode(other.into()));
                    }
                })
            }
        }
    };
}

#[cfg(feature = "postgres")]
rows! { postgres, sqlx::postgres::PgRow:
    "INT2" => i16, |value| Cell::Int(i64::from(value));
    "INT4" => i32, |value| Cell::Int(i64::from(value));
    "INT8" => i64, Cell::Int;
    "BOOL" => bool, |value| Cell::Int(i64::from(value));
    "TEXT" | "VARCHAR" | "NAME" | "BPCHAR" => String, Cell::Text;
    "BYTEA" => Vec<u8>, Cell::Bytes;
    "TIMESTAMP" => NaiveDateTime, Cell::Time;
    "TIMESTAMPTZ" => DateTime<Utc>, |value: DateTime<Utc>| Cell::Time(value.naive_utc());
}

#[cfg(feature = "mysql")]
rows! { mysql, sqlx::mysql::MySqlRow:
    "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" => i64, Cell::Int;
    "BOOLEAN" => bool, |value| Cell::Int(i64::from(value));
    "TINYINT UNSIGNED" | "SMALLINT UNSIGNED" | "MEDIUMINT UNSIGNED" | "INT UNSIGNED"
        | "BIGINT UNSIGNED" => u64, |value| Cell::Int(i64::try_from(value).unwrap_or(i64::MAX));
    "CHAR" | "VARCHAR" | "TINYTEXT" | "TEXT" | "MEDIUMTEXT" | "LONGTEXT" => String, Cell::Text;
    "BINARY" | "VARBINARY" | "TINYBLOB" | "BLOB" | "MEDIUMBLOB" | "LONGBLOB" => Vec<u8>, Cell::Bytes;
    "DATETIME" => NaiveDateTime, Cell::Time;
    "TIMESTAMP" => DateTime<Utc>, |value: DateTime<Utc>| Cell::Time(value.naive_utc());
}

#[cfg(feature = "sqlite")]
rows! { sqlite, sqlx::sqlite::SqliteRow:
    "INTEGER" => i64, Cell::Int;
    "BOOLEAN" => bool, |value| Cell::Int(i64::from(value));
    "TEXT" | "DATETIME" => String, Cell::Text;
    "BLOB" => Vec<u8>, Cell::Bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_numbered_for_postgres() {
        let text = "SELECT a FROM t WHERE b = ? AND c IN (?, ?)";
        assert_eq!(Sql::new(Dialect::Sqlite, text).text(), text);
        assert_eq!(
            Sql::new(Dialect::Postgres, text).text(),
            "SELECT a FROM t WHERE b = $1 AND c IN ($2, $3)"
        );
    }

    #[test]
    fn times_are_read_as_sqlalchemy_writes_them_in_sqlite() {
        for (text, want) in [
            (
                "2026-11-24 06:21:18.239414",
                "2026-11-24 06:21:18.239414 UTC",
            ),
            ("2026-11-24 06:21:18", "2026-11-24 06:21:18 UTC"),
        ] {
            let mut row = Row(vec![Cell::Text(text.to_owned())].into_iter());
            assert_eq!(row.time().unwrap().unwrap().to_string(), want);
        }
        let mut row = Row(vec![Cell::Text("yesterday".to_owned())].into_iter());
        assert!(row.time().is_err());
    }
}
