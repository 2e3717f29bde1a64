//! The task of a consumer: it fetches what there is room for, when it is asked,
//! and waits on the server where there is nothing.
//!
//! **Waiting.** The script that fetches asks last, if there was room for more,
//! whether its lists exist, with client tracking on: if none does, the server
//! sends word on the same connection when one of them changes. That is one
//! connection for any number of queues and priorities, and fetching, asking and
//! remembering is one step, so nothing is missed between. A wake-up costs one
//! push of a few bytes and one call of the fetching script, and as many are
//! woken as were waiting on that list.
//!
//! **Owning.** The task never drops a call that is on its way, and the answers
//! go into a buffer that belongs to the consumer: dropping `next` loses nothing.
//! If the answer to a fetch is lost with the connection, the messages are read
//! again from the record by their tags, which are known beforehand.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use canvas_core::Error;
use canvas_redis::{Backoff, Fault, Link, Live, run_script};
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushInfo, PushKind, Value, from_redis_value};

use crate::consume::{Fetched, Shared};
use crate::hub::{Declared, Hub};
use crate::record::{Record, tail};
use crate::scripts;
use crate::settle::odd;

/// How many messages one call takes at most: the server does nothing else
/// meanwhile.
const FETCH_MESSAGES: usize = 256;

/// After how many bytes of messages one call takes no more.
const FETCH_BYTES: usize = 8 * 1024 * 1024;

/// How much room is worth a call while there is something to work on.
const AHEAD: usize = 8;

/// How long to trust that the server will send word. Asking again also finds
/// out that it is gone.
const TRUST: Duration = Duration::from_secs(10);

/// How often to look where the server cannot send word.
const LOOK: Duration = Duration::from_millis(100);

/// The task of a consumer.
pub(crate) struct Pump {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    /// Its own connection: word of changes comes on it, and large messages do
    /// not hold up acknowledgements.
    link: Link,
    declared: Declared,
    /// The connection that was made ready, and whether it sends word.
    ready: Option<(u64, bool)>,
    /// The number of the next delivery.
    number: u64,
    /// A fetch whose answer was lost: its numbers, and when it was sent.
    unanswered: Option<(Range<u64>, Instant)>,
    /// Whether the last fetch has left any, as far as can be told.
    more: bool,
    /// Until when the lists, in this version, may be taken for empty.
    empty: Option<(u64, Instant)>,
    backoff: Backoff,
}

/// What the task does next.
enum Step {
    Close,
    GiveBack(Vec<Fetched>),
    Fetch {
        queues: Vec<Arc<str>>,
        version: u64,
        most: usize,
    },
    /// Nothing, unless something happens or this moment comes.
    Wait(Option<Instant>),
}

impl Pump {
    pub(crate) fn new(hub: Arc<Hub>, shared: Arc<Shared>) -> Self {
        let name = format!("canvas-consumer-{}", hub.next_consumer());
        let heard = Arc::downgrade(&shared);
        let on_push = move |push: PushInfo| {
            if matches!(push.kind, PushKind::Invalidate | PushKind::Disconnection)
                && let Some(shared) = heard.upgrade()
            {
                shared.word.store(true, Ordering::Release);
                shared.stir.notify_one();
            }
        };
        Self {
            link: Link::new(name, hub.server.clone()).on_push(on_push),
            hub,
            shared,
            declared: Declared::default(),
            ready: None,
            number: 0,
            unanswered: None,
            more: false,
            empty: None,
            backoff: Backoff::new(),
        }
    }

    /// Makes sure that there is a server.
    pub(crate) async fn connect(&self) -> Result<(), Fault> {
        self.link.live("broker.consume").await.map(|_| ())
    }

    pub(crate) async fn run(mut self) {
        loop {
            match self.step() {
                Step::Close => break,
                Step::GiveBack(unwanted) => self.hub.give_back(&self.shared, unwanted).await,
                Step::Wait(until) => self.wait(until).await,
                Step::Fetch {
                    queues,
                    version,
                    most,
                } => match self.fetch(queues, version, most).await {
                    Ok(()) => self.backoff.reset(),
                    Err(Fault::Refused(error)) => self.refused(error).await,
                    Err(Fault::Lost(_)) => {
                        self.empty = None;
                        let pause = Instant::now() + self.backoff.pause();
                        self.pause(pause).await;
                    }
                },
            }
        }
        let rest = {
            let mut state = self.shared.state();
            state.set_aside();
            std::mem::take(&mut state.unwanted)
        };
        self.hub.give_back(&self.shared, rest).await;
        if self.shared.lapse(Instant::now()) {
            self.hub.consumers().remove(&*self.shared.name);
        }
    }

    fn step(&mut self) -> Step {
        if self.shared.word.swap(false, Ordering::AcqRel) {
            self.empty = None;
        }
        let mut state = self.shared.state();
        if state.closed {
            return Step::Close;
        }
        if !state.unwanted.is_empty() {
            return Step::GiveBack(std::mem::take(&mut state.unwanted));
        }
        // One who finds a buffer half empty is about to ask for more: with many
        // deliveries out, fetching goes on while they are worked on.
        let wanted = if state.buffer.is_empty() {
            state.asked
        } else {
            self.more && state.room() >= AHEAD.max(state.prefetch / 4)
        };
        if !wanted || state.error.is_some() {
            return Step::Wait(None);
        }
        if state.room() == 0 {
            let now = Instant::now();
            state.out.retain(|_, end| *end > now);
            if state.room() == 0 {
                return Step::Wait(state.out.values().min().copied());
            }
        }
        if state.queues.is_empty() {
            return Step::Wait(None);
        }
        if let Some((version, until)) = self.empty
            && version == state.version
            && until > Instant::now()
        {
            return Step::Wait(Some(until));
        }
        Step::Fetch {
            queues: state.queues.clone(),
            version: state.version,
            most: state.room().min(FETCH_MESSAGES),
        }
    }

    async fn wait(&self, until: Option<Instant>) {
        match until {
            None => self.shared.stir.notified().await,
            Some(until) => tokio::select! {
                () = self.shared.stir.notified() => {}
                () = tokio::time::sleep_until(until.into()) => {}
            },
        }
    }

    /// Waits out a failure, unless the consumer is closed meanwhile.
    async fn pause(&self, until: Instant) {
        while !self.shared.state().closed && Instant::now() < until {
            self.wait(Some(until)).await;
        }
    }

    /// Tells whoever waits that the server will not do it.
    async fn refused(&self, error: Error) {
        self.shared.state().error = Some(error);
        self.shared.ready.notify_one();
    }

    /// Takes what there is, or makes sure that the server sends word.
    async fn fetch(
        &mut self,
        queues: Vec<Arc<str>>,
        version: u64,
        most: usize,
    ) -> Result<(), Fault> {
        let live = self.link.live("broker.consume").await?;
        let sends_word = self.make_ready(&live, &queues).await?;
        if let Some((numbers, at)) = self.unanswered.clone() {
            let found = self.read_again(&live, numbers, at).await?;
            self.unanswered = None;
            if !found.is_empty() {
                self.shared.take_in(found);
                return Ok(());
            }
        }
        let (found, are_empty) = self.take(&live, &queues, most).await?;
        self.more = !are_empty;
        if are_empty {
            let trust = if sends_word { TRUST } else { LOOK };
            self.empty = Some((version, Instant::now() + trust));
        }
        if !found.is_empty() {
            self.shared.take_in(found);
        }
        Ok(())
    }

    /// What a connection needs once: to send word, and the queues declared.
    async fn make_ready(&mut self, live: &Live, queues: &[Arc<str>]) -> Result<bool, Fault> {
        let mut pipeline = Pipeline::new();
        for queue in queues {
            let layout = &self.hub.layout;
            self.declared
                .declare(live.generation, queue, layout, &mut pipeline);
        }
        if !pipeline.is_empty() {
            let call = |mut connection| async move { pipeline.exec_async(&mut connection).await };
            self.link.call_on(live, "broker.consume", call).await?;
        }
        if let Some((generation, sends_word)) = self.ready
            && generation == live.generation
        {
            return Ok(sends_word);
        }
        let call = |mut connection: MultiplexedConnection| async move {
            let mut tracking = redis::cmd("CLIENT");
            tracking.arg("TRACKING").arg("ON").arg("NOLOOP");
            tracking.exec_async(&mut connection).await
        };
        let sends_word = match self.link.call_on(live, "broker.consume", call).await {
            Ok(()) => true,
            Err(Fault::Refused(error)) => {
                tracing::warn!(
                    %error,
                    "this Redis cannot send word of new messages: looking every {LOOK:?} instead"
                );
                false
            }
            Err(lost) => return Err(lost),
        };
        self.ready = Some((live.generation, sends_word));
        Ok(sends_word)
    }

    /// Takes messages, and says whether the lists are empty now.
    async fn take(
        &mut self,
        live: &Live,
        queues: &[Arc<str>],
        most: usize,
    ) -> Result<(Vec<Fetched>, bool), Fault> {
        let first = self.number;
        self.number += most as u64;
        let at = Instant::now();
        let keys = self.hub.layout.lists_of(queues);
        let mut arguments = vec![
            self.hub.layout.unacked.clone(),
            self.hub.layout.index.clone(),
            most.to_string(),
            FETCH_BYTES.to_string(),
            self.hub.lease_offset(self.shared.lease).to_string(),
            format!("{}:", self.shared.name),
            first.to_string(),
        ];
        arguments.extend(queues.iter().map(|queue| tail(queue)));
        self.unanswered = Some((first..self.number, at));
        let call = |connection| run_script(&scripts::FETCH, &keys, &arguments, connection);
        let answer = self.link.call_on(live, "broker.consume", call).await;
        if !matches!(answer, Err(Fault::Lost(_))) {
            self.unanswered = None;
        }
        let mut parts = match answer? {
            Value::Array(parts) => parts.into_iter(),
            other => return Err(Fault::Refused(odd(&format!("{other:?}")))),
        };
        let are_empty = parts.len() % 2 == 1;
        let mut found = Vec::with_capacity(parts.len() / 2);
        while let (Some(place), Some(raw)) = (parts.next(), parts.next()) {
            let (Ok(place), Value::BulkString(raw)) = (from_redis_value::<usize>(place), raw)
            else {
                continue;
            };
            let Some(queue) = queues.get(place.wrapping_sub(1)) else {
                continue;
            };
            let number = first + found.len() as u64;
            found.push(self.shared.fetched(number, queue.clone(), raw, at));
        }
        Ok((found, are_empty))
    }

    /// What a fetch has taken whose answer never came.
    async fn read_again(
        &self,
        live: &Live,
        numbers: Range<u64>,
        at: Instant,
    ) -> Result<Vec<Fetched>, Fault> {
        let tags: Vec<Arc<str>> = numbers
            .clone()
            .map(|n| self.shared.receipt(n).tag)
            .collect();
        let key = &self.hub.layout.unacked;
        let call = |mut connection: MultiplexedConnection| async move {
            let mut read = redis::cmd("HMGET");
            read.arg(key);
            for tag in &tags {
                read.arg(&**tag);
            }
            read.query_async::<Vec<Option<Vec<u8>>>>(&mut connection)
                .await
        };
        let records = self.link.call_on(live, "broker.consume", call).await?;
        let found = numbers.zip(records).filter_map(|(number, record)| {
            let record = Record::read(&record?)?;
            Some(
                self.shared
                    .fetched(number, record.routing_key.into(), record.raw, at),
            )
        });
        Ok(found.collect())
    }
}
