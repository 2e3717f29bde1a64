//! A worker for Celery's own integration tests: it takes from a Celery broker
//! and knows the tasks that the tests call.
//!
//! `interop-worker --broker URL --backend URL --concurrency N
//! [--visibility-timeout S] [--hostname NODE]`

use std::time::Duration;

use canvas::{Connect, WorkerExt};
use canvas_tests::interop::{self, Notes};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let options = Options::read(std::env::args().skip(1))?;
    let notes = Notes::in_redis().await?;
    let builder = interop::builder(&notes).configure(|config| {
        if let Some(timeout) = options.visibility_timeout {
            config.visibility_timeout = timeout;
        }
    });
    let app = builder
        .broker_url(&options.broker)
        .backend_url(&options.backend)
        .connect()?;
    let mut worker = app.worker().concurrency(options.concurrency);
    if let Some(name) = options.hostname {
        worker = worker.name(name);
    }
    worker.run().await?;
    Ok(())
}

struct Options {
    broker: String,
    backend: String,
    concurrency: usize,
    visibility_timeout: Option<Duration>,
    hostname: Option<String>,
}

impl Options {
    fn read(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            broker: String::new(),
            backend: String::new(),
            concurrency: 1,
            visibility_timeout: None,
            hostname: None,
        };
        while let Some(option) = args.next() {
            let value = args.next().ok_or(format!("{option} needs a value"))?;
            let wrong = |_| format!("{option} cannot be {value}");
            match option.as_str() {
                "--broker" => options.broker = value,
                "--backend" => options.backend = value,
                "--concurrency" => options.concurrency = value.parse().map_err(wrong)?,
                "--visibility-timeout" => {
                    let seconds: u64 = value.parse().map_err(wrong)?;
                    options.visibility_timeout = Some(Duration::from_secs(seconds));
                }
                "--hostname" => options.hostname = Some(value),
                _ => return Err(format!("no such option: {option}")),
            }
        }
        if options.broker.is_empty() || options.backend.is_empty() {
            return Err("--broker and --backend are needed".to_owned());
        }
        Ok(options)
    }
}
