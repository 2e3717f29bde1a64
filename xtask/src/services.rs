//! `cargo xtask services`: the servers that tests talk to, each on a port of
//! its own, with its data below target/services/.
//!
//! A service is one file in services/ and one line in [`ALL`].

mod mariadb;
mod memcached;
mod postgres;
mod rabbitmq;
mod redis;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::run::{is_there, run};
use crate::workspace;

pub(crate) use mariadb::MariaDb;
pub(crate) use memcached::Memcached;
pub(crate) use postgres::Postgres;
pub(crate) use rabbitmq::RabbitMq;
pub(crate) use redis::Redis;

/// Every service that is known.
const ALL: [&dyn Service; 5] = [&Redis, &RabbitMq, &Memcached, &Postgres, &MariaDb];

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(180);

/// A server, and what there is to know of it.
pub(crate) trait Service {
    /// What it is called here.
    fn name(&self) -> &'static str;

    /// The program, and an argument with which it does nothing.
    fn program(&self) -> (&'static str, &'static str);

    /// What its process is called, if not like the program.
    fn process(&self) -> &'static str {
        let (program, _) = self.program();
        program.rsplit('/').next().unwrap_or(program)
    }

    /// The package of Debian and Ubuntu that it is in.
    fn package(&self) -> &'static str;

    /// Makes what it needs before it can run, if that is not there yet.
    fn prepare(&self, _place: &Place) -> Result<(), String> {
        Ok(())
    }

    /// Runs it in the foreground.
    fn command(&self, place: &Place) -> Command;

    /// Whether it answers.
    fn is_ready(&self, place: &Place) -> bool;

    /// The signal that ends it, without waiting for those who use it.
    fn stop(&self) -> &'static str {
        "TERM"
    }

    /// What tests find it by: environment variables.
    fn variables(&self, place: &Place) -> Vec<(&'static str, String)>;
}

/// Where a server runs.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// For its data, below which nothing else is.
    pub(crate) folder: PathBuf,
    /// On 127.0.0.1.
    pub(crate) port: u16,
}

impl Place {
    fn new(folder: PathBuf) -> Result<Self, String> {
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.map_err(|e| format!("no free port: {e}"))?.port();
        Ok(Self { folder, port })
    }
}

pub(crate) fn services(arguments: &[String]) -> Result<(), String> {
    let (what, names) = arguments.split_first().ok_or(USAGE)?;
    let chosen = chosen(names)?;
    for service in chosen {
        match what.as_str() {
            "up" => up(service)?,
            "down" => down(service)?,
            "status" => status(service)?,
            "env" => env(service)?,
            other => return Err(format!("no such thing to do: {other}; {USAGE}")),
        }
    }
    Ok(())
}

const USAGE: &str = "say up, down, status or env, and perhaps which services";

fn chosen(names: &[String]) -> Result<Vec<&'static dyn Service>, String> {
    if names.is_empty() {
        return Ok(ALL.to_vec());
    }
    let find = |name: &String| {
        let found = ALL.into_iter().find(|service| service.name() == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = ALL.iter().map(|service| service.name()).collect();
            format!("no such service: {name}; known are {}", known.join(", "))
        })
    };
    names.iter().map(find).collect()
}

/// A server that was started by an earlier `up` and still runs.
fn running(service: &dyn Service) -> Result<Option<(u32, Place)>, String> {
    let folder = folder(service)?;
    let read = |file: &str| {
        fs::read_to_string(folder.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let (Some(pid), Some(port)) = (read("pid"), read("port")) else {
        return Ok(None);
    };
    let place = Place {
        folder: folder.join("data"),
        port: u16::try_from(port).unwrap_or_default(),
    };
    Ok((runs(pid, service.process()) && service.is_ready(&place)).then_some((pid, place)))
}

fn folder(service: &dyn Service) -> Result<PathBuf, String> {
    Ok(workspace::target()?.join("services").join(service.name()))
}

/// Whether a process is there, and is what it is taken for: numbers are given
/// out again.
fn runs(pid: u32, process: &str) -> bool {
    let shown = Command::new("ps")
        .args(["-o", "args=", "-p", &pid.to_string()])
        .output();
    shown.is_ok_and(|shown| String::from_utf8_lossy(&shown.stdout).contains(process))
}

fn up(service: &dyn Service) -> Result<(), String> {
    if running(service)?.is_some() {
        return status(service);
    }
    install(service)?;
    let folder = folder(service)?;
    let place = Place::new(folder.join("data"))?;
    let child = start(service, &place, Until::Down)?;
    let write = |file: &str, text: String| {
        fs::write(folder.join(file), text).map_err(|e| format!("{}: {e}", folder.display()))
    };
    write("pid", child.id().to_string())?;
    write("port", place.port.to_string())?;
    status(service)
}

fn down(service: &dyn Service) -> Result<(), String> {
    let name = service.name();
    let Some((pid, _)) = running(service)? else {
        println!("{name}: is not up");
        return Ok(());
    };
    let process = service.process();
    signal(pid, service.stop())?;
    if !eventually(|| !runs(pid, process)) {
        signal(pid, "KILL")?;
    }
    let _ = fs::remove_file(folder(service)?.join("pid"));
    println!("{name}: down");
    Ok(())
}

fn signal(pid: u32, signal: &str) -> Result<(), String> {
    let mut kill = Command::new("kill");
    kill.args([format!("-{signal}"), pid.to_string()]);
    let status = kill.status().map_err(|e| format!("kill: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("kill -{signal} {pid}: {status}"))
    }
}

fn status(service: &dyn Service) -> Result<(), String> {
    let name = service.name();
    match running(service)? {
        Some((pid, place)) => println!("{name}: up, port {}, process {pid}", place.port),
        None => println!("{name}: down"),
    }
    Ok(())
}

/// For `eval "$(cargo xtask services env)"`.
fn env(service: &dyn Service) -> Result<(), String> {
    let (_, place) = running(service)?
        .ok_or_else(|| format!("{0} is not up: cargo xtask services up {0}", service.name()))?;
    for (name, value) in service.variables(&place) {
        println!("export {name}='{value}'");
    }
    Ok(())
}

/// Installs all that is known.
pub(crate) fn install_all() -> Result<(), String> {
    ALL.into_iter().try_for_each(install)
}

/// Installs a server where that can be done without asking, and else says how.
pub(crate) fn install(service: &dyn Service) -> Result<(), String> {
    let (program, argument) = service.program();
    if is_there(program, argument) {
        return Ok(());
    }
    let package = service.package();
    let is_root = Command::new("id").arg("-u").output();
    let is_root = is_root.is_ok_and(|id| id.stdout.trim_ascii() == b"0");
    if !(is_root && is_there("apt-get", "--version")) {
        return Err(format!(
            "{program} is not installed: `sudo apt-get install {package}`, or the like of it here"
        ));
    }
    // A package may start its server by itself, on a port of its own choice.
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.args(["install", "-y", "--no-install-recommends", package]);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        run(apt)
    };
    install().or_else(|_| {
        let mut update = Command::new("apt-get");
        update.arg("update");
        run(update)?;
        install()
    })
}

/// How long a server is to run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Until `down`.
    Down,
    /// Until this program ends.
    End,
}

/// Starts a server and waits until it answers.
fn start(service: &dyn Service, place: &Place, until: Until) -> Result<Child, String> {
    service.prepare(place)?;
    let log = place.folder.with_extension("log");
    let file = fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    let mut command = service.command(place);
    command.stdin(Stdio::null());
    command.stderr(file.try_clone().map_err(|e| e.to_string())?);
    command.stdout(file);
    // What stops this program from the terminal stops all of its group.
    #[cfg(unix)]
    if until == Until::Down {
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
    }
    let (program, _) = service.program();
    let mut child = command
        .spawn()
        .map_err(|e| format!("{program} could not be started: {e}"))?;
    if eventually(|| service.is_ready(place) || matches!(child.try_wait(), Ok(Some(_))))
        && matches!(child.try_wait(), Ok(None))
    {
        return Ok(child);
    }
    let _ = child.kill().and_then(|()| child.wait());
    let said = fs::read_to_string(&log).unwrap_or_default();
    Err(format!(
        "{program} does not answer: {}\n{said}",
        log.display()
    ))
}

/// A server that lives as long as this does.
#[derive(Debug)]
pub(crate) struct Private {
    child: Child,
    pub(crate) place: Place,
}

impl Private {
    /// Starts one, with its data in `folder`.
    pub(crate) fn start(service: &dyn Service, folder: &Path) -> Result<Self, String> {
        install(service)?;
        let place = Place::new(folder.to_owned())?;
        let child = start(service, &place, Until::End)?;
        Ok(Self { child, place })
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !condition() {
        if started.elapsed() > PATIENCE {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}
