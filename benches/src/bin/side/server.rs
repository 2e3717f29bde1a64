//! The Redis that all sides share, each with a database of its own, and what
//! it can tell.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use canvas_benches::side::{queue, stage};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, Client, InfoDict};

use crate::program::Program;
use crate::{Outcome, eventually};

/// How often to look whether a queue is drained.
const LOOK: Duration = Duration::from_millis(2);

/// A Redis server without persistence.
#[derive(Debug)]
pub(crate) struct Server {
    address: String,
    info: MultiplexedConnection,
    _program: Program,
}

/// What the server has done so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Done {
    /// Bytes that came in and went out.
    pub(crate) bytes: f64,
    /// Processor time, in seconds.
    pub(crate) cpu: f64,
    /// By command, those that scripts call included: how often, and how many
    /// seconds. A script's own time holds that of what it calls.
    pub(crate) commands: BTreeMap<String, (f64, f64)>,
}

impl Server {
    pub(crate) async fn start(folder: &Path) -> Outcome<Self> {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.map_err(|e| format!("no free port: {e}"))?.port();
        let log = folder.join("redis.log");
        let program = Program::start("redis-server", &log, |command| {
            command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
            command.args(["--save", "", "--appendonly", "no", "--dir"]);
            command.arg(folder);
        })?;
        let address = format!("redis://127.0.0.1:{port}");
        let client = Client::open(address.as_str())?;
        let connect = async || client.get_multiplexed_async_connection().await.ok();
        let info = eventually(Duration::from_secs(10), connect).await;
        let info = info.ok_or_else(|| {
            let log = log.display();
            format!("redis-server does not answer: is it installed? It said: {log}")
        })?;
        Ok(Self {
            address,
            info,
            _program: program,
        })
    }

    pub(crate) fn url(&self, database: u8) -> String {
        format!("{}/{database}", self.address)
    }

    pub(crate) async fn version(&mut self) -> Outcome<String> {
        let info: InfoDict = self.info("server").await?;
        Ok(info.get("redis_version").unwrap_or_default())
    }

    pub(crate) async fn done(&mut self) -> Outcome<Done> {
        let stats = self.info("stats").await?;
        let cpu = self.info("cpu").await?;
        let commands = self.info("commandstats").await?;
        let number = |info: &InfoDict, name: &str| info.get::<f64>(name).unwrap_or_default();
        Ok(Done {
            bytes: number(&stats, "total_net_input_bytes")
                + number(&stats, "total_net_output_bytes"),
            cpu: number(&cpu, "used_cpu_user") + number(&cpu, "used_cpu_sys"),
            commands: command_times(&commands),
        })
    }

    async fn info(&mut self, section: &str) -> Outcome<InfoDict> {
        let mut info = redis::cmd("INFO");
        info.arg(section);
        Ok(info.query_async(&mut self.info).await?)
    }

    pub(crate) async fn database(&self, number: u8) -> Outcome<Database> {
        let client = Client::open(self.url(number))?;
        let connection = client.get_multiplexed_async_connection().await?;
        Ok(Database {
            connection,
            queue: queue(number),
            stage: stage(number),
        })
    }
}

/// `cmdstat_NAME:calls=N,usec=N,…`
fn command_times(info: &InfoDict) -> BTreeMap<String, (f64, f64)> {
    let read = |name: &String| {
        let text: String = info.get(name)?;
        let number = |key: &str| -> Option<f64> {
            let mut pairs = text.split(',').filter_map(|pair| pair.split_once('='));
            pairs.find(|(name, _)| *name == key)?.1.parse().ok()
        };
        let command = name.strip_prefix("cmdstat_")?.to_owned();
        Some((command, (number("calls")?, number("usec")? / 1e6)))
    };
    info.keys().filter_map(read).collect()
}

/// How long a message is, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    /// As it is in its list, with all its headers.
    pub(crate) whole: usize,
    /// Its body: arguments and what follows, before it was written as base64.
    pub(crate) body: usize,
}

/// The database of one side.
#[derive(Debug)]
pub(crate) struct Database {
    connection: MultiplexedConnection,
    queue: String,
    stage: String,
}

impl Database {
    /// The messages on the stage.
    pub(crate) async fn staged(&mut self) -> Outcome<Vec<Message>> {
        let messages: Vec<Vec<u8>> = self.connection.lrange(&self.stage, 0, -1).await?;
        let read = |text: &Vec<u8>| {
            let envelope: serde_json::Value = serde_json::from_slice(text)?;
            let body = envelope["body"]
                .as_str()
                .ok_or("a message without a body")?;
            Ok(Message {
                whole: text.len(),
                body: STANDARD.decode(body)?.len(),
            })
        };
        messages.iter().map(read).collect()
    }

    /// Moves what is on the stage to where the worker takes it, all of it in
    /// one step, and waits until it is done; with `stored`, until there are as
    /// many results.
    pub(crate) async fn drain(&mut self, tasks: u64, stored: bool) -> Outcome<Duration> {
        let (before, there): (u64, u64) = redis::pipe()
            .cmd("DBSIZE")
            .llen(&self.stage)
            .query_async(&mut self.connection)
            .await?;
        if there != tasks {
            return Err(format!("{there} messages are on the stage, not {tasks}").into());
        }
        // One list less than now, and a result for each task.
        let enough = if stored { before - 1 + tasks } else { 0 };
        let started = Instant::now();
        let (stage, queue) = (&self.stage, &self.queue);
        self.connection.rename::<_, _, ()>(stage, queue).await?;
        let limit = Duration::from_secs(60);
        loop {
            let (waiting, out, keys): (u64, u64, u64) = redis::pipe()
                .atomic()
                .llen(&self.queue)
                .hlen("unacked")
                .cmd("DBSIZE")
                .query_async(&mut self.connection)
                .await?;
            if waiting == 0 && out == 0 && keys >= enough {
                return Ok(started.elapsed());
            }
            if started.elapsed() > limit {
                return Err(format!(
                    "{waiting} of {tasks} messages wait and {out} are out after {limit:?}: does its log say why?"
                )
                .into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Forgets everything but where kombu sends messages to.
    pub(crate) async fn clear(&mut self) -> Outcome<()> {
        let mut cursor = 0_u64;
        loop {
            let (next, keys): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("COUNT")
                .arg(1_000)
                .query_async(&mut self.connection)
                .await?;
            let keys: Vec<String> = keys
                .into_iter()
                .filter(|key| !key.starts_with("_kombu"))
                .collect();
            if !keys.is_empty() {
                self.connection.unlink::<_, ()>(keys).await?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }
}
