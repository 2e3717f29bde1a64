//! A worker of the side-by-side, in a process of its own: ours, as a user
//! would write it, or with `--ceiling` the hand-written one.
//!
//! `side-worker --url URL [--backend URL] [--queue NAME] [--ceiling]
//! [--references BYTES] [--concurrency N] [--prefetch N] [--threads N]`

use std::error::Error;
use std::num::NonZeroUsize;

use canvas::WorkerExt;
use canvas_benches::ceiling;
use canvas_benches::side::Settings;
use tokio::runtime::Builder;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> Outcome {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
    let mut settings = Settings {
        url: String::new(),
        backend: None,
        queue: "celery".to_owned(),
        references: None,
    };
    let mut is_ceiling = false;
    let (mut concurrency, mut prefetch) = (None, None);
    let mut threads = 1;
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        if option == "--ceiling" {
            is_ceiling = true;
            continue;
        }
        let value = arguments.next().ok_or(format!("{option} needs a value"))?;
        match option.as_str() {
            "--url" => settings.url = value,
            "--backend" => settings.backend = Some(value),
            "--queue" => settings.queue = value,
            "--references" => settings.references = Some(value.parse()?),
            "--concurrency" => concurrency = Some(value.parse::<NonZeroUsize>()?),
            "--threads" => threads = value.parse::<NonZeroUsize>()?.get(),
            "--prefetch" => prefetch = Some(value.parse::<NonZeroUsize>()?),
            _ => return Err(format!("no such option: {option}").into()),
        }
    }
    let work = async {
        if is_ceiling {
            let Settings { url, queue, .. } = &settings;
            return match &settings.backend {
                Some(redis) => ceiling::rabbitmq::work(url, redis, queue).await,
                None => ceiling::work(url, queue).await,
            };
        }
        let mut worker = settings.app()?.worker();
        if let Some(tasks) = concurrency {
            worker = worker.concurrency(tasks.get());
        }
        if let Some(messages) = prefetch {
            worker = worker.prefetch(messages.get());
        }
        worker.run().await?;
        Ok(())
    };
    // Tasks that take next to no time are best run where they were fetched:
    // handing each to another thread costs more than it takes.
    let mut runtime = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 1 {
        runtime.worker_threads(threads);
    }
    runtime.enable_all().build()?.block_on(work)
}
