//! Members that give different things: an untyped group takes them.

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
    let _ = typed_group([add::s(1, 2), shout::s("hi")]);
}
