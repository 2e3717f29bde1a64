//! The broker on a real RabbitMQ, alone, beside Python, and through outages.
//!
//! One server serves all tests, each in a virtual host of its own; those that
//! stop a server have one of their own. RabbitMQ must be installed:
//! `apt-get install rabbitmq-server`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

/// The behaviours below are written against the facade, of which they need
/// only the core.
extern crate canvas_core as canvas;

mod celery;
mod delay;
mod outage;
#[expect(
    dead_code,
    reason = "the order of priorities is RabbitMQ's own, and so are the tests of it"
)]
#[path = "../../../../tests/tests/ports/broker.rs"]
mod port;
mod queues;
mod rabbit;
mod support;

/// Makes a test of each behaviour of the port.
macro_rules! behaviours {
    ($module:ident($config:expr): $($name:ident),+ $(,)?) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $name() {
                    let vhost = crate::support::Vhost::new();
                    crate::port::$name(vhost.broker_with($config)).await;
                }
            )+
        }
    };
}

behaviours! {
    behaves(canvas_broker_amqp::AmqpBrokerConfig::default()):
        a_message_is_delivered_as_it_was_published,
        a_batch_goes_where_each_of_it_is_sent,
        messages_come_in_order,
        a_waiting_consumer_is_woken,
        an_acknowledged_message_is_gone,
        a_requeued_message_comes_again,
        a_rejected_message_is_kept_as_a_dead_letter,
        an_unsettled_delivery_comes_again_when_its_lease_ends,
        a_consumer_that_goes_leaves_its_deliveries_to_others,
        a_renewed_delivery_stays,
        a_stale_receipt_changes_nothing,
        settling_twice_is_stale,
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

// Without what needs a prefetch that can be changed (quorum queues have none,
// and Celery's workers leave it as it is there too), and what counts messages at
// once after they came back: a quorum queue counts them a moment later.
behaviours! {
    behaves_on_quorum_queues(canvas_broker_amqp::AmqpBrokerConfig::quorum()):
        a_message_is_delivered_as_it_was_published,
        a_batch_goes_where_each_of_it_is_sent,
        messages_come_in_order,
        a_waiting_consumer_is_woken,
        an_acknowledged_message_is_gone,
        a_rejected_message_is_kept_as_a_dead_letter,
        a_consumer_that_goes_leaves_its_deliveries_to_others,
        a_renewed_delivery_stays,
        settling_twice_is_stale,
        queues_are_served_fairly,
        a_full_consumer_is_woken_when_it_has_room,
        purging_drops_what_waits,
        a_stopped_consumer_gives_no_more,
        queues_come_and_go,
        a_dropped_next_loses_no_message,
        consumers_share_a_queue,
        many_can_publish_at_once,
        a_broadcast_reaches_those_who_listen_now,
}
