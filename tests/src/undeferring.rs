//! A broker that cannot put messages off, so that the worker has to.

use async_trait::async_trait;
use canvas::Broker;
use canvas::Result;
use canvas::broker::{
    BrokerInfo, ConsumeSpec, Consumer, DeadLetter, Outgoing, Receipt, Settle, Settled, Subscription,
};
use canvas::memory::MemoryBroker;
use canvas::protocol::Message;

/// memory://, but as if it could not put messages off.
#[derive(Debug, Clone, Default)]
pub struct Undeferring(MemoryBroker);

#[async_trait]
impl Broker for Undeferring {
    fn info(&self) -> BrokerInfo {
        BrokerInfo::new("memory://")
    }

    async fn publish(&self, batch: Vec<Outgoing>) -> Result<()> {
        self.0.publish(batch).await
    }

    async fn consume(&self, spec: ConsumeSpec) -> Result<Box<dyn Consumer>> {
        self.0.consume(spec).await
    }

    async fn settle(&self, receipt: &Receipt, how: Settle) -> Result<Settled> {
        assert!(!matches!(how, Settle::Defer(_)), "this broker cannot defer");
        self.0.settle(receipt, how).await
    }

    async fn renew(&self, receipts: &[Receipt]) -> Result<()> {
        self.0.renew(receipts).await
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        self.0.purge(queue).await
    }

    async fn len(&self, queue: &str) -> Result<u64> {
        self.0.len(queue).await
    }

    async fn dead_letters(&self, queue: &str) -> Result<Vec<DeadLetter>> {
        self.0.dead_letters(queue).await
    }

    async fn broadcast(&self, exchange: &str, routing_key: &str, message: Message) -> Result<()> {
        self.0.broadcast(exchange, routing_key, message).await
    }

    async fn subscribe(&self, exchange: &str) -> Result<Box<dyn Subscription>> {
        self.0.subscribe(exchange).await
    }
}
