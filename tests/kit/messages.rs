//! The small words of the brokers' tests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use canvas_core::Broker;
use canvas_core::broker::{
    ConsumeSpec, Consumer, Delivery, Destination, Outgoing, Settle, Settled,
};
use canvas_core::protocol::{Headers, Message, Properties};

use crate::support::PATIENCE;

/// A message with this id.
pub(crate) fn message(id: &str) -> Message {
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

pub(crate) fn to(queue: &str, message: Message) -> Outgoing {
    Outgoing {
        to: Destination::queue(queue),
        message,
    }
}

pub(crate) async fn publish(broker: &Arc<dyn Broker>, queue: &str, ids: &[&str]) {
    let batch = ids.iter().map(|id| to(queue, message(id))).collect();
    broker.publish(batch).await.unwrap();
}

pub(crate) async fn consume(
    broker: &Arc<dyn Broker>,
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
pub(crate) async fn next(consumer: &mut Box<dyn Consumer>) -> Delivery {
    let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await;
    delivery.expect("no delivery").unwrap().expect("stopped")
}

/// Makes sure that no delivery comes for so long.
pub(crate) async fn nothing(consumer: &mut Box<dyn Consumer>, time: Duration) {
    if let Ok(found) = tokio::time::timeout(time, consumer.next()).await {
        panic!(
            "should not have come: {:?}",
            found.map(|d| d.map(|d| id(&d)))
        );
    }
}

pub(crate) fn id(delivery: &Delivery) -> String {
    let id = delivery.message.headers.id.as_ref();
    id.map(ToString::to_string).unwrap_or_default()
}

pub(crate) async fn ack(broker: &Arc<dyn Broker>, delivery: &Delivery) -> Settled {
    broker.settle(&delivery.receipt, Settle::Ack).await.unwrap()
}
