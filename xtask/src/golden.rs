//! `cargo xtask golden`: records the golden files anew, from Celery itself.

use std::process::Command;

use crate::run::run;

/// The script makes a virtual environment of its own; only Python is needed.
pub(crate) fn golden() -> Result<(), String> {
    let mut python = Command::new("python3");
    python.arg("tests/golden/capture.py");
    run(python)
}
