//! A primitive of one's own: `cargo run --example weave`.

use std::time::{Duration, Instant};

use canvas::prelude::*;
use serde_json::json;

#[path = "support/weave.rs"]
mod weave;
use weave::{Weave, join, weave};

#[task]
async fn numbers(up_to: i64) -> Vec<i64> {
    (0..up_to).collect()
}

/// Takes a while, and takes a list, as a slow bulk service would.
#[task]
async fn double_all(numbers: Vec<i64>) -> Vec<i64> {
    tokio::time::sleep(Duration::from_millis(50)).await;
    numbers.into_iter().map(|n| n * 2).collect()
}

#[tokio::main]
async fn main() -> canvas::Result<()> {
    let app = Canvas::builder()
        .task::<numbers>()
        .task::<double_all>()
        .task::<join>()
        .primitive(Weave)
        .build()?;
    let worker = app.worker().concurrency(10).start().await?;

    // The weave stands in mid-chain: its list exists only once `numbers` has run.
    let canvas = numbers::s(100) | weave(double_all::partial(), 10);
    println!("{canvas}");
    let started = Instant::now();
    let result = app.apply(canvas).await?.get().await?;
    println!("10 pieces of 50 ms each, in {:.0?}", started.elapsed());
    assert_eq!(result, json!((0..100).map(|n| n * 2).collect::<Vec<i64>>()));

    // It survives JSON, as any canvas does.
    let call = weave(double_all::partial(), 3).into_inner();
    let json = serde_json::to_vec(&call).unwrap_or_default();
    assert_eq!(app.primitives().rebuild(&json)?, call);

    worker.stop().await;
    Ok(())
}
