//! An argument of the wrong type, one too many, one too few.

use canvas::prelude::*;

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

fn main() {
    let _ = add::s(1, "two");
    let _ = add::s(1, 2, 3);
    let _ = add::si(1);
}
