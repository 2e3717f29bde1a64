//! Publishing: a batch is on its way at once, and each message is confirmed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use canvas_core::broker::Outgoing;
use canvas_core::{Error, Result};
use chrono::{DateTime, Utc};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};

use crate::layout::{DELAY_EXCHANGE, Layout, delayed_key};
use crate::link::{Link, fault};
use crate::start::{Started, start};
use crate::wire::{self, short};

/// How many messages are on their way unconfirmed.
const WINDOW: usize = 2_048;

/// Publishes on a connection of its own: a server that runs short of memory
/// stops reading from those who publish, and would then not hear what is
/// acknowledged there either.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) link: Link,
    layout: Arc<Layout>,
    confirm_timeout: std::time::Duration,
    delays: bool,
    /// For queues that are declared here.
    queues: Lane,
    /// For exchanges that others declare. One that is missing ends its channel,
    /// with all that is on its way there.
    exchanges: Lane,
    /// For broadcasts, whose exchanges are declared here.
    broadcasts: Lane,
}

/// A channel that comes back.
#[derive(Debug, Default)]
struct Lane(tokio::sync::Mutex<Option<Arc<Open>>>);

#[derive(Debug)]
struct Open {
    channel: Channel,
    /// What was declared on this connection.
    declared: Mutex<HashSet<Declared>>,
    /// Held while something is declared: a quorum queue that is declared by
    /// many at once refuses its first messages.
    declaring: tokio::sync::Mutex<()>,
    /// Held while a batch is handed over: the library numbers messages, and
    /// queues them, in two steps.
    order: Mutex<()>,
}

/// Something that is declared once for each connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Declared {
    Delays,
    Queue(Arc<str>),
    Dead(Arc<str>),
    Fanout(Arc<str>),
}

/// A message as it goes out.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

impl Publisher {
    pub(crate) fn new(
        link: Link,
        layout: Arc<Layout>,
        confirm_timeout: std::time::Duration,
        delays: bool,
    ) -> Self {
        Self {
            link,
            layout,
            confirm_timeout,
            delays,
            queues: Lane::default(),
            exchanges: Lane::default(),
            broadcasts: Lane::default(),
        }
    }

    /// Publishes a batch: when this returns, the server has all of it.
    pub(crate) async fn publish(&self, batch: Vec<Outgoing>) -> Result<()> {
        const OPERATION: &str = "broker.publish";
        let now = Utc::now();
        let mut needs = Vec::new();
        let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
        for outgoing in batch {
            let to = &outgoing.to;
            if !to.exchange.is_empty() {
                elsewhere.push(ready(&outgoing)?);
                continue;
            }
            if to.routing_key.is_empty() {
                return Err(Error::Config("a message was sent to no queue".to_owned()));
            }
            needs.push(Declared::Queue(to.routing_key.clone()));
            let eta = outgoing.message.headers.eta;
            let mut ready = ready(&outgoing)?;
            if let Some(seconds) = eta.filter(|_| self.delays).and_then(|eta| until(eta, now)) {
                ready = ready.delay(seconds, &to.routing_key)?;
            }
            here.push(ready);
        }
        if !here.is_empty() {
            self.send(OPERATION, &self.queues, &needs, here).await?;
        }
        if !elsewhere.is_empty() {
            self.send(OPERATION, &self.exchanges, &[], elsewhere)
                .await?;
        }
        Ok(())
    }

    /// Publishes messages to queues of ours, as they are.
    pub(crate) async fn forward(
        &self,
        operation: &'static str,
        needs: &[Declared],
        message: Ready,
    ) -> Result<()> {
        self.send(operation, &self.queues, needs, vec![message])
            .await
    }

    /// Publishes to all who listen, if any do.
    pub(crate) async fn broadcast(&self, exchange: &str, message: Ready) -> Result<()> {
        const OPERATION: &str = "broker.broadcast";
        let needs = [Declared::Fanout(exchange.into())];
        let open = self.open(OPERATION, &self.broadcasts).await?;
        self.declare(OPERATION, &open, &needs).await?;
        // That nobody listens is nothing to tell.
        self.confirmed(OPERATION, &open, vec![message], false)
            .await?;
        Ok(())
    }

    /// Publishes to a queue that somebody else declares, and tells whether it
    /// is there.
    pub(crate) async fn reply(&self, operation: &'static str, message: Ready) -> Result<bool> {
        let open = self.open(operation, &self.queues).await?;
        let returned = self.confirmed(operation, &open, vec![message], true);
        Ok(returned.await?.is_empty())
    }

    async fn send(
        &self,
        operation: &'static str,
        lane: &Lane,
        needs: &[Declared],
        mut messages: Vec<Ready>,
    ) -> Result<()> {
        let open = self.open(operation, lane).await?;
        self.declare(operation, &open, needs).await?;
        while !messages.is_empty() {
            let rest = messages.split_off(messages.len().min(WINDOW));
            let returned = self.confirmed(operation, &open, messages, true).await?;
            if !returned.is_empty() {
                self.again(operation, &open, needs, returned).await?;
            }
            messages = rest;
        }
        Ok(())
    }

    /// Publishes what came back once more: its queue was deleted after it had
    /// been declared here.
    async fn again(
        &self,
        operation: &'static str,
        open: &Open,
        needs: &[Declared],
        returned: Vec<Ready>,
    ) -> Result<()> {
        let lost = |message: &Ready, count: usize| Error::Connection {
            operation,
            reason: format!(
                "{count} messages came back: no queue is bound to exchange `{}` with the key `{}`",
                message.exchange, message.routing_key
            ),
        };
        if needs.is_empty() {
            return Err(lost(&returned[0], returned.len()));
        }
        open.forget(needs);
        self.declare(operation, open, needs).await?;
        let again = self.confirmed(operation, open, returned, true).await?;
        match again.first() {
            Some(first) => Err(lost(first, again.len())),
            None => Ok(()),
        }
    }

    /// Publishes messages, waits until the server has them, and gives those
    /// that it has sent back since they lead nowhere.
    async fn confirmed(
        &self,
        operation: &'static str,
        open: &Open,
        messages: Vec<Ready>,
        mandatory: bool,
    ) -> Result<Vec<Ready>> {
        let confirming = async {
            let mut returned = Vec::new();
            let mut refused = 0;
            let sent = open.hand_over(messages, mandatory);
            let mut confirms = Vec::with_capacity(sent.len());
            for sending in sent {
                confirms.push(sending.await?);
            }
            for confirm in confirms {
                match confirm.await? {
                    Confirmation::Ack(back) => returned.extend(back),
                    Confirmation::Nack(_) => refused += 1,
                    Confirmation::NotRequested => {}
                }
            }
            Ok::<_, lapin::Error>((returned, refused))
        };
        let lost = |reason: String| Error::Connection { operation, reason };
        match tokio::time::timeout(self.confirm_timeout, confirming).await {
            Ok(Ok((returned, 0))) => Ok(returned.into_iter().map(Ready::from).collect()),
            Ok(Ok((_, refused))) => Err(lost(format!(
                "RabbitMQ has refused {refused} messages: their queue is full, or has just failed"
            ))),
            Ok(Err(error)) => Err(fault(operation, &error)),
            Err(_) => {
                let why = match self.link.blocked() {
                    Some(reason) => format!("RabbitMQ takes nothing for now: {reason}"),
                    None => "the connection may have died".to_owned(),
                };
                Err(lost(format!(
                    "not confirmed in {:?}: {why}",
                    self.confirm_timeout
                )))
            }
        }
    }

    /// The channel of a lane, opened anew if it was closed.
    async fn open(&self, operation: &'static str, lane: &Lane) -> Result<Arc<Open>> {
        let mut current = lane.0.lock().await;
        if let Some(open) = &*current
            && open.channel.status().connected()
        {
            return Ok(open.clone());
        }
        *current = None;
        let (channel, _) = self.link.channel(operation).await?;
        let confirm = channel.confirm_select(ConfirmSelectOptions::default());
        confirm.await.map_err(|error| fault(operation, &error))?;
        let open = Arc::new(Open {
            channel,
            declared: Mutex::default(),
            declaring: tokio::sync::Mutex::default(),
            order: Mutex::new(()),
        });
        *current = Some(open.clone());
        Ok(open)
    }

    /// Declares what was not declared on this channel, on one of its own: to
    /// be refused ends a channel.
    async fn declare(
        &self,
        operation: &'static str,
        open: &Open,
        needs: &[Declared],
    ) -> Result<()> {
        if open.missing(needs).is_empty() {
            return Ok(());
        }
        let _declaring = open.declaring.lock().await;
        let missing = open.missing(needs);
        if missing.is_empty() {
            return Ok(());
        }
        let (channel, _) = self.link.channel(operation).await?;
        for need in &missing {
            let declaring = async {
                match need {
                    Declared::Delays => self.layout.declare_delays(&channel).await,
                    Declared::Queue(queue) => self.layout.declare(&channel, queue).await,
                    Declared::Dead(queue) => self.layout.declare_dead(&channel, queue).await,
                    Declared::Fanout(name) => self.layout.declare_fanout(&channel, name).await,
                }
            };
            declaring.await.map_err(|error| fault(operation, &error))?;
        }
        open.declared().extend(missing);
        let _ = channel.close(200, "done".into()).await;
        Ok(())
    }
}

type Sending = Started<lapin::Result<PublisherConfirm>>;

impl Open {
    fn declared(&self) -> std::sync::MutexGuard<'_, HashSet<Declared>> {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self, needs: &[Declared]) -> Vec<Declared> {
        let declared = self.declared();
        let mut missing = Vec::new();
        for need in needs {
            if !declared.contains(need) && !missing.contains(need) {
                missing.push(need.clone());
            }
        }
        // Queues are bound to where delayed messages come out.
        if missing
            .iter()
            .any(|need| matches!(need, Declared::Queue(_)))
            && !declared.contains(&Declared::Delays)
        {
            missing.insert(0, Declared::Delays);
        }
        missing
    }

    fn forget(&self, needs: &[Declared]) {
        let mut declared = self.declared();
        for need in needs {
            declared.remove(need);
        }
    }

    /// Puts a batch on its way: all of it, in order, before anything is waited for.
    fn hand_over(&self, messages: Vec<Ready>, mandatory: bool) -> Vec<Sending> {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let options = BasicPublishOptions {
            mandatory,
            ..BasicPublishOptions::default()
        };
        let sent = messages.into_iter().map(|message| {
            let channel = self.channel.clone();
            start(async move {
                let Ready {
                    exchange,
                    routing_key,
                    properties,
                    body,
                } = message;
                channel
                    .basic_publish(exchange, routing_key, options, &body, properties)
                    .await
            })
        });
        sent.collect()
    }
}

impl Ready {
    /// The same, to reach a queue after some seconds.
    pub(crate) fn delay(mut self, seconds: u64, queue: &str) -> Result<Self> {
        self.exchange = DELAY_EXCHANGE.into();
        self.routing_key = short(&delayed_key(seconds, queue))?;
        // It would end the waiting early. The worker heeds `expires` anyway.
        self.properties = without_expiration(&self.properties);
        Ok(self)
    }
}

impl From<BasicReturnMessage> for Ready {
    fn from(back: BasicReturnMessage) -> Self {
        let delivery = back.delivery;
        Self {
            exchange: delivery.exchange,
            routing_key: delivery.routing_key,
            properties: delivery.properties,
            body: delivery.data.into(),
        }
    }
}

fn ready(outgoing: &Outgoing) -> Result<Ready> {
    Ok(Ready {
        exchange: short(&outgoing.to.exchange)?,
        routing_key: short(&outgoing.to.routing_key)?,
        properties: wire::encode(&outgoing.message)?,
        body: outgoing.message.body.clone(),
    })
}

/// The whole seconds until a moment, rounded up: never too early. None, if it
/// has come.
pub(crate) fn until(eta: DateTime<Utc>, now: DateTime<Utc>) -> Option<u64> {
    let milliseconds = u64::try_from((eta - now).num_milliseconds()).ok()?;
    Some(milliseconds / 1000 + 1)
}

/// The library can set properties, and not take one away.
fn without_expiration(from: &BasicProperties) -> BasicProperties {
    macro_rules! copy {
        ($($get:ident $set:ident),+ $(,)?) => {{
            let mut to = BasicProperties::default();
            $(if let Some(value) = from.$get() {
                to = to.$set(value.clone());
            })+
            to
        }};
    }
    copy!(
        content_type with_content_type,
        content_encoding with_content_encoding,
        headers with_headers,
        delivery_mode with_delivery_mode,
        priority with_priority,
        correlation_id with_correlation_id,
        reply_to with_reply_to,
        message_id with_message_id,
        timestamp with_timestamp,
        kind with_type,
        user_id with_user_id,
        app_id with_app_id,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_rounded_up_to_seconds() {
        let now = Utc::now();
        let at = |milliseconds| until(now + chrono::Duration::milliseconds(milliseconds), now);
        assert_eq!(at(300), Some(1));
        assert_eq!(at(1_000), Some(2));
        assert_eq!(at(-1), None);
    }
}
