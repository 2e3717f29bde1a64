//! A body that takes a list of something else than the members give.

use canvas::prelude::*;

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task]
async fn join(texts: Vec<String>) -> String {
    texts.concat()
}

#[task]
async fn double(x: i64) -> i64 {
    x * 2
}

fn main() {
    let _ = typed_chord([add::s(1, 2), add::s(3, 4)], join::partial());
    let _ = typed_group([add::s(1, 2)]).then(double::partial());
}
