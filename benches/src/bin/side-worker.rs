//! A worker of the side-by-side, in a process of its own: ours, as a user
//! would write it, or with `--ceiling` the hand-written one.
//!
//! `side-worker --url URL [--queue NAME] [--ceiling] [--references BYTES]
//! [--concurrency N] [--prefetch N]`

use std::error::Error;
use std::num::NonZeroUsize;

use canvas::WorkerExt;
use canvas_benches::ceiling;
use canvas_benches::side::Settings;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
    let mut settings = Settings {
        url: String::new(),
        queue: "celery".to_owned(),
        references: None,
    };
    let mut is_ceiling = false;
    let (mut concurrency, mut prefetch) = (None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        if option == "--ceiling" {
            is_ceiling = true;
            continue;
        }
        let value = arguments.next().ok_or(format!("{option} needs a value"))?;
        match option.as_str() {
            "--url" => settings.url = value,
            "--queue" => settings.queue = value,
            "--references" => settings.references = Some(value.parse()?),
            "--concurrency" => concurrency = Some(value.parse::<NonZeroUsize>()?),
            "--prefetch" => prefetch = Some(value.parse::<NonZeroUsize>()?),
            _ => return Err(format!("no such option: {option}").into()),
        }
    }
    if is_ceiling {
        return ceiling::work(&settings.url, &settings.queue).await;
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
}
