//! A callback that takes something else than the task gives, or nothing.

use canvas::prelude::*;

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task]
async fn shout(text: String) -> String {
    text.to_uppercase()
}

fn main() {
    let _ = add::s(1, 2).link(shout::partial());
    let _ = add::s(1, 2).link(add::s(3, 4));
}
