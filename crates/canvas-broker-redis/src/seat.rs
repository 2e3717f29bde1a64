//! A message that goes from one delivery to the next without a queue between.
//!
//! A chain on an idle fleet is one message at a time: whoever ends a step puts
//! the next one into a queue that is empty, is told that there is something in
//! it, and fetches what it has just sent. A consumer with nothing else to do
//! takes it at once instead, in the same step on the server, if the queue is
//! still empty then. Nobody is passed over, and nobody waits for it longer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use canvas_core::broker::Receipt;
use canvas_redis::Seat;

use crate::consume::Shared;
use crate::hub::Hub;
use crate::record::tail;

/// Numbers of such deliveries; those that are fetched count from 0.
pub(crate) const FIRST: u64 = 1 << 63;

#[derive(Debug)]
struct OwnSeat {
    hub: Arc<Hub>,
    consumer: Arc<Shared>,
    number: u64,
    tag: Arc<str>,
    queue: Arc<str>,
    tail: String,
    lists: Vec<String>,
    since: Instant,
    is_taken: bool,
}

impl Hub {
    /// A seat at the consumer that has this delivery, for what is to go into
    /// `list`.
    pub(crate) fn seat(self: &Arc<Self>, receipt: &Receipt, list: &str) -> Option<Box<dyn Seat>> {
        let (consumer, _) = self.consumer_of(&receipt.tag)?;
        let mut state = consumer.state();
        let is_idle = state.asked && !state.closed && state.out.len() == 1;
        if !is_idle {
            return None;
        }
        let lists = self.layout.lists_of(&state.queues);
        let place = lists.iter().position(|known| known == list)?;
        let queue = state.queues.get(place % state.queues.len())?.clone();
        let number = consumer.seats.fetch_add(1, Ordering::Relaxed);
        let since = Instant::now();
        state.out.insert(number, since + consumer.lease);
        drop(state);
        Some(Box::new(OwnSeat {
            hub: self.clone(),
            tag: consumer.receipt(number).tag,
            tail: tail(&queue),
            consumer,
            number,
            queue,
            lists,
            since,
            is_taken: false,
        }))
    }
}

impl Seat for OwnSeat {
    fn tag(&self) -> &str {
        &self.tag
    }

    fn tail(&self) -> &str {
        &self.tail
    }

    fn offset(&self) -> f64 {
        self.hub.lease_offset(self.consumer.lease)
    }

    fn lists(&self) -> &[String] {
        &self.lists
    }

    fn take(mut self: Box<Self>, message: Vec<u8>) {
        self.is_taken = true;
        let queue = self.queue.clone();
        let fetched = self
            .consumer
            .fetched(self.number, queue, message, self.since);
        self.consumer.take_in(vec![fetched]);
        // Nobody looks for it there any more.
        let unwanted = {
            let mut state = self.consumer.state();
            match state.closed {
                true => std::mem::take(&mut state.unwanted),
                false => Vec::new(),
            }
        };
        if !unwanted.is_empty() {
            let (hub, consumer) = (self.hub.clone(), self.consumer.clone());
            tokio::spawn(async move { hub.give_back(&consumer, unwanted).await });
        }
    }
}

impl Drop for OwnSeat {
    fn drop(&mut self) {
        if !self.is_taken {
            self.hub.landed(&self.tag);
        }
    }
}
