//! The side-by-side: canvas, Celery, and a hand-written least that does the
//! same on the server, in turns, on one Redis. `cargo xtask bench` runs it.

mod chart;
mod figures;
mod pairs;
mod peer;
mod plan;
mod program;
mod report;
mod server;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use figures::Samples;
use pairs::{Chosen, Servers};
use peer::{Peer, Place, Setup, Side};
use plan::{Bench, Scale};
use report::Setting;
use server::Server;

type Failure = Box<dyn Error + Send + Sync>;
type Outcome<T> = Result<T, Failure>;

const USAGE: &str = "\
side takes
  --quick          one round, with fewer tasks
  --only NAME      only what NAME is part of: enqueue, drain, stored, ignored,
                   latency, memory, chord, chain, bytes. Several with commas
  --rounds N       so many rounds
  --sides NAMES    only these of canvas, references, celery, ceiling
  --tasks N        so many tasks for canvas and the ceiling to enqueue and drain
  --concurrency N  of our worker, instead of 64
  --prefetch N     of our worker, instead of 4 for each of these
  --threads N      of the Rust workers, instead of one
  --references N   keep what is larger than N bytes, 700 if not said
  --python PATH    a Python that has Celery 5.7
  --pairs NAMES    pairs of a broker and a backend instead, `all` or some of
                   amqp+redis, amqp+rpc, amqp+postgres, redis+postgres,
                   redis+memcached
  --server NAME=PID    such a server, for pairs; its URL is in the environment
  --output FOLDER  where the report goes, target/bench if not said";

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = tokio::select! {
        outcome = side_by_side() => outcome,
        () = told_to_stop() => Err("told to stop".into()),
    };
    // What was started has ended by now: it was dropped with the future.
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("side: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        Err(_) => _ = tokio::signal::ctrl_c().await,
    }
}

async fn side_by_side() -> Outcome<()> {
    let options = Options::read(std::env::args().skip(1))?;
    fs::create_dir_all(&options.setup.folder)?;
    let started = Instant::now();
    let mut setting = Setting {
        rounds: options.rounds,
        ..Setting::read()
    };
    let mut server = Server::start(&options.setup.folder).await?;
    setting
        .versions
        .push(("redis".to_owned(), server.version().await?));
    if let Some(chosen) = &options.pairs {
        return pairs::measure(&options, chosen, &mut server, &mut setting).await;
    }
    let mut peers = Vec::new();
    for side in &options.sides {
        if options.benches.iter().any(|bench| bench.concerns(*side)) {
            let number = *side as u8;
            let place = Place::in_redis(*side, server.url(number));
            let peer = Peer::start(*side, place, &options.setup).await?;
            setting.versions.extend(peer.versions.clone());
            peer.worker.let_run(false)?;
            peers.push((peer, server.database(number).await?));
        }
    }
    let mut samples = Samples::default();
    for bench in &options.benches {
        for round in 0..bench.rounds(options.rounds) {
            for (peer, database) in &mut peers {
                if !bench.concerns(peer.side) {
                    continue;
                }
                let scale = Scale::new(peer.side, options.quick, options.tasks);
                let what = format!(
                    "{}, {}, round {}",
                    bench.name(),
                    peer.side.name(),
                    round + 1
                );
                let began = Instant::now();
                let measured = async {
                    peer.wake().await?;
                    bench
                        .measure((peer, database), &mut server, scale, &mut samples)
                        .await?;
                    database.clear().await?;
                    peer.worker.let_run(false)
                };
                let measured = measured.await;
                measured.map_err(|error| format!("{what}: {error}"))?;
                eprintln!("{:>6.1} s  {what}", began.elapsed().as_secs_f64());
            }
        }
    }
    setting.load[1] = load();
    setting.took = started.elapsed().as_secs_f64();
    write(&options, &setting, &samples)
}

fn write(options: &Options, setting: &Setting, samples: &Samples) -> Outcome<()> {
    let text = report::markdown(setting, samples);
    let json = format!("{:#}\n", report::to_json(setting, samples));
    let parts = [
        ("side-by-side.md", &text),
        ("side-by-side.json", &json),
        ("side-by-side.svg", &chart::svg(samples)),
    ];
    for (name, content) in parts {
        let path = options.setup.folder.join(name);
        fs::write(&path, content).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let path = options.setup.folder.join("side-by-side.md");
    println!(
        "{text}This is {}, with .json and .svg beside it",
        path.display()
    );
    Ok(())
}

struct Options {
    quick: bool,
    rounds: usize,
    tasks: Option<u64>,
    benches: Vec<Bench>,
    sides: Vec<Side>,
    pairs: Option<Chosen>,
    setup: Setup,
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let target = std::env::current_exe()?;
        let target = target.parent().and_then(|profile| profile.parent());
        let mut setup = Setup {
            python: std::env::var_os("CANVAS_CELERY_PYTHON").map(PathBuf::from),
            folder: target.unwrap_or(&PathBuf::from("target")).join("bench"),
            worker: Vec::new(),
            references: 700,
        };
        let (mut quick, mut rounds, mut tasks) = (false, None, None);
        let (mut only, mut sides) = (String::new(), String::new());
        let (mut pairs, mut servers) = (None, Servers::default());
        while let Some(option) = arguments.next() {
            if option == "--quick" {
                quick = true;
                continue;
            }
            if option == "--help" {
                println!("{USAGE}");
                std::process::exit(0);
            }
            let value = arguments.next().ok_or(USAGE)?;
            match option.as_str() {
                "--only" => only = value,
                "--sides" => sides = value,
                "--rounds" => rounds = Some(value.parse()?),
                "--tasks" => tasks = Some(value.parse()?),
                "--references" => setup.references = value.parse()?,
                "--concurrency" | "--prefetch" | "--threads" => {
                    setup.worker.extend([option, value])
                }
                "--python" => setup.python = Some(value.into()),
                "--pairs" => pairs = Some(value),
                "--server" => servers.add(&value)?,
                "--output" => setup.folder = value.into(),
                _ => return Err(USAGE.into()),
            }
        }
        let names: Vec<&str> = only.split(',').filter(|name| !name.is_empty()).collect();
        let benches: Vec<Bench> = Bench::all(quick)
            .into_iter()
            .filter(|bench| names.is_empty() || names.iter().any(|name| bench.is_part_of(name)))
            .collect();
        let sides: Vec<Side> = Side::ALL
            .into_iter()
            .filter(|side| sides.is_empty() || sides.split(',').any(|name| name == side.name()))
            .collect();
        if benches.is_empty() || sides.is_empty() {
            return Err(format!("nothing is to be measured\n{USAGE}").into());
        }
        Ok(Self {
            quick,
            rounds: rounds.unwrap_or(if quick { 1 } else { 3 }),
            tasks,
            benches,
            sides,
            pairs: pairs
                .map(|names| Chosen::read(&names, servers))
                .transpose()?,
            setup,
        })
    }
}

impl Setting {
    fn read() -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let model = model
            .unwrap_or("unknown")
            .trim_start_matches([' ', '\t', ':']);
        let version = |program: &str, arguments: &[&str]| {
            let output = std::process::Command::new(program)
                .args(arguments)
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .output();
            let text = output.map(|output| output.stdout).unwrap_or_default();
            String::from_utf8_lossy(&text).trim().to_owned()
        };
        let canvas = version("git", &["describe", "--always", "--dirty"]);
        let rustc = version("rustc", &["--version"]);
        let rustc = rustc.split_whitespace().nth(1).unwrap_or("unknown");
        Self {
            versions: vec![
                ("canvas".to_owned(), canvas),
                ("rustc".to_owned(), rustc.to_owned()),
            ],
            cpu: model.to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load: [load(), String::new()],
            ..Self::default()
        }
    }
}

/// The load average of the last minute.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Asks until there is an answer, or the time is over.
async fn eventually<T>(limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        if started.elapsed() > limit {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
