//! A Redis of a test's own, and Celery workers beside it. All of them end with
//! the test, also if it is killed.

#![allow(dead_code, reason = "each file of tests uses some of it")]

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use canvas::{Builder, Canvas};
use canvas_backend_redis::{RedisBackend, RedisBackendConfig};
use canvas_broker_redis::{RedisBroker, RedisBrokerConfig};
use canvas_tests::support::eventually;
use redis::FromRedisValue;
use serde_json::Value;

/// What follows a task is kept in Redis from this many bytes on: one step, or
/// the body of a chord.
const SIZE: usize = 512;

static STARTED: AtomicU32 = AtomicU32::new(0);

/// A Redis, and who is started beside it.
pub(crate) struct Fleet {
    /// Ended before their server is.
    workers: Vec<Process>,
    _server: Process,
    port: u16,
    dir: PathBuf,
    prefix: &'static str,
}

/// How a Celery worker is started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Python {
    pub(crate) pool: &'static str,
    /// Modules that are imported beside the tasks.
    pub(crate) imports: &'static str,
    /// A module with settings.
    pub(crate) settings: Option<&'static str>,
}

/// The usual one: child processes, and our module.
pub(crate) const PREFORK: Python = Python {
    pool: "prefork",
    imports: ",canvas_references",
    settings: None,
};

impl Fleet {
    /// A Redis alone.
    pub(crate) async fn start() -> Self {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        // Short, as the path of a socket must be.
        let name = format!("references-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let there = Command::new("redis-server").arg("--version").output();
        assert!(
            there.is_ok(),
            "no redis-server: install it, or run `cargo xtask test`"
        );
        let mut server = Command::new("redis-server");
        server.args(["--port", "0", "--unixsocket", "redis.sock"]);
        server.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        let server = Process::start(&server, &dir, "redis");
        let socket = format!("unix://{}", dir.join("redis.sock").display());
        let mut port = 0;
        // Somebody else may take the port before Redis does.
        eventually("Redis listens on a port", async || {
            port = free_port();
            let listen = format!("CONFIG SET port {port}");
            ask::<()>(&socket, &listen).await.is_ok()
        })
        .await;
        Self {
            workers: Vec::new(),
            _server: server,
            port,
            dir,
            prefix: "",
        }
    }

    /// A Redis with a Celery worker that understands references.
    pub(crate) async fn with_python() -> Self {
        let mut fleet = Self::start().await;
        fleet.join(PREFORK);
        fleet
    }

    /// Starts a Celery worker.
    pub(crate) fn join(&mut self, python: Python) {
        let root = root();
        let path = [
            root.join("tests/interop"),
            root.join("crates/canvas-backend-redis/python"),
        ];
        let mut worker = Command::new(interpreter());
        worker.env("PYTHONPATH", std::env::join_paths(path).unwrap());
        worker.env("PYTHONDONTWRITEBYTECODE", "1");
        worker.env("REDIS_HOST", "127.0.0.1");
        worker.env("REDIS_PORT", self.port.to_string());
        worker.args(["-m", "celery", "--broker", &self.url()]);
        worker.args(["--result-backend", &self.url()]);
        if let Some(settings) = python.settings {
            worker.args(["--config", settings]);
        }
        worker.args(["worker", "--pool", python.pool, "--concurrency", "2"]);
        worker.args(["-I", &format!("canvases{}", python.imports)]);
        worker.args(["--without-heartbeat", "--without-gossip"]);
        worker.args(["--without-mingle", "--loglevel", "INFO"]);
        let name = format!("celery-{}", self.workers.len());
        worker.args(["--hostname", &format!("{name}@%h")]);
        self.run(&worker, &name);
    }

    /// Starts a program that ends with this.
    pub(crate) fn run(&mut self, program: &Command, name: &str) {
        let started = Process::start(program, &self.dir, name);
        self.workers.push(started);
    }

    /// Ends the Celery workers.
    pub(crate) fn dismiss(&mut self) {
        self.workers.clear();
    }

    /// All that is stored by canvas from here on has keys that begin so.
    pub(crate) fn under(mut self, prefix: &'static str) -> Self {
        self.prefix = prefix;
        self
    }

    /// Where this Redis is.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// An application on this Redis that sends references, with tasks of its
    /// own.
    pub(crate) fn app(&self, builder: Builder) -> Canvas {
        let broker = RedisBroker::new(&self.url(), RedisBrokerConfig::default()).unwrap();
        let mut config = RedisBackendConfig::default();
        config.global_keyprefix = self.prefix.to_owned();
        let backend = RedisBackend::new(&self.url(), config).unwrap();
        builder
            .broker(broker)
            .backend(backend)
            .configure(|config| config.continuation_reference_size = Some(SIZE))
            .build()
            .unwrap()
    }

    /// One that has no tasks, and only sends.
    pub(crate) fn client(&self) -> Canvas {
        self.app(Canvas::builder())
    }

    /// Asks Redis itself.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        ask(&self.url(), command).await.unwrap()
    }

    /// How many bytes have gone into Redis and come out of it.
    pub(crate) async fn bytes(&self) -> u64 {
        let stats: String = self.ask("INFO stats").await;
        let count = |name: &str| -> u64 {
            let line = stats.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().parse().unwrap()
        };
        count("total_net_input_bytes:") + count("total_net_output_bytes:")
    }

    /// Lets all that is kept expire.
    pub(crate) async fn expire(&self) {
        let kept = self.kept().await;
        assert!(!kept.is_empty(), "nothing was kept");
        let gone: usize = self.ask(&format!("DEL {}", kept.join(" "))).await;
        assert_eq!(gone, kept.len());
    }

    /// What tasks noted under a key, once there is this much of it.
    pub(crate) async fn notes(&self, key: &str, many: usize) -> Vec<Value> {
        let mut found: Vec<String> = Vec::new();
        eventually(&format!("{many} notes under {key}"), async || {
            found = self.ask(&format!("LRANGE {key} 0 -1")).await;
            found.len() >= many
        })
        .await;
        let read = found.iter().map(|note| serde_json::from_str(note).unwrap());
        read.collect()
    }

    /// The keys of what is kept.
    pub(crate) async fn kept(&self) -> Vec<String> {
        self.ask("KEYS *canvas-ref-*").await
    }

    /// What the Celery worker has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("celery-0.log")).unwrap_or_default()
    }
}

async fn ask<T: FromRedisValue>(url: &str, command: &str) -> redis::RedisResult<T> {
    let client = redis::Client::open(url)?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut words = redis::Cmd::new();
    for word in command.split(' ') {
        words.arg(word);
    }
    words.query_async(&mut connection).await
}

fn root() -> PathBuf {
    // A Python finds its packages by the path that it is called by.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().unwrap()
}

/// A Python that has Celery.
pub(crate) fn interpreter() -> PathBuf {
    let python = std::env::var_os("CANVAS_CELERY_PYTHON").map_or_else(
        || root().join("target/interop/venv/bin/python"),
        PathBuf::from,
    );
    assert!(
        python.exists(),
        "no {}: `cargo xtask test` makes it; or name a Python that has \
         celery[redis]==5.7.0 in CANVAS_CELERY_PYTHON",
        python.display()
    );
    python
}

fn free_port() -> u16 {
    let found = TcpListener::bind("127.0.0.1:0").unwrap();
    found.local_addr().unwrap().port()
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            for line in tail.into_iter().rev() {
                println!("celery: {line}");
            }
        }
        self.workers.clear();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Another program, which is killed once the standard input of its shell is
/// closed: when this is dropped, or this process is no more.
struct Process {
    shell: Child,
    stdin: Option<ChildStdin>,
}

impl Process {
    fn start(command: &Command, dir: &Path, name: &str) -> Self {
        const KEEP: &str = r#""$@" </dev/null & cat; kill -9 $!; wait"#;
        let log = File::create(dir.join(format!("{name}.log"))).unwrap();
        let mut shell = Command::new("sh");
        shell
            .args(["-c", KEEP, "sh"])
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        for (key, value) in command.get_envs() {
            shell.env(key, value.unwrap_or_default());
        }
        let mut shell = shell.spawn().unwrap();
        let stdin = shell.stdin.take();
        Self { shell, stdin }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.shell.wait();
    }
}
