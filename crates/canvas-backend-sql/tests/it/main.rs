//! The backend on real databases: SQLite, PostgreSQL and MariaDB.
//!
//! PostgreSQL and MariaDB are started by these tests, in folders of their own:
//! `apt-get install postgresql mariadb-server`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

mod celery;
mod isolation;
mod migration;
mod outage;
mod races;
mod rows;
mod support;
mod sweeping;
mod waiting;

/// Makes a test of each function, on each database.
#[macro_export]
macro_rules! on_each {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $name() {
                    super::$name($crate::support::Kind::Sqlite).await;
                }
            )+
        }
        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $name() {
                    super::$name($crate::support::Kind::Postgres).await;
                }
            )+
        }
        mod on_mariadb {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $name() {
                    super::$name($crate::support::Kind::MariaDb).await;
                }
            )+
        }
    };
}
