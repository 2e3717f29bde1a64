//! What can be set.

use std::time::Duration;

/// Settings of a [`SqlBackend`](crate::SqlBackend), apart from its URL.
///
/// ```
/// use std::time::Duration;
/// use canvas_backend_sql::SqlBackendConfig;
///
/// let mut config = SqlBackendConfig::default();
/// config.task_table = "shop_taskmeta".to_owned();
/// config.result_expires = Some(Duration::from_secs(3_600));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqlBackendConfig {
    /// The table of results: `task` in Celery's `database_table_names`. With a
    /// schema, as in `celery.results`, what `database_table_schemas` says.
    /// `celery_taskmeta` by default.
    pub task_table: String,
    /// The table of groups: `group` in Celery's `database_table_names`.
    /// `celery_tasksetmeta` by default.
    pub group_table: String,
    /// What the names of the tables begin with that are not Celery's. They are
    /// in the schema of the table of results. `canvas` by default.
    pub own_tables: String,
    /// Whether tables, columns and indexes that are missing are made when the
    /// backend is first used: Celery's `database_create_tables_at_setup`. On.
    pub create_tables: bool,
    /// How long results, groups and kept continuations live: Celery's
    /// `result_expires`. `None` for ever. A day by default.
    pub result_expires: Option<Duration>,
    /// How long a join lives after the last of its members that has arrived:
    /// Celery's `result_chord_expires`. `None` for ever. A day by default.
    pub join_expires: Option<Duration>,
    /// How often what has expired is removed, by a process that stores;
    /// `None` for never. It is not seen before that either. Five minutes by
    /// default.
    pub sweep_every: Option<Duration>,
    /// The longest pause between two looks at what is waited for, where the
    /// database does not tell of results: all but PostgreSQL. A quarter of a
    /// second by default.
    pub poll: Duration,
    /// After how long to look for results that PostgreSQL has not told of: at
    /// first, and then twice as long each time, up to twelve times this.
    /// 5 seconds by default.
    pub look_again: Duration,
    /// How many connections there may be at a time; SQLite has one that writes
    /// beside so many that read. 8 by default.
    pub max_connections: u32,
    /// How long an answer may take, before the connection counts as dead.
    /// 10 seconds by default.
    pub response_timeout: Duration,
    /// How long a call is tried again through lost connections and deadlocks,
    /// before it fails. 15 seconds by default.
    pub retry_for: Duration,
}

impl SqlBackendConfig {
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

impl Default for SqlBackendConfig {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            task_table: "celery_taskmeta".to_owned(),
            group_table: "celery_tasksetmeta".to_owned(),
            own_tables: "canvas".to_owned(),
            create_tables: true,
            result_expires: Some(DAY),
            join_expires: Some(DAY),
            sweep_every: Some(Duration::from_secs(300)),
            poll: Duration::from_millis(250),
            look_again: Duration::from_secs(5),
            max_connections: 8,
            response_timeout: Duration::from_secs(10),
            retry_for: Duration::from_secs(15),
        }
    }
}
