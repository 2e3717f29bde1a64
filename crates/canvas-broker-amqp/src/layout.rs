//! The exchanges, queues and bindings that Celery and kombu declare.

use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, ExchangeKind, Result};

use crate::config::{AmqpBrokerConfig, ExchangeType, QueueType};

/// Where rejected messages go, under the name of the queue they came from.
pub(crate) const DEAD_EXCHANGE: &str = "canvas.dead";

/// How many dead letters a queue keeps; older ones are dropped.
const DEAD_LETTERS: i32 = 10_000;

/// How many bits kombu gives to a delay, in seconds.
const BITS: usize = 28;

/// The longest delay, a little over eight years.
pub(crate) const LONGEST_DELAY: u64 = (1 << BITS) - 1;

/// Where delayed messages begin their way.
pub(crate) const DELAY_EXCHANGE: &str = "celery_delayed_27";

/// Where delayed messages end it.
const DELIVERY_EXCHANGE: &str = "celery_delayed_delivery";

/// The exchange that is common to the queues of single workers.
const DIRECT_EXCHANGE: &str = "C.dq2";
const DIRECT_SUFFIX: &str = ".dq2";

/// What there is to declare, by the settings.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    queue_type: QueueType,
    exchange_type: ExchangeType,
    max_priority: Option<u8>,
    delivery_limit: Option<u32>,
    delayed: Option<QueueType>,
    event_exchange: String,
}

impl Layout {
    pub(crate) fn new(config: &AmqpBrokerConfig) -> Self {
        Self {
            queue_type: config.queue_type,
            exchange_type: config.exchange_type,
            max_priority: config.queue_max_priority,
            delivery_limit: config.delivery_limit,
            delayed: config
                .delayed_delivery
                .then_some(config.delayed_delivery_queue_type),
            event_exchange: config.event_exchange.clone(),
        }
    }

    /// The exchange of a queue, its type, and the key of the binding.
    fn exchange<'a>(&self, queue: &'a str) -> (&'a str, ExchangeKind, &'a str) {
        // What kombu calls a worker's direct queue.
        if let Some(worker) = queue.strip_suffix(DIRECT_SUFFIX) {
            return (DIRECT_EXCHANGE, ExchangeKind::Direct, worker);
        }
        let kind = match self.exchange_type {
            ExchangeType::Direct => ExchangeKind::Direct,
            ExchangeType::Topic => ExchangeKind::Topic,
        };
        (queue, kind, queue)
    }

    fn arguments(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        if self.queue_type == QueueType::Quorum {
            arguments.insert("x-queue-type".into(), text("quorum"));
        }
        if let Some(most) = self.max_priority {
            arguments.insert("x-max-priority".into(), number(most.into()));
        }
        if let Some(limit) = self.delivery_limit {
            arguments.insert("x-delivery-limit".into(), number(limit.into()));
        }
        arguments
    }

    /// Declares a queue as Celery does: its exchange, itself, the binding of
    /// the two, and the binding by which delayed messages find it.
    pub(crate) async fn declare(&self, channel: &Channel, queue: &str) -> Result<()> {
        let (exchange, kind, key) = self.exchange(queue);
        channel
            .exchange_declare(exchange.into(), kind, durable(), FieldTable::default())
            .await?;
        let options = QueueDeclareOptions::durable();
        channel
            .queue_declare(queue.into(), options, self.arguments())
            .await?;
        bind(channel, queue, exchange, key).await?;
        if self.delayed.is_some() {
            // Celery binds its exchange, with any number of words before the
            // key, and so does not serve direct ones. The queue itself, and
            // exactly as many words as there are bits, is for all exchanges,
            // and for this queue only.
            let key = format!("{}{queue}", "*.".repeat(BITS));
            bind(channel, queue, DELIVERY_EXCHANGE, &key).await?;
        }
        Ok(())
    }

    /// Declares where delayed messages wait, if they are to: a queue for each
    /// bit of a delay. From each of them a message goes on to the next lower
    /// one, either through its queue, in which it stays for that many seconds,
    /// or past it.
    pub(crate) async fn declare_delays(&self, channel: &Channel) -> Result<()> {
        let Some(kind) = self.delayed else {
            return Ok(());
        };
        for level in 0..BITS {
            topic(channel, &level_name(level)).await?;
        }
        topic(channel, DELIVERY_EXCHANGE).await?;
        for level in (0..BITS).rev() {
            let name = level_name(level);
            let next = match level {
                0 => DELIVERY_EXCHANGE.to_owned(),
                _ => level_name(level - 1),
            };
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), text(kind.name()));
            arguments.insert("x-overflow".into(), text("reject-publish"));
            arguments.insert("x-message-ttl".into(), number((1 << level) * 1000));
            arguments.insert("x-dead-letter-exchange".into(), text(&next));
            if kind == QueueType::Quorum {
                arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
            }
            let options = QueueDeclareOptions::durable();
            let queue = name.as_str();
            channel
                .queue_declare(queue.into(), options, arguments)
                .await?;
            let before = "*.".repeat(BITS - 1 - level);
            bind(channel, queue, queue, &format!("{before}1.#")).await?;
            let key = format!("{before}0.#");
            let options = ExchangeBindOptions::default();
            channel
                .exchange_bind(
                    next.into(),
                    queue.into(),
                    key.into(),
                    options,
                    FieldTable::default(),
                )
                .await?;
        }
        Ok(())
    }

    /// Declares an exchange that sends to all who listen, and tells whether it
    /// needs a pattern to do so.
    pub(crate) async fn declare_fanout(&self, channel: &Channel, exchange: &str) -> Result<()> {
        if exchange == self.event_exchange {
            return topic(channel, exchange).await;
        }
        // Remote control, as kombu's mailboxes are.
        let options = ExchangeDeclareOptions::default();
        channel
            .exchange_declare(
                exchange.into(),
                ExchangeKind::Fanout,
                options,
                FieldTable::default(),
            )
            .await
    }

    /// Declares where the rejected messages of a queue are kept. On one node:
    /// reading a quorum queue without taking anything would count as delivering.
    pub(crate) async fn declare_dead(&self, channel: &Channel, queue: &str) -> Result<()> {
        channel
            .exchange_declare(
                DEAD_EXCHANGE.into(),
                ExchangeKind::Direct,
                durable(),
                FieldTable::default(),
            )
            .await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(DEAD_LETTERS));
        let name = dead_queue(queue);
        let options = QueueDeclareOptions::durable();
        channel
            .queue_declare(name.as_str().into(), options, arguments)
            .await?;
        bind(channel, &name, DEAD_EXCHANGE, queue).await
    }
}

/// The queue of the dead letters of a queue.
pub(crate) fn dead_queue(queue: &str) -> String {
    format!("{queue}.dead")
}

fn level_name(level: usize) -> String {
    format!("celery_delayed_{level}")
}

/// The routing key with which a message reaches a queue after some seconds:
/// their bits, the highest first.
pub(crate) fn delayed_key(seconds: u64, queue: &str) -> String {
    let seconds = seconds.min(LONGEST_DELAY);
    let bits = (0..BITS).rev().map(|bit| match (seconds >> bit) & 1 {
        0 => "0.",
        _ => "1.",
    });
    let mut key: String = bits.collect();
    key.push_str(queue);
    key
}

fn durable() -> ExchangeDeclareOptions {
    ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    }
}

async fn topic(channel: &Channel, name: &str) -> Result<()> {
    channel
        .exchange_declare(
            name.into(),
            ExchangeKind::Topic,
            durable(),
            FieldTable::default(),
        )
        .await
}

pub(crate) async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> Result<()> {
    channel
        .queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

fn number(number: i64) -> AMQPValue {
    match i32::try_from(number) {
        Ok(small) => AMQPValue::LongInt(small),
        Err(_) => AMQPValue::LongLongInt(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_the_bits_of_their_seconds() {
        // By kombu's calculate_routing_key.
        let zeros = |n: usize| "0.".repeat(n);
        assert_eq!(delayed_key(1, "q"), format!("{}1.q", zeros(27)));
        assert_eq!(delayed_key(10, "a.b"), format!("{}1.0.1.0.a.b", zeros(24)));
        assert_eq!(delayed_key(u64::MAX, "q"), format!("{}q", "1.".repeat(28)));
    }

    #[test]
    fn the_queue_of_one_worker_is_at_the_exchange_of_all_such() {
        let layout = Layout::new(&AmqpBrokerConfig::default());
        let table = [
            ("celery", ("celery", ExchangeKind::Direct, "celery")),
            ("w1@host.dq2", ("C.dq2", ExchangeKind::Direct, "w1@host")),
        ];
        for (queue, want) in table {
            assert_eq!(layout.exchange(queue), want);
        }
    }
}
