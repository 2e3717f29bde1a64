//! What a consumer has: its channel, what came on it, and what is out.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use canvas_core::Error;
use canvas_core::broker::{Delivery, Receipt};
use futures_util::Stream;
use lapin::{BasicProperties, Channel};

use crate::wire;

/// The state of a consumer. A new channel voids all that came on the one before.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Of the channel: the fence of its receipts. 0 if there is none.
    pub(crate) epoch: u64,
    pub(crate) channel: Option<Channel>,
    /// In the order of their turns.
    pub(crate) queues: Vec<Arc<str>>,
    pub(crate) prefetch: usize,
    streams: Vec<(Arc<str>, lapin::Consumer)>,
    /// What came and was not asked for yet.
    buffers: HashMap<Arc<str>, VecDeque<Arrived>>,
    pub(crate) out: BTreeMap<u64, Out>,
    tags: Tags,
    /// Acknowledgements that are waiting to be sent.
    pub(crate) acks: Vec<u64>,
    /// How many deliveries are being settled: out no more, and not done with.
    pub(crate) settling: usize,
    /// Queues whose consumer the server has ended.
    pub(crate) lost: Vec<Arc<str>>,
    pub(crate) closed: bool,
    pub(crate) error: Option<Error>,
    /// Whoever waits for a delivery.
    pub(crate) waker: Option<Waker>,
}

/// A message that came.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) tag: u64,
    redelivered: bool,
    raw: Raw,
    at: Instant,
}

/// A message as it was on the wire, to be sent on as it is.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

/// A message that was given out.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) queue: Arc<str>,
    pub(crate) raw: Raw,
    /// When its lease ends.
    pub(crate) until: Instant,
}

impl State {
    /// A consumer that is to be connected.
    pub(crate) fn new(queues: Vec<Arc<str>>, prefetch: usize) -> Self {
        Self {
            queues,
            prefetch,
            ..Self::default()
        }
    }

    /// Begins anew, on a channel that has just been opened.
    pub(crate) fn begin(
        &mut self,
        epoch: u64,
        channel: Channel,
        streams: Vec<(Arc<str>, lapin::Consumer)>,
    ) {
        self.end();
        self.epoch = epoch;
        self.channel = Some(channel);
        self.streams = streams;
    }

    /// Forgets the channel and all that came on it: the server gives it to
    /// others, or has done so already.
    pub(crate) fn end(&mut self) -> Option<Channel> {
        self.epoch = 0;
        self.streams.clear();
        self.buffers.clear();
        self.out.clear();
        self.tags = Tags::default();
        self.acks.clear();
        self.lost.clear();
        self.channel.take()
    }

    /// Whether nothing that came is of concern to anyone here any more.
    pub(crate) fn is_done(&self) -> bool {
        self.out.is_empty() && self.settling == 0
    }

    /// Whether there is a channel, and it holds.
    pub(crate) fn holds(&self) -> bool {
        let channel = self.channel.as_ref();
        channel.is_some_and(|channel| channel.status().connected())
    }

    pub(crate) fn add_stream(&mut self, queue: Arc<str>, stream: lapin::Consumer) {
        self.streams.push((queue, stream));
    }

    /// The tags of the consumers of a queue, or of all.
    pub(crate) fn consumer_tags(&self, queue: Option<&str>) -> Vec<lapin::types::ShortString> {
        let of = |name: &str| queue.is_none_or(|queue| queue == name);
        let streams = self.streams.iter().filter(|(name, _)| of(name));
        streams.map(|(_, stream)| stream.tag()).collect()
    }

    /// Lets go of consumers that were cancelled, after what they have brought
    /// was taken in.
    pub(crate) fn drop_streams(&mut self, tags: &[lapin::types::ShortString]) {
        self.streams
            .retain(|(_, stream)| !tags.contains(&stream.tag()));
    }

    /// Takes in what has come; tells whether something new is wrong.
    pub(crate) fn take_in(&mut self, context: &mut Context<'_>) -> bool {
        let mut wrong = false;
        let now = Instant::now();
        let mut ended = Vec::new();
        for (place, (queue, stream)) in self.streams.iter_mut().enumerate() {
            loop {
                match Pin::new(&mut *stream).poll_next(context) {
                    Poll::Ready(Some(Ok(delivery))) => {
                        self.tags.arrived(delivery.delivery_tag);
                        let buffer = self.buffers.entry(queue.clone()).or_default();
                        buffer.push_back(Arrived {
                            tag: delivery.delivery_tag,
                            redelivered: delivery.redelivered,
                            raw: Raw {
                                properties: delivery.properties,
                                body: delivery.data.into(),
                            },
                            at: now,
                        });
                    }
                    // The end follows.
                    Poll::Ready(Some(Err(_))) => wrong = true,
                    Poll::Ready(None) => {
                        ended.push(place);
                        break;
                    }
                    Poll::Pending => break,
                }
            }
        }
        for place in ended.into_iter().rev() {
            let (queue, _) = self.streams.remove(place);
            // Nobody has cancelled it here.
            if self.queues.contains(&queue) && !self.streams.iter().any(|(name, _)| *name == queue)
            {
                self.lost.push(queue);
                wrong = true;
            }
        }
        wrong
    }

    /// The next delivery, if one may go out: queues take turns.
    pub(crate) fn give_out(&mut self, consumer: u64, lease: Duration) -> Option<Delivery> {
        if self.out.len() >= self.prefetch {
            return None;
        }
        let turn = self.queues.iter().position(|queue| {
            let buffer = self.buffers.get(queue);
            buffer.is_some_and(|buffer| !buffer.is_empty())
        })?;
        let queue = self.queues[turn].clone();
        // It is at the end of the line now, and those before it stay in front.
        self.queues[turn..].rotate_left(1);
        let arrived = self.buffers.get_mut(&queue)?.pop_front()?;
        let read = wire::decode(&arrived.raw.properties, &arrived.raw.body);
        let out = Out {
            queue: queue.clone(),
            raw: arrived.raw,
            until: Instant::now() + lease,
        };
        self.out.insert(arrived.tag, out);
        let before = read
            .before
            .map(|before| u32::try_from(before).unwrap_or(u32::MAX));
        Some(Delivery {
            message: read.message,
            receipt: receipt(consumer, self.epoch, arrived.tag),
            queue,
            redelivered: arrived.redelivered || before.is_some_and(|before| before > 0),
            deliveries: match before {
                Some(before) => before.saturating_add(1),
                None => u32::from(!arrived.redelivered),
            },
        })
    }

    /// How many came from a queue and were not asked for.
    pub(crate) fn waiting(&self, queue: &str) -> usize {
        self.buffers.get(queue).map_or(0, VecDeque::len)
    }

    /// Takes out of the buffers what nobody is to get here any more.
    pub(crate) fn set_aside(&mut self, unwanted: impl Fn(&str, Instant) -> bool) -> Vec<u64> {
        let mut aside = Vec::new();
        for (queue, buffer) in &mut self.buffers {
            buffer.retain(|arrived| {
                let drop = unwanted(queue, arrived.at);
                if drop {
                    aside.push(arrived.tag);
                }
                !drop
            });
        }
        aside
    }

    /// Notes that a delivery was settled in some way but acknowledging.
    pub(crate) fn settled(&mut self, tag: u64) {
        self.tags.open.remove(&tag);
    }

    /// The acknowledgements that are waiting, as few as they can be.
    pub(crate) fn take_acks(&mut self) -> Vec<Ack> {
        let mut acks = std::mem::take(&mut self.acks);
        acks.sort_unstable();
        self.tags.acknowledge(&acks)
    }

    /// Deliveries whose lease has ended: they are not out any more.
    pub(crate) fn lapsed(&mut self, now: Instant) -> Vec<u64> {
        let ended = self.out.iter().filter(|(_, out)| out.until <= now);
        let ended: Vec<u64> = ended.map(|(tag, _)| *tag).collect();
        for tag in &ended {
            self.out.remove(tag);
        }
        ended
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.out.values().map(|out| out.until).min()
    }
}

/// An acknowledgement to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) tag: u64,
    /// Whether it is for all before it too.
    pub(crate) multiple: bool,
}

/// The tags of a channel that have come and are not settled.
#[derive(Debug, Default)]
struct Tags {
    open: BTreeSet<u64>,
    /// All up to this one have come.
    seen: u64,
    /// Those that came, with others before them that did not.
    ahead: BTreeSet<u64>,
}

impl Tags {
    fn arrived(&mut self, tag: u64) {
        self.open.insert(tag);
        self.ahead.insert(tag);
        while self.ahead.remove(&(self.seen + 1)) {
            self.seen += 1;
        }
    }

    /// One acknowledgement for as many as there are without one in between that
    /// is open, or that has not come to us: that one would be lost.
    fn acknowledge(&mut self, acks: &[u64]) -> Vec<Ack> {
        for tag in acks {
            self.open.remove(tag);
        }
        let open = self.open.first().map_or(u64::MAX, |first| first - 1);
        let bound = self.seen.min(open);
        let together = acks.partition_point(|tag| *tag <= bound);
        let (together, single) = acks.split_at(together);
        let mut sent = Vec::with_capacity(single.len() + 1);
        sent.extend(together.last().map(|tag| Ack {
            tag: *tag,
            multiple: together.len() > 1,
        }));
        sent.extend(single.iter().map(|tag| Ack {
            tag: *tag,
            multiple: false,
        }));
        sent
    }
}

/// A receipt says whose delivery it is; the epoch of the channel fences it.
fn receipt(consumer: u64, epoch: u64, tag: u64) -> Receipt {
    Receipt {
        tag: format!("{consumer}:{epoch}:{tag}").into(),
        epoch,
    }
}

/// The consumer and the delivery tag of a receipt.
pub(crate) fn read_receipt(receipt: &Receipt) -> Option<(u64, u64)> {
    let mut parts = receipt.tag.split(':');
    let consumer = parts.next()?.parse().ok()?;
    let tag = parts.nth(1)?.parse().ok()?;
    Some((consumer, tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(arrived: &[u64]) -> Tags {
        let mut tags = Tags::default();
        for tag in arrived {
            tags.arrived(*tag);
        }
        tags
    }

    fn one(tag: u64) -> Ack {
        Ack {
            tag,
            multiple: false,
        }
    }

    fn up_to(tag: u64) -> Ack {
        Ack {
            tag,
            multiple: true,
        }
    }

    #[test]
    fn what_is_acknowledged_in_a_row_takes_one_word() {
        let mut tags = tags(&[1, 2, 3, 4]);
        assert_eq!(tags.acknowledge(&[1, 2, 3]), [up_to(3)]);
        assert_eq!(tags.acknowledge(&[4]), [one(4)]);
    }

    #[test]
    fn no_acknowledgement_covers_a_delivery_that_is_out() {
        let mut tags = tags(&[1, 2, 3, 4, 5]);
        assert_eq!(tags.acknowledge(&[1, 2, 4, 5]), [up_to(2), one(4), one(5)]);
        assert_eq!(tags.acknowledge(&[3]), [one(3)]);
    }

    #[test]
    fn no_acknowledgement_covers_a_delivery_that_has_not_come() {
        let mut tags = tags(&[1, 3, 4]);
        assert_eq!(tags.acknowledge(&[1, 3, 4]), [one(1), one(3), one(4)]);
        tags.arrived(2);
        tags.arrived(5);
        assert_eq!(tags.acknowledge(&[2, 5]), [up_to(5)]);
    }

    #[test]
    fn receipts_tell_whose_they_are() {
        let receipt = receipt(7, 3, 12);
        assert_eq!(receipt.epoch, 3);
        assert_eq!(read_receipt(&receipt), Some((7, 12)));
        let other = Receipt {
            tag: "canvas-delivery:1".into(),
            epoch: 0,
        };
        assert_eq!(read_receipt(&other), None);
    }
}
