//! A worker, in a process of its own:
//! `cargo run --features redis --example worker`.

use canvas::prelude::*;

#[task(name = "shop.price")]
async fn price(item: u64) -> u64 {
    item * 100 + 99
}

#[task(name = "shop.total")]
async fn total(prices: Vec<u64>) -> u64 {
    prices.iter().sum()
}

#[tokio::main]
async fn main() -> canvas::Result<()> {
    let app = Canvas::builder()
        .broker_url("redis://localhost/0")
        .backend_url("redis://localhost/0")
        .env()? // CANVAS_BROKER_URL and CANVAS_RESULT_BACKEND, where they are set
        .task::<price>()
        .task::<total>()
        .connect()?;
    // Until Ctrl-C or SIGTERM.
    app.worker().concurrency(8).run().await
}
