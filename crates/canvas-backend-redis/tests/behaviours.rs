//! What every backend must do, asked of this one.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

// The behaviours speak of the facade, which has the same names.
extern crate canvas_core as canvas;

mod support;

#[path = "../../../tests/tests/ports/backend.rs"]
mod backend;

use std::time::Duration;

use support::Redis;

/// How long things live in a backend that forgets.
const EXPIRY: Duration = Duration::from_secs(2);

/// Makes a test of each behaviour, on a server of its own.
macro_rules! behaviours {
    ($($name:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let redis = Redis::start().await;
                // No Python process sends chords here.
                let store = redis.backend_with(|config| config.header_grace = Duration::ZERO);
                backend::$name(store).await;
            }
        )+
    };
    (that expire: $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let redis = Redis::start().await;
                let store = redis.backend_with(|config| {
                    config.header_grace = Duration::ZERO;
                    config.result_expires = Some(EXPIRY);
                    config.join_expires = Some(EXPIRY);
                });
                backend::$name(store, EXPIRY).await;
            }
        )+
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
    one_of_many_at_once_takes_a_claim_over,
}

behaviours! { that expire:
    things_expire,
    a_state_that_is_stored_again_lives_on,
    a_join_lives_on_while_members_arrive,
}
