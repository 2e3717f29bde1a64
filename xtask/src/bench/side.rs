//! The side-by-side with Celery: builds it, and becomes it, or runs it on
//! servers of its own.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::run::{cargo, run};
use crate::services::{self, Memcached, Postgres, Private, RabbitMq, Redis, Service};
use crate::{interop, workspace};

/// The servers of pairs; it starts Redis itself.
const SERVERS: [&dyn Service; 3] = [&RabbitMq, &Memcached, &Postgres];

/// Measures canvas beside Celery; `arguments` are those of the program `side`.
pub(crate) fn side(arguments: &[String]) -> Result<(), String> {
    let (mut side, _) = built()?;
    side.args(arguments);
    become_it(side)
}

/// Measures pairs of a broker and a backend, all of them or those that are
/// named.
pub(crate) fn pairs(names: &str, arguments: &[String]) -> Result<(), String> {
    let (mut side, folder) = built()?;
    side.args(["--pairs", names]).args(arguments);
    let mut servers = Vec::new();
    for service in SERVERS {
        let data = folder.join("servers").join(service.name());
        // What an earlier run has left would be found again.
        if data.exists() {
            std::fs::remove_dir_all(&data).map_err(|e| format!("{}: {e}", data.display()))?;
        }
        let server = Private::start(service, &data)?;
        side.envs(service.variables(&server.place));
        let server_is = format!("{}={}", service.name(), server.id());
        side.args(["--server", &server_is]);
        servers.push(server);
    }
    side.stdin(Stdio::null());
    run(side)
}

/// The program, built, and where it writes.
fn built() -> Result<(Command, PathBuf), String> {
    services::install(&Redis)?;
    let python = interop::python()?;
    run(cargo("build --release -p canvas-benches --bins"))?;
    let target = workspace::target()?;
    let folder = target.join("bench");
    let mut side = Command::new(target.join("release/side"));
    side.arg("--python").arg(python);
    side.arg("--output").arg(&folder);
    Ok((side, folder))
}

/// Nothing is left to do here, and who ends this program is to end that one.
#[cfg(unix)]
fn become_it(mut side: Command) -> Result<(), String> {
    let error = std::os::unix::process::CommandExt::exec(&mut side);
    Err(format!("{:?}: {error}", side.get_program()))
}

#[cfg(not(unix))]
fn become_it(side: Command) -> Result<(), String> {
    run(side)
}
