//! What every broker and every backend must do, one behaviour a function. Here
//! they are asked of those in memory.
//!
//! A behaviour takes the port as `Arc<dyn …>`, fresh and empty, and needs no
//! more of time than that waiting takes as long as it says: here it is paused,
//! so that it takes none.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

#[path = "ports/backend.rs"]
mod backend;
#[path = "ports/broker.rs"]
mod broker;

/// Makes a test of each behaviour of a port.
macro_rules! behaviours {
    ($module:ident: $port:ident $with:tt => $($name:ident),+ $(,)?) => {
        mod $module {
            $(
                #[tokio::test(start_paused = true)]
                async fn $name() {
                    crate::$port::$name $with.await;
                }
            )+
        }
    };
}

behaviours! {
    memory_broker: broker(std::sync::Arc::new(canvas::memory::MemoryBroker::new())) =>
        a_message_is_delivered_as_it_was_published,
        a_batch_goes_where_each_of_it_is_sent,
        messages_come_in_order,
        a_waiting_consumer_is_woken,
        an_acknowledged_message_is_gone,
        a_requeued_message_comes_again,
        a_rejected_message_is_kept_as_a_dead_letter,
        a_deferred_message_comes_at_its_time,
        an_unsettled_delivery_comes_again_when_its_lease_ends,
        a_consumer_that_goes_leaves_its_deliveries_to_others,
        a_renewed_delivery_stays,
        a_stale_receipt_changes_nothing,
        settling_twice_is_stale,
        urgent_messages_come_first,
        a_message_that_comes_again_keeps_its_priority,
        queues_are_served_fairly,
        no_more_is_out_than_the_prefetch,
        a_full_consumer_is_woken_when_it_has_room,
        purging_drops_what_waits,
        the_length_counts_what_waits,
        a_stopped_consumer_gives_no_more,
        queues_come_and_go,
        a_dropped_next_loses_no_message,
        consumers_share_a_queue,
        many_can_publish_at_once,
        a_broadcast_reaches_those_who_listen_now,
}

behaviours! {
    memory_backend: backend(std::sync::Arc::new(canvas::memory::MemoryBackend::new())) =>
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

behaviours! {
    memory_backend_that_expires: backend(crate::expiring(), crate::EXPIRY) =>
        things_expire,
        a_state_that_is_stored_again_lives_on,
        a_join_lives_on_while_members_arrive,
}

/// How long things live in a backend that forgets.
const EXPIRY: std::time::Duration = std::time::Duration::from_secs(10);

fn expiring() -> std::sync::Arc<dyn canvas::Backend> {
    std::sync::Arc::new(canvas::memory::MemoryBackend::with_expiry(Some(EXPIRY)))
}
