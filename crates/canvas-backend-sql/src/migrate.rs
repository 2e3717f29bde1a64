//! Making the tables that are missing.
//!
//! There is no number of a version. What is there is looked at, and what is
//! not there is made, by one process at a time: tables that Celery or a person
//! has made are as good as ours, and doing it twice does nothing.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use canvas_core::{Error, Result};

use crate::database::{Database, How, Work};
use crate::fault::Fault;
use crate::schema::{Table, Tables};
use crate::session::{Arg, Session, Sql};
use crate::url::Dialect;

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
        // A default of nextval() does not count: prepared statements that leave
        // it to several connections at once end MariaDB (10.11.19: SIGSEGV in
        // Item_func_nextval::val_int, called by TABLE::update_default_fields).
        Dialect::MySql => (
            "SELECT column_name, CAST(extra LIKE '%auto_increment%' AS SIGNED) FROM \
             information_schema.columns WHERE table_schema = COALESCE(?, DATABASE()) AND \
             table_name = ?",
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
