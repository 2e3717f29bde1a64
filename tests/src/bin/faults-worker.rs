//! A worker of a fault run, which writes down what it runs:
//!
//! `faults-worker --broker URL --backend URL --trace FILE --name NODE --concurrency N
//! --visibility-timeout S`
//!
//! It ends when its standard input does.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use canvas::WorkerExt;
use canvas_tests::faults_run::trace::Trace;
use canvas_tests::faults_run::{app, end_with_stdin, options};
use tracing_subscriber::EnvFilter;

const OPTIONS: [&str; 6] = [
    "broker",
    "backend",
    "trace",
    "name",
    "concurrency",
    "visibility-timeout",
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    end_with_stdin();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or("warn".into()))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let options = options(std::env::args().skip(1), &OPTIONS)?;
    let option = |name: &str| options.get(name).ok_or(format!("--{name} is needed"));
    let lease = Duration::from_secs(option("visibility-timeout")?.parse()?);
    let trace = Trace::to(Path::new(option("trace")?))?;
    let app = app(option("broker")?, option("backend")?, lease, trace)?;
    let worker = app.worker().name(option("name")?.as_str());
    worker
        .concurrency(option("concurrency")?.parse()?)
        .run()
        .await?;
    Ok(())
}
