//! Waiting for results: one subscribed connection for everyone who waits.
//!
//! Whoever waits is entered in a list, and a task of ours keeps the connection
//! subscribed to what is in it. It subscribes first and loads then, so that
//! nothing falls between the two; it does both again whenever the connection
//! had to be made anew, as what was published meanwhile is lost; and it loads
//! again from time to time, for whatever else may go wrong.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use canvas_core::{Error, Id, Result, State, TaskMeta};
use canvas_redis::{Backoff, Fault, Live};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, PushInfo, PushKind};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::RedisBackendConfig;
use crate::connection::Link;
use crate::keys::Keys;
use crate::store;

/// How many channels one command names at most.
const BATCH: usize = 1_000;

const OPERATION: &str = "backend.watch";

/// All who wait, and the connection that they share.
#[derive(Debug)]
pub(crate) struct Watches {
    link: Arc<Link>,
    keys: Keys,
    look_again: Duration,
    retry_for: Duration,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    /// Who waits for which task.
    waiting: HashMap<Id, Vec<Waiter>>,
    watches: u64,
    /// Tells the task of changes to the list, while there is one.
    changes: Option<mpsc::UnboundedSender<Change>>,
}

#[derive(Debug)]
struct Waiter {
    watch: u64,
    sender: mpsc::UnboundedSender<Told>,
}

/// What a waiter is told: the JSON of an end, or that there is none to be had.
type Told = Result<(Id, Bytes)>;

/// A change to the list.
#[derive(Debug)]
enum Change {
    Came(Vec<Id>),
    Left(Vec<Id>),
}

impl Watches {
    pub(crate) fn new(link: Arc<Link>, keys: Keys, config: &RedisBackendConfig) -> Self {
        Self {
            look_again: config.look_again,
            retry_for: config.retry_for,
            list: Mutex::default(),
            link,
            keys,
        }
    }

    /// Yields each of these tasks once it has ended.
    pub(crate) fn watch(self: &Arc<Self>, ids: &[Id]) -> BoxStream<'static, Result<TaskMeta>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut open = HashSet::with_capacity(ids.len());
        let mut ids = ids.to_vec();
        ids.retain(|id| open.insert(id.clone()));
        let mut list = self.list();
        list.watches += 1;
        let watch = list.watches;
        for id in &ids {
            let sender = sender.clone();
            let waiting = list.waiting.entry(id.clone()).or_default();
            waiting.push(Waiter { watch, sender });
        }
        if !open.is_empty() {
            self.tell(&mut list, Change::Came(ids));
        }
        drop(list);
        let watch = Watch {
            watches: self.clone(),
            watch,
            open,
            receiver,
        };
        stream::unfold(watch, |mut watch| async {
            let told = watch.next().await?;
            Some((told, watch))
        })
        .boxed()
    }

    /// Tells the task of a change; starts it if there is none, or if it went
    /// down with the runtime that it ran on.
    fn tell(self: &Arc<Self>, list: &mut List, change: Change) {
        let change = match &list.changes {
            None => change,
            Some(changes) => match changes.send(change) {
                Ok(()) => return,
                Err(unsent) => unsent.0,
            },
        };
        if let Change::Came(_) = change {
            let (sender, receiver) = mpsc::unbounded_channel();
            // The receiver is at hand.
            let _ = sender.send(change);
            list.changes = Some(sender);
            tokio::spawn(self.clone().run(receiver));
        }
    }

    /// Keeps the connection for as long as somebody waits.
    async fn run(self: Arc<Self>, mut changes: mpsc::UnboundedReceiver<Change>) {
        let mut lost_at = None;
        let mut backoff = Backoff::new();
        loop {
            let mut began_well = false;
            let Err(fault) = self.session(&mut changes, &mut began_well).await else {
                return;
            };
            if began_well {
                (lost_at, backoff) = (None, Backoff::new());
            }
            let wait = backoff.pause();
            let lost_for = lost_at.get_or_insert_with(Instant::now).elapsed();
            if matches!(fault, Fault::Refused(_)) || lost_for + wait > self.retry_for {
                self.give_up(&fault.after(lost_for));
            }
            if self.is_over() {
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// One connection's life. It ends well when nobody waits any more.
    async fn session(
        &self,
        changes: &mut mpsc::UnboundedReceiver<Change>,
        began_well: &mut bool,
    ) -> Result<(), Fault> {
        let (sender, mut pushes) = mpsc::unbounded_channel();
        let server = self.link.server().clone();
        // A link of its own, so that nothing of another connection is heard.
        let link = canvas_redis::Link::new("canvas-backend:watch", server).on_push(move |push| {
            // Fails only once nobody listens.
            let _ = sender.send(push);
        });
        let mut session = Session {
            watches: self,
            live: link.live(OPERATION).await?,
            link,
            subscribed: HashSet::new(),
            ended: Vec::new(),
        };
        // Everyone who waits, in the order in which they came as far as that is
        // known.
        let mut waiting = session.changes(changes);
        waiting.extend(self.list().waiting.keys().cloned());
        session.follow(waiting).await?;
        *began_well = true;
        let mut pause = self.look_again;
        let mut look_at = Instant::now() + pause;
        loop {
            session.leave().await?;
            tokio::select! {
                change = changes.recv() => {
                    let Some(change) = change else {
                        return Ok(());
                    };
                    let mut came = session.change(change);
                    came.extend(session.changes(changes));
                    if !came.is_empty() {
                        session.follow(came).await?;
                        pause = self.look_again;
                        look_at = look_at.min(Instant::now() + pause);
                    }
                }
                push = pushes.recv() => {
                    session.hear(push)?;
                    // All that has come so far, before the next command.
                    while let Ok(push) = pushes.try_recv() {
                        session.hear(Some(push))?;
                    }
                }
                () = tokio::time::sleep_until(look_at) => {
                    if self.is_over() {
                        return Ok(());
                    }
                    session.look(session.subscribed.iter().cloned().collect()).await?;
                    pause = (pause * 2).min(self.look_again * 12);
                    look_at = Instant::now() + pause;
                }
            }
        }
    }

    /// Whether nobody waits: then the task ends, and the next one who comes
    /// starts another.
    fn is_over(&self) -> bool {
        let mut list = self.list();
        let is_over = list.waiting.is_empty();
        if is_over {
            list.changes = None;
        }
        is_over
    }

    fn give_up(&self, error: &Error) {
        let waiting = std::mem::take(&mut self.list().waiting);
        for waiter in waiting.into_values().flatten() {
            // Fails only if the waiter has gone.
            let _ = waiter.sender.send(Err(error.clone()));
        }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection, and what it is subscribed to.
struct Session<'a> {
    watches: &'a Watches,
    link: canvas_redis::Link,
    live: Live,
    subscribed: HashSet<Id>,
    /// Those whose end was told, and whose channels are still to be left.
    ended: Vec<Id>,
}

impl Session<'_> {
    /// Takes in a change, and gives those who came.
    fn change(&mut self, change: Change) -> Vec<Id> {
        match change {
            Change::Came(ids) => ids,
            Change::Left(ids) => {
                self.ended.extend(ids);
                Vec::new()
            }
        }
    }

    /// Takes in all changes that have queued up.
    fn changes(&mut self, changes: &mut mpsc::UnboundedReceiver<Change>) -> Vec<Id> {
        let mut came = Vec::new();
        while let Ok(change) = changes.try_recv() {
            came.extend(self.change(change));
        }
        came
    }

    /// Subscribes to what of these is waited for, and then looks whether it is
    /// there already.
    async fn follow(&mut self, mut ids: Vec<Id>) -> Result<(), Fault> {
        let mut seen = HashSet::with_capacity(ids.len());
        {
            let list = self.watches.list();
            ids.retain(|id| list.waiting.contains_key(id) && seen.insert(id.clone()));
        }
        let new = ids
            .iter()
            .filter(|id| self.subscribed.insert((*id).clone()));
        let channels: Vec<String> = new.map(|id| self.watches.keys.result(id)).collect();
        for channels in channels.chunks(BATCH) {
            let subscribe =
                |mut redis: MultiplexedConnection| async move { redis.subscribe(channels).await };
            self.link.call_on(&self.live, OPERATION, subscribe).await?;
        }
        self.look(ids).await
    }

    /// Tells of those that have ended.
    async fn look(&mut self, ids: Vec<Id>) -> Result<(), Fault> {
        let Watches { link, keys, .. } = self.watches;
        let found = store::load_texts(link, keys, OPERATION, &ids).await;
        // It was tried again for long enough.
        for (id, text) in ids.into_iter().zip(found.map_err(Fault::Refused)?) {
            if let Some(text) = text {
                self.tell(id, text);
            }
        }
        Ok(())
    }

    /// Takes in what the server sent; `None` if it will send no more.
    fn hear(&mut self, push: Option<PushInfo>) -> Result<(), Fault> {
        let (kind, data) = match push {
            Some(push) => (push.kind, push.data),
            None => (PushKind::Disconnection, Vec::new()),
        };
        match kind {
            PushKind::Disconnection => {
                let url = self.link.server().url();
                Err(Fault::Lost(Error::Connection {
                    operation: OPERATION,
                    reason: format!("{url}: the server hung up"),
                }))
            }
            PushKind::Message => {
                let mut data = data.into_iter().map(Vec::<u8>::from_redis_value);
                if let (Some(Ok(channel)), Some(Ok(text))) = (data.next(), data.next())
                    && let Some(id) = self.watches.keys.task(&channel)
                {
                    self.tell(id, text);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Tells those who wait for a task, if it has ended.
    fn tell(&mut self, id: Id, text: Vec<u8>) {
        if !has_ended(&text) {
            return;
        }
        let text = Bytes::from(text);
        let waiters = self.watches.list().waiting.remove(&id);
        for waiter in waiters.into_iter().flatten() {
            // Fails only if the waiter has gone.
            let _ = waiter.sender.send(Ok((id.clone(), text.clone())));
        }
        self.ended.push(id);
    }

    /// Leaves the channels that nobody waits on any more.
    async fn leave(&mut self) -> Result<(), Fault> {
        let mut left = std::mem::take(&mut self.ended);
        {
            let list = self.watches.list();
            left.retain(|id| !list.waiting.contains_key(id) && self.subscribed.remove(id));
        }
        for ids in left.chunks(BATCH) {
            let channels: Vec<String> = ids.iter().map(|id| self.watches.keys.result(id)).collect();
            let unsubscribe =
                |mut redis: MultiplexedConnection| async move { redis.unsubscribe(channels).await };
            self.link
                .call_on(&self.live, OPERATION, unsubscribe)
                .await?;
        }
        Ok(())
    }
}

/// Whether this is the state of a task that has ended. One that cannot be read
/// counts: whoever waits for it is to see why.
fn has_ended(text: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Status {
        status: State,
    }
    serde_json::from_slice(text).map_or(true, |Status { status }| status.is_ready())
}

/// A stream of tasks as they end.
struct Watch {
    watches: Arc<Watches>,
    watch: u64,
    /// Those that have not.
    open: HashSet<Id>,
    receiver: mpsc::UnboundedReceiver<Told>,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<TaskMeta>> {
        while !self.open.is_empty() {
            match self.receiver.recv().await? {
                Ok((id, text)) => {
                    if self.open.remove(&id) {
                        return Some(store::read(&id, &text));
                    }
                }
                Err(error) => {
                    self.open.clear();
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut list = self.watches.list();
        let mut left = std::mem::take(&mut self.open);
        left.retain(|id| {
            let Some(waiters) = list.waiting.get_mut(id) else {
                return false;
            };
            waiters.retain(|waiter| waiter.watch != self.watch);
            let is_last = waiters.is_empty();
            if is_last {
                list.waiting.remove(id);
            }
            is_last
        });
        if !left.is_empty() {
            self.watches
                .tell(&mut list, Change::Left(left.into_iter().collect()));
        }
    }
}
