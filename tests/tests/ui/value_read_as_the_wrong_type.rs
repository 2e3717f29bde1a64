//! The value of a result has the type of the task.

use canvas::prelude::*;

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

async fn read(app: &Canvas) -> canvas::Result<String> {
    add::s(1, 2).apply(app).await?.get().await
}

fn main() {
    drop(read(&Canvas::in_memory()));
}
