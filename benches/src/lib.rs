//! What the benchmarks of canvas share: tasks that do next to nothing, so that
//! what is measured is canvas.

pub mod ceiling;
mod gauge;
pub mod side;

pub use gauge::Gauge;

use canvas::prelude::*;

/// Gives back its argument.
#[task]
pub async fn echo(n: u64) -> u64 {
    n
}

/// Counts one further.
#[task]
pub async fn increment(n: u64) -> u64 {
    n + 1
}

/// Adds up.
#[task]
pub async fn total(numbers: Vec<u64>) -> u64 {
    numbers.iter().sum()
}

/// An application with these tasks, and everything in this process.
pub fn app() -> canvas::Builder {
    Canvas::builder()
        .task::<echo>()
        .task::<increment>()
        .task::<total>()
}

/// A chain of so many steps, each of which counts one further, from 0.
pub fn counting_chain(steps: u64) -> Signature {
    let step = |n| match n {
        0 => Signature::from(increment::s(0)),
        _ => Signature::from(increment::partial()),
    };
    chain((0..steps).map(step))
}

/// A group of so many tasks, each with its place as its result.
pub fn counting_group(size: u64) -> Signature {
    group((0..size).map(echo::s))
}

/// The same as a chord, with the sum as its result.
pub fn counting_chord(size: u64) -> Signature {
    chord((0..size).map(echo::s), total::partial())
}
