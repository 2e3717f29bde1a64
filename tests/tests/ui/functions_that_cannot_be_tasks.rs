//! A task is one free function, and what it takes and gives travels as JSON.

use canvas::prelude::*;

#[task]
async fn generic<T>(value: T) -> T {
    value
}

#[task]
async fn borrows(text: &str) -> usize {
    text.len()
}

#[task]
async fn lends() -> &'static str {
    "x"
}

#[task]
async fn late_context(x: i64, _ctx: &Ctx) -> i64 {
    x
}

#[task]
async fn gap(#[default] x: i64, y: i64) -> i64 {
    x + y
}

#[task(errback)]
async fn short(_request: String) {}

#[task]
struct NotAFunction;

fn main() {}
