//! Arguments are written and read as JSON, results are written.

use canvas::prelude::*;

struct Opaque;

#[task]
async fn takes(_value: Opaque) {}

#[task]
async fn gives() -> Opaque {
    Opaque
}

fn main() {}
