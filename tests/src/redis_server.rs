//! Redis servers of a test's own: with TLS, as replicas, as sentinels.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::FromRedisValue;

use crate::support::PATIENCE;

/// A `redis-server` with a port and a folder of its own. It ends with this,
/// also when the test panics, or is killed; and so does its folder.
#[derive(Debug)]
pub struct RedisServer {
    folder: PathBuf,
    port: u16,
    arguments: Vec<String>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    /// A shell that ends the server once its own input is closed.
    shell: Child,
    pid: String,
}

impl RedisServer {
    /// A server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::with(|_, port| plain(&format!("--port {port}")))
    }

    /// A server with these arguments, for its folder and its port.
    ///
    /// # Panics
    /// If it does not listen on that port.
    pub fn with(arguments: impl FnOnce(&Path, u16) -> Vec<String>) -> Self {
        let found = Command::new("redis-server").arg("--version").output();
        assert!(
            found.is_ok_and(|found| found.status.success()),
            "these tests need redis-server: apt-get install -y redis-server"
        );
        let port = free_port();
        let name = format!("canvas-redis-{}-{port}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a folder for a server");
        let mut server = Self {
            arguments: arguments(&folder, port),
            folder,
            port,
            running: None,
        };
        server.run();
        server
    }

    /// Starts it again.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn run(&mut self) {
        // A test that is killed drops nothing, but its end of the pipe closes.
        const KEEP: &str = r#"redis-server "$@" >>log 2>&1 & echo $!; cat; kill -9 $!; wait"#;
        let mut shell = Command::new("sh")
            .current_dir(&self.folder)
            .args(["-c", KEEP, "sh"])
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let mut pid = String::new();
        let out = shell.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut pid).expect("its pid");
        self.running = Some(Running {
            shell,
            pid: pid.trim().to_owned(),
        });
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = fs::read_to_string(self.folder.join("log"));
            assert!(
                Instant::now() < end,
                "redis-server does not listen: {log:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Stops it in its tracks, or lets it go on.
    ///
    /// # Panics
    /// If it does not run.
    pub fn freeze(&self, freeze: bool) {
        let running = self.running.as_ref().expect("it runs");
        let signal = if freeze { "-STOP" } else { "-CONT" };
        let sent = Command::new("kill").args([signal, &running.pid]).status();
        assert!(sent.is_ok_and(|sent| sent.success()), "kill {signal}");
    }

    /// The port that it was given.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of its first database.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.running = None;
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not SIGTERM: it may stand still.
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Arguments, word by word, after those for a server that keeps nothing on
/// disk and listens on the loopback only.
pub fn plain(more: &str) -> Vec<String> {
    let mut arguments = vec!["--save".to_owned(), String::new()];
    let words = format!("--appendonly no --bind 127.0.0.1 {more}");
    arguments.extend(words.split_whitespace().map(str::to_owned));
    arguments
}

/// Sends a command, in words, and gives the answer.
///
/// # Errors
/// What the server, or its absence, says.
pub async fn ask<T: FromRedisValue>(url: &str, words: &[&str]) -> redis::RedisResult<T> {
    let client = redis::Client::open(url)?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command.query_async(&mut connection).await
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}
