//! `cargo xtask interop`: Celery and this repository against each other, on
//! servers of their own.
//!
//! Without more, Celery's own integration tests run with our worker in place
//! of theirs. The other way round, and both on one queue, are tests of
//! `canvas-tests` for which a stock worker is started here.

mod celery;
mod pairs;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::run::{cargo, run};
use crate::services::{Private, Redis};
use crate::workspace;

use celery::{Celery, here};
use pairs::{PAIRS, Pair, Servers, Urls};
use report::Report;

/// The tests that concern a worker: `t/integration/` has more, on whatever
/// else is in Celery.
const SUITE: [&str; 2] = [
    "t/integration/test_canvas.py",
    "t/integration/test_tasks.py",
];

/// In how many parts the tests are taken.
const PARTS: usize = 4;

const USAGE: &str = "\
interop takes
  --all        on all pairs of broker and backend, instead of on Redis alone
  --pair P     on this pair, such as amqp+redis
  --filter K   only the tests that match K, as in `pytest -k`
  --stock      with Celery's worker instead of ours, to compare
  --reverse    our client against Celery's worker, instead of the suite
  --mixed      both workers on one queue, instead of the suite";

pub(crate) fn interop(arguments: &[String]) -> Result<(), String> {
    let mut arguments = arguments.iter().map(String::as_str);
    let (mut filter, mut stock, mut what) = (None, false, "suite");
    let mut pairs: Vec<&Pair> = vec![&PAIRS[0]];
    while let Some(argument) = arguments.next() {
        match argument {
            "--all" => pairs = PAIRS.iter().collect(),
            "--pair" => pairs = vec![Pair::named(arguments.next().ok_or(USAGE)?)?],
            "--filter" => filter = Some(arguments.next().ok_or(USAGE)?),
            "--stock" => stock = true,
            "--reverse" => what = "reverse",
            "--mixed" => what = "mixed",
            _ => return Err(USAGE.to_owned()),
        }
    }
    let celery = Celery::prepare()?;
    match what {
        "suite" => suites(&celery, &pairs, filter, stock),
        test => peers(&celery, filter, test),
    }
}

/// The Python with Celery in it that tests of the Redis crates talk to.
pub(crate) fn python() -> Result<PathBuf, String> {
    Celery::prepare().map(|celery| celery.python)
}

/// Runs Celery's integration tests on one pair after the other: all of them,
/// whatever becomes of the first.
fn suites(
    celery: &Celery,
    pairs: &[&Pair],
    filter: Option<&str>,
    stock: bool,
) -> Result<(), String> {
    let worker = if stock {
        celery.stock_worker()
    } else {
        our_worker()?
    };
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    for pair in pairs {
        println!("\n{}", pair.name);
        let ran = suite(celery, pair, &worker, filter);
        let (line, judged) = match ran {
            Ok(report) => (report.line(), report.judge(filter.is_none())),
            Err(reason) => ("did not run".to_owned(), Err(reason)),
        };
        lines.push(format!("{line}  {}", pair.name));
        if let Err(reason) = judged {
            failed.push(format!("{}: {reason}", pair.name));
        }
    }
    if pairs.len() > 1 {
        println!("\n{}", lines.join("\n"));
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(failed.join("\n")),
    }
}

/// Most of their time the tests wait, for what must not happen, so they are
/// taken in parts side by side, each with a Redis and a worker of its own.
fn suite(
    celery: &Celery,
    pair: &Pair,
    worker: &str,
    filter: Option<&str>,
) -> Result<Report, String> {
    let servers = pair.start(&celery.folder.join(pair.name))?;
    let parts = if filter.is_some() { 1 } else { PARTS };
    let parts: Vec<Part> = (0..parts)
        .map(|part| Part::start(celery, (pair, &servers), worker, filter, (part, parts)))
        .collect::<Result<_, _>>()?;
    let mut whole = Report::default();
    for part in parts {
        whole.add(&part.finish()?);
    }
    Ok(whole)
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
        (pair, servers): (&Pair, &Servers),
        worker: &str,
        filter: Option<&str>,
        (part, parts): (usize, usize),
    ) -> Result<Self, String> {
        let folder = celery.folder.join(pair.name).join(format!("part-{part}"));
        let (redis, urls) = servers.part(&folder, part)?;
        let (log, report) = (folder.join("pytest.log"), folder.join("report.json"));
        let _ = fs::remove_file(&report);
        let mut pytest = celery.command(&urls);
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
        pytest.env("INTEROP_EXCLUDED", excluded(pair)?);
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

impl Drop for Part {
    /// Ends it, where another could not be started or went wrong. Its worker
    /// ends with it when it is asked to stop.
    fn drop(&mut self) {
        if matches!(self.pytest.try_wait(), Ok(None)) {
            stop(&mut self.pytest);
        }
    }
}

/// The files of tests to leave out: what holds for all pairs, and for this one.
fn excluded(pair: &Pair) -> Result<String, String> {
    let own = format!("excluded-{}.txt", pair.name);
    let files = [here("excluded.txt"), here(&own)];
    let there = files.iter().filter(|file| file.exists());
    let there: Vec<&Path> = there.map(PathBuf::as_path).collect();
    let joined = std::env::join_paths(there).map_err(|e| e.to_string())?;
    Ok(joined.to_string_lossy().into_owned())
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
        let urls = Urls {
            broker: url.to_owned(),
            backend: url.to_owned(),
            notes: redis.place.port,
        };
        let mut command = celery.command(&urls);
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
        stop(&mut self.0);
    }
}

/// Asks a process to stop and waits until it has, or kills it if it cannot be
/// asked.
fn stop(child: &mut Child) {
    let pid = child.id().to_string();
    let asked = Command::new("kill").args(["-TERM", &pid]).status();
    if !asked.is_ok_and(|status| status.success()) {
        let _ = child.kill();
    }
    let _ = child.wait();
}
