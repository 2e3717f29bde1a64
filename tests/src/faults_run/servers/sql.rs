//! What databases tell of results: a trigger notes each success that is
//! written, and nothing but the transaction that wrote it can undo that.

use std::collections::HashMap;
use std::io;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::{Joins, Results};

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Postgres,
    MariaDb,
    Sqlite,
}

/// A database, by its URL. There is a new connection for each question.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) dialect: Dialect,
    pub(super) url: String,
}

const POSTGRES: &str = "
    CREATE TABLE faults_stored (task_id VARCHAR(155));
    CREATE FUNCTION faults_note() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO faults_stored VALUES (NEW.task_id); RETURN NULL; END $$;
    CREATE TRIGGER faults_note AFTER INSERT OR UPDATE ON celery_taskmeta FOR EACH ROW
    WHEN (NEW.status = 'SUCCESS') EXECUTE FUNCTION faults_note();
";

const MARIADB: &str = "
    CREATE TABLE faults_stored (task_id VARCHAR(155));
    CREATE TRIGGER faults_insert AFTER INSERT ON celery_taskmeta FOR EACH ROW
    IF NEW.status = 'SUCCESS' THEN INSERT INTO faults_stored VALUES (NEW.task_id); END IF;
    CREATE TRIGGER faults_update AFTER UPDATE ON celery_taskmeta FOR EACH ROW
    IF NEW.status = 'SUCCESS' THEN INSERT INTO faults_stored VALUES (NEW.task_id); END IF;
";

const SQLITE: &str = "
    CREATE TABLE faults_stored (task_id VARCHAR(155));
    CREATE TRIGGER faults_insert AFTER INSERT ON celery_taskmeta WHEN NEW.status = 'SUCCESS'
    BEGIN INSERT INTO faults_stored VALUES (NEW.task_id); END;
    CREATE TRIGGER faults_update AFTER UPDATE ON celery_taskmeta WHEN NEW.status = 'SUCCESS'
    BEGIN INSERT INTO faults_stored VALUES (NEW.task_id); END;
";

#[async_trait]
impl Results for Database {
    async fn count_stored(&self) -> io::Result<()> {
        self.run(match self.dialect {
            Dialect::Postgres => POSTGRES,
            Dialect::MariaDb => MARIADB,
            Dialect::Sqlite => SQLITE,
        })
        .await
    }

    async fn stored(&self) -> io::Result<HashMap<String, u64>> {
        let rows = self.ask("SELECT task_id, COUNT(*) FROM faults_stored GROUP BY task_id");
        Ok(rows.await?.into_iter().collect())
    }

    async fn joins(&self) -> io::Result<Joins> {
        let rows = self.ask(
            "SELECT 'open', COUNT(*) FROM canvas_join WHERE phase <> 2 UNION ALL \
             SELECT 'late', COUNT(DISTINCT canvas_join_part.join_id) FROM canvas_join_part \
             LEFT JOIN canvas_join ON canvas_join_part.join_id = canvas_join.join_id \
             WHERE phase = 2 OR phase IS NULL",
        );
        let rows: HashMap<String, u64> = rows.await?.into_iter().collect();
        let count = |name: &str| rows.get(name).copied().unwrap_or_default();
        Ok(Joins {
            open: count("open"),
            late: count("late"),
        })
    }
}

impl Database {
    /// Has the database do something.
    pub(super) async fn run(&self, sql: &str) -> io::Result<()> {
        self.try_run(sql).await.map_err(io::Error::other)
    }

    /// Asks for names, and a number for each.
    pub(super) async fn ask(&self, sql: &str) -> io::Result<Vec<(String, u64)>> {
        let rows = self.try_ask(sql).await.map_err(io::Error::other)?;
        let rows = rows.into_iter().map(|(name, count)| {
            let name = String::from_utf8_lossy(&name).into_owned();
            (name, u64::try_from(count).unwrap_or_default())
        });
        Ok(rows.collect())
    }

    async fn try_run(&self, sql: &str) -> sqlx::Result<()> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match self.dialect {
            Dialect::Postgres => {
                let mut on = sqlx::PgConnection::connect(&self.url).await?;
                query.execute(&mut on).await?;
                on.close().await
            }
            Dialect::MariaDb => {
                let mut on = sqlx::MySqlConnection::connect(&self.url).await?;
                query.execute(&mut on).await?;
                on.close().await
            }
            Dialect::Sqlite => {
                let mut on = sqlx::SqliteConnection::connect(&self.url).await?;
                query.execute(&mut on).await?;
                on.close().await
            }
        }
    }

    async fn try_ask(&self, sql: &str) -> sqlx::Result<Vec<(Vec<u8>, i64)>> {
        let sql = AssertSqlSafe(sql.to_owned());
        // Text is the same bytes in all of them, whatever its type is called.
        macro_rules! rows {
            ($connection:ty) => {{
                let mut on = <$connection>::connect(&self.url).await?;
                let rows = sqlx::query(sql).fetch_all(&mut on).await?;
                on.close().await?;
                rows.into_iter()
                    .map(|row| Ok((row.try_get_unchecked(0)?, row.try_get_unchecked(1)?)))
                    .collect()
            }};
        }
        match self.dialect {
            Dialect::Postgres => rows!(sqlx::PgConnection),
            Dialect::MariaDb => rows!(sqlx::MySqlConnection),
            Dialect::Sqlite => rows!(sqlx::SqliteConnection),
        }
    }
}
