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
use crate::start::start;
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
        let _settling = Settling(&consumer);
        match how {
            Settle::Ack => consumer.acknowledge(receipt.epoch, tag).await,
            Settle::Requeue => match consumer.give_back(&channel, &[tag]).await {
                Ok(()) => Ok(Settled::Done),
                Err(_) => Ok(Settled::Stale),
            },
            Settle::Reject(_) | Settle::Defer(_) => {
                let mut moving = Moving {
                    consumer: &consumer,
                    epoch: receipt.epoch,
                    tag,
                    out: Some(out),
                };
                self.send_on(&moving, how).await?;
                // Should this be lost, it is there twice: once more than it
                // should be, and not once less.
                moving.out = None;
                consumer.acknowledge(receipt.epoch, tag).await
            }
        }
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

    async fn send_on(&self, moving: &Moving<'_>, how: Settle) -> Result<()> {
        match (&moving.out, how) {
            (Some(out), Settle::Reject(reason)) => self.reject(out, &reason).await,
            (Some(out), Settle::Defer(at)) => self.defer(out, at).await,
            _ => Ok(()),
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

/// Keeps the channel of a consumer that was stopped until its last delivery is
/// settled.
struct Settling<'a>(&'a Shared);

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        self.0.settled();
    }
}

/// A delivery whose message is on its way to another place. If it does not
/// get there, or nobody waits any more, it is out as before, and its lease
/// brings it back.
struct Moving<'a> {
    consumer: &'a Shared,
    epoch: u64,
    tag: u64,
    out: Option<Out>,
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        let mut state = self.consumer.state();
        if state.epoch == self.epoch
            && let Some(out) = self.out.take()
        {
            state.out.insert(self.tag, out);
        }
    }
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
        state.settling += 1;
        Some((channel, out))
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
        match self.flush(Some((epoch, tag))).await {
            true => Ok(Settled::Done),
            false => Ok(Settled::Stale),
        }
    }

    /// Sends the acknowledgements that are waiting; tells whether that of this
    /// delivery, if any is named, was sent.
    pub(crate) async fn flush(&self, of: Option<(u64, u64)>) -> bool {
        let _acking = self.acking.lock().await;
        let (epoch, sending): (u64, Vec<_>) = {
            let mut state = self.state();
            if let Some((epoch, tag)) = of {
                // Lost with its channel, before or after it was sent: nobody
                // knows, and it may come again.
                if state.epoch != epoch {
                    return false;
                }
                if !state.acks.contains(&tag) {
                    return true;
                }
            }
            let Some(channel) = state.channel.clone() else {
                return false;
            };
            // Under the lock, and at once: whoever waits may be dropped.
            let acks = state.take_acks().into_iter();
            let sending = acks.map(|ack| {
                let channel = channel.clone();
                let options = BasicAckOptions {
                    multiple: ack.multiple,
                };
                start(async move { channel.basic_ack(ack.tag, options).await })
            });
            let sending = sending.collect();
            (state.epoch, sending)
        };
        for sent in sending {
            if sent.await.is_err() {
                // The channel has gone, and what was out on it.
                let mut state = self.state();
                if state.epoch == epoch {
                    state.end();
                }
                drop(state);
                self.wake();
                return false;
            }
        }
        true
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
