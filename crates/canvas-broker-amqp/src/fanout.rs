//! Broadcasts: a queue for each who listens, which goes when they go.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use canvas_core::Result;
use canvas_core::broker::{Destination, Outgoing, Subscription};
use canvas_core::protocol::Message;
use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::hub::Hub;
use crate::layout::bind;
use crate::link::fault;
use crate::publish::Ready;
use crate::wire::{self, short};

const OPERATION: &str = "broker.subscribe";

/// How far a slow listener may fall behind before the server has to wait.
const BUFFER: usize = 1_024;

/// How long a listener's queue outlives its connection.
const EXPIRES: Duration = Duration::from_secs(60);

type Heard = (String, Message);

impl Hub {
    /// Sends to all who listen now.
    pub(crate) async fn broadcast(
        &self,
        exchange: &str,
        key: &str,
        message: Message,
    ) -> Result<()> {
        let outgoing = Outgoing {
            to: Destination {
                exchange: exchange.into(),
                routing_key: key.into(),
            },
            message,
        };
        let ready = Ready {
            exchange: short(exchange)?,
            routing_key: short(key)?,
            properties: wire::encode(&outgoing.message)?,
            body: outgoing.message.body,
        };
        self.publisher.broadcast(exchange, ready).await
    }

    /// Listens to an exchange.
    pub(crate) async fn subscribe(self: &Arc<Self>, exchange: &str) -> Result<Listener> {
        let opened = self.listen(exchange).await?;
        let (sender, heard) = mpsc::channel(BUFFER);
        let task = tokio::spawn(keep(self.clone(), exchange.to_owned(), opened, sender));
        Ok(Listener { heard, task })
    }

    async fn listen(&self, exchange: &str) -> Result<(Channel, lapin::Consumer)> {
        let (channel, _) = self.link.channel(OPERATION).await?;
        let listening = async {
            self.layout.declare_fanout(&channel, exchange).await?;
            // Named as kombu names those of its mailboxes.
            let queue = format!("{}.{exchange}", Uuid::new_v4());
            let options = QueueDeclareOptions {
                exclusive: true,
                auto_delete: true,
                ..QueueDeclareOptions::default()
            };
            let mut arguments = FieldTable::default();
            let expires = i32::try_from(EXPIRES.as_millis()).unwrap_or(i32::MAX);
            arguments.insert("x-expires".into(), expires.into());
            let name = queue.as_str();
            channel
                .queue_declare(name.into(), options, arguments)
                .await?;
            bind(&channel, name, exchange, "#").await?;
            let options = BasicConsumeOptions {
                no_ack: true,
                ..BasicConsumeOptions::default()
            };
            channel
                .basic_consume(name.into(), "".into(), options, FieldTable::default())
                .await
        };
        let stream = listening.await.map_err(|error| fault(OPERATION, &error))?;
        Ok((channel, stream))
    }
}

/// Passes on what is heard, and listens again when the connection was lost:
/// what is said meanwhile is missed.
async fn keep(
    hub: Arc<Hub>,
    exchange: String,
    opened: (Channel, lapin::Consumer),
    sender: mpsc::Sender<Heard>,
) {
    let mut opened = Some(opened);
    let mut backoff = Backoff::new();
    loop {
        let Some((_channel, mut stream)) = opened.take() else {
            match hub.listen(&exchange).await {
                Ok(again) => {
                    backoff.reset();
                    opened = Some(again);
                }
                Err(error) => {
                    tracing::debug!(exchange, %error, "not listening");
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
            continue;
        };
        while let Some(Ok(delivery)) = stream.next().await {
            let key = delivery.routing_key.as_str().to_owned();
            let message = wire::decode(&delivery.properties, &delivery.data.into()).message;
            if sender.send((key, message)).await.is_err() {
                return;
            }
        }
    }
}

/// Hears what is broadcast to one exchange.
#[derive(Debug)]
pub(crate) struct Listener {
    heard: mpsc::Receiver<Heard>,
    task: JoinHandle<()>,
}

#[async_trait]
impl Subscription for Listener {
    async fn next(&mut self) -> Result<Option<Heard>> {
        Ok(self.heard.recv().await)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Its channel goes with it, and the queue with that.
        self.task.abort();
    }
}
