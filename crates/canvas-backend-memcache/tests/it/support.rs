//! Servers of a test's own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use canvas_backend_memcache::{MemcacheBackend, MemcacheBackendConfig};
use canvas_core::backend::{Arrival, JoinSpec, Part};
use canvas_core::{Backend, ExceptionInfo, State, TaskMeta};
use serde_json::{Value, json};
use tokio::time::Instant;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A claim that does not lapse.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// A server on a port of its own. It goes with this, also when the test panics, or
/// is killed.
pub(crate) struct Memcached {
    pub(crate) port: u16,
    running: Option<Running>,
}

struct Running {
    shell: Child,
    /// The shell ends the server once this is closed.
    stdin: Option<ChildStdin>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.shell.wait();
    }
}

impl Memcached {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// One with these options, too.
    pub(crate) async fn start_with(options: &[&str]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut memcached = Self {
            port,
            running: None,
        };
        memcached.run_with(options).await;
        memcached
    }

    pub(crate) async fn several(count: usize) -> Vec<Self> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(Self::start().await);
        }
        all
    }

    /// Ends the server, and all that it holds.
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// Starts it again, on the same port, with nothing in it.
    pub(crate) async fn run(&mut self) {
        self.run_with(&[]).await;
    }

    async fn run_with(&mut self, options: &[&str]) {
        // A test that is killed drops nothing, but its end of the pipe closes.
        const KEEP: &str = r#"trap '' HUP INT TERM
            memcached -l 127.0.0.1 -U 0 "$@" & echo started; cat; kill -9 $!; wait 2>/dev/null"#;
        assert!(
            Command::new("memcached").arg("-V").output().is_ok(),
            "these tests need memcached: apt-get install memcached"
        );
        let mut shell = Command::new("sh")
            .args(["-c", KEEP, "sh", "-u", "root"])
            .args(["-p", &self.port.to_string()])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = shell.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        self.running = Some(Running {
            stdin: shell.stdin.take(),
            shell,
        });
        let end = Instant::now() + PATIENCE;
        while !self.answers() {
            assert!(Instant::now() < end, "memcached does not answer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn answers(&self) -> bool {
        let asked = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.write_all(b"version\r\n")?;
            let mut answer = [0; 7];
            stream.read_exact(&mut answer)?;
            Ok(&answer == b"VERSION")
        };
        asked().unwrap_or(false)
    }

    /// Asks the server itself; gives the lines that it answers.
    pub(crate) fn ask(&self, command: &str) -> Vec<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let asked = format!("{command}\r\nmn\r\n");
        stream.write_all(asked.as_bytes()).unwrap();
        let lines = BufReader::new(stream).lines().map(Result::unwrap);
        lines.take_while(|line| line != "MN").collect()
    }

    /// The flags and the value of an item.
    pub(crate) fn item(&self, key: &str) -> Option<(u32, String)> {
        let answer = self.ask(&format!("get {key}"));
        let [head, value, _] = answer.as_slice() else {
            return None;
        };
        let flags = head.split(' ').nth(2).unwrap().parse().unwrap();
        Some((flags, value.clone()))
    }

    /// The seconds that an item still has; -1 for ever.
    pub(crate) fn life(&self, key: &str) -> i64 {
        let answer = self.ask(&format!("mg {key} t"));
        answer[0].strip_prefix("HD t").unwrap().parse().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        url([self])
    }

    pub(crate) fn backend(&self) -> Arc<MemcacheBackend> {
        self.backend_with(|_| {})
    }

    pub(crate) fn backend_with(
        &self,
        change: impl FnOnce(&mut MemcacheBackendConfig),
    ) -> Arc<MemcacheBackend> {
        let mut config = MemcacheBackendConfig::default();
        change(&mut config);
        MemcacheBackend::new(&self.url(), config).unwrap()
    }
}

/// The URL of several servers, as Celery writes it.
pub(crate) fn url<'a>(servers: impl IntoIterator<Item = &'a Memcached>) -> String {
    let names = servers
        .into_iter()
        .map(|one| format!("127.0.0.1:{}", one.port));
    let names: Vec<String> = names.collect();
    format!("cache+memcached://{}/", names.join(";"))
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

pub(crate) fn part(index: u64) -> Part {
    Part {
        task_id: format!("member-{index}").into(),
        index: Some(index),
        state: State::Success,
        result: json!(index),
    }
}

pub(crate) async fn open(backend: &dyn Backend, join: &str, size: u64) {
    let spec = JoinSpec {
        id: join.into(),
        size,
        quorum: size,
    };
    backend.open_join(&spec).await.unwrap();
}

pub(crate) async fn arrive(backend: &dyn Backend, join: &str, part: &Part) -> Arrival {
    backend.arrive(&join.into(), part, LONG).await.unwrap()
}
