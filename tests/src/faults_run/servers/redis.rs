//! Redis, with every write on disk before its answer is sent.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::{Joins, Kind, Messages, Results, redis_log};
use crate::faults_run::process::{lasting_port, program};

#[derive(Debug)]
pub(super) struct Redis {
    folder: PathBuf,
    port: u16,
}

impl Redis {
    pub(super) fn boxed(folder: &Path) -> io::Result<Box<dyn Kind>> {
        Ok(Box::new(Self {
            folder: folder.to_owned(),
            port: lasting_port()?,
        }))
    }

    async fn connect(&self) -> io::Result<MultiplexedConnection> {
        connect(&self.url()).await.map_err(io::Error::other)
    }
}

#[async_trait]
impl Kind for Redis {
    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    fn command(&self) -> io::Result<Option<Command>> {
        let mut command = Command::new(program("redis-server", &[], "redis-server")?);
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string()]);
        command.args(["--save", "", "--appendonly", "yes"]);
        command.args(["--appendfsync", "always"]);
        // The log of writes is to tell of all of them.
        command.args(["--auto-aof-rewrite-percentage", "0"]);
        Ok(Some(command))
    }

    async fn ready(&self) -> io::Result<()> {
        let mut connection = self.connect().await?;
        let ping = redis::cmd("PING").exec_async(&mut connection).await;
        ping.map_err(io::Error::other)
    }

    async fn cut(&self) -> io::Result<()> {
        let mut connection = self.connect().await?;
        for kind in ["normal", "pubsub"] {
            let mut kill = redis::cmd("CLIENT");
            kill.arg("KILL").arg("TYPE").arg(kind);
            let killed = kill.exec_async(&mut connection).await;
            killed.map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn messages(&self) -> Option<&dyn Messages> {
        Some(self)
    }

    fn results(&self) -> Option<&dyn Results> {
        Some(self)
    }
}

#[async_trait]
impl Messages for Redis {
    async fn out(&self) -> io::Result<u64> {
        let mut redis = self.connect().await?;
        let out: u64 = redis.hlen("unacked").await.map_err(io::Error::other)?;
        // Their times.
        let index: u64 = redis
            .zcard("unacked_index")
            .await
            .map_err(io::Error::other)?;
        Ok(std::cmp::max(out, index))
    }

    fn deliveries(&self) -> io::Result<Option<HashMap<String, u64>>> {
        Ok(Some(redis_log::read(&self.folder)?.deliveries))
    }

    fn watched(&self) -> Option<String> {
        Some(self.url())
    }
}

#[async_trait]
impl Results for Redis {
    async fn stored(&self) -> io::Result<HashMap<String, u64>> {
        Ok(redis_log::read(&self.folder)?.results)
    }

    async fn joins(&self) -> io::Result<Joins> {
        let mut redis = self.connect().await?;
        let keys = keys(&mut redis).await.map_err(io::Error::other)?;
        // A closed join leaves one key, that says so.
        let mut closed = Vec::new();
        for key in keys.iter().filter(|key| key.ends_with(".c")) {
            let claim: Option<String> = redis.get(key).await.map_err(io::Error::other)?;
            if claim.as_deref() == Some("done") {
                closed.push(key.clone());
            }
        }
        Ok(joins(&keys, &closed))
    }
}

/// A connection to look and to meddle, which waits for no dead server.
///
/// # Errors
/// That of the connection.
pub async fn connect(url: &str) -> redis::RedisResult<MultiplexedConnection> {
    let limit = Some(Duration::from_secs(1));
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(limit)
        .set_response_timeout(limit);
    let client = redis::Client::open(url)?;
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// The keys of joins, and of the shapes of headers.
async fn keys(redis: &mut MultiplexedConnection) -> redis::RedisResult<Vec<String>> {
    let mut keys: Vec<String> = Vec::new();
    let mut cursor = 0;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg("celery-taskset-meta-*");
        scan.arg("COUNT").arg(10_000);
        let (next, found): (u64, Vec<String>) = scan.query_async(redis).await?;
        keys.extend(found);
        cursor = next;
        if cursor == 0 {
            return Ok(keys);
        }
    }
}

/// Counts joins by the keys that there are, given those which say that a join is
/// closed. (The shape of a header, a key without an ending, is a result.) What is
/// left of a closed join at which a member arrived again is kept, since to
/// Celery's layout it may be the first of the same canvas, sent again; it
/// expires.
fn joins(keys: &[String], closed: &[String]) -> Joins {
    let closed: BTreeSet<&str> = closed.iter().map(String::as_str).collect();
    let parts = keys.iter().filter(|key| !closed.contains(key.as_str()));
    let (mut open, mut late) = (BTreeSet::new(), BTreeSet::new());
    for (join, part) in parts.filter_map(|key| key.rsplit_once('.')) {
        let is_closed = closed.contains(format!("{join}.c").as_str());
        if is_closed && ["j", "d"].contains(&part) {
            late.insert(join);
        } else {
            open.insert(join);
        }
    }
    Joins {
        open: open.len() as u64,
        late: late.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_is_open_unless_it_says_that_it_is_closed() {
        let keys = |names: &[&str]| -> Vec<String> {
            let key = |name: &&str| format!("celery-taskset-meta-{name}");
            names.iter().map(key).collect()
        };
        let joins = |names: &[&str]| {
            let found = joins(&keys(names), &keys(&["a.c"]));
            (found.open, found.late)
        };
        assert_eq!(joins(&["a.c", "a"]), (0, 0));
        assert_eq!(joins(&["a.c", "a.j", "a.d"]), (0, 1));
        assert_eq!(joins(&["a.c", "a.s"]), (1, 0));
        assert_eq!(joins(&["a.c", "b.c", "c.j", "c.s"]), (2, 0));
    }
}
