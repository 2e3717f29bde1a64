//! The proof that canvas bears size: `cargo run --example scale`.
//!
//! In one process, with everything in memory: a chain of 10,000 steps ends with
//! the right value, and a group of 1,000,000 tasks is applied, run and joined
//! while the process never takes more than 1.5 GiB. The worker starts when the
//! whole group has been sent, so that all its messages lie in the broker at
//! once: with a worker beside it there would be fewer.

use std::error::Error;
use std::time::Instant;

use canvas::memory::MemoryBroker;
use canvas::{Group, Wait, WorkerExt};
use canvas_benches::{Gauge, app, counting_chain, echo};

const MIB: u64 = 1024 * 1024;

/// What the process may take at its peak, for a million tasks.
const LIMIT: u64 = 1536 * MIB;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let (mut tasks, mut steps) = (1_000_000, 10_000);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let number = arguments
            .next()
            .ok_or_else(|| format!("{name} needs a number"))?;
        match name.as_str() {
            "--tasks" => tasks = number.parse()?,
            "--steps" => steps = number.parse()?,
            _ => return Err(format!("{name}: know only --tasks N and --steps N").into()),
        }
    }
    // On the small stack of a task, which a chain must not use up.
    tokio::spawn(long_chain(steps)).await??;
    // The figure is the peak of the process, so the group, which takes more,
    // comes last: a part after it would be given its figure.
    tokio::spawn(large_group(tasks)).await?
}

type Failure = Box<dyn Error + Send + Sync>;

async fn long_chain(steps: u64) -> Result<(), Failure> {
    let broker = Gauge::new(MemoryBroker::new());
    let app = app().broker(std::sync::Arc::new(broker.clone())).build()?;
    let worker = app.worker().start().await?;
    let started = Instant::now();
    let result = app.apply(counting_chain(steps)).await?;
    let sent = started.elapsed();
    let value = result.get().await?;
    println!("chain of {steps} steps");
    println!("  applied      {:>10.2} s", sent.as_secs_f64());
    println!("  finished     {:>10.2} s", started.elapsed().as_secs_f64());
    println!("  largest      {:>10} bytes of a message", broker.largest());
    println!("  messages     {:>10}", broker.messages());
    report_peak();
    check(value == steps, || {
        format!("the value is {value}, not {steps}")
    })?;
    worker.stop().await;
    Ok(())
}

async fn large_group(tasks: u64) -> Result<(), Failure> {
    let app = app().build()?;
    let started = Instant::now();
    let result = Group::from_iter((0..tasks).map(echo::s))
        .apply(&app)
        .await?;
    let sent = started.elapsed().as_secs_f64();
    println!("group of {tasks} tasks");
    println!("  applied      {sent:>10.2} s");
    report_peak();
    let worker = app.worker().start().await?;
    let group = result
        .as_group()
        .ok_or("a group has the result of a group")?;
    let values = group.join(Wait::default()).await?;
    let took = started.elapsed().as_secs_f64();
    println!("  joined       {took:>10.2} s");
    println!("  throughput   {:>10.0} tasks/s", tasks as f64 / took);
    let peak = report_peak();
    let right = values.len() as u64 == tasks
        && values
            .iter()
            .zip(0..)
            .all(|(value, place)| value.as_u64() == Some(place));
    check(right, || {
        "the values are not the tasks' own, in order".to_owned()
    })?;
    check(peak.is_none_or(|peak| peak < LIMIT), || {
        format!("the process took over {} MiB", LIMIT / MIB)
    })?;
    worker.stop().await;
    Ok(())
}

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(otherwise().into())
    }
}

/// Prints and gives the most memory that this process has had, where the
/// system says.
fn report_peak() -> Option<u64> {
    let peak = peak();
    match peak {
        Some(peak) => println!("  peak memory  {:>10} MiB", peak / MIB),
        None => println!("  peak memory     unknown on this system, so unchecked"),
    }
    peak
}

fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
