//! The sides: what each client can be asked to do, and the worker behind it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use canvas::{Canvas, Group};
use canvas_benches::ceiling;
use canvas_benches::side::{Settings, Shape, add, add_quietly, queue, stage};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::program::{Driver, Program};
use crate::{Failure, Outcome};

/// A side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Canvas,
    /// The same, with continuations by reference.
    References,
    Celery,
    Ceiling,
}

impl Side {
    pub(crate) const ALL: [Self; 4] = [Self::Canvas, Self::References, Self::Celery, Self::Ceiling];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Canvas => "canvas",
            Self::References => "references",
            Self::Celery => "celery",
            Self::Ceiling => "ceiling",
        }
    }
}

/// Something that sends tasks.
#[async_trait]
pub(crate) trait Client: Send {
    /// Sends a group of so many tasks to the stage; how long it took.
    async fn enqueue(&mut self, tasks: u64, quietly: bool) -> Outcome<Duration>;

    /// Calls a task so many times, each when the one before has its result.
    async fn call(&mut self, times: u64) -> Outcome<Vec<Duration>>;

    /// Calls a task behind all that wait, and waits for its result, closely.
    async fn last(&mut self) -> Outcome<()> {
        self.call(1).await.map(drop)
    }

    /// Sends a canvas and waits for its value; `None` from one that can only
    /// send tasks.
    async fn run(&mut self, shape: Shape) -> Outcome<Option<Duration>>;

    /// Sends a canvas to the stage.
    async fn stage(&mut self, shape: Shape) -> Outcome<()>;
}

/// A side with its worker.
pub(crate) struct Peer {
    pub(crate) side: Side,
    pub(crate) client: Box<dyn Client>,
    pub(crate) worker: Program,
    /// What it is made of, by version.
    pub(crate) versions: Vec<(String, String)>,
}

/// Where things are, and how our worker is to be run.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// A Python that has Celery.
    pub(crate) python: Option<PathBuf>,
    /// For what the programs say.
    pub(crate) folder: PathBuf,
    /// What our worker is told beside the URL.
    pub(crate) worker: Vec<String>,
    /// Above which size what follows a task is kept, where that is on.
    pub(crate) references: usize,
}

impl Peer {
    /// Starts it, and waits until its worker works.
    pub(crate) async fn start(side: Side, place: Place, setup: &Setup) -> Outcome<Self> {
        let log = setup.folder.join(format!("{}.log", side.name()));
        let mut versions = Vec::new();
        let (worker, client): (Program, Box<dyn Client>) = match side {
            Side::Canvas => (
                rust_worker(&place, &log, &setup.worker)?,
                Box::new(Ours::new(&place, None)?),
            ),
            Side::References => {
                let more = ["--references".to_owned(), setup.references.to_string()];
                let more = [&more[..], &setup.worker].concat();
                (
                    rust_worker(&place, &log, &more)?,
                    Box::new(Ours::new(&place, Some(setup.references))?),
                )
            }
            Side::Ceiling => (
                rust_worker(&place, &log, &["--ceiling".to_owned()])?,
                Box::new(Ceiling(place)),
            ),
            Side::Celery => {
                let python = setup.python.as_deref().ok_or(
                    "say with --python which Python has Celery 5.7, or use `cargo xtask bench`",
                )?;
                let mut client = Celery::start(python, place.clone())?;
                let found = client.direct.ask("versions", json!({})).await?;
                for (name, version) in found.as_object().into_iter().flatten() {
                    let version = version.as_str().unwrap_or_default();
                    versions.push((name.clone(), version.to_owned()));
                }
                (celery_worker(python, &place, &log)?, Box::new(client))
            }
        };
        let mut peer = Self {
            side,
            client,
            worker,
            versions,
        };
        // A worker that does not answer says why in its log.
        let first = tokio::time::timeout(Duration::from_secs(30), peer.client.call(3)).await;
        match first {
            Ok(Ok(_)) => Ok(peer),
            Ok(Err(error)) => Err(format!("{}: {error}", side.name()).into()),
            Err(_) => {
                let log = log.display();
                Err(format!("{}: no answer in 30 s; see {log}", side.name()).into())
            }
        }
    }
}

/// Where a side sends to.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) url: String,
    /// Where results go, if not to the same.
    pub(crate) backend: Option<String>,
    pub(crate) queue: String,
    /// Where a group is sent to that is only enqueued.
    pub(crate) stage: String,
}

impl Place {
    /// A place where nothing is put on a stage: the worker does not run while
    /// it is enqueued.
    pub(crate) fn of_pair(side: Side, broker: String, backend: String) -> Self {
        let queue = queue(side as u8);
        Self {
            url: broker,
            backend: Some(backend),
            stage: queue.clone(),
            queue,
        }
    }

    pub(crate) fn in_redis(side: Side, url: String) -> Self {
        Self {
            url,
            backend: None,
            queue: queue(side as u8),
            stage: stage(side as u8),
        }
    }
}

impl Peer {
    /// Lets its worker run again, which it does only in its turn: what an idle
    /// worker does must not be to the cost of another side. Then waits until it
    /// has found its way back.
    pub(crate) async fn wake(&mut self) -> Outcome<()> {
        self.worker.let_run(true)?;
        self.client.call(2).await.map(drop)
    }
}

fn rust_worker(place: &Place, log: &Path, more: &[String]) -> Outcome<Program> {
    let program = std::env::current_exe()?.with_file_name("side-worker");
    if !program.exists() {
        let build = "cargo build --release -p canvas-benches --bins";
        return Err(format!("{} is not there: {build}", program.display()).into());
    }
    Program::start(program, log, |command| {
        command.args(["--url", &place.url, "--queue", &place.queue]);
        if let Some(backend) = &place.backend {
            command.args(["--backend", backend]);
        }
        command.args(more);
    })
}

fn celery_worker(python: &Path, place: &Place, log: &Path) -> Outcome<Program> {
    Program::start(python, log, |command| {
        in_celery(command, place, &place.queue);
        command.args(["-m", "celery", "-A", "bench_tasks", "worker"]);
        command.args(["--pool", "prefork", "--concurrency", "2"]);
        command.args(["--loglevel", "WARNING", "--without-heartbeat"]);
        command.args(["--without-gossip", "--without-mingle"]);
    })
}

fn in_celery(command: &mut Command, place: &Place, queue: &str) {
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/celery"));
    command.env("BENCH_URL", &place.url);
    command.env("BENCH_QUEUE", queue);
    if let Some(backend) = &place.backend {
        command.env("BENCH_BACKEND", backend);
    }
    command.env("PYTHONDONTWRITEBYTECODE", "1");
}

/// Our client.
struct Ours {
    direct: Canvas,
    staging: Canvas,
}

impl Ours {
    fn new(place: &Place, references: Option<usize>) -> canvas::Result<Self> {
        let settings = |queue: &str| Settings {
            url: place.url.clone(),
            backend: place.backend.clone(),
            queue: queue.to_owned(),
            references,
        };
        Ok(Self {
            direct: settings(&place.queue).app()?,
            staging: settings(&place.stage).app()?,
        })
    }
}

#[async_trait]
impl Client for Ours {
    async fn enqueue(&mut self, tasks: u64, quietly: bool) -> Outcome<Duration> {
        let started = Instant::now();
        let group = if quietly {
            Group::from_iter((0..tasks).map(|n| add_quietly::s(n, 1)))
        } else {
            Group::from_iter((0..tasks).map(|n| add::s(n, 1)))
        };
        group.apply(&self.staging).await?;
        Ok(started.elapsed())
    }

    async fn call(&mut self, times: u64) -> Outcome<Vec<Duration>> {
        let mut took = Vec::new();
        for n in 0..times {
            let started = Instant::now();
            let result = add::s(n, 1).apply(&self.direct).await?;
            let value = result.get().await?;
            took.push(started.elapsed());
            right(value == n + 1, || format!("{n} + 1 is not {value}"))?;
        }
        Ok(took)
    }

    async fn run(&mut self, shape: Shape) -> Outcome<Option<Duration>> {
        let canvas = shape.canvas();
        let started = Instant::now();
        let value = self.direct.apply(canvas).await?.get().await?;
        let took = started.elapsed();
        right(value == shape.value(), || format!("{shape:?} is {value}"))?;
        Ok(Some(took))
    }

    async fn stage(&mut self, shape: Shape) -> Outcome<()> {
        self.staging.apply(shape.canvas()).await?;
        Ok(())
    }
}

/// Celery's client: a process for each queue that it sends to.
struct Celery {
    python: PathBuf,
    place: Place,
    direct: Driver,
    staging: Driver,
}

impl Celery {
    fn start(python: &Path, place: Place) -> Outcome<Self> {
        Ok(Self {
            direct: Self::client(python, &place, &place.queue)?,
            staging: Self::client(python, &place, &place.stage)?,
            python: python.to_owned(),
            place,
        })
    }

    fn client(python: &Path, place: &Place, queue: &str) -> Outcome<Driver> {
        let mut command = Command::new(python);
        in_celery(&mut command, place, queue);
        command.arg("driver.py");
        Driver::start(command)
    }
}

fn question(shape: Shape) -> Value {
    let (name, sizes) = shape.parts();
    json!({ "shape": name, "sizes": sizes })
}

fn seconds(value: &Value) -> Outcome<Duration> {
    let seconds = value.as_f64().ok_or_else(|| format!("no time: {value}"))?;
    Ok(Duration::try_from_secs_f64(seconds)?)
}

#[async_trait]
impl Client for Celery {
    async fn enqueue(&mut self, tasks: u64, quietly: bool) -> Outcome<Duration> {
        let question = json!({ "tasks": tasks, "quietly": quietly });
        seconds(&self.staging.ask("enqueue", question).await?)
    }

    async fn call(&mut self, times: u64) -> Outcome<Vec<Duration>> {
        let took = self.direct.ask("call", json!({ "times": times })).await?;
        let took = took.as_array().into_iter().flatten();
        took.map(seconds).collect()
    }

    async fn last(&mut self) -> Outcome<()> {
        self.direct.ask("last", json!({})).await.map(drop)
    }

    async fn run(&mut self, shape: Shape) -> Outcome<Option<Duration>> {
        // It subscribes to each member of a chord and unsubscribes from it
        // again; what of that is still to be read would slow the next canvas.
        self.direct = Self::client(&self.python, &self.place, &self.place.queue)?;
        self.call(2).await?;
        let ran = self.direct.ask("run", question(shape)).await?;
        let value = &ran["value"];
        right(*value == shape.value(), || format!("{shape:?} is {value}"))?;
        Ok(Some(seconds(&ran["took"])?))
    }

    async fn stage(&mut self, shape: Shape) -> Outcome<()> {
        self.staging.ask("send", question(shape)).await.map(drop)
    }
}

/// The hand-written client.
struct Ceiling(Place);

#[async_trait]
impl Client for Ceiling {
    async fn enqueue(&mut self, tasks: u64, quietly: bool) -> Outcome<Duration> {
        let Place { url, stage, .. } = &self.0;
        match self.0.backend {
            Some(_) => ceiling::rabbitmq::enqueue(url, stage, tasks, quietly).await,
            None => ceiling::enqueue(url, stage, tasks, quietly).await,
        }
    }

    async fn call(&mut self, times: u64) -> Outcome<Vec<Duration>> {
        let Place { url, queue, .. } = &self.0;
        match &self.0.backend {
            Some(redis) => ceiling::rabbitmq::call(url, redis, queue, times).await,
            None => ceiling::call(url, queue, times).await,
        }
    }

    async fn run(&mut self, _: Shape) -> Outcome<Option<Duration>> {
        Ok(None)
    }

    async fn stage(&mut self, _: Shape) -> Outcome<()> {
        Ok(())
    }
}

fn right(is_right: bool, otherwise: impl FnOnce() -> String) -> Outcome<()> {
    if is_right {
        Ok(())
    } else {
        Err(Failure::from(otherwise()))
    }
}
