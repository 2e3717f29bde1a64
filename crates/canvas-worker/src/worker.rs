//! Setting a worker up, starting and stopping it.

use std::num::NonZeroUsize;
use std::sync::Arc;

use canvas_core::{Canvas, Result, hostname};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::run::{self, Node, Phase};

/// A worker that is not running yet.
///
/// Celery: `celery worker`.
#[derive(Debug, Clone)]
#[must_use = "a worker does nothing until it is started or run"]
pub struct Worker {
    pub(crate) app: Canvas,
    pub(crate) name: String,
    pub(crate) queues: Vec<Arc<str>>,
    pub(crate) direct: bool,
    pub(crate) concurrency: usize,
    pub(crate) prefetch: Option<usize>,
}

/// Adds [`worker`](Self::worker) to [`Canvas`].
pub trait WorkerExt {
    /// A worker of this application, to be set up and started.
    fn worker(&self) -> Worker;
}

impl WorkerExt for Canvas {
    fn worker(&self) -> Worker {
        Worker::new(self.clone())
    }
}

impl Worker {
    /// A worker with the application's settings: the default queue, and as
    /// many tasks at a time as there are cores.
    pub fn new(app: Canvas) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let config = app.config();
        Self {
            name: format!("celery@{}", hostname()),
            queues: vec![config.task_default_queue.as_str().into()],
            direct: false,
            concurrency: config.worker_concurrency.unwrap_or_else(cores).max(1),
            prefetch: None,
            app,
        }
    }

    /// The name of the node, such as `celery@host`. It should be unique.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The queues to consume, instead of the default one. Celery: `-Q`.
    pub fn queues<Q: Into<Arc<str>>>(mut self, queues: impl IntoIterator<Item = Q>) -> Self {
        self.queues = queues.into_iter().map(Into::into).collect();
        self
    }

    /// Also consume a queue of the worker's own, [`direct_queue`](Self::direct_queue).
    /// Celery: `worker_direct`.
    pub fn direct(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// The name of the worker's own queue.
    pub fn direct_queue(&self) -> String {
        format!("{}.dq", self.name)
    }

    /// How many tasks run at a time. Celery: `-c`.
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.concurrency = tasks.max(1);
        self
    }

    /// How many messages are taken at a time, running tasks included. The
    /// default is the concurrency times `worker_prefetch_multiplier`.
    pub fn prefetch(mut self, messages: usize) -> Self {
        self.prefetch = Some(messages.max(1));
        self
    }

    /// Starts it in the background.
    ///
    /// # Errors
    /// The broker's error, if it cannot be consumed from.
    pub async fn start(self) -> Result<Running> {
        let (phase, watched) = watch::channel(Phase::Running);
        let node = Node::new(&self, watched);
        // Before there is anything to call off.
        let commands = run::subscribe(&node).await;
        let consumer = run::consume(&node).await?;
        let loop_ = tokio::spawn(run::run(node, consumer, commands));
        Ok(Running {
            name: self.name,
            phase,
            loop_,
        })
    }

    /// Runs it until SIGTERM or SIGINT: then running tasks are finished and
    /// the rest stays queued. A second signal stops at once, and running tasks
    /// go back to the queue.
    ///
    /// # Errors
    /// The broker's error, if it cannot be consumed from.
    pub async fn run(self) -> Result<()> {
        let mut signals = Signals::listen();
        let running = self.start().await?;
        signals.next().await;
        tracing::info!(
            worker = running.name,
            "warm shutdown: finishing running tasks"
        );
        let _ = running.phase.send(Phase::Warm);
        let Running {
            phase, mut loop_, ..
        } = running;
        tokio::select! {
            _ = &mut loop_ => return Ok(()),
            () = signals.next() => {
                tracing::warn!("cold shutdown: running tasks go back to the queue");
                let _ = phase.send(Phase::Cold);
            }
        }
        let _ = loop_.await;
        Ok(())
    }
}

/// The signals to stop. None is missed once it listens.
struct Signals {
    #[cfg(unix)]
    unix: Option<[tokio::signal::unix::Signal; 2]>,
}

impl Signals {
    fn listen() -> Self {
        Self {
            #[cfg(unix)]
            unix: {
                use tokio::signal::unix::{SignalKind, signal};
                let both = (
                    signal(SignalKind::terminate()),
                    signal(SignalKind::interrupt()),
                );
                match both {
                    (Ok(terminate), Ok(interrupt)) => Some([terminate, interrupt]),
                    _ => None,
                }
            },
        }
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        #[cfg(unix)]
        if let Some([terminate, interrupt]) = &mut self.unix {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
            }
        }
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// A worker that runs in the background. It goes on if this is dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    phase: watch::Sender<Phase>,
    loop_: JoinHandle<()>,
}

impl Running {
    /// The name of the node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Warm shutdown: takes no more messages, finishes running tasks, and puts
    /// those that have not started back.
    pub async fn stop(self) {
        let _ = self.phase.send(Phase::Warm);
        let Self { loop_, phase, .. } = self;
        let _ = loop_.await;
        drop(phase);
    }

    /// Cold shutdown: stops running tasks too, and puts them back.
    pub async fn stop_now(self) {
        let _ = self.phase.send(Phase::Cold);
        let Self { loop_, phase, .. } = self;
        let _ = loop_.await;
        drop(phase);
    }

    /// Stops as a crash would: nothing is put back; what was running is
    /// delivered again when its lease ends. For tests of that.
    pub fn kill(self) {
        // Not by a phase: whoever saw it could still put something back.
        self.loop_.abort();
    }
}
