//! `cargo xtask interop`: Celery and this repository against each other, on a
//! Redis of their own.
//!
//! Without more, Celery's own integration tests run with our worker in place
//! of theirs. The other way round, and both on one queue, are tests of
//! `canvas-tests` for which a stock worker is started here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::run::{cargo, run};
use crate::services::{Private, Redis};
use crate::workspace;

/// The Celery that is spoken with.
const CELERY: &str = "5.7.0";

/// The tests that concern a worker: `t/integration/` has more, on whatever
/// else is in Celery.
const SUITE: [&str; 2] = [
    "t/integration/test_canvas.py",
    "t/integration/test_tasks.py",
];

/// How many tests these files have, so that none can get lost on the way.
const TESTS: usize = 303;

/// How many may be left out at most.
const EXCLUDED: usize = 20;

/// In how many parts the tests are taken.
const PARTS: usize = 4;

const USAGE: &str = "\
interop takes
  --filter K   only the tests that match K, as in `pytest -k`
  --stock      with Celery's worker instead of ours, to compare
  --reverse    our client against Celery's worker, instead of the suite
  --mixed      both workers on one queue, instead of the suite";

pub(crate) fn interop(arguments: &[String]) -> Result<(), String> {
    let mut arguments = arguments.iter().map(String::as_str);
    let (mut filter, mut stock, mut what) = (None, false, "suite");
    while let Some(argument) = arguments.next() {
        match argument {
            "--filter" => filter = Some(arguments.next().ok_or(USAGE)?),
            "--stock" => stock = true,
            "--reverse" => what = "reverse",
            "--mixed" => what = "mixed",
            _ => return Err(USAGE.to_owned()),
        }
    }
    let celery = Celery::prepare()?;
    match what {
        "suite" => suite(&celery, filter, stock),
        test => peers(&celery, filter, test),
    }
}

/// The Python with Celery in it that tests of the Redis crates talk to.
pub(crate) fn python() -> Result<PathBuf, String> {
    Celery::prepare().map(|celery| celery.python)
}

/// Celery's source archive, and a Python that can run it.
struct Celery {
    folder: PathBuf,
    source: PathBuf,
    python: PathBuf,
}

impl Celery {
    /// Downloads and installs what is not there yet.
    fn prepare() -> Result<Self, String> {
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

    /// Runs Python where Celery's source and our own files are found.
    fn command(&self, redis: &Private) -> Command {
        let port = redis.place.port.to_string();
        let url = format!("redis://127.0.0.1:{port}/0");
        let mut command = Command::new(&self.python);
        command.current_dir(&self.source);
        let ours = here("");
        command.env(
            "PYTHONPATH",
            format!("{}:{}", ours.display(), self.source.display()),
        );
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command
            .env("REDIS_HOST", "127.0.0.1")
            .env("REDIS_PORT", port);
        command.env("TEST_BROKER", &url).env("TEST_BACKEND", url);
        command
    }

    fn stock_worker(&self) -> String {
        format!(
            "{} {}",
            self.python.display(),
            here("stock_worker.py").display()
        )
    }
}

/// A file of ours beside Celery's.
fn here(file: &str) -> PathBuf {
    workspace::root().join("tests/interop").join(file)
}

/// Runs Celery's integration tests. Most of their time they wait, for what
/// must not happen, so they are taken in parts side by side, each with a Redis
/// and a worker of its own.
fn suite(celery: &Celery, filter: Option<&str>, stock: bool) -> Result<(), String> {
    let worker = if stock {
        celery.stock_worker()
    } else {
        our_worker()?
    };
    let parts = if filter.is_some() { 1 } else { PARTS };
    let parts: Vec<Part> = (0..parts)
        .map(|part| Part::start(celery, &worker, filter, (part, parts)))
        .collect::<Result<_, _>>()?;
    let mut whole = Report::default();
    for part in parts {
        whole.add(&part.finish()?);
    }
    whole.judge(filter.is_none())
}

/// A part of the tests, running.
struct Part {
    pytest: Child,
    log: PathBuf,
    report: PathBuf,
    _redis: Private,
}

impl Part {
    fn start(
        celery: &Celery,
        worker: &str,
        filter: Option<&str>,
        (part, parts): (usize, usize),
    ) -> Result<Self, String> {
        let folder = celery.folder.join(format!("part-{part}"));
        let redis = Private::start(&Redis, &folder.join("redis"))?;
        let (log, report) = (folder.join("pytest.log"), folder.join("report.json"));
        let _ = fs::remove_file(&report);
        let mut pytest = celery.command(&redis);
        pytest.args(["-m", "pytest", "-p", "no:cacheprovider"]);
        pytest.args(["-p", "outside_worker", "-p", "post_mortem"]);
        // What Celery fails at may well work here.
        pytest.args(["-q", "--tb=short", "-o", "xfail_strict=false"]);
        pytest.args(SUITE);
        if let Some(filter) = filter {
            pytest.args(["-k", filter]);
        }
        pytest.env("INTEROP_WORKER", worker);
        pytest.env("INTEROP_PART", format!("{part}/{parts}"));
        pytest.env("INTEROP_EXCLUDED", here("excluded.txt"));
        pytest.env("INTEROP_REPORT", &report);
        let worker_log = folder.join("worker.log");
        let _ = fs::remove_file(&worker_log);
        pytest.env("INTEROP_LOG", worker_log);
        let output = fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let errors = output.try_clone().map_err(|e| e.to_string())?;
        pytest.stdin(Stdio::null()).stdout(output).stderr(errors);
        let pytest = pytest.spawn().map_err(|e| format!("pytest: {e}"))?;
        println!("part {} of {parts}: {}", part + 1, log.display());
        Ok(Self {
            pytest,
            log,
            report,
            _redis: redis,
        })
    }

    /// Waits for it, shows what it said, and returns its report.
    fn finish(mut self) -> Result<Value, String> {
        // It ends with an error if a test fails: the report says more.
        let ended = self.pytest.wait();
        print!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        let report = fs::read_to_string(&self.report)
            .map_err(|_| format!("pytest wrote no report; it ended with {ended:?}"))?;
        serde_json::from_str(&report).map_err(|e| format!("pytest's report: {e}"))
    }
}

/// What became of the tests.
#[derive(Debug, Default)]
struct Report {
    by_outcome: BTreeMap<String, BTreeSet<String>>,
    excluded: BTreeSet<String>,
    stale: BTreeSet<String>,
    seconds: f64,
}

impl Report {
    /// Adds what the plugin says of a part.
    fn add(&mut self, part: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for (test, outcome) in part["outcomes"].as_object().into_iter().flatten() {
            let tests = self.by_outcome.entry(text(outcome)).or_default();
            tests.insert(test.clone());
        }
        let list = |name: &str| part[name].as_array().into_iter().flatten().map(text);
        self.excluded.extend(list("excluded"));
        self.stale.extend(list("stale"));
        self.seconds = self.seconds.max(part["took"].as_f64().unwrap_or_default());
    }

    fn count(&self, outcome: &str) -> usize {
        self.by_outcome.get(outcome).map_or(0, BTreeSet::len)
    }

    /// Prints it; an error unless all is well.
    fn judge(&self, whole: bool) -> Result<(), String> {
        for test in self.by_outcome.get("failed").into_iter().flatten() {
            println!("FAILED  {test}");
        }
        for test in &self.stale {
            println!("STALE   {test}: excluded, but there is no such test");
        }
        let expected = self.count("xfailed") + self.count("xpassed");
        println!(
            "took {:.0} s; Celery itself skips {} and expects {expected} to fail, of which {} passed",
            self.seconds,
            self.count("skipped"),
            self.count("xpassed"),
        );
        let passed = self.count("passed") + self.count("xpassed");
        let (failed, excluded) = (self.count("failed"), self.excluded.len());
        println!("{passed} passed, {failed} failed, {excluded} excluded");
        let seen = passed + failed + excluded + self.count("skipped") + self.count("xfailed");
        if failed > 0 || !self.stale.is_empty() {
            Err(String::new())
        } else if excluded > EXCLUDED {
            Err(format!("more than {EXCLUDED} excluded prove too little"))
        } else if whole && seen != TESTS {
            Err(format!("{seen} tests were seen, not {TESTS}"))
        } else if passed == 0 {
            Err("nothing passed".to_owned())
        } else {
            Ok(())
        }
    }
}

/// Builds our worker, and says how to start it.
fn our_worker() -> Result<String, String> {
    run(cargo("build --quiet -p canvas-tests --bin interop-worker"))?;
    let worker = workspace::target()?.join("debug/interop-worker");
    Ok(worker.display().to_string())
}

/// Runs tests of ours that need a stock Celery worker.
fn peers(celery: &Celery, filter: Option<&str>, test: &str) -> Result<(), String> {
    let redis = Private::start(&Redis, &celery.folder.join("redis"))?;
    let url = format!("redis://127.0.0.1:{}", redis.place.port);
    // Each takes from a database of its own: mixed, the one has another worker
    // beside it, and the other is alone.
    let databases = if test == "mixed" { 0..2 } else { 0..1 };
    let started: Result<Vec<Worker>, String> = databases
        .map(|database| Worker::start(celery, &redis, &format!("{url}/{database}")))
        .collect();
    let _workers = started?;
    let mut command = cargo("test --quiet -p canvas-tests");
    command.args(["--test", test]);
    command.args(["--", "--ignored", "--nocapture", "--test-threads", "1"]);
    command.args(filter);
    command.env("CANVAS_TEST_REDIS_URL", url);
    run(command)
}

/// A stock Celery worker that lives as long as this does.
struct Worker(Child);

impl Worker {
    fn start(celery: &Celery, redis: &Private, url: &str) -> Result<Self, String> {
        let mut command = celery.command(redis);
        command.arg(here("stock_worker.py"));
        command.args(["--broker", url, "--backend", url, "--concurrency", "2"]);
        command.args(["--hostname", "stock@%h", "--tasks", "canvases"]);
        command.stdin(Stdio::null());
        let child = command.spawn();
        child
            .map(Self)
            .map_err(|e| format!("a stock worker could not be started: {e}"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Its children end with it when it is asked to stop.
        let pid = self.0.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        if asked.is_ok_and(|status| status.success()) {
            let _ = self.0.wait();
        } else {
            let _ = self.0.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(outcomes: &[(&str, &str)], excluded: usize, stale: &[&str]) -> Report {
        let outcomes: serde_json::Map<String, Value> = outcomes
            .iter()
            .map(|(test, outcome)| ((*test).to_owned(), json!(outcome)))
            .collect();
        let excluded: Vec<String> = (0..excluded).map(|n| n.to_string()).collect();
        let mut report = Report::default();
        report.add(&json!({ "outcomes": outcomes, "excluded": excluded, "stale": stale }));
        report
    }

    #[test]
    fn a_test_that_passed_though_celery_expects_it_to_fail_has_passed() {
        let good = report(
            &[("a", "xpassed"), ("b", "skipped"), ("c", "xfailed")],
            20,
            &[],
        );
        assert_eq!(good.judge(false), Ok(()));
    }

    #[test]
    fn a_failed_test_and_a_stale_exclusion_are_failures() {
        assert!(
            report(&[("a", "passed"), ("b", "failed")], 0, &[])
                .judge(false)
                .is_err()
        );
        assert!(
            report(&[("a", "passed")], 0, &["gone"])
                .judge(false)
                .is_err()
        );
    }

    #[test]
    fn too_few_tests_are_a_failure() {
        assert!(report(&[("a", "skipped")], 0, &[]).judge(false).is_err());
        assert!(report(&[("a", "passed")], 21, &[]).judge(false).is_err());
        assert!(report(&[("a", "passed")], 0, &[]).judge(true).is_err());
    }

    #[test]
    fn the_reports_of_all_parts_are_one() {
        let mut whole = report(&[("a", "passed")], 3, &[]);
        let part = json!({ "outcomes": { "b": "passed", "c": "failed" }, "excluded": ["0", "9"] });
        whole.add(&part);
        assert_eq!((whole.count("passed"), whole.count("failed")), (2, 1));
        assert_eq!(whole.excluded.len(), 4);
    }
}
