//! PostgreSQL, as quick as it can be without promising anything.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::{Place, Service};
use crate::run::run;

pub(crate) struct Postgres;

impl Service for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn program(&self) -> (&'static str, &'static str) {
        static FOUND: OnceLock<String> = OnceLock::new();
        let program = match (FOUND.get(), programs()) {
            (Some(found), _) => found.as_str(),
            (None, Some(folder)) => {
                let postgres = folder.join("postgres").to_string_lossy().into_owned();
                FOUND.get_or_init(|| postgres)
            }
            (None, None) => "postgres",
        };
        (program, "--version")
    }

    fn package(&self) -> &'static str {
        "postgresql"
    }

    fn prepare(&self, place: &Place) -> Result<(), String> {
        if place.folder.join("PG_VERSION").exists() {
            return Ok(());
        }
        if let Some((user, group)) = owner()? {
            let chown = std::os::unix::fs::chown(&place.folder, Some(user), Some(group));
            chown.map_err(|e| format!("{}: {e}", place.folder.display()))?;
        }
        let mut command = as_owner(&self.beside("initdb"))?;
        command.arg("-D").arg(&place.folder);
        command.args(["-A", "trust", "-U", "postgres", "--no-sync"]);
        command.args(["-E", "UTF8", "--locale=C"]);
        run(command)
    }

    fn command(&self, place: &Place) -> Command {
        let (program, _) = self.program();
        // Whoever it cannot run as was found out while it was prepared.
        let mut command = as_owner(Path::new(program)).unwrap_or_else(|_| Command::new(program));
        command.arg("-D").arg(&place.folder);
        command.args(["-p", &place.port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=400",
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
        ] {
            command.args(["-c", setting]);
        }
        command
    }

    fn is_ready(&self, place: &Place) -> bool {
        let greet = || -> std::io::Result<bool> {
            let limit = Duration::from_secs(1);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, place.port));
            let mut stream = TcpStream::connect_timeout(&address, limit)?;
            stream.set_read_timeout(Some(limit))?;
            // Version 3.0 of the protocol; answered by a request to log in once
            // it is up, and by an error before.
            let said = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
            let length = u32::try_from(said.len() + 4).unwrap_or_default();
            stream.write_all(&[&length.to_be_bytes(), said.as_slice()].concat())?;
            let mut answer = [0; 1];
            stream.read_exact(&mut answer)?;
            Ok(&answer == b"R")
        };
        greet().unwrap_or(false)
    }

    /// SIGTERM would wait for those who are connected.
    fn stop(&self) -> &'static str {
        "INT"
    }

    fn variables(&self, place: &Place) -> Vec<(&'static str, String)> {
        vec![(
            "CANVAS_TEST_POSTGRES_URL",
            format!("postgres://postgres@127.0.0.1:{}/postgres", place.port),
        )]
    }
}

impl Postgres {
    /// Another of its programs.
    fn beside(&self, name: &str) -> PathBuf {
        let (program, _) = self.program();
        Path::new(program).with_file_name(name)
    }
}

/// Where Debian has its programs, the newest version first; they are not in the
/// path there.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut found: Vec<(u32, PathBuf)> = versions
        .flatten()
        .filter_map(|entry| Some((version(&entry.path())?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").exists())
        .collect();
    found.sort();
    Some(found.pop()?.1)
}

/// It refuses to run as root: whom it runs as instead.
fn owner() -> Result<Option<(u32, u32)>, String> {
    let ask = |arguments: &[&str]| -> Result<u32, String> {
        let output = Command::new("id").args(arguments).output();
        let output = output.map_err(|e| format!("id: {e}"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.trim()
            .parse()
            .map_err(|_| format!("id {}: no such user", arguments.join(" ")))
    };
    if ask(&["-u"])? != 0 {
        return Ok(None);
    }
    Ok(Some((ask(&["-u", "postgres"])?, ask(&["-g", "postgres"])?)))
}

fn as_owner(program: &Path) -> Result<Command, String> {
    let mut command = Command::new(program);
    // Where root is now may be closed to others.
    command.current_dir("/");
    if let Some((user, group)) = owner()? {
        command.uid(user).gid(group);
    }
    Ok(command)
}
