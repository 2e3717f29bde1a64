//! What a process sees of what others have stored.

use std::time::Duration;

use canvas_core::State;
use canvas_core::backend::Backend;
use futures_util::StreamExt;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use crate::support::{Db, Kind, soon, success};

/// As a process reads that knows nothing of isolation.
const LOOK: &str = "SELECT status FROM celery_taskmeta WHERE task_id = '1'";

async fn status(on: &mut sqlx::MySqlConnection) -> String {
    let row = sqlx::query(LOOK).fetch_one(on).await.unwrap();
    row.get(0)
}

/// The complaint about this backend: a process that waits in a transaction of
/// MySQL's own kind waits for ever.
#[tokio::test]
async fn a_plain_reader_on_mariadb_sees_a_stale_state_and_ours_does_not() {
    let db = Db::start(Kind::MariaDb).await;
    let (writer, reader) = (db.backend(), db.backend());
    let mut started = success("1", 0);
    started.status = State::Started;
    writer.store(&started).await.unwrap();
    let mut plain = sqlx::MySqlConnection::connect(&db.url()).await.unwrap();
    let begin = sqlx::raw_sql(AssertSqlSafe("START TRANSACTION".to_owned()));
    begin.execute(&mut plain).await.unwrap();
    assert_eq!(status(&mut plain).await, "STARTED");
    let ids = ["1".into()];
    let found = reader.load(&ids).await.unwrap();
    assert_eq!(found[0].as_ref().unwrap().status, State::Started);
    let mut watch = reader.watch(&ids).await.unwrap();

    writer.store(&success("1", 7)).await.unwrap();

    // It is stored and committed, and this one does not see it.
    assert_eq!(status(&mut plain).await, "STARTED");
    let found = reader.load(&ids).await.unwrap();
    assert_eq!(found, [Some(success("1", 7))]);
    let told = soon(watch.next()).await.unwrap().unwrap();
    assert_eq!(told, success("1", 7));
    assert_eq!(status(&mut plain).await, "STARTED");
}

crate::on_each! {
    a_step_of_a_join_sees_what_was_committed_while_it_waited,
}

/// Whoever waits for the row of a join sees, once it has it, what the one
/// before did, whatever the database's own isolation is set to.
async fn a_step_of_a_join_sees_what_was_committed_while_it_waited(kind: Kind) {
    use canvas_core::backend::{Arrival, JoinSpec, Part};

    let db = Db::start(kind).await;
    match kind {
        Kind::Sqlite => {}
        Kind::Postgres => {
            db.run("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET \
                    default_transaction_isolation = ''repeatable read''', current_database()); END $$")
                .await;
        }
        Kind::MariaDb => {
            let default = db.number("SELECT @@tx_isolation = 'REPEATABLE-READ'").await;
            assert_eq!(default, 1);
        }
    }
    let backends: Vec<_> = (0..4).map(|_| db.backend()).collect();
    for round in 0..10 {
        let spec = JoinSpec {
            id: format!("join-{round}").into(),
            size: 4,
            quorum: 4,
        };
        backends[0].open_join(&spec).await.unwrap();
        let arriving = backends.iter().enumerate().map(|(n, backend)| {
            let part = Part {
                task_id: format!("member-{n}").into(),
                index: Some(n as u64),
                state: State::Success,
                result: n.into(),
            };
            let (backend, id) = (backend.clone(), spec.id.clone());
            tokio::spawn(async move {
                let lease = Duration::from_secs(60);
                backend.arrive(&id, &part, lease).await.unwrap()
            })
        });
        let mut counts = Vec::new();
        for arrival in futures_util::future::join_all(arriving.collect::<Vec<_>>()).await {
            counts.push(match arrival.unwrap() {
                Arrival::Waiting { arrived, .. } => arrived,
                Arrival::Complete { parts, .. } => parts.len() as u64,
                other => panic!("{other:?}"),
            });
        }
        counts.sort_unstable();
        assert_eq!(counts, [1, 2, 3, 4]);
    }
}
