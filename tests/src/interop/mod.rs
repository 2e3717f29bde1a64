//! The tasks that Celery's own integration tests call, under their names, for
//! a worker in Rust.
//!
//! Those tests are in Celery's source archive, in `t/integration`; what their
//! tasks do is written down here anew. What a task does besides returning a
//! value goes into [`Notes`].

mod asking;
mod failing;
mod nested;
mod notes;
mod plain;
mod python;
mod recording;
mod replacing;

pub use notes::Notes;

use canvas::{Builder, Canvas};

/// The module that the tasks are in, as far as Python can tell.
const MODULE: &str = "t.integration.tasks";

/// An application that knows all of the tasks.
pub fn builder(notes: &Notes) -> Builder {
    let builder = Canvas::builder().configure(|config| config.result_extended = true);
    let builder = plain::add_to(builder);
    let builder = failing::add_to(builder);
    let builder = replacing::add_to(builder, notes);
    let builder = asking::add_to(builder);
    let builder = nested::add_to(builder);
    recording::add_to(builder, notes)
}

/// The full name of a task.
fn name(task: &str) -> String {
    format!("{MODULE}.{task}")
}

/// A call of one of the tasks.
pub fn call(task: &str) -> canvas::Signature {
    canvas::Signature::new(name(task))
}
