//! Leases: kept running by whoever has a delivery, and ended by anyone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use canvas_core::broker::{Destination, Receipt};
use canvas_core::{Error, Result, format_time};
use canvas_redis::{Fault, run_script};
use chrono::Utc;
use redis::from_redis_value;

use crate::hub::Hub;
use crate::record::{Dead, Record, mark};
use crate::scripts;
use crate::settle::{Move, Side, odd};

/// How many tags go into one call.
const TOGETHER: usize = 1_000;

/// How many deliveries are restored in one step, and after how many bytes.
const RESTORED: usize = 64;
const RESTORED_BYTES: usize = 16 * 1024 * 1024;

/// Where a record goes that cannot be read, so that nobody knows its queue.
const NO_QUEUE: &str = "unacked";

impl Hub {
    /// Starts leases anew; those that have passed on are left alone.
    pub(crate) async fn renew(&self, receipts: &[Receipt]) -> Result<()> {
        // Consumers may differ in the length of their leases.
        let mut groups: HashMap<Arc<str>, (f64, Vec<&Receipt>)> = HashMap::new();
        for receipt in receipts {
            // A delivery of a consumer that is not known here has lapsed.
            if let Some((consumer, _)) = self.consumer_of(&receipt.tag) {
                let offset = self.lease_offset(consumer.lease);
                let group = groups.entry(consumer.name.clone());
                group
                    .or_insert_with(|| (offset, Vec::new()))
                    .1
                    .push(receipt);
            }
        }
        for (offset, receipts) in groups.into_values() {
            for receipts in receipts.chunks(TOGETHER) {
                self.renew_some(offset, receipts).await?;
            }
        }
        Ok(())
    }

    async fn renew_some(&self, offset: f64, receipts: &[&Receipt]) -> Result<()> {
        let offset = offset.to_string();
        let mut arguments: Vec<&str> = vec![&offset];
        arguments.extend(receipts.iter().map(|receipt| &*receipt.tag));
        let now = Instant::now();
        let keys = [&self.layout.index];
        let call = |connection| run_script(&scripts::RENEW, &keys, &arguments, connection);
        let answer = self.link.call("broker.renew", call).await?;
        let stale: Vec<usize> = from_redis_value(answer).map_err(|error| odd(&error))?;
        for (place, receipt) in receipts.iter().enumerate() {
            // Lua counts from 1.
            if stale.binary_search(&(place + 1)).is_ok() {
                self.landed(&receipt.tag);
            } else if let Some((consumer, number)) = self.consumer_of(&receipt.tag) {
                consumer.renewed(number, now);
            }
        }
        Ok(())
    }

    /// Has someone end leases for as long as there are consumers.
    pub(crate) fn start_sweeping(self: &Arc<Self>) {
        if self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let sweeping = Sweeping {
            hub: self.clone(),
            done: false,
        };
        tokio::spawn(sweeping.run());
    }

    async fn keep_sweeping(&self) {
        loop {
            // Many sweep, and need not do it at the same time.
            let interval = self.config.sweep_interval;
            tokio::time::sleep(interval.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            if self.lapse() {
                self.sweeping.store(false, Ordering::Release);
                // One that came after the look may have relied on us.
                if self.lapse() || self.sweeping.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
            match self.sweep().await {
                Ok(0) | Err(Fault::Lost(_)) => {}
                Ok(restored) => tracing::info!(restored, "leases have ended: delivering again"),
                Err(Fault::Refused(error)) => tracing::warn!(%error, "leases cannot be ended"),
            }
        }
    }

    /// Forgets what has lapsed; tells whether there are no consumers left.
    fn lapse(&self) -> bool {
        let now = Instant::now();
        let mut consumers = self.consumers();
        consumers.retain(|_, consumer| !consumer.lapse(now));
        consumers.is_empty()
    }

    /// Puts back every message whose lease has ended, and says how many.
    pub(crate) async fn sweep(&self) -> Result<usize, Fault> {
        let mut restored = 0;
        loop {
            let due = self.due().await?;
            if due.is_empty() {
                return Ok(restored);
            }
            let moved = self.restore(&due).await?;
            if moved == 0 {
                // Others are at it.
                return Ok(restored);
            }
            restored += moved;
        }
    }

    /// Tags whose lease has ended, the latest first, and their records.
    async fn due(&self) -> Result<Vec<(String, Vec<u8>)>, Fault> {
        let keys = [&self.layout.unacked, &self.layout.index];
        let arguments = [
            self.config.visibility_timeout.as_secs_f64().to_string(),
            RESTORED.to_string(),
            RESTORED_BYTES.to_string(),
        ];
        let call = |connection| run_script(&scripts::DUE, &keys, &arguments, connection);
        let answer = self.link.call("broker.restore", call).await?;
        from_redis_value(answer).map_err(|error| Fault::Refused(odd(&error)))
    }

    /// Puts messages back, and says how many nobody else had put back.
    async fn restore(&self, due: &[(String, Vec<u8>)]) -> Result<usize, Fault> {
        let mut ready = Vec::with_capacity(due.len());
        for (tag, record) in due {
            ready.push((tag, self.destination(tag, record).await?));
        }
        let mut moves = Vec::with_capacity(ready.len());
        for (tag, (lists, raw)) in &ready {
            for (place, list) in lists.iter().enumerate() {
                moves.push(Move {
                    tag: if place == 0 { tag } else { "" },
                    list: list.clone(),
                    side: Side::Next,
                    most: 0,
                    raw,
                });
            }
        }
        let timeout = Some(self.config.visibility_timeout);
        let moved = self.move_all("broker.restore", &moves, timeout).await?;
        let firsts = moves
            .iter()
            .zip(moved)
            .filter(|(m, moved)| *moved && !m.tag.is_empty());
        Ok(firsts.inspect(|(m, _)| self.landed(m.tag)).count())
    }

    /// The lists that take a message back, and the message.
    async fn destination(&self, tag: &str, record: &[u8]) -> Result<(Vec<String>, Vec<u8>), Fault> {
        let Some(read) = Record::read(record) else {
            tracing::error!(tag, "the record of a message that is out cannot be read");
            let dead = Dead::new("unreadable record", format_time(Utc::now()), record);
            let text = serde_json::to_vec(&dead).unwrap_or_default();
            return Ok((vec![self.layout.dead(NO_QUEUE)], text));
        };
        let to = Destination {
            exchange: read.exchange.into(),
            routing_key: read.routing_key.into(),
        };
        let queues = match self.route(&to).await {
            Ok(queues) => queues,
            Err(error @ Error::Connection { .. }) => return Err(Fault::Lost(error)),
            Err(_) => vec![NO_QUEUE.into()],
        };
        let marked = mark(&read.raw, true);
        let step = self.layout.step(marked.priority);
        let lists = queues.iter().map(|queue| self.layout.list(queue, step));
        Ok((lists.collect(), marked.raw))
    }
}

/// Says that nobody sweeps any more, should the task that does be dropped with
/// its runtime.
struct Sweeping {
    hub: Arc<Hub>,
    done: bool,
}

impl Sweeping {
    async fn run(mut self) {
        self.hub.keep_sweeping().await;
        self.done = true;
    }
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        if !self.done {
            self.hub.sweeping.store(false, Ordering::Release);
        }
    }
}
