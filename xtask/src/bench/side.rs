//! The side-by-side with Celery: builds it, and becomes it.

use std::process::Command;

use crate::run::{cargo, run};
use crate::services::{self, Redis};
use crate::{interop, workspace};

/// Measures canvas beside Celery; `arguments` are those of the program `side`.
pub(crate) fn side(arguments: &[String]) -> Result<(), String> {
    services::install(&Redis)?;
    let python = interop::python()?;
    run(cargo("build --release -p canvas-benches --bins"))?;
    let target = workspace::target()?;
    let mut side = Command::new(target.join("release/side"));
    side.arg("--python").arg(python);
    side.arg("--output").arg(target.join("bench"));
    side.args(arguments);
    become_it(side)
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
