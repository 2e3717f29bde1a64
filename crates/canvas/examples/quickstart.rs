//! What canvas is, in one run: `cargo run --example quickstart`.
//!
//! Each workflow is printed with its canvas, its result tree and its timing.
//! Broker, backend and worker are all in this process. With `--url` the first
//! two are elsewhere:
//! `cargo run --features redis --example quickstart -- --url redis://localhost/0`.

use std::time::{Duration, Instant};

use canvas::prelude::*;
use canvas::{AsyncResult, ResultTree};

#[path = "support/weave.rs"]
mod weave;
use weave::{Weave, join, weave};

/// Pretends to fetch a page.
#[task]
async fn fetch(page: u64) -> String {
    tokio::time::sleep(Duration::from_millis(30)).await;
    format!("page {page} has {} words", page * 7 + 3)
}

#[task]
async fn count_words(text: String) -> usize {
    text.split_whitespace().count()
}

/// Blocking code runs off the async threads.
#[task]
fn checksum(text: String) -> u64 {
    std::thread::sleep(Duration::from_millis(10));
    text.bytes().map(u64::from).sum()
}

#[task]
async fn total(numbers: Vec<u64>) -> u64 {
    numbers.iter().sum()
}

#[task]
async fn pages() -> Vec<u64> {
    (1..=12).collect()
}

#[task]
async fn fetch_all(pages: Vec<u64>) -> Vec<String> {
    tokio::time::sleep(Duration::from_millis(30)).await;
    pages.iter().map(|page| format!("page {page}")).collect()
}

/// Fails twice before it works.
#[task(max_retries = 3)]
async fn flaky(ctx: &Ctx, name: String) -> Result<String, TaskError> {
    if ctx.retries() < 2 {
        let retry = ctx.retry().countdown(Duration::from_millis(20));
        return Err(retry.because(TaskError::msg("not yet")));
    }
    Ok(format!("{name} worked at attempt {}", ctx.retries() + 1))
}

#[task]
async fn broken(page: u64) -> Result<u64, TaskError> {
    Err(TaskError::msg(format!("page {page} is gone")))
}

#[tokio::main]
async fn main() -> canvas::Result<()> {
    let url = url().unwrap_or_else(|| "memory://".to_owned());
    let app = Canvas::builder()
        .broker_url(&url)
        .backend_url(&url)
        .task::<fetch>()
        .task::<count_words>()
        .task::<checksum>()
        .task::<total>()
        .task::<pages>()
        .task::<fetch_all>()
        .task::<flaky>()
        .task::<broken>()
        .task::<join>()
        .primitive(Weave)
        .configure(|config| config.result_extended = true)
        .connect()?;
    let worker = app.worker().concurrency(8).start().await?;

    let steps = fetch::s(1).then(checksum::partial());
    let callback = fetch::s(1).link(count_words::partial());
    show(&app, "a task with a callback", callback).await?;
    show(&app, "a chain", steps).await?;
    show(&app, "a group", typed_group((1..=4).map(fetch::s))).await?;
    let sums = (1..=4).map(|page| fetch::s(page).then(checksum::partial()));
    show(
        &app,
        "a chord of chains",
        typed_chord(sums, total::partial()),
    )
    .await?;
    let woven = pages::s() | weave(fetch_all::partial(), 4);
    show(&app, "a primitive of your own", woven).await?;
    show(&app, "a task that is retried", flaky::s("flaky")).await?;
    let sums = group([
        Signature::from(fetch::s(1) | checksum::partial()),
        broken::s(2).into(),
    ]);
    show(&app, "a chord whose member fails", sums | total::partial()).await?;

    println!("What a canvas will send, before it is sent:\n");
    println!(
        "{}",
        app.explain(group([fetch::s(1), fetch::s(2)]) | total::partial())?
    );

    worker.stop().await;
    Ok(())
}

/// What follows `--url`.
fn url() -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--url");
    arguments.nth(1)
}

async fn show(app: &Canvas, what: &str, canvas: impl Into<Signature>) -> canvas::Result<()> {
    let canvas = canvas.into();
    println!("{what}\n  {canvas}");
    let started = Instant::now();
    let result = app.apply(canvas).await?;
    match result.get().await {
        Ok(value) => println!("  = {value}"),
        Err(error) => println!("  ! {error}"),
    }
    let took = started.elapsed();
    print_tree(&result, result.tree(), 1).await?;
    println!("  in {:.1} ms\n", took.as_secs_f64() * 1000.0);
    Ok(())
}

/// The results, each below what depends on it, with the callbacks they sent.
async fn print_tree(result: &AsyncResult, tree: &ResultTree, depth: usize) -> canvas::Result<()> {
    let indent = "  ".repeat(depth);
    if let Some(members) = &tree.members {
        println!("{indent}group of {}", members.len());
        for member in members {
            Box::pin(print_tree(result, member, depth + 1)).await?;
        }
    } else {
        let meta = result.of(tree).meta().await?;
        let name = meta
            .extended
            .get("name")
            .and_then(|n| n.as_str())
            .unwrap_or("(never ran)");
        let name = name.rsplit('.').next().unwrap_or(name);
        println!("{indent}{name} {} {}", meta.status, meta.result);
    }
    if let Some(parent) = &tree.parent {
        Box::pin(print_tree(result, parent, depth + 1)).await?;
    }
    Ok(())
}
