//! PostgreSQL, with the durability that it has by default.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use async_trait::async_trait;

use super::sql::{Database, Dialect};
use super::{Kind, Results};
use crate::faults_run::process::{is_root, lasting_port, program, run};

#[derive(Debug)]
pub(super) struct Postgres {
    data: PathBuf,
    port: u16,
    database: Database,
}

impl Postgres {
    pub(super) fn boxed(folder: &Path) -> io::Result<Box<dyn Kind>> {
        let port = lasting_port()?;
        Ok(Box::new(Self {
            data: folder.join("data"),
            port,
            database: Database {
                dialect: Dialect::Postgres,
                url: format!("postgres://postgres@127.0.0.1:{port}/postgres"),
            },
        }))
    }
}

#[async_trait]
impl Kind for Postgres {
    fn url(&self) -> String {
        self.database.url.clone()
    }

    fn prepare(&self) -> io::Result<()> {
        fs::create_dir_all(&self.data)?;
        if is_root()? {
            run(Command::new("chown").arg("postgres:").arg(&self.data))?;
        }
        let mut command = as_owner(&program_of("initdb")?)?;
        command.arg("-D").arg(&self.data);
        command.args(["-A", "trust", "-U", "postgres", "--no-sync"]);
        command.args(["-E", "UTF8", "--locale=C"]);
        // Where this is now may be closed to others.
        run(command.current_dir("/"))
    }

    fn command(&self) -> io::Result<Option<Command>> {
        let mut command = as_owner(&program_of("postgres")?)?;
        command.arg("-D").arg(&self.data);
        command.args(["-p", &self.port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
        ] {
            command.args(["-c", setting]);
        }
        Ok(Some(command))
    }

    /// SIGTERM would wait for those who are connected.
    fn stop(&self) -> &'static str {
        "INT"
    }

    async fn ready(&self) -> io::Result<()> {
        self.database.run("SELECT 1").await
    }

    async fn cut(&self) -> io::Result<()> {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
        self.database.run(sql).await
    }

    fn results(&self) -> Option<&dyn Results> {
        Some(&self.database)
    }
}

/// Debian has its programs, of several versions, outside of the path.
fn program_of(name: &str) -> io::Result<PathBuf> {
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    versions.sort_by_key(version);
    let folders: Vec<PathBuf> = versions.iter().rev().map(|path| path.join("bin")).collect();
    let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
    program(name, &folders, "postgresql")
}

/// It refuses to run as root, and then runs as its own user.
fn as_owner(program: &Path) -> io::Result<Command> {
    if !is_root()? {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    command.arg(program);
    Ok(command)
}
