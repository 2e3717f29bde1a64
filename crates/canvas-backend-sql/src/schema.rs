//! The tables: their names, their columns, and what the databases say
//! differently.

use canvas_core::{Error, Result};

use crate::config::SqlBackendConfig;
use crate::url::Dialect;

/// A table, perhaps in a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
    /// As it goes into a statement.
    pub(crate) quoted: String,
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
    pub(crate) fn quote(self, name: &str) -> String {
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
    /// What tells there.
    pub(crate) function: Table,
    /// Where ids come from, if not from the tables themselves.
    pub(crate) task_ids: Table,
    pub(crate) group_ids: Table,
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

    pub(crate) fn all(&self) -> [&Table; 6] {
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
    pub(crate) fn columns(&self, table: &Table) -> Vec<(&'static str, &'static str)> {
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
    pub(crate) fn create(&self, table: &Table, id: Option<&str>) -> String {
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

    /// Makes what finds rows by a column.
    pub(crate) fn index(&self, table: &Table, column: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(dialect: Dialect, task: &str) -> Result<Tables> {
        let config = SqlBackendConfig {
            task_table: task.to_owned(),
            ..SqlBackendConfig::default()
        };
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
