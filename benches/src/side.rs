//! What all sides of the side-by-side do: these tasks, in these shapes.
//!
//! `benches/celery/` has the same for Celery.

use canvas::prelude::*;

/// The queue that the worker of a side consumes.
///
/// Not the same for all, though each has a database of its own: a server that
/// sends word of a changed key tells whoever knows one of that name, in
/// whatever database. The names are as long as `celery`.
pub fn queue(side: u8) -> String {
    format!("queue{side}")
}

/// A queue that nobody consumes: what waits there is moved to [`queue`] when
/// its time has come.
pub fn stage(side: u8) -> String {
    format!("stage{side}")
}

/// Adds up.
#[task(name = "bench.add")]
pub async fn add(x: u64, y: u64) -> u64 {
    x + y
}

/// Adds up, and nobody wants to know.
#[task(name = "bench.add_quietly", ignore_result)]
pub async fn add_quietly(x: u64, y: u64) -> u64 {
    x + y
}

/// The sum.
#[task(name = "bench.total")]
pub async fn total(numbers: Vec<u64>) -> u64 {
    numbers.iter().sum()
}

/// The settings of the client and the worker that are compared with Celery.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The broker, and the backend too if none is named.
    pub url: String,
    /// Where results go.
    pub backend: Option<String>,
    /// Where tasks are sent to, and taken from.
    pub queue: String,
    /// `continuation_reference_size`.
    pub references: Option<usize>,
}

impl Settings {
    /// The application.
    ///
    /// # Errors
    /// If the URL cannot be used.
    pub fn app(&self) -> canvas::Result<Canvas> {
        Canvas::builder()
            .broker_url(&self.url)
            .backend_url(self.backend.as_deref().unwrap_or(&self.url))
            .configure(|config| {
                config.task_default_queue.clone_from(&self.queue);
                config.continuation_reference_size = self.references;
                // Async tasks, of which many run at a time; 256 are taken.
                config.worker_concurrency = Some(64);
            })
            .task::<add>()
            .task::<add_quietly>()
            .task::<total>()
            .connect()
    }
}

/// A canvas whose size can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// So many steps.
    Chain(u64),
    /// So many members, and their sum.
    Chord(u64),
    /// So many chains of so many steps, and the sum of what they end with.
    ChordOfChains(u64, u64),
}

impl Shape {
    /// The name and the sizes, as `driver.py` knows them.
    pub fn parts(self) -> (&'static str, Vec<u64>) {
        match self {
            Self::Chain(steps) => ("chain", vec![steps]),
            Self::Chord(width) => ("chord", vec![width]),
            Self::ChordOfChains(width, steps) => ("chord of chains", vec![width, steps]),
        }
    }

    /// How many tasks it runs.
    pub fn tasks(self) -> u64 {
        match self {
            Self::Chain(steps) => steps,
            Self::Chord(width) => width + 1,
            Self::ChordOfChains(width, steps) => width * steps + 1,
        }
    }

    /// What it comes to.
    pub fn value(self) -> u64 {
        match self {
            Self::Chain(steps) => steps,
            Self::Chord(width) => (1..=width).sum(),
            Self::ChordOfChains(width, steps) => (0..width).map(|first| first + steps).sum(),
        }
    }

    /// The canvas itself.
    pub fn canvas(self) -> Signature {
        match self {
            Self::Chain(steps) => counting(0, steps),
            Self::Chord(width) => chord((0..width).map(|n| add::s(n, 1)), total::partial()),
            Self::ChordOfChains(width, steps) => chord(
                (0..width).map(|first| counting(first, steps)),
                total::partial(),
            ),
        }
    }
}

/// A chain that counts one further at each step.
fn counting(first: u64, steps: u64) -> Signature {
    chain((0..steps).map(|n| match n {
        0 => Signature::from(add::s(first, 1)),
        _ => Signature::from(add::partial(1)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_shape_comes_to_what_it_says() {
        let app = Canvas::builder().task::<add>().task::<total>();
        let app = app.build().unwrap();
        let worker = app.worker().start().await.unwrap();
        for shape in [
            Shape::Chain(1),
            Shape::Chain(7),
            Shape::Chord(9),
            Shape::ChordOfChains(4, 3),
        ] {
            let result = app.apply(shape.canvas()).await.unwrap();
            assert_eq!(result.get().await.unwrap(), shape.value(), "{shape:?}");
        }
        worker.stop().await;
    }
}
