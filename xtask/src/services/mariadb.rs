//! MariaDB, as quick as it can be without promising anything.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::{Place, Service};
use crate::run::run;

pub(crate) struct MariaDb;

impl Service for MariaDb {
    fn name(&self) -> &'static str {
        "mariadb"
    }

    fn program(&self) -> (&'static str, &'static str) {
        ("mariadbd", "--version")
    }

    fn package(&self) -> &'static str {
        "mariadb-server"
    }

    fn prepare(&self, place: &Place) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("{}: {e}", place.folder.display());
        std::fs::write(init_file(place), "CREATE DATABASE IF NOT EXISTS canvas;\n")
            .map_err(failed)?;
        if place.folder.join("mysql").exists() {
            return Ok(());
        }
        let mut command = Command::new("mariadb-install-db");
        command.arg("--no-defaults").args(as_root());
        command.arg(format!("--datadir={}", place.folder.display()));
        command.args(["--skip-test-db", "--auth-root-authentication-method=normal"]);
        run(command)
    }

    fn command(&self, place: &Place) -> Command {
        let mut command = Command::new("mariadbd");
        command.arg("--no-defaults").args(as_root());
        command.arg(format!("--datadir={}", place.folder.display()));
        command.arg(format!("--init-file={}", init_file(place).display()));
        command.arg(format!("--port={}", place.port));
        command.args([
            "--bind-address=127.0.0.1",
            // In the folder of its data: a longer path may not fit.
            "--socket=sock",
            "--pid-file=mariadbd.pid",
            "--max-connections=400",
            "--skip-log-bin",
            "--innodb-flush-log-at-trx-commit=0",
        ]);
        command
    }

    fn is_ready(&self, place: &Place) -> bool {
        let hear = || -> std::io::Result<bool> {
            let limit = Duration::from_secs(1);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, place.port));
            let mut stream = TcpStream::connect_timeout(&address, limit)?;
            stream.set_read_timeout(Some(limit))?;
            // It speaks first: a length, a number, and the version of its
            // protocol, or of an error.
            let mut greeting = [0; 5];
            stream.read_exact(&mut greeting)?;
            Ok(greeting[4] == 10)
        };
        hear().unwrap_or(false)
    }

    fn variables(&self, place: &Place) -> Vec<(&'static str, String)> {
        vec![(
            "CANVAS_TEST_MARIADB_URL",
            format!("mysql://root@127.0.0.1:{}/canvas", place.port),
        )]
    }
}

/// It refuses to run as root, unless it is told to.
fn as_root() -> Option<&'static str> {
    let id = Command::new("id").arg("-u").output();
    let is_root = id.is_ok_and(|id| id.stdout.trim_ascii() == b"0");
    is_root.then_some("--user=root")
}

/// What it does when it starts; beside its folder, which it looks through for
/// databases.
fn init_file(place: &Place) -> std::path::PathBuf {
    place.folder.with_extension("sql")
}
