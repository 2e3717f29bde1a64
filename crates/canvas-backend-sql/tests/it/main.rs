//! The backend on real databases: SQLite, PostgreSQL and MariaDB.
//!
//! PostgreSQL and MariaDB are started by these tests, in folders of their own:
//! `apt-get install postgresql mariadb-server`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

/// The behaviours below are written against the facade, of which they need
/// only the core.
extern crate canvas_core as canvas;

mod celery;
mod isolation;
mod migration;
mod outage;
#[path = "../../../../tests/tests/ports/backend.rs"]
mod port;
mod races;
mod rows;
mod support;
mod sweeping;
mod waiting;

/// How long things live in a backend that forgets.
const EXPIRY: std::time::Duration = std::time::Duration::from_secs(2);

/// Makes a test of each behaviour of the port, on each database.
macro_rules! behaviours {
    ($($name:ident),+ $(,)? ; that expire: $($expiring:ident),+ $(,)?) => {
        behaviours!(@on behaves_on_sqlite Sqlite; $($name),+; $($expiring),+);
        behaviours!(@on behaves_on_postgres Postgres; $($name),+; $($expiring),+);
        behaviours!(@on behaves_on_mariadb MariaDb; $($name),+; $($expiring),+);
    };
    (@on $module:ident $kind:ident; $($name:ident),+; $($expiring:ident),+) => {
        mod $module {
            use crate::support::{Db, Kind};

            $(
                #[tokio::test]
                async fn $name() {
                    let db = Db::start(Kind::$kind).await;
                    crate::port::$name(db.backend()).await;
                }
            )+
            $(
                #[tokio::test]
                async fn $expiring() {
                    let db = Db::start(Kind::$kind).await;
                    let backend = db.backend_with(|config| {
                        config.result_expires = Some(crate::EXPIRY);
                        config.join_expires = Some(crate::EXPIRY);
                    });
                    crate::port::$expiring(backend, crate::EXPIRY).await;
                }
            )+
        }
    };
}

behaviours! {
    a_state_is_loaded_as_it_was_stored,
    states_are_loaded_in_the_order_asked_for,
    the_first_success_stands,
    a_state_that_is_no_end_is_overwritten,
    an_end_is_overwritten_by_another_end_only,
    a_forgotten_state_is_unknown,
    a_watch_yields_what_ended_before,
    a_watch_yields_what_ends_later,
    a_watch_yields_each_once,
    a_watch_that_is_dropped_disturbs_no_other,
    a_watch_of_many_yields_them_all,
    a_group_keeps_its_shape,
    what_is_kept_is_recalled,
    the_last_member_sees_all_in_header_order,
    places_are_numbers,
    a_member_counts_once_with_its_first_outcome,
    a_failed_member_counts_as_arrived,
    opening_twice_changes_nothing,
    joins_are_apart,
    an_unknown_join_is_missing,
    there_is_one_claim_at_a_time,
    a_claim_that_lapses_passes_on,
    a_claim_counts_until_it_passes_on,
    a_closed_join_stays_closed,
    a_join_grows_once_for_each_member,
    growing_an_unknown_join_does_nothing,
    a_quorum_of_successes_completes_a_join,
    a_quorum_out_of_reach_waits_for_all,
    a_claim_passes_on_with_the_same_members,
    one_of_many_at_once_completes_a_join,
    one_of_many_at_once_takes_a_claim_over;
    that expire:
    things_expire,
    a_state_that_is_stored_again_lives_on,
    a_join_lives_on_while_members_arrive,
}

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
