//! The workers of a fault run, each of which dies with this process, however
//! that dies.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::faults_run::process::{ended, signal};

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
        signal(&[self.process.id()], "TERM")?;
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
