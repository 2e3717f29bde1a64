//! The small words of the tests.

use std::io;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use bytes::Bytes;
use canvas_broker_amqp::{AmqpBroker, AmqpBrokerConfig};
use canvas_core::Broker;
use canvas_core::broker::{
    ConsumeSpec, Consumer, Delivery, Destination, Outgoing, Settle, Settled,
};
use canvas_core::protocol::{Headers, Message, Properties};

pub(crate) use crate::rabbit::{Rabbit, Vhost};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A lease that does not end within a test.
pub(crate) const NEVER: Duration = Duration::from_secs(3_600);

impl Vhost {
    pub(crate) fn broker(&self) -> Arc<dyn Broker> {
        self.broker_with(AmqpBrokerConfig::default())
    }

    pub(crate) fn broker_with(&self, config: AmqpBrokerConfig) -> Arc<dyn Broker> {
        AmqpBroker::new(&self.url(), config).unwrap()
    }
}

/// Keeps what all tests of this process log.
#[derive(Clone, Copy)]
struct Log;

static LOGGED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts to keep what is logged.
pub(crate) fn keep_log() {
    static KEEPING: Once = Once::new();
    KEEPING.call_once(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(|| Log);
        tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    });
}

/// What was logged with this in it.
pub(crate) fn logged(with: &str) -> Vec<String> {
    let log = String::from_utf8(LOGGED.lock().unwrap().clone()).unwrap();
    let lines = log.lines().filter(|line| line.contains(with));
    lines.map(str::to_owned).collect()
}

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

/// Waits until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
