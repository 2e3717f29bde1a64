//! The Celery that is spoken with: its source archive, and a Python that can run
//! it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::pairs::Urls;
use crate::run::run;
use crate::workspace;

/// The Celery that is spoken with.
const CELERY: &str = "5.7.0";

/// Celery's source archive, and a Python that can run it.
pub(super) struct Celery {
    /// For what runs leave behind.
    pub(super) folder: PathBuf,
    source: PathBuf,
    pub(super) python: PathBuf,
}

impl Celery {
    /// Downloads and installs what is not there yet.
    pub(super) fn prepare() -> Result<Self, String> {
        let folder = workspace::target()?.join("interop");
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let celery = Self {
            source: folder.join(format!("celery-{CELERY}")),
            python: folder.join("venv/bin/python"),
            folder,
        };
        celery.install()?;
        celery.unpack()?;
        Ok(celery)
    }

    fn install(&self) -> Result<(), String> {
        let list = workspace::root().join("tests/interop/requirements.txt");
        let wanted = fs::read_to_string(&list).map_err(|e| format!("{}: {e}", list.display()))?;
        let installed = self.folder.join("installed.txt");
        if fs::read_to_string(&installed).is_ok_and(|there| there == wanted) {
            return Ok(());
        }
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "--clear"])
            .arg(self.folder.join("venv"));
        run(venv)?;
        run(self.pip(&["install", "--quiet", "-r", &list.to_string_lossy()]))?;
        fs::write(&installed, wanted).map_err(|e| format!("{}: {e}", installed.display()))
    }

    fn unpack(&self) -> Result<(), String> {
        if self.source.join("t/integration").is_dir() {
            return Ok(());
        }
        let version = format!("celery=={CELERY}");
        let mut download = self.pip(&["download", "--quiet", "--no-deps"]);
        download.args(["--no-binary", "celery", &version, "--dest"]);
        run({
            download.arg(&self.folder);
            download
        })?;
        let mut unpack = Command::new(&self.python);
        unpack.args(["-m", "tarfile", "-e"]);
        unpack.arg(self.folder.join(format!("celery-{CELERY}.tar.gz")));
        unpack.arg(&self.folder);
        run(unpack)
    }

    fn pip(&self, arguments: &[&str]) -> Command {
        let mut pip = Command::new(&self.python);
        pip.args(["-m", "pip", "--disable-pip-version-check"]);
        pip.args(arguments);
        pip
    }

    /// Runs Python where Celery's source and our own files are found, on these
    /// servers.
    pub(super) fn command(&self, urls: &Urls) -> Command {
        let mut command = Command::new(&self.python);
        command.current_dir(&self.source);
        let ours = here("");
        command.env(
            "PYTHONPATH",
            format!("{}:{}", ours.display(), self.source.display()),
        );
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        // Where the tests and their tasks keep notes, whatever the pair is.
        command.env("REDIS_HOST", "127.0.0.1");
        command.env("REDIS_PORT", urls.notes.to_string());
        command.env("TEST_BROKER", &urls.broker);
        command.env("TEST_BACKEND", &urls.backend);
        command
    }

    /// How to start Celery's worker.
    pub(super) fn stock_worker(&self) -> String {
        format!(
            "{} {}",
            self.python.display(),
            here("stock_worker.py").display()
        )
    }
}

/// A file of ours beside Celery's.
pub(super) fn here(file: &str) -> PathBuf {
    workspace::root().join("tests/interop").join(file)
}
