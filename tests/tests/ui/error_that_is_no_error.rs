//! The error of a task has to be one that the worker can name.

use canvas::prelude::*;

struct Oops;

#[task]
async fn fails() -> Result<i64, Oops> {
    Err(Oops)
}

fn main() {}
