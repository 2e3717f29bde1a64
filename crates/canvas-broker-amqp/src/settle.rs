//! Ending deliveries. Acknowledgements go together; what is deferred or
//! rejected is confirmed to be in its new place before it leaves the old one.

use std::time::Instant;

use canvas_core::broker::{Receipt, Settle, Settled};
use canvas_core::{Error, Result, format_time};
use chrono::{DateTime, Utc};
use lapin::Channel;
use lapin::options::BasicAckOptions;
use lapin::types::{AMQPValue, FieldTable, LongString};

use crate::consume::Shared;
use crate::dead::{AT, REASON};
use crate::hub::Hub;
use crate::layout::DEAD_EXCHANGE;
use crate::publish::{Declared, Ready, until};
use crate::session::Out;
use crate::wire::short;

const OPERATION: &str = "broker.settle";

impl Hub {
    /// Ends a delivery. One whose channel has gone is someone else's.
    pub(crate) async fn settle(&self, receipt: &Receipt, how: Settle) -> Result<Settled> {
        if matches!(how, Settle::Defer(_)) && !self.config.delayed_delivery {
            return Err(Error::Unsupported {
                operation: OPERATION,
                driver: "the RabbitMQ broker without delayed_delivery".to_owned(),
                hint: "hold the message in the worker until its time".to_owned(),
            });
        }
        let Some((consumer, tag)) = self.find(receipt) else {
            return Ok(Settled::Stale);
        };
        let Some((channel, out)) = consumer.land(receipt, tag) else {
            return Ok(Settled::Stale);
        };
        let settled = match how {
            Settle::Ack => consumer.acknowledge(receipt.epoch, tag).await,
            Settle::Requeue => match consumer.give_back(&channel, &[tag]).await {
                Ok(()) => Ok(Settled::Done),
                Err(_) => Ok(Settled::Stale),
            },
            Settle::Reject(reason) => {
                let moved = self.reject(&out, &reason).await;
                consumer.moved(receipt.epoch, tag, out, moved).await
            }
            Settle::Defer(at) => {
                let moved = self.defer(&out, at).await;
                consumer.moved(receipt.epoch, tag, out, moved).await
            }
        };
        consumer.wake();
        settled
    }

    /// Starts leases anew. They are kept here: the server knows none, and
    /// gives messages to others when their connection ends.
    pub(crate) fn renew(&self, receipts: &[Receipt]) {
        let now = Instant::now();
        for receipt in receipts {
            if let Some((consumer, tag)) = self.find(receipt) {
                let lease = consumer.lease;
                let mut state = consumer.state();
                if state.epoch == receipt.epoch
                    && let Some(out) = state.out.get_mut(&tag)
                {
                    out.until = now + lease;
                }
            }
        }
    }

    async fn reject(&self, out: &Out, reason: &str) -> Result<()> {
        let mut headers = out.raw.properties.headers().clone().unwrap_or_default();
        note(&mut headers, REASON, reason);
        note(&mut headers, AT, &format_time(Utc::now()));
        let message = Ready {
            exchange: DEAD_EXCHANGE.into(),
            routing_key: short(&out.queue)?,
            properties: out.raw.properties.clone().with_headers(headers),
            body: out.raw.body.clone(),
        };
        let needs = [Declared::Dead(out.queue.clone())];
        self.publisher.forward(OPERATION, &needs, message).await
    }

    async fn defer(&self, out: &Out, at: DateTime<Utc>) -> Result<()> {
        let message = Ready {
            exchange: "".into(),
            routing_key: short(&out.queue)?,
            properties: out.raw.properties.clone(),
            body: out.raw.body.clone(),
        };
        let message = match until(at, Utc::now()) {
            Some(seconds) => message.delay(seconds, &out.queue)?,
            None => message,
        };
        let needs = [Declared::Queue(out.queue.clone())];
        self.publisher.forward(OPERATION, &needs, message).await
    }
}

fn note(headers: &mut FieldTable, name: &str, text: &str) {
    headers.insert(name.into(), AMQPValue::LongString(LongString::from(text)));
}

impl Shared {
    /// Takes a delivery out of what is out, if its receipt still counts.
    fn land(&self, receipt: &Receipt, tag: u64) -> Option<(Channel, Out)> {
        let mut state = self.state();
        if state.epoch != receipt.epoch || !state.holds() {
            return None;
        }
        let channel = state.channel.clone()?;
        let out = state.out.remove(&tag)?;
        Some((channel, out))
    }

    /// What a delivery comes to that was sent on.
    async fn moved(&self, epoch: u64, tag: u64, out: Out, moved: Result<()>) -> Result<Settled> {
        match moved {
            // Should this be lost, it is there twice: once more, not once less.
            Ok(()) => self.acknowledge(epoch, tag).await,
            Err(error) => {
                // It is out as before, and its lease brings it back.
                let mut state = self.state();
                if state.epoch == epoch {
                    state.out.insert(tag, out);
                }
                Err(error)
            }
        }
    }

    /// Acknowledges. What comes while one call is on its way goes with the next.
    async fn acknowledge(&self, epoch: u64, tag: u64) -> Result<Settled> {
        {
            let mut state = self.state();
            if state.epoch != epoch {
                return Ok(Settled::Stale);
            }
            state.acks.push(tag);
        }
        let _acking = self.acking.lock().await;
        let (channel, acks) = {
            let mut state = self.state();
            // Lost with its channel, before or after it was sent: unknown, and
            // it may come again.
            if state.epoch != epoch {
                return Ok(Settled::Stale);
            }
            if !state.acks.contains(&tag) {
                return Ok(Settled::Done);
            }
            // One that came and was not taken in must not be covered.
            (state.channel.clone(), state.take_acks())
        };
        let Some(channel) = channel else {
            return Ok(Settled::Stale);
        };
        for ack in acks {
            let options = BasicAckOptions {
                multiple: ack.multiple,
            };
            if channel.basic_ack(ack.tag, options).await.is_err() {
                self.state().end();
                self.wake();
                return Ok(Settled::Stale);
            }
        }
        Ok(Settled::Done)
    }

    /// Drops what came from a queue and was not asked for.
    pub(crate) async fn purge(&self, queue: &str) -> Result<u64> {
        let _limits = self.changing.lock().await;
        self.waiting(queue).await;
        let (epoch, unwanted) = {
            let mut state = self.state();
            let unwanted = state.set_aside(|name, _| name == queue);
            (state.epoch, unwanted)
        };
        let mut purged = 0;
        for tag in unwanted {
            if self.acknowledge(epoch, tag).await? == Settled::Done {
                purged += 1;
            }
        }
        Ok(purged)
    }
}
