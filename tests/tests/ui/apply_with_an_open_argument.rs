//! A signature whose first argument is still to come is not ready to be sent.

use canvas::prelude::*;

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

async fn send(app: &Canvas) -> canvas::Result<()> {
    add::partial(2).apply(app).await?;
    Ok(())
}

fn main() {
    drop(send(&Canvas::in_memory()));
}
