//! What every backend must do, asked of this one, on each database.
//!
//! PostgreSQL and MariaDB are started by these tests, in folders of their own:
//! `apt-get install postgresql mariadb-server`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "it/support.rs"]
mod support;

use std::time::Duration;

use canvas_conformance::{BackendFixture, Need};

use support::{Db, Kind};

/// How long things live in a backend that forgets.
const EXPIRY: Duration = Duration::from_secs(2);

async fn sqlite(need: Need) -> BackendFixture {
    with(Kind::Sqlite, need).await
}

async fn postgres(need: Need) -> BackendFixture {
    with(Kind::Postgres, need).await
}

async fn mariadb(need: Need) -> BackendFixture {
    with(Kind::MariaDb, need).await
}

async fn with(kind: Kind, need: Need) -> BackendFixture {
    let db = match (kind, need) {
        (Kind::Postgres | Kind::MariaDb, Need::Restart) => Db::alone(kind).await,
        _ => Db::start(kind).await,
    };
    let backend = db.backend_with(|config| {
        if need == Need::Expiry {
            config.result_expires = Some(EXPIRY);
            config.join_expires = Some(EXPIRY);
        }
    });
    let fixture = BackendFixture::new(backend).expiring_after(EXPIRY);
    if need != Need::Restart {
        return fixture.keep(db);
    }
    fixture.restarting(async move || {
        let mut db = db;
        // SQLite has no server: another that opens the file is all there is.
        if kind != Kind::Sqlite {
            db.kill();
            db.restart().await;
        }
        BackendFixture::new(db.backend()).keep(db)
    })
}

canvas_conformance::backend_suite!(sqlite);
canvas_conformance::backend_suite!(postgres);
canvas_conformance::backend_suite!(mariadb);
