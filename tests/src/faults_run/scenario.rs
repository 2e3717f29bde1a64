//! One kind of fault, again and again, while chords are sent: from empty servers
//! to the verdict.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use canvas::{Canvas, Id, State};
use serde_json::Value;

use crate::faults_run::client::{Client, Sendings};
use crate::faults_run::judge::{Evidence, Left, judge};
use crate::faults_run::out::{Fault, Watch};
use crate::faults_run::pair::{Pair, Servers};
use crate::faults_run::report::Report;
use crate::faults_run::trace::{self, Trace};
use crate::faults_run::worker::Worker;
use crate::faults_run::{app, now};

/// How many worker processes there are.
pub const WORKERS: usize = 2;

/// How many tasks each runs at a time.
pub const CONCURRENCY: usize = 16;

/// How long a server stays stopped.
const STOPPED: Duration = Duration::from_secs(5);

/// How long it runs before it is stopped for the first time.
const UP: Duration = Duration::from_secs(5);

/// How long it may take to notice that a lease is over: they are looked for
/// in time, but machines are slow.
const NOTICED: Duration = Duration::from_secs(1);

/// When no chord has ended for this long and a lease, none will.
const QUIET: Duration = Duration::from_secs(30);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// `kill -9` of one of the workers, in turns, every two seconds.
    WorkerKilled,
    /// All connections to the servers are cut, every second.
    ConnectionsCut,
    /// SIGSTOP of a server, for five seconds, whenever there was time to
    /// recover from the last one.
    Paused(Which),
    /// A server is shut down, and started again five seconds later, whenever
    /// there was time to recover.
    ShutDown(Which),
}

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// There is one.
    Only,
    /// The one with the messages.
    Broker,
    /// The one with the results.
    Backend,
}

impl Scenario {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::WorkerKilled => "worker-killed",
            Self::ConnectionsCut => "connections-cut",
            Self::Paused(Which::Only) => "server-paused",
            Self::Paused(Which::Broker) => "broker-paused",
            Self::Paused(Which::Backend) => "backend-paused",
            Self::ShutDown(Which::Only) => "server-shut-down",
            Self::ShutDown(Which::Broker) => "broker-shut-down",
            Self::ShutDown(Which::Backend) => "backend-shut-down",
        }
    }

    /// How long all is well before a fault, the first of them or another.
    fn pause(self, is_first: bool, recovery: Duration) -> Duration {
        match self {
            Self::WorkerKilled => Duration::from_secs(2),
            Self::ConnectionsCut => Duration::from_secs(1),
            Self::Paused(_) | Self::ShutDown(_) if is_first => UP,
            // It concerns everything that is out. A second one meanwhile, and
            // there would be no telling which of them it recovers from.
            Self::Paused(_) | Self::ShutDown(_) => recovery,
        }
    }
}

/// How a scenario is run.
#[derive(Debug, Clone)]
pub struct Setting {
    /// For how long there are faults.
    pub time: Duration,
    /// The visibility timeout.
    pub lease: Duration,
    /// The program of a worker.
    pub worker: PathBuf,
    /// For what it leaves: a folder for each scenario.
    pub folder: PathBuf,
}

impl Setting {
    /// How long a recovery may take: the visibility timeout, and what it takes
    /// to notice that it is over.
    pub fn recovery(&self) -> Duration {
        self.lease + NOTICED
    }
}

/// The system under test.
struct Scene {
    servers: Servers,
    workers: Vec<Worker>,
    faults: Vec<Fault>,
    kills: HashMap<String, u64>,
}

/// Runs a scenario, and judges it.
///
/// # Errors
/// If it could not be run, or nothing be learned from it.
pub async fn run(pair: &Pair, scenario: Scenario, setting: &Setting) -> io::Result<Report> {
    let folder = setting.folder.join(pair.name()).join(scenario.name());
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let data = folder.join("servers");
    let servers = Servers::start(pair, &data).await?;
    let (broker, backend) = (servers.broker_url(), servers.backend_url());
    let app = app(&broker, &backend, setting.lease, Trace::none()).map_err(io::Error::other)?;
    // Whoever is asked first makes the tables, where there are any.
    let first = app.backend().load(&["none".into()]).await;
    first.map_err(io::Error::other)?;
    servers.count_stored().await?;
    let arguments = [
        ("--broker", broker),
        ("--backend", backend),
        ("--visibility-timeout", setting.lease.as_secs().to_string()),
        ("--concurrency", CONCURRENCY.to_string()),
    ];
    let arguments: Vec<String> = arguments
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
    let workers: io::Result<Vec<Worker>> = (0..WORKERS)
        .map(|n| Worker::start(&setting.worker, &arguments, &folder, &format!("worker-{n}")))
        .collect();
    let mut scene = Scene {
        servers,
        workers: workers?,
        faults: Vec::new(),
        kills: HashMap::new(),
    };
    let client = Client::start(&app);
    begins(&client).await?;
    let watch = scene.servers.watched()?.as_deref().map(Watch::start);
    scene.go_wrong(scenario, setting).await?;
    client.stop();
    all_end(&client, setting.lease).await;
    let sendings = client.finish().await;
    let mut left = left(&app, &scene.servers, setting.lease).await?;
    let (seen, until) = (watch.as_ref().map(Watch::seen), now());
    drop(watch);
    let gave_up = scene.workers.iter_mut().map(Worker::gave_up);
    let gave_up = gave_up.filter(|gave_up| *gave_up).count();
    let results = results(&app, &sendings).await?;
    if gave_up == 0 {
        for worker in &mut scene.workers {
            worker.stop().await?;
        }
        // What a worker held to the end is back in the queue now.
        if left.is_nothing() {
            left = look(&app, &scene.servers).await?;
        }
    }
    let stored = scene.servers.stored().await?;
    let deliveries = scene.servers.deliveries()?;
    drop(scene.servers);
    let report = judge(&Evidence {
        scenario,
        limit: setting.recovery(),
        sendings,
        faults: scene.faults,
        kills: scene.kills,
        runs: trace::read(&folder)?,
        results,
        stored,
        deliveries,
        seen,
        until,
        left,
        gave_up,
    });
    if report.problems().is_empty() {
        // It is large, and says no more.
        fs::remove_dir_all(data)?;
    }
    Ok(report)
}

/// Waits until the first chord has ended: the system is up and works.
async fn begins(client: &Client) -> io::Result<()> {
    let deadline = Instant::now() + QUIET * 2;
    while client.ended() == 0 {
        if Instant::now() > deadline {
            return Err(io::Error::other(
                "no chord ends, and there was no fault yet",
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Waits until all that was sent has ended, or nothing ends any more.
async fn all_end(client: &Client, lease: Duration) {
    let (mut ended, mut at) = (client.ended(), Instant::now());
    while client.under_way() > 0 && at.elapsed() < lease + QUIET {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if client.ended() != ended {
            (ended, at) = (client.ended(), Instant::now());
        }
    }
}

impl Scene {
    async fn go_wrong(&mut self, scenario: Scenario, setting: &Setting) -> io::Result<()> {
        let began = Instant::now();
        while began.elapsed() < setting.time {
            let pause = scenario.pause(self.faults.is_empty(), setting.recovery());
            tokio::time::sleep(pause).await;
            let at = now();
            match scenario {
                Scenario::WorkerKilled => {
                    let next = self.faults.len() % self.workers.len();
                    let killed = self.workers[next].kill()?;
                    self.kills.insert(killed, at);
                    self.note(at, at);
                }
                Scenario::ConnectionsCut => {
                    self.servers.cut().await?;
                    self.note(at, at);
                }
                Scenario::Paused(which) => {
                    let server = self.servers.get(which);
                    server.pause()?;
                    tokio::time::sleep(STOPPED).await;
                    server.go_on()?;
                    self.note(at, now());
                }
                Scenario::ShutDown(which) => {
                    let server = self.servers.get(which);
                    server.shut_down().await?;
                    tokio::time::sleep(STOPPED).await;
                    server.start_again().await?;
                    self.note(at, now());
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, began: u64, ended: u64) {
        self.faults.push(Fault { began, ended });
    }
}

/// What is left on the servers, once nothing changes there: a worker that was
/// killed may have left a delivery whose task has ended, until its lease does.
async fn left(app: &Canvas, servers: &Servers, lease: Duration) -> io::Result<Left> {
    let deadline = Instant::now() + lease + Duration::from_secs(10);
    loop {
        let left = look(app, servers).await?;
        if left.is_nothing() || Instant::now() > deadline {
            return Ok(left);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn look(app: &Canvas, servers: &Servers) -> io::Result<Left> {
    let queue = &app.config().task_default_queue;
    let (out, joins) = servers.left().await?;
    let queued = app.broker().len(queue).await.map_err(io::Error::other)?;
    let dead = app.broker().dead_letters(queue).await;
    Ok(Left {
        out,
        queued,
        dead: dead.map_err(io::Error::other)?.len(),
        joins,
    })
}

/// The stored results of all tasks that have succeeded.
async fn results(app: &Canvas, sendings: &Sendings) -> io::Result<HashMap<String, Value>> {
    let ids: Vec<Id> = sendings
        .sent
        .iter()
        .flat_map(|sent| sent.canvas.all())
        .map(|step| step.id.as_str().into())
        .collect();
    let mut results = HashMap::new();
    for ids in ids.chunks(1_000) {
        let found = app.backend().load(ids).await.map_err(io::Error::other)?;
        let good = found
            .into_iter()
            .flatten()
            .filter(|meta| meta.status == State::Success);
        results.extend(good.map(|meta| (meta.task_id.to_string(), meta.result)));
    }
    Ok(results)
}
