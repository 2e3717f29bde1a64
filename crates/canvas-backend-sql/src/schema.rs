//! The tables: their names, and how those that are missing are made.
//!
//! There is no number of a version. What is there is looked at, and what is
//! not there is made, by one process at a time: tables that Celery or a person
//! has made are as good as ours, and doing it twice does nothing.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use canvas_core::{Error, Result};

use crate::config::SqlBackendConfig;
use crate::database::{Database, How, Work};
use crate::fault::Fault;
use crate::session::{Arg, Session, Sql};
use crate::url::Dialect;

/// A table, perhaps in a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    schema: Option<String>,
    name: String,
    /// As it goes into a statement.
    quoted: String,
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.quoted)
    }
}

/// Names of tables are part of statements, so they are words and nothing else.
fn check(setting: &str, name: &str) -> Result<()> {
    let is_word = |part: &str| {
        let mut chars = part.chars();
        chars
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
            && part.len() <= 50
    };
    if name.split('.').all(is_word) && name.split('.').count() <= 2 {
        return Ok(());
    }
    Err(Error::Config(format!(
        "{setting}: `{name}` is not a name of a table: up to 50 letters, digits and underscores, \
         perhaps after a schema and a dot"
    )))
}

impl Dialect {
    fn quote(self, name: &str) -> String {
        match self {
            Self::MySql => format!("`{name}`"),
            _ => format!("\"{name}\""),
        }
    }

    fn table(self, schema: Option<&str>, name: &str) -> Table {
        let quoted = match schema {
            Some(schema) => format!("{}.{}", self.quote(schema), self.quote(name)),
            None => self.quote(name),
        };
        Table {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
            quoted,
        }
    }

    /// The time of the database in milliseconds since 1970: claims are judged
    /// by one clock, whichever machines they come from.
    pub(crate) fn now(self) -> &'static str {
        match self {
            Self::Postgres => "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
            Self::MySql => "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000",
            Self::Sqlite => "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
        }
    }

    /// Keeps others from a row until the transaction ends. In SQLite there is
    /// one writer at a time.
    pub(crate) fn for_update(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            _ => " FOR UPDATE",
        }
    }

    /// Follows an INSERT of a row that may be there. MySQL has no such words
    /// that would not swallow other errors, too.
    pub(crate) fn or_nothing(self) -> &'static str {
        match self {
            Self::MySql => "",
            _ => " ON CONFLICT DO NOTHING",
        }
    }
}

/// The tables that are used.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    pub(crate) dialect: Dialect,
    /// Celery's.
    pub(crate) task: Table,
    pub(crate) group: Table,
    /// Ours.
    pub(crate) join: Table,
    pub(crate) part: Table,
    pub(crate) growth: Table,
    pub(crate) kept: Table,
    /// Where PostgreSQL tells of results.
    pub(crate) channel: String,
    function: Table,
    task_ids: Table,
    group_ids: Table,
}

impl Tables {
    pub(crate) fn new(dialect: Dialect, config: &SqlBackendConfig) -> Result<Self> {
        check("task_table", &config.task_table)?;
        check("group_table", &config.group_table)?;
        check("own_tables", &config.own_tables)?;
        let split = |name: &str| match name.split_once('.') {
            Some((schema, name)) => (Some(schema.to_owned()), name.to_owned()),
            None => (None, name.to_owned()),
        };
        let (schema, task) = split(&config.task_table);
        let (group_schema, group) = split(&config.group_table);
        let (_, prefix) = split(&config.own_tables);
        let own = |name: &str| dialect.table(schema.as_deref(), &format!("{prefix}_{name}"));
        Ok(Self {
            dialect,
            join: own("join"),
            part: own("join_part"),
            growth: own("join_growth"),
            kept: own("kept"),
            function: own("tell"),
            channel: format!("{prefix}_{task}"),
            // As SQLAlchemy names them, whatever the tables are called.
            task_ids: dialect.table(schema.as_deref(), "task_id_sequence"),
            group_ids: dialect.table(group_schema.as_deref(), "taskset_id_sequence"),
            task: dialect.table(schema.as_deref(), &task),
            group: dialect.table(group_schema.as_deref(), &group),
        })
    }

    fn all(&self) -> [&Table; 6] {
        [
            &self.task,
            &self.group,
            &self.join,
            &self.part,
            &self.growth,
            &self.kept,
        ]
    }

    /// Each table's columns, as they are to be.
    fn columns(&self, table: &Table) -> Vec<(&'static str, &'static str)> {
        let kind = Kinds::of(self.dialect);
        if *table == self.task {
            return vec![
                ("task_id", kind.id),
                ("status", "VARCHAR(50)"),
                ("result", kind.bytes),
                ("date_done", kind.time),
                ("traceback", kind.text),
                ("children", kind.bytes),
                ("name", "VARCHAR(155)"),
                ("args", kind.bytes),
                ("kwargs", kind.bytes),
                ("worker", "VARCHAR(155)"),
                ("retries", "INTEGER"),
                ("queue", "VARCHAR(155)"),
                ("stamps", kind.bytes),
                // What Celery's columns have no place for, as JSON.
                ("canvas_more", kind.bytes),
                // When it was stored, in milliseconds since 1970: Celery gives
                // a time only to tasks that have ended.
                ("canvas_stored", "BIGINT"),
            ];
        }
        if *table == self.group {
            return vec![
                ("taskset_id", kind.id),
                ("result", kind.bytes),
                ("date_done", kind.time),
            ];
        }
        if *table == self.join {
            return vec![
                ("join_id", kind.key),
                ("size", "BIGINT NOT NULL"),
                ("quorum", "BIGINT NOT NULL"),
                ("arrived", "BIGINT NOT NULL"),
                ("successes", "BIGINT NOT NULL"),
                // 0 while it waits, 1 once it is claimed, 2 once it is closed.
                ("phase", "INTEGER NOT NULL"),
                ("claims", "BIGINT NOT NULL"),
                ("claimant", "BIGINT NOT NULL"),
                ("claimed_until", "BIGINT NOT NULL"),
                ("expires", "BIGINT"),
            ];
        }
        if *table == self.part {
            return vec![
                ("join_id", kind.key),
                ("task_id", kind.key),
                // -1 for a member without one.
                ("place", "BIGINT NOT NULL"),
                ("number", "BIGINT NOT NULL"),
                ("status", "VARCHAR(155) NOT NULL"),
                ("result", kind.bytes),
            ];
        }
        if *table == self.growth {
            return vec![("join_id", kind.key), ("task_id", kind.key)];
        }
        vec![
            ("kept_id", kind.key),
            ("value", kind.bytes),
            ("expires", "BIGINT"),
        ]
    }

    fn constraints(&self, table: &Table) -> String {
        if *table == self.task {
            "UNIQUE (task_id)".to_owned()
        } else if *table == self.group {
            "UNIQUE (taskset_id)".to_owned()
        } else if *table == self.part {
            "PRIMARY KEY (join_id, task_id, place)".to_owned()
        } else if *table == self.growth {
            "PRIMARY KEY (join_id, task_id)".to_owned()
        } else if *table == self.join {
            "PRIMARY KEY (join_id)".to_owned()
        } else {
            "PRIMARY KEY (kept_id)".to_owned()
        }
    }

    /// Makes a table, with an `id` if it is one of Celery's.
    fn create(&self, table: &Table, id: Option<&str>) -> String {
        let columns = self.columns(table);
        let columns = columns.iter().map(|(name, kind)| format!("{name} {kind}"));
        let mut all: Vec<String> = id.map(str::to_owned).into_iter().collect();
        all.extend(columns);
        all.push(self.constraints(table));
        let more = match self.dialect {
            Dialect::MySql => " ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4",
            _ => "",
        };
        format!(
            "CREATE TABLE IF NOT EXISTS {table} ({}){more}",
            all.join(", ")
        )
    }

    fn index(&self, table: &Table, column: &str) -> String {
        // SQLAlchemy's name for it.
        let name = format!("ix_{}_{column}", table.name);
        let name = match (self.dialect, &table.schema) {
            (Dialect::Sqlite, Some(schema)) => {
                format!(
                    "{}.{}",
                    self.dialect.quote(schema),
                    self.dialect.quote(&name)
                )
            }
            _ => self.dialect.quote(&name),
        };
        let (exists, on) = match self.dialect {
            Dialect::MySql => ("", table.quoted.clone()),
            Dialect::Sqlite => ("IF NOT EXISTS ", self.dialect.quote(&table.name)),
            Dialect::Postgres => ("IF NOT EXISTS ", table.quoted.clone()),
        };
        format!("CREATE INDEX {exists}{name} ON {on} ({column})")
    }
}

/// The types of columns: SQLAlchemy's, but where those hold too little.
struct Kinds {
    bytes: &'static str,
    text: &'static str,
    time: &'static str,
    id: &'static str,
    key: &'static str,
}

impl Kinds {
    fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Postgres => Self {
                bytes: "BYTEA",
                text: "TEXT",
                time: "TIMESTAMP WITHOUT TIME ZONE",
                id: "VARCHAR(155)",
                key: "VARCHAR(255) NOT NULL",
            },
            // BLOB holds 64 kB, and DATETIME no fraction of a second. Ids that
            // differ in upper and lower case are different ids.
            Dialect::MySql => Self {
                bytes: "LONGBLOB",
                text: "LONGTEXT",
                time: "DATETIME(6)",
                id: "VARCHAR(155) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                key: "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL",
            },
            Dialect::Sqlite => Self {
                bytes: "BLOB",
                text: "TEXT",
                time: "DATETIME",
                id: "VARCHAR(155)",
                key: "VARCHAR(255) NOT NULL",
            },
        }
    }
}

/// What is to be known of tables that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// What to write for the id of a new row; `None` where the table gives
    /// ids by itself.
    pub(crate) next_task: Option<String>,
    pub(crate) next_group: Option<String>,
    /// What is missing, in words.
    missing: Vec<String>,
}

/// Sees to it that the tables are there.
pub(crate) async fn prepare(database: &Database, tables: &Tables, create: bool) -> Result<Found> {
    let found = database.call(&Look { tables }).await?;
    if found.missing.is_empty() {
        return Ok(found);
    }
    if !create {
        return Err(Error::Config(format!(
            "{}: missing are {}: switch create_tables on, or run migrate() as a user who may make \
             them",
            database.url(),
            found.missing.join(", ")
        )));
    }
    database.call(&Make { tables }).await?;
    let found = database.call(&Look { tables }).await?;
    if found.missing.is_empty() {
        return Ok(found);
    }
    Err(Error::Config(format!(
        "{}: could not be made: {}",
        database.url(),
        found.missing.join(", ")
    )))
}

/// Looks which tables and columns there are.
struct Look<'a> {
    tables: &'a Tables,
}

#[async_trait]
impl Work for Look<'_> {
    type Output = Found;

    fn operation(&self) -> &'static str {
        "backend.look"
    }

    fn how(&self) -> How {
        How::Read
    }

    async fn run(&self, on: &mut Session<'_>, _: bool) -> Result<Found, Fault> {
        look(self.tables, on).await
    }
}

/// A table as it is: its columns, and whether the table gives them values.
type Columns = HashMap<String, bool>;

async fn columns(tables: &Tables, table: &Table, on: &mut Session<'_>) -> Result<Columns, Fault> {
    let (text, args): (&str, Vec<Arg<'_>>) = match tables.dialect {
        Dialect::Postgres => (
            "SELECT attname, CAST(atthasdef OR attidentity <> '' AS INTEGER) FROM pg_attribute \
             WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped",
            vec![table.quoted.as_str().into()],
        ),
        Dialect::MySql => (
            "SELECT column_name, CAST(extra LIKE '%auto_increment%' OR column_default LIKE \
             '%nextval%' AS SIGNED) FROM information_schema.columns WHERE table_schema = \
             COALESCE(?, DATABASE()) AND table_name = ?",
            vec![
                Arg::Text(table.schema.as_deref()),
                table.name.as_str().into(),
            ],
        ),
        Dialect::Sqlite => (
            "SELECT name, pk FROM pragma_table_info(?, COALESCE(?, 'main'))",
            vec![
                table.name.as_str().into(),
                Arg::Text(table.schema.as_deref()),
            ],
        ),
    };
    let rows = on.fetch(&Sql::new(tables.dialect, text), &args).await?;
    let mut columns = Columns::new();
    for mut row in rows {
        let name = row.text()?.unwrap_or_default();
        columns.insert(name, row.int()? == Some(1));
    }
    Ok(columns)
}

async fn look(tables: &Tables, on: &mut Session<'_>) -> Result<Found, Fault> {
    let mut found = Found::default();
    for table in tables.all() {
        let there = columns(tables, table, on).await?;
        if there.is_empty() {
            found.missing.push(format!("table {table}"));
            continue;
        }
        let wanted = tables.columns(table);
        let missing = wanted.iter().filter(|(name, _)| !there.contains_key(*name));
        let missing = missing.map(|(name, _)| format!("column {name} of {table}"));
        found.missing.extend(missing);
        let gives_ids = there.get("id").copied().unwrap_or_default();
        if *table == tables.task && !gives_ids {
            found.next_task = Some(tables.next(&tables.task_ids));
        } else if *table == tables.group && !gives_ids {
            found.next_group = Some(tables.next(&tables.group_ids));
        }
    }
    if tables.dialect == Dialect::Postgres && !tells(tables, on).await? {
        found.missing.push(format!("trigger {}", tables.function));
    }
    Ok(found)
}

impl Tables {
    fn next(&self, ids: &Table) -> String {
        match self.dialect {
            Dialect::Postgres => format!("nextval('{ids}')"),
            _ => format!("nextval({ids})"),
        }
    }
}

/// Whether PostgreSQL tells of results.
async fn tells(tables: &Tables, on: &mut Session<'_>) -> Result<bool, Fault> {
    let text = "SELECT 1 FROM pg_trigger WHERE tgrelid = to_regclass(?) AND tgname = ?";
    let args = [
        tables.task.quoted.as_str().into(),
        tables.function.name.as_str().into(),
    ];
    let row = on.first(&Sql::new(tables.dialect, text), &args).await?;
    Ok(row.is_some())
}

/// Makes what is missing, while no other process does.
struct Make<'a> {
    tables: &'a Tables,
}

/// For how many seconds MySQL waits for another process that is at it.
const TURN: i64 = 8;

#[async_trait]
impl Work for Make<'_> {
    type Output = ();

    fn operation(&self) -> &'static str {
        "backend.migrate"
    }

    fn how(&self) -> How {
        match self.tables.dialect {
            // It commits by itself after each table.
            Dialect::MySql => How::Write,
            _ => How::Transaction,
        }
    }

    async fn run(&self, on: &mut Session<'_>, _: bool) -> Result<(), Fault> {
        let dialect = self.tables.dialect;
        let name = format!("{}.migrate", self.tables.channel);
        match dialect {
            Dialect::Postgres => {
                let lock = "SELECT CAST(1 AS INTEGER) FROM (SELECT \
                            pg_advisory_xact_lock(hashtext(?))) AS locked";
                let lock = Sql::new(dialect, lock);
                on.fetch(&lock, &[name.as_str().into()]).await?;
            }
            Dialect::MySql => {
                let lock = Sql::new(dialect, "SELECT GET_LOCK(?, ?)");
                let turn = on
                    .first(&lock, &[name.as_str().into(), TURN.into()])
                    .await?;
                let turn = turn.map(|mut row| row.int()).transpose()?.flatten();
                if turn != Some(1) {
                    let reason = format!("{}: another process makes the tables", on.url);
                    let operation = on.operation;
                    return Err(Fault::Passing(Error::Connection { operation, reason }));
                }
            }
            Dialect::Sqlite => {}
        }
        let made = self.make(on).await;
        if dialect == Dialect::MySql {
            let unlock = Sql::new(dialect, "SELECT RELEASE_LOCK(?)");
            on.fetch(&unlock, &[name.as_str().into()]).await?;
        }
        made
    }
}

impl Make<'_> {
    async fn make(&self, on: &mut Session<'_>) -> Result<(), Fault> {
        let tables = self.tables;
        let has_sequences = match tables.dialect {
            Dialect::Postgres => true,
            // MariaDB has them, and SQLAlchemy uses them there.
            Dialect::MySql => {
                let version = Sql::new(tables.dialect, "SELECT VERSION()");
                let version = on.first(&version, &[]).await?;
                let version = version.map(|mut row| row.text()).transpose()?.flatten();
                version.is_some_and(|version| version.contains("MariaDB"))
            }
            Dialect::Sqlite => false,
        };
        for (table, ids) in [
            (&tables.task, &tables.task_ids),
            (&tables.group, &tables.group_ids),
        ] {
            if has_sequences {
                on.run(&format!("CREATE SEQUENCE IF NOT EXISTS {ids}"))
                    .await?;
            }
            let id = match tables.dialect {
                Dialect::Sqlite => "id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT".to_owned(),
                // INTEGER, as SQLAlchemy has it, is full after two thousand
                // million results.
                _ if has_sequences => {
                    format!(
                        "id BIGINT NOT NULL DEFAULT {} PRIMARY KEY",
                        tables.next(ids)
                    )
                }
                _ => "id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY".to_owned(),
            };
            self.table(on, table, Some(&id)).await?;
        }
        for table in [&tables.join, &tables.part, &tables.growth, &tables.kept] {
            self.table(on, table, None).await?;
        }
        self.indexes(on).await?;
        if tables.dialect == Dialect::Postgres && !tells(tables, on).await? {
            self.trigger(on).await?;
        }
        Ok(())
    }

    async fn table(
        &self,
        on: &mut Session<'_>,
        table: &Table,
        id: Option<&str>,
    ) -> Result<(), Fault> {
        let there = columns(self.tables, table, on).await?;
        if there.is_empty() {
            return on.run(&self.tables.create(table, id)).await;
        }
        for (name, kind) in self.tables.columns(table) {
            if !there.contains_key(name) {
                on.run(&format!("ALTER TABLE {table} ADD COLUMN {name} {kind}"))
                    .await?;
            }
        }
        Ok(())
    }

    /// What has expired is found by these.
    async fn indexes(&self, on: &mut Session<'_>) -> Result<(), Fault> {
        let tables = self.tables;
        for (table, column) in [
            (&tables.task, "date_done"),
            (&tables.task, "canvas_stored"),
            (&tables.group, "date_done"),
            (&tables.join, "expires"),
            (&tables.kept, "expires"),
        ] {
            if tables.dialect == Dialect::MySql && self.indexed(on, table).await?.contains(column) {
                continue;
            }
            on.run(&tables.index(table, column)).await?;
        }
        Ok(())
    }

    /// The columns that an index begins with, in MySQL.
    async fn indexed(&self, on: &mut Session<'_>, table: &Table) -> Result<HashSet<String>, Fault> {
        let text = "SELECT column_name FROM information_schema.statistics WHERE table_schema = \
                    COALESCE(?, DATABASE()) AND table_name = ? AND seq_in_index = 1";
        let args = [
            Arg::Text(table.schema.as_deref()),
            table.name.as_str().into(),
        ];
        let rows = on
            .fetch(&Sql::new(self.tables.dialect, text), &args)
            .await?;
        let names = rows.into_iter().map(|mut row| row.text());
        let names: Result<Vec<_>, Error> = names.collect();
        Ok(names?.into_iter().flatten().collect())
    }

    /// Has PostgreSQL tell of every result, whoever stores it.
    async fn trigger(&self, on: &mut Session<'_>) -> Result<(), Fault> {
        let Tables {
            task,
            function,
            channel,
            ..
        } = self.tables;
        on.run(&format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM pg_notify(TG_ARGV[0], NEW.task_id); RETURN NULL; END $$"
        ))
        .await?;
        let name = self.tables.dialect.quote(&function.name);
        on.run(&format!(
            "CREATE TRIGGER {name} AFTER INSERT OR UPDATE ON {task} FOR EACH ROW WHEN \
             (NEW.status IN ('SUCCESS', 'FAILURE', 'REVOKED', 'IGNORED')) EXECUTE FUNCTION \
             {function}('{channel}')"
        ))
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(dialect: Dialect, task: &str) -> Result<Tables> {
        let mut config = SqlBackendConfig::default();
        config.task_table = task.to_owned();
        Tables::new(dialect, &config)
    }

    #[test]
    fn tables_may_be_in_a_schema() {
        let found = tables(Dialect::Postgres, "celery.Results").unwrap();
        assert_eq!(found.task.to_string(), r#""celery"."Results""#);
        assert_eq!(found.join.to_string(), r#""celery"."canvas_join""#);
        assert_eq!(found.group.to_string(), r#""celery_tasksetmeta""#);
        let found = tables(Dialect::MySql, "results").unwrap();
        assert_eq!(found.task.to_string(), "`results`");
    }

    #[test]
    fn a_name_that_is_no_word_is_refused() {
        for name in ["", "a.b.c", "1a", "a b", "a\"; DROP TABLE b", "a."] {
            let error = tables(Dialect::Sqlite, name).unwrap_err().to_string();
            assert!(error.contains("task_table"), "{error}");
        }
    }
}
