//! A server as a process that dies with this one, however that dies.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to start, with all that it has to read, or a
/// process to end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a server until this shell's input ends, and ends with it, also those
/// that a server has made for each of its connections, and also where they
/// stand still. What is meant for the whole terminal must not end the shell
/// first: a server that is stopped would stay.
const SHELL: &str = r#"
trap '' INT TERM HUP
exec 3<&0
"$@" >>log 2>&1 3<&- &
server=$!
echo $server
{
    cat <&3 >/dev/null
    kill -KILL $(ps -o pid= --ppid $server) $server 2>/dev/null
} &
wait $server
kill -KILL $! 2>/dev/null
"#;

/// A process that runs.
#[derive(Debug)]
pub struct Process {
    shell: Child,
    /// As long as it is open, the process runs.
    _held: ChildStdin,
    pid: u32,
}

impl Process {
    /// Starts one. It works in `folder`, and what it says is in the file `log`
    /// there.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &Command, folder: &Path) -> io::Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", SHELL, "sh"]).arg(command.get_program());
        shell.args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }
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
        Ok(Self {
            shell,
            _held: held,
            pid,
        })
    }

    /// Stops it where it stands: it answers nobody, and its connections stay.
    ///
    /// # Errors
    /// If it is not there.
    pub fn pause(&self) -> io::Result<()> {
        // First itself, so that it makes no more of the others.
        signal(&[self.pid], "STOP")?;
        self.children("STOP")
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If it is not there.
    pub fn go_on(&self) -> io::Result<()> {
        self.children("CONT")?;
        signal(&[self.pid], "CONT")
    }

    /// PostgreSQL has a process for each connection.
    fn children(&self, name: &str) -> io::Result<()> {
        let pid = self.pid.to_string();
        let shown = Command::new("ps")
            .args(["-o", "pid=", "--ppid", &pid])
            .output()?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        for child in shown.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // One that has just ended is none to signal.
            let _ = signal(&[child], name);
        }
        Ok(())
    }

    /// Asks it to end, by a signal, and waits until it has.
    ///
    /// # Errors
    /// If it does not.
    pub async fn shut_down(&mut self, name: &str) -> io::Result<()> {
        signal(&[self.pid], name)?;
        ended(&mut self.shell, "a server").await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Also if it is stopped. It is gone if its shell is.
        if let Ok(None) = self.shell.try_wait() {
            let _ = self.children("KILL");
            let _ = signal(&[self.pid], "KILL");
            let _ = self.shell.wait();
        }
    }
}

/// Sends a signal to processes.
///
/// # Errors
/// If one is not there.
pub fn signal(pids: &[u32], name: &str) -> io::Result<()> {
    let mut kill = Command::new("kill");
    kill.arg(format!("-{name}"));
    kill.args(pids.iter().map(u32::to_string));
    let status = kill.stderr(Stdio::null()).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("kill -{name} {pids:?}: {status}")))
    }
}

/// Waits until a process has ended.
///
/// # Errors
/// If it does not.
pub async fn ended(child: &mut Child, what: &str) -> io::Result<()> {
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

/// A port for a server that is stopped for a while and then wants it back: not
/// one of those that systems give to whoever connects to something.
///
/// # Errors
/// If there is none.
pub fn lasting_port() -> io::Result<u16> {
    const FIRST: u16 = 20_000;
    const MANY: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Runs at the same time begin in different places.
    let own = u16::try_from(std::process::id() % u32::from(MANY)).unwrap_or_default();
    for _ in 0..MANY {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + own.wrapping_add(next) % MANY;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::other("no free port"))
}

/// Where a program is: in one of these folders, or in the path.
///
/// # Errors
/// If it is nowhere, with the command that installs it.
pub fn program(name: &str, folders: &[&Path], package: &str) -> io::Result<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = folders.iter().map(|folder| folder.to_path_buf());
    let mut found = folders
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name));
    found
        .find(|program| fs::metadata(program).is_ok_and(|found| found.is_file()))
        .ok_or_else(|| {
            io::Error::other(format!(
                "{name} is not installed: apt-get install -y {package}"
            ))
        })
}

/// Runs a command to its end.
///
/// # Errors
/// If it cannot be run, or fails, with what it says.
pub fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{command:?}: {said}")))
}

/// Whether this is root: some servers refuse to run as that.
///
/// # Errors
/// That of asking.
pub fn is_root() -> io::Result<bool> {
    let id = Command::new("id").arg("-u").output()?;
    Ok(id.stdout.trim_ascii() == b"0")
}
