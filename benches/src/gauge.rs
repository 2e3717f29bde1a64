//! A broker that notes how large messages are, and passes them on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use canvas::broker::{
    Broker, BrokerInfo, ConsumeSpec, Consumer, DeadLetter, Outgoing, Receipt, Settle, Settled,
    Subscription,
};
use canvas::{Message, Result};

/// A broker with a gauge on it. A clone is another handle on the same one.
#[derive(Debug, Clone)]
pub struct Gauge {
    inner: Arc<dyn Broker>,
    largest: Arc<AtomicUsize>,
    messages: Arc<AtomicUsize>,
}

impl Gauge {
    /// Puts a gauge on a broker.
    pub fn new(broker: impl Broker + 'static) -> Self {
        Self {
            inner: Arc::new(broker),
            largest: Arc::default(),
            messages: Arc::default(),
        }
    }

    /// The body of the largest message so far, in bytes.
    pub fn largest(&self) -> usize {
        self.largest.load(Ordering::Relaxed)
    }

    /// How many messages were published so far.
    pub fn messages(&self) -> usize {
        self.messages.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Broker for Gauge {
    fn info(&self) -> BrokerInfo {
        self.inner.info()
    }

    async fn publish(&self, batch: Vec<Outgoing>) -> Result<()> {
        for outgoing in &batch {
            let size = outgoing.message.body.len();
            self.largest.fetch_max(size, Ordering::Relaxed);
        }
        self.messages.fetch_add(batch.len(), Ordering::Relaxed);
        self.inner.publish(batch).await
    }

    async fn consume(&self, spec: ConsumeSpec) -> Result<Box<dyn Consumer>> {
        self.inner.consume(spec).await
    }

    async fn settle(&self, receipt: &Receipt, how: Settle) -> Result<Settled> {
        self.inner.settle(receipt, how).await
    }

    async fn renew(&self, receipts: &[Receipt]) -> Result<()> {
        self.inner.renew(receipts).await
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        self.inner.purge(queue).await
    }

    async fn len(&self, queue: &str) -> Result<u64> {
        self.inner.len(queue).await
    }

    async fn dead_letters(&self, queue: &str) -> Result<Vec<DeadLetter>> {
        self.inner.dead_letters(queue).await
    }

    async fn broadcast(&self, exchange: &str, routing_key: &str, message: Message) -> Result<()> {
        self.inner.broadcast(exchange, routing_key, message).await
    }

    async fn subscribe(&self, exchange: &str) -> Result<Box<dyn Subscription>> {
        self.inner.subscribe(exchange).await
    }
}
