//! A RabbitMQ of one's own.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The scripts of RabbitMQ. Those in /usr/sbin change to a user of their own.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

static STARTED: AtomicU32 = AtomicU32::new(0);

/// A RabbitMQ server, killed when this is dropped, and also if this process is
/// killed: its shell then reads the end of a pipe.
pub(crate) struct Rabbit {
    dir: PathBuf,
    pub(crate) port: u16,
    management: u16,
    distribution: u16,
    epmd: u16,
    shell: Option<Child>,
}

impl Rabbit {
    /// The one that all tests share that do it no harm. It ends with this process.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Rabbit> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    pub(crate) fn start() -> Self {
        assert!(
            Path::new(SCRIPTS).join("rabbitmq-server").exists(),
            "rabbitmq-server is not installed: apt-get install -y rabbitmq-server"
        );
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("rabbitmq-{}-{number}", std::process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&dir).unwrap();
        let mut rabbit = Self {
            dir,
            port: free_port(),
            management: free_port(),
            distribution: free_port(),
            epmd: free_port(),
            shell: None,
        };
        let settings = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nloopback_users = none\n\
             disk_free_limit.absolute = 50MB\nmanagement.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {}\n",
            rabbit.port, rabbit.management
        );
        fs::write(rabbit.dir.join("rabbitmq.conf"), settings).unwrap();
        fs::write(rabbit.dir.join("plugins"), "[rabbitmq_management].").unwrap();
        rabbit.run();
        rabbit
    }

    /// What the server and its tools must be told by the environment.
    fn environment(&self, command: &mut Command) {
        let at = |name: &str| self.dir.join(name);
        command
            .current_dir(&self.dir)
            .env("HOME", &self.dir)
            .env("ERL_EPMD_PORT", self.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env(
                "RABBITMQ_NODENAME",
                format!("canvas{}@localhost", self.port),
            )
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution.to_string())
            .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
            .env("RABBITMQ_LOG_BASE", at("log"))
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
            .env("RABBITMQ_PID_FILE", at("pid"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+sbwt none +sbwtdcpu none +sbwtdio none \
                 -kernel inet_dist_use_interface {127,0,0,1}",
            );
    }

    /// Starts it, on what it may have left on disk.
    pub(crate) fn run(&mut self) {
        // The port mapper would otherwise become a daemon and outlive all.
        const KEEP: &str = "epmd -address 127.0.0.1 -port $ERL_EPMD_PORT >/dev/null 2>&1 & \
             epmd=$!; \"$0\" >out 2>&1 & cat; \
             kill -KILL $(cat pid 2>/dev/null) $! $epmd 2>/dev/null; wait";
        let _ = fs::remove_file(self.dir.join("pid"));
        let mut shell = Command::new("sh");
        self.environment(&mut shell);
        shell
            .args(["-c", KEEP])
            .arg(Path::new(SCRIPTS).join("rabbitmq-server"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.shell = Some(shell.spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while !(self.speaks() && self.manage("GET", "overview", "").is_ok()) {
            let out = fs::read_to_string(self.dir.join("out"));
            assert!(
                Instant::now() < deadline,
                "RabbitMQ does not answer: {out:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether it speaks AMQP: it listens some time before.
    fn speaks(&self) -> bool {
        let speak = || -> io::Result<bool> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"AMQP\x00\x00\x09\x01")?;
            let mut first = [0];
            stream.read_exact(&mut first)?;
            Ok(first == [1])
        };
        speak().unwrap_or(false)
    }

    /// Ends the server without warning.
    pub(crate) fn kill(&mut self) {
        if let Some(mut shell) = self.shell.take() {
            drop(shell.stdin.take());
            shell.wait().unwrap();
        }
    }

    /// Stops it in its tracks, or lets it go on.
    pub(crate) fn freeze(&self, freeze: bool) {
        let pid = fs::read_to_string(self.dir.join("pid")).unwrap();
        let signal = if freeze { "-STOP" } else { "-CONT" };
        let sent = Command::new("kill").args([signal, pid.trim()]).status();
        assert!(sent.unwrap().success(), "kill {signal}");
    }

    /// Runs one of the server's own tools.
    pub(crate) fn control(&self, arguments: &[&str]) {
        let mut tool = Command::new(Path::new(SCRIPTS).join("rabbitmqctl"));
        self.environment(&mut tool);
        let done = tool.args(arguments).output().unwrap();
        assert!(done.status.success(), "rabbitmqctl {arguments:?}: {done:?}");
    }

    /// Sends a request to its management, and gives the answer.
    fn manage(&self, method: &str, path: &str, body: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.management))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // guest:guest
        write!(
            stream,
            "{method} /api/{path} HTTP/1.0\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = BufReader::new(stream);
        let mut status = String::new();
        answer.read_line(&mut status)?;
        let mut rest = String::new();
        answer.read_to_string(&mut rest)?;
        let code = status.split(' ').nth(1).unwrap_or_default();
        match code.starts_with('2') {
            true => Ok(rest.split_once("\r\n\r\n").unwrap_or_default().1.to_owned()),
            false => Err(io::Error::other(format!("{method} {path}: {status}{rest}"))),
        }
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A virtual host on the shared server.
pub(crate) struct Vhost {
    pub(crate) name: String,
}

impl Vhost {
    pub(crate) fn new() -> Self {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{number}", std::process::id());
        let rabbit = Rabbit::shared();
        rabbit.manage("PUT", &format!("vhosts/{name}"), "").unwrap();
        let all = r#"{"configure":".*","write":".*","read":".*"}"#;
        let path = format!("permissions/{name}/guest");
        rabbit.manage("PUT", &path, all).unwrap();
        Self { name }
    }

    pub(crate) fn url(&self) -> String {
        format!(
            "amqp://guest:guest@127.0.0.1:{}/{}",
            Rabbit::shared().port,
            self.name
        )
    }

    /// What the server's management has to tell: `queues`, `exchanges`,
    /// `bindings`.
    pub(crate) fn list(&self, what: &str) -> Vec<serde_json::Value> {
        let path = format!("{what}/{}", self.name);
        let text = Rabbit::shared().manage("GET", &path, "").unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Sends a request about something in it.
    pub(crate) fn manage(&self, method: &str, what: &str, name: &str) {
        let path = format!("{what}/{}/{name}", self.name);
        Rabbit::shared().manage(method, &path, "").unwrap();
    }
}
