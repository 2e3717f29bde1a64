//! The servers of a fault run: of several kinds, each started, stopped and
//! asked in its own way.

mod mariadb;
mod postgres;
mod rabbitmq;
mod redis;
mod redis_log;
mod sql;
mod sqlite;

use std::collections::HashMap;
use std::fmt::Debug;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::faults_run::process::{PATIENCE, Process};

pub use self::redis::connect;

/// What differs between kinds of servers. All of them keep what they have
/// answered, whenever they are stopped.
#[async_trait]
pub trait Kind: Debug + Send + Sync {
    /// Where it is, for an application.
    fn url(&self) -> String;

    /// Makes what it needs before it is run for the first time.
    ///
    /// # Errors
    /// If it cannot.
    fn prepare(&self) -> io::Result<()> {
        Ok(())
    }

    /// Runs it in the foreground; `None` for what is only a file.
    ///
    /// # Errors
    /// If it is not installed, with the command that installs it.
    fn command(&self) -> io::Result<Option<Command>>;

    /// The signal that shuts it down, without waiting for those who use it.
    fn stop(&self) -> &'static str {
        "TERM"
    }

    /// Whether it serves.
    ///
    /// # Errors
    /// Why it does not.
    async fn ready(&self) -> io::Result<()>;

    /// Cuts all connections to it, but for the one that this takes.
    ///
    /// # Errors
    /// That of asking it to.
    async fn cut(&self) -> io::Result<()>;

    /// What it tells of messages, if it can be a broker.
    fn messages(&self) -> Option<&dyn Messages> {
        None
    }

    /// What it tells of results, if it can be a backend.
    fn results(&self) -> Option<&dyn Results> {
        None
    }
}

/// What a server tells of messages.
#[async_trait]
pub trait Messages: Send + Sync {
    /// How many are out at a consumer.
    ///
    /// # Errors
    /// That of asking.
    async fn out(&self) -> io::Result<u64>;

    /// How often each was given to a worker, by the id of its task; `None` where
    /// the server keeps no record of that.
    ///
    /// # Errors
    /// That of reading it.
    fn deliveries(&self) -> io::Result<Option<HashMap<String, u64>>> {
        Ok(None)
    }

    /// The Redis in which the deliveries that are out can be looked at, one by
    /// one.
    fn watched(&self) -> Option<String> {
        None
    }
}

/// What a server tells of results.
#[async_trait]
pub trait Results: Send + Sync {
    /// Has it count how often results are stored from now on. Its tables are
    /// there.
    ///
    /// # Errors
    /// That of asking it to.
    async fn count_stored(&self) -> io::Result<()> {
        Ok(())
    }

    /// How often each result was stored, by the id of its task.
    ///
    /// # Errors
    /// That of reading it.
    async fn stored(&self) -> io::Result<HashMap<String, u64>>;

    /// The joins that are there.
    ///
    /// # Errors
    /// That of asking.
    async fn joins(&self) -> io::Result<Joins>;
}

/// The joins on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Joins {
    /// Those that are not closed.
    pub open: u64,
    /// Closed ones at which a member arrived again, where that leaves a trace.
    pub late: u64,
}

/// A server, running or shut down, with a folder and a port of its own.
#[derive(Debug)]
pub struct Server {
    kind: Box<dyn Kind>,
    folder: PathBuf,
    process: Option<Process>,
}

/// The kinds of servers, by what they are called in a pair.
const KINDS: [(&str, Make); 5] = [
    ("amqp", rabbitmq::RabbitMq::boxed),
    ("redis", redis::Redis::boxed),
    ("postgres", postgres::Postgres::boxed),
    ("mariadb", mariadb::MariaDb::boxed),
    ("sqlite", sqlite::Sqlite::boxed),
];

type Make = fn(&Path) -> io::Result<Box<dyn Kind>>;

/// Whether there is such a kind.
pub fn is_known(kind: &str) -> bool {
    KINDS.iter().any(|(name, _)| *name == kind)
}

/// Whether there is no server behind it that could be stopped.
pub fn is_file(kind: &str) -> bool {
    kind == "sqlite"
}

impl Server {
    /// Starts one, with nothing in it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start(kind: &str, folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let made = KINDS.iter().find(|(name, _)| *name == kind);
        let (_, make) = made.ok_or_else(|| io::Error::other(format!("no such server: {kind}")))?;
        let mut server = Self {
            kind: make(folder)?,
            folder: folder.to_owned(),
            process: None,
        };
        server.kind.prepare()?;
        server.start_again().await?;
        Ok(server)
    }

    /// What is special to its kind.
    pub fn kind(&self) -> &dyn Kind {
        &*self.kind
    }

    /// Stops it where it stands.
    ///
    /// # Errors
    /// If it is not there.
    pub fn pause(&self) -> io::Result<()> {
        self.process.as_ref().map_or(Ok(()), Process::pause)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If it is not there.
    pub fn go_on(&self) -> io::Result<()> {
        self.process.as_ref().map_or(Ok(()), Process::go_on)
    }

    /// Shuts it down, in good order.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn shut_down(&mut self) -> io::Result<()> {
        match &mut self.process {
            Some(process) => process.shut_down(self.kind.stop()).await,
            None => Ok(()),
        }
    }

    /// Starts it again on the same port, with what it had.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start_again(&mut self) -> io::Result<()> {
        if let Some(command) = self.kind.command()? {
            self.process = Some(Process::start(&command, &self.folder)?);
        }
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.kind.ready().await {
            if Instant::now() > deadline {
                let folder = self.folder.display();
                return Err(io::Error::other(format!(
                    "a server does not answer ({error}); it says why in {folder}"
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}
