//! A worker to be stopped by signals, for the tests. It runs a task that
//! launches two more, waits until it sees the worker shutting down, and then
//! ends, or, with `stuck` as argument, never does. What happens is printed, a
//! line each.

use std::time::Duration;

use canvas::{Signature, WorkerExt};
use canvas_tests::support::{builder, task};
use serde_json::Value;

#[tokio::main]
async fn main() -> canvas::Result<()> {
    let stuck = std::env::args().any(|arg| arg == "stuck");
    let app = builder()
        .task_object(task("quick", |_, _| async {
            println!("quick ran");
            Ok(Value::Null)
        }))
        .task_object(task("slow", move |ctx, _| async move {
            for _ in 0..2 {
                ctx.launch(Signature::new("quick")).await?;
            }
            // One of them is taken beside this one, and put back when the
            // worker shuts down.
            waiting(&ctx, 1).await?;
            println!("started");
            waiting(&ctx, 2).await?;
            println!("shutting down");
            if stuck {
                std::future::pending::<()>().await;
            }
            println!("finished");
            Ok(Value::Null)
        }))
        .build()?;
    app.apply(Signature::new("slow")).await?;
    let worker = app.worker().concurrency(1).prefetch(2);
    worker.run().await?;
    println!("{} left", app.broker().len("celery").await?);
    Ok(())
}

/// Waits until this many messages are in the queue.
async fn waiting(ctx: &canvas::Ctx, messages: u64) -> canvas::Result<()> {
    while ctx.app().broker().len("celery").await? != messages {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
