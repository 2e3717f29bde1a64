//! `cargo xtask test`: the whole proof, on a clean clone with only Rust.

use std::process::Command;
use std::time::Duration;

use crate::bench::BENCHES;
use crate::run::{Tally, cargo};
use crate::{conformance, interop, services, workspace};

/// An example prints what it has to say within seconds.
const EXAMPLE: Duration = Duration::from_secs(120);

/// The scale run has a million tasks to do, on whatever machine this is.
const SCALE: Duration = Duration::from_secs(1200);

/// Celery's tests take five minutes, of which most is waiting.
const INTEROP: Duration = Duration::from_secs(1800);

pub(crate) fn test(extra: &[String]) -> Result<(), String> {
    let mut tally = Tally::default();
    if extra.is_empty() {
        proof(&mut tally)?;
    } else {
        println!("with arguments, only `cargo test` runs: no example, no bench, no scale run\n");
        tally.tests(cargo_test(extra));
    }
    tally.finish()
}

/// All of it: what `cargo xtask ci` ends with, too.
///
/// Everything is asked for from the root and never with `-p`: cargo then
/// chooses the same features each time, and builds nothing twice.
pub(crate) fn proof(tally: &mut Tally) -> Result<(), String> {
    // The tests of the drivers start servers of their own, and compare
    // themselves with Celery.
    services::install_all()?;
    // What they find of each driver is the matrix.
    let report = conformance::fresh_report()?;
    let mut tests = conformance::reporting(cargo_test(&[]), &report);
    tests.env("CANVAS_CELERY_PYTHON", interop::python()?);
    tally.tests(tests);
    tally.tests(conformance::third_party(&report)?);
    let matrix = "the matrix of docs/src/conformance.md".to_owned();
    tally.judge(matrix, || conformance::judge(&report, true));
    // Celery's own tests mostly wait.
    let log = workspace::target()?.join("interop/suite.log");
    let suite = Tally::beside(xtask("interop")?, log)?;
    for example in examples()? {
        tally.check(cargo(&format!("run --quiet --example {example}")), EXAMPLE);
    }
    // Each once, unmeasured: so that they work when somebody wants to measure.
    for bench in BENCHES {
        tally.check(cargo(&format!("test --quiet --bench {bench}")), SCALE);
    }
    tally.check(cargo("run --quiet --example scale"), SCALE);
    tally.take_in(suite, INTEROP);
    tally.check(xtask("interop --reverse")?, INTEROP);
    tally.check(xtask("interop --mixed")?, INTEROP);
    tally.check(xtask("faults redis --seconds 10")?, INTEROP);
    Ok(())
}

/// Another verb of this program.
fn xtask(line: &str) -> Result<Command, String> {
    let itself = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(itself);
    command.args(line.split_whitespace());
    Ok(command)
}

fn cargo_test(extra: &[String]) -> Command {
    // All failures are worth knowing, and the sum needs every test to run. In
    // the root of the workspace this is all of it, unless `extra` says less.
    let mut command = cargo("test --no-fail-fast");
    command.args(extra);
    command
}

/// The examples, as they are in the directory: none can be forgotten here.
fn examples() -> Result<Vec<String>, String> {
    let directory = workspace::root().join("crates/canvas/examples");
    let entries =
        std::fs::read_dir(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let name = |path: std::path::PathBuf| {
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        is_rust.then(|| {
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
        })?
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| name(entry.path()))
        .collect();
    names.sort_unstable();
    Ok(names)
}
