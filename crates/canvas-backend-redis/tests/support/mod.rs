//! A Redis server of a test's own.

#![allow(dead_code, reason = "each file of tests uses some of it")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use canvas_backend_redis::{RedisBackend, RedisBackendConfig};
use canvas_core::{ExceptionInfo, Id, State, TaskMeta};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue};
use serde_json::{Value, json};
use tokio::time::Instant;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server on a socket in a directory of its own. Both go with it, also when
/// the test panics, or is killed.
pub(crate) struct Redis {
    dir: PathBuf,
    running: Option<Running>,
}

struct Running {
    shell: Child,
    /// The shell ends the server once this is closed.
    _stdin: ChildStdin,
    pid: String,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        // Short, as the path of a socket must be.
        let dir = format!("canvas-{:016x}", fastrand::u64(..));
        let dir = std::env::temp_dir().join(dir);
        std::fs::create_dir(&dir).unwrap();
        let mut redis = Self { dir, running: None };
        redis.run().await;
        redis
    }

    /// Starts the server again, with what it has saved.
    pub(crate) async fn run(&mut self) {
        // A test that is killed drops nothing, but its end of the pipe closes.
        const KEEP: &str = r#"redis-server "$@" >server.log 2>&1 & echo $!; cat; kill -9 $!; wait"#;
        assert!(
            Command::new("redis-server")
                .arg("--version")
                .output()
                .is_ok(),
            "these tests need redis-server: apt-get install redis-server"
        );
        let mut shell = Command::new("sh")
            .current_dir(&self.dir)
            .args(["-c", KEEP, "sh", "--port", "0"])
            .args(["--unixsocket", "redis.sock", "--appendonly", "yes"])
            .args(["--appendfsync", "always", "--save", ""])
            .args(["--bind", "127.0.0.1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        let stdout = shell.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut pid).unwrap();
        self.running = Some(Running {
            _stdin: shell.stdin.take().unwrap(),
            pid: pid.trim().to_owned(),
            shell,
        });
        eventually("the server answers", async || {
            let mut redis = self.try_client().await.ok()?;
            let answer = redis::cmd("PING").query_async::<String>(&mut redis).await;
            answer.ok().map(drop)
        })
        .await;
    }

    /// Ends the server, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// Stops the server in its tracks, or lets it go on.
    pub(crate) fn freeze(&self, freeze: bool) {
        let signal = if freeze { "-STOP" } else { "-CONT" };
        let running = self.running.as_ref().unwrap();
        let mut kill = Command::new("kill");
        let killed = kill.args([signal, &running.pid]).status().unwrap();
        assert!(killed.success());
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("redis.sock")
    }

    /// Its URL, as Celery writes it.
    pub(crate) fn url(&self) -> String {
        format!("redis+socket://{}", self.socket().display())
    }

    /// Has it listen on a port as well; gives the URL with that.
    pub(crate) async fn listen(&self) -> String {
        let port = eventually("a port is free", async || {
            let found = std::net::TcpListener::bind("127.0.0.1:0").ok()?;
            let port = found.local_addr().ok()?.port();
            drop(found);
            let mut redis = self.try_client().await.ok()?;
            let mut set = redis::cmd("CONFIG");
            set.arg("SET").arg("port").arg(port);
            set.query_async::<()>(&mut redis).await.ok()?;
            Some(port)
        });
        format!("redis://127.0.0.1:{}", port.await)
    }

    pub(crate) fn backend(&self) -> Arc<RedisBackend> {
        self.backend_with(|_| {})
    }

    pub(crate) fn backend_with(
        &self,
        change: impl FnOnce(&mut RedisBackendConfig),
    ) -> Arc<RedisBackend> {
        let mut config = RedisBackendConfig::default();
        change(&mut config);
        RedisBackend::new(&self.url(), config).unwrap()
    }

    async fn try_client(&self) -> redis::RedisResult<MultiplexedConnection> {
        let client = redis::Client::open(format!("unix://{}", self.socket().display()))?;
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    /// Asks the server itself: `ask("GET celery-task-meta-1")`.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        let words: Vec<&str> = command.split(' ').collect();
        self.send(&words).await
    }

    /// Asks the server itself, where a word may hold a space.
    pub(crate) async fn send<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(word);
        }
        let mut redis = self.try_client().await.unwrap();
        command.query_async(&mut redis).await.unwrap()
    }

    /// The names of the connections that are open.
    pub(crate) async fn connections(&self) -> Vec<String> {
        let list: String = self.ask("CLIENT LIST").await;
        let names = list
            .split_whitespace()
            .filter_map(|w| w.strip_prefix("name="));
        names.filter(|n| !n.is_empty()).map(str::to_owned).collect()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.running = None;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The shell waits for the server, so nothing of either is left.
        let mut kill = Command::new("kill");
        let _ = kill.args(["-9", &self.pid]).stderr(Stdio::null()).status();
        drop(self.shell.kill());
        let _ = self.shell.wait();
    }
}

/// Waits until something is there.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for something, but not for ever.
pub(crate) async fn soon<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.unwrap()
}

pub(crate) fn success(id: &str, value: impl Into<Value>) -> TaskMeta {
    let mut meta = TaskMeta::new(id.into(), State::Success);
    meta.result = value.into();
    meta
}

pub(crate) fn failure(id: &str) -> TaskMeta {
    let mut meta = TaskMeta::new(id.into(), State::Failure);
    meta.result = ExceptionInfo::builtin("ValueError", "no").to_value();
    meta
}

pub(crate) fn ids(count: usize) -> Vec<Id> {
    (0..count).map(|n| Id::from(format!("task-{n}"))).collect()
}

pub(crate) fn is_json(text: &str, expected: &Value) {
    let found: Value = serde_json::from_str(text).unwrap();
    assert_eq!(found, *expected, "{}", json!(text));
}
