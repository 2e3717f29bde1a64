//! Options are known by name, and take what they say.

use canvas::prelude::*;

#[task(nmae = "tasks.add")]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task(priority = 12)]
async fn urgent() {}

#[task(time_limit = "soon")]
async fn limited() {}

#[task(name = "a", name = "b")]
async fn twice() {}

fn main() {}
