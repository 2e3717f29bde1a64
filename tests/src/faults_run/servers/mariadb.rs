//! MariaDB, with the durability that it has by default.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use async_trait::async_trait;

use super::sql::{Database, Dialect};
use super::{Kind, Results};
use crate::faults_run::process::{is_root, lasting_port, program, run};

const PACKAGE: &str = "mariadb-server";

#[derive(Debug)]
pub(super) struct MariaDb {
    folder: PathBuf,
    port: u16,
    database: Database,
}

impl MariaDb {
    pub(super) fn boxed(folder: &Path) -> io::Result<Box<dyn Kind>> {
        let port = lasting_port()?;
        Ok(Box::new(Self {
            folder: folder.to_owned(),
            port,
            database: Database {
                dialect: Dialect::MariaDb,
                url: format!("mysql://root@127.0.0.1:{port}/canvas"),
            },
        }))
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What it does when it starts; not among its data, which it looks through
    /// for databases.
    fn init_file(&self) -> PathBuf {
        self.folder.join("init.sql")
    }
}

#[async_trait]
impl Kind for MariaDb {
    fn url(&self) -> String {
        self.database.url.clone()
    }

    fn prepare(&self) -> io::Result<()> {
        fs::write(self.init_file(), "CREATE DATABASE IF NOT EXISTS canvas;\n")?;
        let mut command = Command::new(program("mariadb-install-db", &[], PACKAGE)?);
        command.arg("--no-defaults").args(as_root()?);
        command.arg("--skip-test-db");
        command.arg("--auth-root-authentication-method=normal");
        command.arg(format!("--datadir={}", self.data().display()));
        run(&mut command)
    }

    fn command(&self) -> io::Result<Option<Command>> {
        let mut command = Command::new(program("mariadbd", &[], PACKAGE)?);
        command.arg("--no-defaults").args(as_root()?);
        command.arg(format!("--datadir={}", self.data().display()));
        command.arg(format!("--init-file={}", self.init_file().display()));
        command.arg(format!("--port={}", self.port));
        command.args([
            "--bind-address=127.0.0.1",
            // In the folder of its data: a longer path may not fit.
            "--socket=sock",
            "--pid-file=mariadbd.pid",
            "--max-connections=200",
            "--skip-log-bin",
        ]);
        Ok(Some(command))
    }

    async fn ready(&self) -> io::Result<()> {
        self.database.run("SELECT 1").await
    }

    async fn cut(&self) -> io::Result<()> {
        let all = "SELECT 'id', id FROM information_schema.processlist \
                   WHERE id <> connection_id() AND user = 'root'";
        for (_, id) in self.database.ask(all).await? {
            // It may be gone by now.
            let _ = self.database.run(&format!("KILL {id}")).await;
        }
        Ok(())
    }

    fn results(&self) -> Option<&dyn Results> {
        Some(&self.database)
    }
}

/// It refuses to run as root, unless it is told to.
fn as_root() -> io::Result<Option<&'static str>> {
    Ok(is_root()?.then_some("--user=root"))
}
