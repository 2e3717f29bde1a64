//! What results that go through RabbitMQ need of all this.

use bytes::Bytes;
use canvas_core::Result;
use lapin::{BasicProperties, Channel};

pub use crate::backoff::Backoff;
pub use crate::link::{fault, is_not_found};
pub use crate::wire::short;

use crate::config::AmqpBrokerConfig;
use crate::layout::Layout;
use crate::link::Link;
use crate::publish::{Publisher, Ready};
use crate::url;

/// Connections to the servers of a URL, each made when it is first used, and
/// again whenever it has to be.
#[derive(Debug)]
pub struct Connections {
    shown: String,
    receiving: Link,
    publisher: Publisher,
}

impl Connections {
    /// To the servers of a URL, as [`AmqpBroker::new`](crate::AmqpBroker::new)
    /// takes it.
    ///
    /// # Errors
    /// As there.
    pub fn new(url: &str, config: &AmqpBrokerConfig) -> Result<Self> {
        let servers = url::read(url, config)?;
        let shown: Vec<&str> = servers.iter().map(|server| &*server.shown).collect();
        let link = |name| Link::new(name, servers.clone(), config.clone());
        let layout = Layout::new(config).into();
        Ok(Self {
            shown: shown.join(";"),
            receiving: link("canvas replies"),
            publisher: Publisher::new(
                link("canvas results"),
                layout,
                config.confirm_timeout,
                config.delayed_delivery,
            ),
        })
    }

    /// The URL without its password.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// A channel to receive on.
    ///
    /// # Errors
    /// [`Error::Connection`](canvas_core::Error::Connection), and
    /// [`Error::Config`](canvas_core::Error::Config) where the server refuses us.
    pub async fn channel(&self, operation: &'static str) -> Result<Channel> {
        let (channel, _) = self.receiving.channel(operation).await?;
        Ok(channel)
    }

    /// Sends a message to a queue of somebody else's, and waits until the
    /// server has it. Tells whether there is such a queue.
    ///
    /// # Errors
    /// As [`channel`](Self::channel).
    pub async fn send(
        &self,
        operation: &'static str,
        queue: &str,
        properties: BasicProperties,
        body: Bytes,
    ) -> Result<bool> {
        let message = Ready {
            exchange: short("")?,
            routing_key: short(queue)?,
            properties,
            body,
        };
        self.publisher.reply(operation, message).await
    }
}
