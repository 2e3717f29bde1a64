//! What a broker does: the list, and the words in which it is written.

mod consuming;
mod fanout;
mod leases;
mod publishing;
mod restarts;
mod settling;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use canvas_core::Broker;
use canvas_core::broker::{
    ConsumeSpec, Consumer, Delivery, Destination, Outgoing, Settle, Settled,
};
use canvas_core::protocol::{Headers, Message, Properties};
use tokio::time::Instant;

use crate::behaviour::{self, Behaviour};
use crate::{BrokerFixture, Need};

/// The behaviours, and the one place to add another.
#[doc(hidden)]
#[macro_export]
macro_rules! __broker_behaviours {
    ($then:ident $with:tt) => {
        $crate::$then! { $with
            publishing::a_message_is_delivered_as_it_was_published(port):
                "publish: a message is delivered as it was, header for header";
            publishing::a_batch_goes_where_each_of_it_is_sent(port):
                "publish: a batch goes where each of it is sent, and may be empty";
            publishing::messages_come_in_order(port):
                "publish: messages come in the order in which they were published";
            publishing::many_can_publish_at_once(port):
                "publish: nothing is lost or doubled if many publish at once";
            publishing::urgent_messages_come_first(port) if priorities:
                "priority: urgent messages come first";
            publishing::a_message_that_comes_again_keeps_its_priority(port) if priorities:
                "priority: what comes again keeps it";
            publishing::the_length_counts_what_waits(port):
                "length: it counts what waits, not what is out; an unknown queue has 0";
            publishing::purging_drops_what_waits(port):
                "purge: what waits is dropped and counted; what is out stays";
            consuming::a_waiting_consumer_is_woken(port):
                "consume: a consumer that waits is told of what is published";
            consuming::queues_are_served_fairly(port):
                "consume: a long queue does not keep a short one waiting";
            consuming::consumers_share_a_queue(port):
                "consume: each message goes to one of those who consume its queue";
            consuming::queues_come_and_go(port):
                "consume: queues are added and taken away while it runs";
            consuming::a_dropped_next_loses_no_message(port):
                "consume: a call of next that is dropped loses no message";
            consuming::a_stopped_consumer_gives_no_more(port):
                "stop: no more comes; what is out can be settled, the rest is for others";
            consuming::no_more_is_out_than_the_prefetch(port):
                "prefetch: no more is out unsettled, for each consumer";
            consuming::the_prefetch_can_be_changed(port):
                "prefetch: more makes room, and less waits until so many are settled";
            consuming::a_full_consumer_is_woken_when_it_has_room(port):
                "prefetch: settling wakes a consumer that waits for room";
            settling::an_acknowledged_message_is_gone(port):
                "settle: what is acknowledged is gone";
            settling::a_requeued_message_comes_again(port):
                "settle: what is requeued comes again, to anyone, marked";
            settling::a_rejected_message_is_kept_as_a_dead_letter(port):
                "settle: what is rejected is a dead letter with its reason, oldest first";
            settling::a_deferred_message_comes_at_its_time(port) if defers:
                "settle: what is deferred comes at its time, and leaves room meanwhile";
            settling::settling_twice_is_stale(port):
                "settle: a delivery is settled once";
            leases::an_unsettled_delivery_comes_again_when_its_lease_ends(port):
                "lease: an unsettled delivery returns after its lease, to anyone, marked";
            leases::a_consumer_that_goes_leaves_its_deliveries_to_others(port):
                "lease: what a consumer that has gone had comes to others";
            leases::a_renewed_delivery_stays(port):
                "lease: a delivery that is renewed stays where it is";
            leases::a_stale_receipt_changes_nothing(port):
                "lease: once it passed on, the old receipt settles and renews nothing";
            fanout::a_broadcast_reaches_those_who_listen_now(port):
                "broadcast: it reaches all who have subscribed, and nobody later";
            restarts::what_was_confirmed_is_there_after_a_restart(fixture) if persistent:
                "publish: confirmed means durable across a server restart";
            restarts::what_was_out_comes_again_after_a_restart(fixture) if persistent:
                "restart: what was out unsettled comes again after it";
        }
    };
}

/// All of them.
pub fn behaviours() -> &'static [Behaviour<dyn Broker>] {
    BEHAVIOURS
}

static BEHAVIOURS: &[Behaviour<dyn Broker>] = __broker_behaviours! { __table (dyn Broker) };

/// One test of a suite.
#[doc(hidden)]
pub fn test<F>(name: &str, port: &str, paused: bool, constructor: impl FnOnce(Need) -> F)
where
    F: Future<Output = BrokerFixture>,
{
    behaviour::test(("broker", BEHAVIOURS), name, port, paused, constructor);
}

/// What some behaviours ask of a broker.
mod can {
    use canvas_core::Broker;
    use canvas_core::broker::Priorities;

    pub(super) fn defers(broker: &(dyn Broker + 'static)) -> Result<(), &'static str> {
        broker
            .info()
            .defers
            .then_some(())
            .ok_or("BrokerInfo::defers")
    }

    pub(super) fn persistent(broker: &(dyn Broker + 'static)) -> Result<(), &'static str> {
        let persistent = broker.info().persistent;
        persistent.then_some(()).ok_or("BrokerInfo::persistent")
    }

    pub(super) fn priorities(broker: &(dyn Broker + 'static)) -> Result<(), &'static str> {
        let some = broker.info().priorities != Priorities::None;
        some.then_some(()).ok_or("BrokerInfo::priorities")
    }
}

/// How long deliveries are out, where that matters.
const LEASE: Duration = Duration::from_millis(500);

/// How long deliveries are out where it does not.
const NEVER: Duration = Duration::from_secs(3_600);

/// Long enough to see that nothing comes.
const MOMENT: Duration = Duration::from_millis(100);

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

type Port = Arc<dyn Broker>;

/// A message with this id.
fn message(id: &str) -> Message {
    Message {
        headers: Headers {
            task: Some("task".into()),
            id: Some(id.into()),
            ..Headers::default()
        },
        properties: Properties::default(),
        body: Bytes::from_static(b"[[], {}, {}]"),
    }
}

fn to(queue: &str, message: Message) -> Outgoing {
    Outgoing {
        to: Destination::queue(queue),
        message,
    }
}

async fn publish(broker: &Port, queue: &str, ids: &[&str]) {
    let batch = ids.iter().map(|id| to(queue, message(id))).collect();
    broker.publish(batch).await.unwrap();
}

async fn consume(
    broker: &Port,
    queues: &[&str],
    prefetch: usize,
    lease: Duration,
) -> Box<dyn Consumer> {
    let queues = queues.iter().map(|name| Arc::from(*name)).collect();
    let spec = ConsumeSpec {
        queues,
        prefetch,
        lease,
    };
    broker.consume(spec).await.unwrap()
}

/// The next delivery, which must come.
async fn next(consumer: &mut Box<dyn Consumer>) -> Delivery {
    let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await;
    delivery.expect("no delivery").unwrap().expect("stopped")
}

/// Makes sure that no delivery comes, for a moment.
async fn nothing(consumer: &mut Box<dyn Consumer>) {
    nothing_for(consumer, MOMENT).await;
}

async fn nothing_for(consumer: &mut Box<dyn Consumer>, time: Duration) {
    if let Ok(found) = tokio::time::timeout(time, consumer.next()).await {
        let found = found.map(|delivery| delivery.map(|delivery| id(&delivery)));
        panic!("should not have come: {found:?}");
    }
}

fn id(delivery: &Delivery) -> String {
    let id = delivery.message.headers.id.as_ref();
    id.map(ToString::to_string).unwrap_or_default()
}

async fn settle(broker: &Port, delivery: &Delivery, how: Settle) -> Settled {
    broker.settle(&delivery.receipt, how).await.unwrap()
}

/// Waits until so many wait in a queue: a broker may count a moment later.
async fn has_length(broker: &Port, queue: &str, length: u64) {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = broker.len(queue).await.unwrap();
        if found == length {
            return;
        }
        assert!(Instant::now() < end, "{queue} has {found}, not {length}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
