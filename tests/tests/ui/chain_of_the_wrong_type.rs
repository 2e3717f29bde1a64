//! A step that takes something else than the step before it gives.

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
    let _ = add::s(1, 2).then(shout::partial());
    let _ = add::s(1, 2) | shout::partial();
}
