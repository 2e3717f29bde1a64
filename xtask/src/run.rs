//! Running commands one after the other, with a tally of what passed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::workspace;

/// A cargo command, as one would type it after `cargo`.
pub(crate) fn cargo(line: &str) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(line.split_whitespace());
    command
}

/// Whether a program can be started: asked with an argument that ends it at once.
pub(crate) fn is_there(program: &str, argument: &str) -> bool {
    let quiet = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    quiet.is_ok_and(|status| status.success())
}

/// What ran, how long it took and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    what: String,
    took: Duration,
    ok: bool,
}

impl Tally {
    /// Runs a command that counts as one, and fails unless it ends with 0
    /// within `limit`.
    pub(crate) fn check(&mut self, mut command: Command, limit: Duration) {
        let what = announce(&command);
        self.judge(what, || {
            let child = spawn(command.stdin(Stdio::null()))?;
            accept(wait(child, limit)?)
        });
    }

    /// Runs a command that counts as one and is made of code.
    pub(crate) fn judge(&mut self, what: String, check: impl FnOnce() -> Result<(), String>) {
        let started = Instant::now();
        let outcome = check();
        self.count(what, started, outcome.map(|()| (1, 0)));
    }

    /// Runs tests, and counts each of them.
    pub(crate) fn tests(&mut self, mut command: Command) {
        let what = announce(&command);
        let started = Instant::now();
        let ran = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped())).and_then(stream);
        let counted = ran.map(
            |(status, passed, failed)| match (status.success(), failed) {
                // Something failed that has no line of its own: it did not compile,
                // or a test took the whole process with it.
                (false, 0) => (passed, 1),
                _ => (passed, failed),
            },
        );
        self.count(what, started, counted);
    }

    /// Starts a command that counts as one and mostly waits, beside others.
    /// What it prints is kept in `log` until it is [taken in](Self::take_in).
    pub(crate) fn beside(mut command: Command, log: PathBuf) -> Result<Beside, String> {
        let what = announce(&command);
        println!("  beside what follows; it prints to {}\n", log.display());
        let failed = |e: std::io::Error| format!("{}: {e}", log.display());
        let output = File::create(&log).map_err(failed)?;
        command.stderr(output.try_clone().map_err(failed)?);
        // It ends when its input does, should this program end first.
        command.stdin(Stdio::piped()).stdout(output);
        Ok(Beside {
            child: spawn(&mut command)?,
            started: Instant::now(),
            what,
            log,
        })
    }

    /// Waits for what runs beside, and shows what it has printed.
    pub(crate) fn take_in(&mut self, beside: Beside, limit: Duration) {
        let ended = wait(beside.child, limit).and_then(accept);
        println!("$ {}", beside.what);
        print!("{}", fs::read_to_string(&beside.log).unwrap_or_default());
        self.count(beside.what, beside.started, ended.map(|()| (1, 0)));
    }

    fn count(&mut self, what: String, started: Instant, outcome: Result<(u64, u64), String>) {
        let took = started.elapsed();
        let (passed, failed) = outcome.unwrap_or_else(|reason| {
            println!("FAILED: {reason}");
            (0, 1)
        });
        self.passed += passed;
        self.failed += failed;
        let ok = failed == 0;
        println!("  took {:.1} s\n", took.as_secs_f64());
        self.steps.push(Step { what, took, ok });
    }

    /// Prints the table of steps and, as the last line, the sum: alone on its
    /// line, for whoever reads it by machine.
    ///
    /// Nothing that passed is a failure too, since then nothing was checked.
    pub(crate) fn finish(self) -> Result<(), String> {
        for Step { what, took, ok } in &self.steps {
            let mark = if *ok { "ok" } else { "FAILED" };
            println!("{:>8.1} s  {mark:<6}  {what}", took.as_secs_f64());
        }
        let total: Duration = self.steps.iter().map(|step| step.took).sum();
        println!("{:>8.1} s  in all\n", total.as_secs_f64());
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed > 0 || self.passed == 0 {
            return Err(String::new());
        }
        Ok(())
    }
}

/// A command that runs beside others.
pub(crate) struct Beside {
    what: String,
    child: Child,
    started: Instant,
    log: PathBuf,
}

/// Prints a command as one would type it.
fn announce(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let name = program.rsplit(['/', '\\']).next().unwrap_or(&program);
    let arguments = command.get_args().map(OsStr::to_string_lossy);
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={:?} ", name.to_string_lossy(), value?)));
    let mut line: String = variables.collect();
    line.push_str(name);
    for argument in arguments {
        line.push(' ');
        line.push_str(&argument);
    }
    println!("$ {line}");
    line
}

/// Runs a command with the terminal as its own; an error unless it ends with 0.
pub(crate) fn run(mut command: Command) -> Result<(), String> {
    announce(&command);
    let status = spawn(&mut command)?.wait();
    accept(status.map_err(|e| e.to_string())?)
}

fn spawn(command: &mut Command) -> Result<Child, String> {
    let child = command.current_dir(workspace::root()).spawn();
    child.map_err(|e| format!("{:?} could not be started: {e}", command.get_program()))
}

fn accept(status: ExitStatus) -> Result<(), String> {
    if status.success() {
        return Ok(());
    }
    Err(format!("it ended with {status}"))
}

/// Waits for a process, and ends it when it takes too long: a program that
/// hangs must fail its check, not stop all the others.
fn wait(mut child: Child, limit: Duration) -> Result<ExitStatus, String> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            return Ok(status);
        }
        if started.elapsed() > limit {
            let killed = child.kill().and_then(|()| child.wait());
            return Err(format!(
                "ended after {limit:?}, since it did not by itself: {killed:?}"
            ));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Passes the output of a test run on, and sums up its result lines.
fn stream(mut child: Child) -> Result<(ExitStatus, u64, u64), String> {
    let (mut passed, mut failed) = (0, 0);
    if let Some(output) = child.stdout.take() {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output
            .read_until(b'\n', &mut line)
            .map_err(|e| e.to_string())?
            > 0
        {
            let text = String::from_utf8_lossy(&line);
            print!("{text}");
            if let Some((more, worse)) = result_line(&text) {
                passed += more;
                failed += worse;
            }
            line.clear();
        }
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    Ok((status, passed, failed))
}

/// How many passed and failed, by a line that libtest ends with:
/// `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
fn result_line(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, counts) = rest.split_once(". ")?;
    let count = |what: &str| {
        let mut parts = counts.split(';').map(str::trim);
        parts.find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
    };
    Some((count("passed")?, count("failed")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn result_lines_are_told_from_all_others() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s\n";
        assert_eq!(result_line(line), Some((12, 3)));
        assert_eq!(result_line("test result_lines_are_told ... ok\n"), None);
        assert_eq!(result_line("12 passed; 3 failed\n"), None);
        assert_eq!(result_line("test result: \n"), None);
    }

    #[test]
    fn the_tests_of_all_binaries_are_summed_up() {
        let mut tally = Tally::default();
        let line = "test result: ok. 2 passed; 0 failed; 0 ignored";
        tally.tests(shell(&format!("echo '{line}'; echo; echo '{line}'")));
        assert_eq!((tally.passed, tally.failed), (4, 0));
        assert!(tally.finish().is_ok());
    }

    #[test]
    fn a_test_run_that_fails_without_a_failed_test_is_a_failure() {
        let mut tally = Tally::default();
        tally.tests(shell(
            "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; exit 101",
        ));
        assert_eq!((tally.passed, tally.failed), (2, 1));
        assert!(tally.finish().is_err());
    }

    #[test]
    fn a_failed_test_is_counted_once() {
        let mut tally = Tally::default();
        tally.tests(shell(
            "echo 'test result: FAILED. 2 passed; 1 failed; 0 ignored'; exit 101",
        ));
        assert_eq!((tally.passed, tally.failed), (2, 1));
    }

    #[test]
    fn a_run_in_which_no_test_ran_is_a_failure() {
        let mut tally = Tally::default();
        tally.tests(shell(
            "echo 'test result: ok. 0 passed; 0 failed; 0 ignored'",
        ));
        assert_eq!((tally.passed, tally.failed), (0, 0));
        assert!(tally.finish().is_err());
    }

    #[test]
    fn a_command_counts_as_one_and_by_its_exit_code() {
        let mut tally = Tally::default();
        let limit = Duration::from_secs(60);
        tally.check(shell("exit 0"), limit);
        tally.check(shell("exit 3"), limit);
        tally.check(Command::new("no-such-program"), limit);
        assert_eq!((tally.passed, tally.failed), (1, 2));
    }

    #[test]
    fn a_command_that_never_ends_is_ended() {
        let mut tally = Tally::default();
        tally.check(shell("exec sleep 3600"), Duration::from_millis(50));
        assert_eq!((tally.passed, tally.failed), (0, 1));
    }
}
