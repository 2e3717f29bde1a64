//! The processes of a fault run: a Redis server and two workers, each of which
//! dies with this process, however that dies.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crate::faults_redis::out;

/// How long a server may take to start, with all that it has to read, or a
/// process to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a server until this shell's input ends, and ends with it. What is meant
/// for the whole terminal must not end the shell first: a server that is
/// stopped would stay.
const SHELL: &str = r#"
trap '' INT TERM HUP
exec 3<&0
redis-server "$@" >>log 2>&1 3<&- &
server=$!
echo $server
{ cat <&3 >/dev/null; kill -KILL $server 2>/dev/null; } &
wait $server
kill -KILL $! 2>/dev/null
"#;

/// A Redis server that keeps what it has answered: every write is on disk before
/// its answer is sent.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    port: u16,
    running: Running,
}

#[derive(Debug)]
struct Running {
    shell: Child,
    /// As long as it is open, the server runs.
    _held: ChildStdin,
    pid: u32,
}

impl Server {
    /// Starts one on a port of its own, with nothing in it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let server = Self {
            folder: folder.to_owned(),
            port,
            running: launch(folder, port)?,
        };
        server.is_ready().await?;
        Ok(server)
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Where its data is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stops it where it stands: it answers nobody, and its connections stay.
    ///
    /// # Errors
    /// If it is not there.
    pub fn pause(&self) -> io::Result<()> {
        signal(self.running.pid, "STOP")
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If it is not there.
    pub fn go_on(&self) -> io::Result<()> {
        signal(self.running.pid, "CONT")
    }

    /// Shuts it down, in good order.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn shut_down(&mut self) -> io::Result<()> {
        let mut connection = out::connect(&self.url()).await.map_err(io::Error::other)?;
        // It answers by hanging up.
        let _ = redis::cmd("SHUTDOWN").exec_async(&mut connection).await;
        ended(&mut self.running.shell, "redis-server").await
    }

    /// Starts it again on the same port, with what it had.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start_again(&mut self) -> io::Result<()> {
        self.running = launch(&self.folder, self.port)?;
        self.is_ready().await
    }

    /// Waits until it answers.
    async fn is_ready(&self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let error = match out::connect(&self.url()).await {
                Ok(mut connection) => match redis::cmd("PING").exec_async(&mut connection).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if Instant::now() > deadline {
                let log = self.folder.join("log");
                return Err(io::Error::other(format!(
                    "redis-server does not answer ({error}); it says why in {}; \
                     is it installed? apt-get install -y redis-server",
                    log.display()
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Also if it is stopped. It is gone if its shell is.
        if let Ok(None) = self.running.shell.try_wait() {
            let _ = signal(self.running.pid, "KILL");
            let _ = self.running.shell.wait();
        }
    }
}

fn launch(folder: &Path, port: u16) -> io::Result<Running> {
    let mut shell = Command::new("sh");
    shell.args(["-c", SHELL, "sh", "--bind", "127.0.0.1", "--port"]);
    shell.arg(port.to_string());
    shell.args(["--save", "", "--appendonly", "yes"]);
    shell.args(["--appendfsync", "always"]);
    // The log of writes is to tell of all of them.
    shell.args(["--auto-aof-rewrite-percentage", "0"]);
    shell
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut shell = shell.spawn()?;
    let missing = || io::Error::other("a shell without its pipes");
    let held = shell.stdin.take().ok_or_else(missing)?;
    let said = shell.stdout.take().ok_or_else(missing)?;
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line)?;
    let pid = line.trim().parse().map_err(io::Error::other)?;
    Ok(Running {
        shell,
        _held: held,
        pid,
    })
}

fn signal(pid: u32, signal: &str) -> io::Result<()> {
    let mut kill = Command::new("kill");
    kill.args([format!("-{signal}"), pid.to_string()]);
    let status = kill.stderr(Stdio::null()).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("kill -{signal} {pid}: {status}")))
    }
}

async fn ended(child: &mut Child, what: &str) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!(
                "{what} does not end within {PATIENCE:?}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A worker, of which there is a new process whenever the last one was killed.
#[derive(Debug)]
pub struct Worker {
    program: PathBuf,
    arguments: Vec<String>,
    folder: PathBuf,
    name: String,
    processes: u32,
    process: Child,
}

impl Worker {
    /// Starts one. `arguments` are those that all its processes have.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(
        program: &Path,
        arguments: &[String],
        folder: &Path,
        name: &str,
    ) -> io::Result<Self> {
        Ok(Self {
            process: spawn(program, arguments, folder, name, 0)?,
            program: program.to_owned(),
            arguments: arguments.to_vec(),
            folder: folder.to_owned(),
            name: name.to_owned(),
            processes: 1,
        })
    }

    /// Kills its process, names it, and starts the next one.
    ///
    /// # Errors
    /// If that cannot be started.
    pub fn kill(&mut self) -> io::Result<String> {
        let killed = process(&self.name, self.processes - 1);
        self.process.kill()?;
        self.process.wait()?;
        self.process = spawn(
            &self.program,
            &self.arguments,
            &self.folder,
            &self.name,
            self.processes,
        )?;
        self.processes += 1;
        Ok(killed)
    }

    /// Whether it has ended, though nobody asked it to.
    pub fn gave_up(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// If it does not.
    pub async fn stop(&mut self) -> io::Result<()> {
        signal(self.process.id(), "TERM")?;
        ended(&mut self.process, &self.name).await
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// The name of a worker's process, and of its trace.
fn process(worker: &str, number: u32) -> String {
    format!("{worker}-{number}")
}

fn spawn(
    program: &Path,
    arguments: &[String],
    folder: &Path,
    worker: &str,
    number: u32,
) -> io::Result<Child> {
    let name = process(worker, number);
    let mut command = Command::new(program);
    command
        .args(arguments)
        .args(["--name", &format!("{name}@faults"), "--trace"])
        .arg(folder.join(&name).with_extension("trace"))
        // It ends when this does.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(File::create(folder.join(&name).with_extension("log"))?);
    command.spawn().map_err(|error| {
        let program = program.display();
        io::Error::other(format!("{program} could not be started: {error}"))
    })
}
