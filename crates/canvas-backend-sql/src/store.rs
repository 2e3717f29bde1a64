//! What is stored, whoever asks: a database with its tables in place.

use std::collections::HashMap;

use canvas_core::{Id, Result, TaskMeta};
use tokio::sync::OnceCell;

use crate::config::SqlBackendConfig;
use crate::database::Database;
use crate::groups::Groups;
use crate::joins::Joins;
use crate::migrate;
use crate::schema::Tables;
use crate::states::{BATCH, Horizon, Load, States};
use crate::sweep::Sweep;
use crate::url::Target;

/// A database with its tables in place.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) database: Database,
    pub(crate) tables: Tables,
    pub(crate) config: SqlBackendConfig,
    /// Once the tables are known to be there.
    statements: OnceCell<Statements>,
}

/// Everything that is ever said to the database.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) states: States,
    pub(crate) groups: Groups,
    pub(crate) joins: Joins,
    pub(crate) sweep: Sweep,
}

impl Store {
    pub(crate) fn new(url: &str, config: SqlBackendConfig) -> Result<Self> {
        let target = Target::parse(url)?;
        Ok(Self {
            tables: Tables::new(target.dialect, &config)?,
            database: Database::new(target, &config)?,
            config,
            statements: OnceCell::new(),
        })
    }

    /// The statements, after the first look at the tables.
    pub(crate) async fn statements(&self) -> Result<&Statements> {
        let prepare = || self.prepare(self.config.create_tables);
        self.statements.get_or_try_init(prepare).await
    }

    /// Makes the tables that are missing.
    pub(crate) async fn prepare(&self, create: bool) -> Result<Statements> {
        let found = migrate::prepare(&self.database, &self.tables, create).await?;
        Ok(Statements {
            states: States::new(&self.tables, &found),
            groups: Groups::new(&self.tables, &found),
            joins: Joins::new(&self.tables),
            sweep: Sweep::new(&self.tables),
        })
    }

    pub(crate) fn horizon(&self) -> Horizon {
        Horizon::new(self.config.result_expires)
    }

    /// States of tasks: of all that are known, or of those that have ended.
    pub(crate) async fn load(
        &self,
        operation: &'static str,
        ids: &[Id],
        ended: bool,
    ) -> Result<HashMap<Id, Result<TaskMeta>>> {
        let states = &self.statements().await?.states;
        let mut found = HashMap::with_capacity(ids.len());
        for ids in ids.chunks(BATCH) {
            let load = Load {
                states,
                operation,
                ids,
                ended,
                horizon: self.horizon(),
            };
            found.extend(self.database.call(&load).await?);
        }
        Ok(found)
    }
}
