//! A broker with one fault.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use canvas_conformance::{BrokerFixture, Need};
use canvas_core::broker::{
    BrokerInfo, ConsumeSpec, Consumer, DeadLetter, Delivery, Destination, Outgoing, Receipt,
    Settle, Settled, Subscription,
};
use canvas_core::memory::MemoryBroker;
use canvas_core::protocol::Message;
use canvas_core::{Broker, Result};

/// What it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    DropsStamps,
    OneQueueForABatch,
    PublishesBackwards,
    PublishesTwice,
    NoPriorities,
    RequeuesLast,
    CountsWhatIsOut,
    PurgesNothing,
    PurgesWhatIsOut,
    LooksOnce,
    ServesOneQueue,
    OneConsumerOnly,
    AddsNoQueue,
    LosesWhatIsDropped,
    NeverStops,
    NoPrefetch,
    FirstPrefetchStays,
    AcksNothing,
    RequeuesNothing,
    RejectsNothing,
    DefersNothing,
    AlwaysSettles,
    LeasesNeverEnd,
    RenewsNothing,
    SettlesStale,
    RenewsStale,
    LosesRoutingKeys,
    LosesAll,
}

use Fault::*;

crate::faults! { canvas_conformance::broker::behaviours, super::wrong:
    a_message_is_delivered_as_it_was_published: DropsStamps;
    a_batch_goes_where_each_of_it_is_sent: OneQueueForABatch;
    messages_come_in_order: PublishesBackwards;
    many_can_publish_at_once: PublishesTwice;
    urgent_messages_come_first: NoPriorities;
    a_message_that_comes_again_keeps_its_priority: RequeuesLast;
    the_length_counts_what_waits: CountsWhatIsOut;
    purging_drops_what_waits: PurgesNothing, PurgesWhatIsOut;
    a_waiting_consumer_is_woken: LooksOnce;
    queues_are_served_fairly: ServesOneQueue;
    consumers_share_a_queue: OneConsumerOnly, PublishesTwice;
    queues_come_and_go: AddsNoQueue;
    a_dropped_next_loses_no_message: LosesWhatIsDropped;
    a_stopped_consumer_gives_no_more: NeverStops;
    no_more_is_out_than_the_prefetch: NoPrefetch;
    the_prefetch_can_be_changed: FirstPrefetchStays;
    a_full_consumer_is_woken_when_it_has_room: LooksOnce;
    an_acknowledged_message_is_gone: AcksNothing;
    a_requeued_message_comes_again: RequeuesNothing;
    a_rejected_message_is_kept_as_a_dead_letter: RejectsNothing;
    a_deferred_message_comes_at_its_time: DefersNothing;
    settling_twice_is_stale: AlwaysSettles;
    an_unsettled_delivery_comes_again_when_its_lease_ends: LeasesNeverEnd;
    a_consumer_that_goes_leaves_its_deliveries_to_others: LeasesNeverEnd;
    a_renewed_delivery_stays: RenewsNothing;
    a_stale_receipt_changes_nothing: SettlesStale, RenewsStale;
    a_broadcast_reaches_those_who_listen_now: LosesRoutingKeys;
    what_was_confirmed_is_there_after_a_restart: LosesAll;
    what_was_out_comes_again_after_a_restart: LosesAll;
}

fn wrong(fault: Option<Fault>, _: Need) -> BrokerFixture {
    let memory = MemoryBroker::new();
    let wrong = move |memory| Arc::new(Wrong::new(memory, fault));
    BrokerFixture::new(wrong(memory.clone())).restarting(async move || {
        let lost = fault == Some(LosesAll);
        let kept = if lost { MemoryBroker::new() } else { memory };
        BrokerFixture::new(wrong(kept))
    })
}

/// The broker in memory, but for one fault; and what a fault must remember.
#[derive(Debug, Clone)]
struct Wrong {
    memory: MemoryBroker,
    fault: Option<Fault>,
    /// What is out, by tag: the last delivery of it.
    out: Arc<Mutex<HashMap<Arc<str>, Delivery>>>,
    consumers: Arc<AtomicU64>,
}

impl Wrong {
    fn new(memory: MemoryBroker, fault: Option<Fault>) -> Self {
        Self {
            memory,
            fault,
            out: Arc::default(),
            consumers: Arc::default(),
        }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// The receipt that counts for the message of this one.
    fn current(&self, receipt: &Receipt) -> Receipt {
        let out = self.out.lock().unwrap();
        let last = out.get(&receipt.tag).map(|delivery| &delivery.receipt);
        last.unwrap_or(receipt).clone()
    }

    fn delivery(&self, receipt: &Receipt) -> Delivery {
        self.out.lock().unwrap()[&receipt.tag].clone()
    }
}

#[async_trait]
impl Broker for Wrong {
    fn info(&self) -> BrokerInfo {
        let mut info = self.memory.info();
        info.persistent = true;
        info
    }

    async fn publish(&self, mut batch: Vec<Outgoing>) -> Result<()> {
        match self.fault {
            Some(PublishesBackwards) => batch.reverse(),
            Some(PublishesTwice) => {
                batch = batch.iter().flat_map(|m| [m.clone(), m.clone()]).collect()
            }
            Some(OneQueueForABatch) => {
                let first = batch.first().map(|outgoing| outgoing.to.clone());
                for outgoing in &mut batch {
                    outgoing.to.clone_from(first.as_ref().unwrap());
                }
            }
            Some(DropsStamps) => {
                for outgoing in &mut batch {
                    outgoing.message.headers.stamps.clear();
                }
            }
            Some(NoPriorities) => {
                for outgoing in &mut batch {
                    outgoing.message.properties.priority = None;
                }
            }
            _ => {}
        }
        self.memory.publish(batch).await
    }

    async fn consume(&self, mut spec: ConsumeSpec) -> Result<Box<dyn Consumer>> {
        match self.fault {
            Some(ServesOneQueue) => spec.queues.truncate(1),
            Some(NoPrefetch) => spec.prefetch = 1_000,
            Some(LeasesNeverEnd) => spec.lease = Duration::from_secs(1_000_000),
            _ => {}
        }
        Ok(Box::new(WrongConsumer {
            memory: self.memory.consume(spec).await?,
            number: self.consumers.fetch_add(1, Relaxed),
            broker: self.clone(),
        }))
    }

    async fn settle(&self, receipt: &Receipt, how: Settle) -> Result<Settled> {
        let mut receipt = receipt.clone();
        let how = match (self.fault, how) {
            (Some(AcksNothing), Settle::Ack) => return Ok(Settled::Done),
            (Some(RequeuesNothing), Settle::Requeue) => Settle::Ack,
            (Some(RequeuesLast), Settle::Requeue) => {
                let mut again = self.delivery(&receipt);
                again.message.properties.priority = Some(9);
                let to = Destination::queue(again.queue);
                let message = again.message;
                self.memory.publish(vec![Outgoing { to, message }]).await?;
                Settle::Ack
            }
            (Some(RejectsNothing), Settle::Reject(_)) => Settle::Ack,
            (Some(DefersNothing), Settle::Defer(_)) => Settle::Requeue,
            (_, how) => how,
        };
        if self.is(SettlesStale) {
            receipt = self.current(&receipt);
        }
        let settled = self.memory.settle(&receipt, how).await?;
        Ok(if self.is(AlwaysSettles) {
            Settled::Done
        } else {
            settled
        })
    }

    async fn renew(&self, receipts: &[Receipt]) -> Result<()> {
        let current: Vec<Receipt> = receipts.iter().map(|one| self.current(one)).collect();
        match self.fault {
            Some(RenewsNothing) => Ok(()),
            Some(RenewsStale) => self.memory.renew(&current).await,
            _ => self.memory.renew(receipts).await,
        }
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        if self.is(PurgesNothing) {
            return Ok(0);
        }
        if self.is(PurgesWhatIsOut) {
            let out: Vec<Delivery> = self.out.lock().unwrap().values().cloned().collect();
            for delivery in out {
                self.memory.settle(&delivery.receipt, Settle::Ack).await?;
            }
        }
        self.memory.purge(queue).await
    }

    async fn len(&self, queue: &str) -> Result<u64> {
        let waiting = self.memory.len(queue).await?;
        let out = self.out.lock().unwrap().len() as u64;
        Ok(if self.is(CountsWhatIsOut) {
            waiting + out
        } else {
            waiting
        })
    }

    async fn dead_letters(&self, queue: &str) -> Result<Vec<DeadLetter>> {
        self.memory.dead_letters(queue).await
    }

    async fn broadcast(&self, exchange: &str, routing_key: &str, message: Message) -> Result<()> {
        let key = if self.is(LosesRoutingKeys) {
            ""
        } else {
            routing_key
        };
        self.memory.broadcast(exchange, key, message).await
    }

    async fn subscribe(&self, exchange: &str) -> Result<Box<dyn Subscription>> {
        self.memory.subscribe(exchange).await
    }
}

struct WrongConsumer {
    memory: Box<dyn Consumer>,
    number: u64,
    broker: Wrong,
}

#[async_trait]
impl Consumer for WrongConsumer {
    async fn next(&mut self) -> Result<Option<Delivery>> {
        let next = self.memory.next();
        let found = match self.broker.fault {
            Some(OneConsumerOnly) if self.number > 0 => std::future::pending().await,
            Some(LooksOnce) => match tokio::time::timeout(Duration::from_millis(1), next).await {
                Ok(found) => found?,
                Err(_) => std::future::pending().await,
            },
            Some(LosesWhatIsDropped) => {
                let found = next.await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
                found
            }
            _ => next.await?,
        };
        if let Some(delivery) = &found {
            let mut out = self.broker.out.lock().unwrap();
            out.insert(delivery.receipt.tag.clone(), delivery.clone());
        }
        Ok(found)
    }

    async fn set_prefetch(&mut self, prefetch: usize) -> Result<()> {
        match self.broker.is(FirstPrefetchStays) {
            true => Ok(()),
            false => self.memory.set_prefetch(prefetch).await,
        }
    }

    async fn add_queue(&mut self, queue: &str) -> Result<()> {
        match self.broker.is(AddsNoQueue) {
            true => Ok(()),
            false => self.memory.add_queue(queue).await,
        }
    }

    async fn cancel_queue(&mut self, queue: &str) -> Result<()> {
        self.memory.cancel_queue(queue).await
    }

    async fn stop(&mut self) -> Result<()> {
        match self.broker.is(NeverStops) {
            true => Ok(()),
            false => self.memory.stop().await,
        }
    }
}
