//! Who sends the chords and waits for them: so many are always under way.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use canvas::{AsyncResult, Canvas, Error};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::faults_run::chords::{self, Step};
use crate::faults_run::{Micros, now};

/// How many chords are under way at a time.
pub const AT_A_TIME: usize = 200;

/// How long to wait before something is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// A canvas that was sent, and its end.
#[derive(Debug)]
pub struct Sent {
    /// What was sent.
    pub canvas: Step,
    /// How it ended, if it did: the value, or how it failed.
    pub end: Option<Result<Value, String>>,
}

/// What the client did.
#[derive(Debug, Default)]
pub struct Sendings {
    /// The canvases, by their numbers.
    pub sent: Vec<Sent>,
    /// How often a canvas was sent once more, since an error came back.
    pub again: usize,
    /// How often waiting for a result came back with an error of the
    /// connection.
    pub broken: usize,
    /// When the last one ended.
    pub last: Micros,
}

/// A client at work.
#[derive(Debug)]
pub struct Client {
    sendings: Arc<Mutex<Sendings>>,
    ended: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
    slots: JoinSet<()>,
}

impl Client {
    /// Starts to send, and goes on until told to stop.
    pub fn start(app: &Canvas) -> Self {
        let mut client = Self {
            sendings: Arc::default(),
            ended: Arc::default(),
            enough: Arc::default(),
            slots: JoinSet::new(),
        };
        for _ in 0..AT_A_TIME {
            let slot = Slot {
                app: app.clone(),
                sendings: client.sendings.clone(),
                ended: client.ended.clone(),
                enough: client.enough.clone(),
            };
            client.slots.spawn(slot.run());
        }
        client
    }

    /// How many have ended.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Acquire)
    }

    /// How many are under way.
    pub fn under_way(&self) -> usize {
        lock(&self.sendings).sent.len() - self.ended()
    }

    /// Sends no more.
    pub fn stop(&self) {
        self.enough.store(true, Ordering::Release);
    }

    /// What it did. What has not ended by now never does.
    pub async fn finish(mut self) -> Sendings {
        self.slots.shutdown().await;
        std::mem::take(&mut lock(&self.sendings))
    }
}

fn lock(sendings: &Mutex<Sendings>) -> MutexGuard<'_, Sendings> {
    sendings.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One place of those under way.
struct Slot {
    app: Canvas,
    sendings: Arc<Mutex<Sendings>>,
    ended: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
}

impl Slot {
    async fn run(self) {
        while !self.enough.load(Ordering::Acquire) {
            let (number, canvas) = {
                let mut sendings = lock(&self.sendings);
                let number = sendings.sent.len();
                let canvas = chords::canvas(number);
                let sent = Sent {
                    canvas: canvas.clone(),
                    end: None,
                };
                sendings.sent.push(sent);
                (number, canvas)
            };
            let end = match self.send(&canvas).await {
                Ok(result) => self.wait(&result).await,
                Err(error) => Err(error),
            };
            let mut sendings = lock(&self.sendings);
            sendings.sent[number].end = Some(end);
            sendings.last = now();
            self.ended.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Sends a canvas. Any part of it may be sent when an error comes back: the
    /// same one, with the same ids, is then sent again.
    async fn send(&self, canvas: &Step) -> Result<AsyncResult, String> {
        let mut frozen = canvas.signature();
        frozen.freeze().map_err(|error| error.to_string())?;
        loop {
            match self.app.apply(frozen.clone()).await {
                Ok(result) => return Ok(result),
                Err(error) if error.is_retryable() => lock(&self.sendings).again += 1,
                Err(error) => return Err(error.to_string()),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn wait(&self, result: &AsyncResult) -> Result<Value, String> {
        loop {
            match result.get().await {
                Ok(value) => return Ok(value),
                Err(error @ Error::Connection { .. }) => {
                    let mut sendings = lock(&self.sendings);
                    if sendings.broken == 0 {
                        eprintln!("waiting broke off: {error}");
                    }
                    sendings.broken += 1;
                }
                Err(error) => return Err(error.to_string()),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
