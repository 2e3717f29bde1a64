//! Broadcasts: one connection for all who listen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use canvas_core::Result;
use canvas_core::broker::{Destination, Subscription};
use canvas_core::protocol::Message;
use canvas_redis::{Backoff, Fault, Link, Live, Server};
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::{Notify, broadcast};

use crate::envelope;
use crate::hub::Hub;
use crate::layout::Layout;

/// How many broadcasts a slow listener may fall behind before it misses some.
const BUFFER: usize = 1_024;

/// How often to make sure that the connection still stands, and to stop
/// listening to what nobody wants to hear.
const LOOK: Duration = Duration::from_secs(10);

/// Listens to exchanges, and passes on what is heard.
#[derive(Debug)]
pub(crate) struct Fanout {
    link: Link,
    ear: Arc<Ear>,
    /// Held while subscribing and unsubscribing, so that the two never cross.
    changing: tokio::sync::Mutex<()>,
}

/// What the connection's driver needs to pass a broadcast on.
#[derive(Debug)]
struct Ear {
    layout: Layout,
    state: Mutex<State>,
    /// Wakes the task that keeps the connection.
    hung_up: Notify,
}

#[derive(Debug, Default)]
struct State {
    exchanges: HashMap<String, broadcast::Sender<(String, Message)>>,
    /// The connection that was told of all of them.
    generation: u64,
    /// Whether a task keeps the connection.
    kept: bool,
}

impl Ear {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, push: PushInfo) {
        match push.kind {
            PushKind::Disconnection => self.hung_up.notify_one(),
            PushKind::PMessage if self.pass_on(&push.data).is_none() => {
                tracing::warn!("a broadcast could not be read");
            }
            _ => {}
        }
    }

    /// Passes on a pattern, a channel and a message.
    fn pass_on(&self, data: &[Value]) -> Option<()> {
        let [_, Value::BulkString(channel), Value::BulkString(raw)] = data else {
            return None;
        };
        let (exchange, key) = self.layout.read_channel(str::from_utf8(channel).ok()?)?;
        let listeners = self.state().exchanges.get(exchange).cloned();
        let message = envelope::open(raw).message;
        if message.headers.problem.is_some() {
            return None;
        }
        if let Some(listeners) = listeners {
            // Nobody may be left, which is noticed later.
            let _ = listeners.send((key.to_owned(), message));
        }
        Some(())
    }
}

impl Fanout {
    pub(crate) fn new(layout: &Layout, server: &Arc<Server>) -> Self {
        let ear = Arc::new(Ear {
            layout: layout.clone(),
            state: Mutex::default(),
            hung_up: Notify::new(),
        });
        let hearing = ear.clone();
        Self {
            link: Link::new("canvas-fanout", server.clone())
                .on_push(move |push| hearing.hear(push)),
            ear,
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Listens to all exchanges on this connection, unless it does already.
    async fn listen(&self, live: &Live) -> Result<(), Fault> {
        let patterns: Vec<String> = {
            let state = self.ear.state();
            if state.generation == live.generation {
                return Ok(());
            }
            let exchanges = state.exchanges.keys();
            exchanges
                .flat_map(|exchange| self.ear.layout.patterns(exchange))
                .collect()
        };
        if !patterns.is_empty() {
            self.subscribe(live, &patterns).await?;
        }
        self.ear.state().generation = live.generation;
        Ok(())
    }

    async fn subscribe(&self, live: &Live, patterns: &[String]) -> Result<(), Fault> {
        let call = |mut connection: MultiplexedConnection| async move {
            connection.psubscribe(patterns).await
        };
        self.link.call_on(live, "broker.subscribe", call).await
    }

    /// Stops listening to what nobody wants to hear any more; tells whether
    /// that leaves nothing.
    async fn tidy(&self, live: &Live) -> Result<bool, Fault> {
        let _changing = self.changing.lock().await;
        let mut unheard = Vec::new();
        let nothing_left = {
            let mut state = self.ear.state();
            state.exchanges.retain(|exchange, listeners| {
                let heard = listeners.receiver_count() > 0;
                if !heard {
                    unheard.extend(self.ear.layout.patterns(exchange));
                }
                heard
            });
            let nothing_left = state.exchanges.is_empty();
            state.kept &= !nothing_left;
            nothing_left
        };
        if !unheard.is_empty() {
            let call = |mut connection: MultiplexedConnection| async move {
                connection.punsubscribe(unheard).await
            };
            self.link.call_on(live, "broker.subscribe", call).await?;
        }
        Ok(nothing_left)
    }

    /// Keeps the connection for as long as there is anything to hear.
    async fn keep(&self) {
        let mut backoff = Backoff::new();
        loop {
            match self.look().await {
                Ok(true) => return,
                Ok(false) => {
                    backoff.reset();
                    tokio::select! {
                        () = self.ear.hung_up.notified() => {}
                        () = tokio::time::sleep(LOOK) => {}
                    }
                }
                Err(_) => tokio::time::sleep(backoff.pause()).await,
            }
        }
    }

    async fn look(&self) -> Result<bool, Fault> {
        let live = self.link.live("broker.subscribe").await?;
        {
            let _changing = self.changing.lock().await;
            self.listen(&live).await?;
        }
        let call = |mut connection: MultiplexedConnection| async move {
            redis::cmd("PING").exec_async(&mut connection).await
        };
        self.link.call_on(&live, "broker.subscribe", call).await?;
        self.tidy(&live).await
    }
}

impl Hub {
    /// Sends to all who listen now.
    pub(crate) async fn broadcast(
        &self,
        exchange: &str,
        key: &str,
        message: &Message,
    ) -> Result<()> {
        let to = Destination {
            exchange: exchange.into(),
            routing_key: key.into(),
        };
        let raw = envelope::encode(message, &to).map_err(|error| canvas_core::Error::Encoding {
            action: "encode",
            what: "a broadcast".to_owned(),
            reason: error.to_string(),
        })?;
        let channel = self.layout.channel(exchange, key);
        let call = |mut connection: MultiplexedConnection| async move {
            let mut publish = redis::cmd("PUBLISH");
            publish
                .arg(channel)
                .arg(raw)
                .exec_async(&mut connection)
                .await
        };
        Ok(self.link.call("broker.broadcast", call).await?)
    }

    /// Listens to an exchange.
    pub(crate) async fn subscribe(self: &Arc<Self>, exchange: &str) -> Result<Listener> {
        let fanout = &self.fanout;
        let live = fanout.link.live("broker.subscribe").await?;
        let _changing = fanout.changing.lock().await;
        fanout.listen(&live).await?;
        // Should the connection break now, the next one is told of it too.
        let sender = {
            let mut state = fanout.ear.state();
            let sender = state.exchanges.entry(exchange.to_owned());
            let sender = sender.or_insert_with(|| broadcast::channel(BUFFER).0);
            sender.clone()
        };
        let patterns = fanout.ear.layout.patterns(exchange);
        fanout.subscribe(&live, &patterns).await?;
        // Broadcasts from before the call have come by now, ahead of the answer.
        let receiver = sender.subscribe();
        if !std::mem::replace(&mut fanout.ear.state().kept, true) {
            let keeping = Keeping {
                hub: self.clone(),
                done: false,
            };
            tokio::spawn(keeping.run());
        }
        Ok(Listener {
            exchange: exchange.to_owned(),
            receiver,
            _hub: self.clone(),
        })
    }
}

/// Says that nobody keeps the connection any more, should the task that does
/// be dropped with its runtime.
struct Keeping {
    hub: Arc<Hub>,
    done: bool,
}

impl Keeping {
    async fn run(mut self) {
        self.hub.fanout.keep().await;
        self.done = true;
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if !self.done {
            self.hub.fanout.ear.state().kept = false;
        }
    }
}

/// Hears what is broadcast to one exchange.
#[derive(Debug)]
pub(crate) struct Listener {
    exchange: String,
    receiver: broadcast::Receiver<(String, Message)>,
    /// Keeps the connection for as long as someone listens.
    _hub: Arc<Hub>,
}

#[async_trait]
impl Subscription for Listener {
    async fn next(&mut self) -> Result<Option<(String, Message)>> {
        loop {
            match self.receiver.recv().await {
                Ok(received) => return Ok(Some(received)),
                Err(broadcast::error::RecvError::Closed) => return Ok(None),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(exchange = self.exchange, missed, "too slow for broadcasts");
                }
            }
        }
    }
}
