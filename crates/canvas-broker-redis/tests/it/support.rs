//! A Redis of one's own, and the small words of the tests.

#[path = "../../../../tests/kit/log.rs"]
mod log;
#[path = "../../../../tests/kit/messages.rs"]
mod messages;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use canvas_broker_redis::{RedisBroker, RedisBrokerConfig};
use canvas_core::Broker;
use redis::aio::MultiplexedConnection;

pub(crate) use log::keep_log;
pub(crate) use messages::*;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A lease that does not end within a test.
pub(crate) const NEVER: Duration = Duration::from_secs(3_600);

static STARTED: AtomicU32 = AtomicU32::new(0);

/// A Redis server, killed when this is dropped, and also if this process is
/// killed: its shell then reads the end of a pipe.
pub(crate) struct Redis {
    dir: PathBuf,
    arguments: Vec<String>,
    shell: Child,
}

impl Redis {
    /// One that keeps nothing on disk.
    pub(crate) fn start() -> Self {
        Self::with(&["--save", "", "--appendonly", "no"])
    }

    /// One that has written what it has answered.
    pub(crate) fn durable() -> Self {
        Self::with(&[
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ])
    }

    fn with(arguments: &[&str]) -> Self {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("redis-{}-{number}", std::process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&dir).unwrap();
        let arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        let shell = launch(&dir, &arguments);
        let redis = Self {
            dir,
            arguments,
            shell,
        };
        redis.wait_until_ready();
        redis
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("r.sock")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+socket://{}", self.socket().display())
    }

    pub(crate) fn broker(&self) -> Arc<dyn Broker> {
        self.broker_with(|_| {})
    }

    pub(crate) fn broker_with(&self, set: impl FnOnce(&mut RedisBrokerConfig)) -> Arc<dyn Broker> {
        let mut config = RedisBrokerConfig::default();
        // Tests are in a hurry.
        config.sweep_interval = Duration::from_millis(100);
        set(&mut config);
        RedisBroker::new(&self.url(), config).unwrap()
    }

    /// A plain client, to look and to meddle.
    pub(crate) async fn client(&self) -> MultiplexedConnection {
        let client = redis::Client::open(format!("unix://{}", self.socket().display())).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// Sends a command, in words.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query_async(&mut self.client().await).await.unwrap()
    }

    /// How many commands of a kind the server has served.
    pub(crate) async fn served(&self, command: &str) -> u64 {
        let stats: String = self.ask(&["INFO", "commandstats"]).await;
        let start = format!("cmdstat_{command}:calls=");
        let line = stats.lines().find_map(|line| line.strip_prefix(&start));
        line.and_then(|line| line.split(',').next())
            .map_or(0, |n| n.parse().unwrap())
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = fs::read_to_string(self.dir.join("pid")).unwrap();
        let sent = Command::new("kill").args([signal, pid.trim()]).status();
        assert!(sent.unwrap().success(), "kill {signal}");
    }

    /// Ends the server without warning.
    pub(crate) fn kill(&mut self) {
        self.signal("-KILL");
        drop(self.shell.stdin.take());
        self.shell.wait().unwrap();
    }

    /// Starts it again, on what it has left on disk.
    pub(crate) fn restart(&mut self) {
        self.shell = launch(&self.dir, &self.arguments);
        self.wait_until_ready();
    }

    fn wait_until_ready(&self) {
        let client = redis::Client::open(format!("unix://{}", self.socket().display())).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = client
                .get_connection()
                .and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection));
            match answer {
                Ok(_) => return,
                Err(error) if Instant::now() > deadline => panic!(
                    "redis-server does not answer ({error}); \
                     is it installed? apt-get install -y redis-server"
                ),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn launch(dir: &Path, arguments: &Vec<String>) -> Child {
    let found = Command::new("redis-server")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    assert!(
        found.is_ok_and(|status| status.success()),
        "redis-server is not installed: apt-get install -y redis-server"
    );
    let _ = fs::remove_file(dir.join("r.sock"));
    let script =
        r#"redis-server "$@" >log 2>&1 & echo $! >pid; cat; kill -KILL $! 2>/dev/null; wait"#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh", "--port", "0", "--unixsocket", "r.sock"]);
    shell.args(arguments).current_dir(dir);
    shell
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    shell.spawn().unwrap()
}

impl Redis {
    /// What was logged of this server.
    pub(crate) fn logged(&self) -> Vec<String> {
        log::logged(&self.socket().display().to_string())
    }
}

/// Waits until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
