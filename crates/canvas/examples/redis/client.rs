//! A client, in another process than the worker:
//! `cargo run --features redis --example client`.

use canvas::prelude::*;

#[tokio::main]
async fn main() -> canvas::Result<()> {
    let app = Canvas::builder()
        .broker_url("redis://localhost/0")
        .backend_url("redis://localhost/0")
        .env()?
        .connect()?;
    // The tasks are not in this program, so they go by their names.
    let prices = (1..=3).map(|item| Signature::new("shop.price").arg(item));
    let result = app
        .apply(group(prices) | Signature::new("shop.total"))
        .await?;
    println!("the total is {}", result.get().await?);
    Ok(())
}
