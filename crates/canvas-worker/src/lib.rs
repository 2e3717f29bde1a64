//! The worker of canvas: it takes messages from the broker, runs their tasks,
//! and commits what follows from each.
//!
//! ```
//! use canvas_core::{Arguments, Canvas, Ctx, Task, TaskError};
//! use canvas_worker::WorkerExt;
//! use serde_json::{Value, json};
//!
//! /// A task by hand; `#[task]` writes this for a function.
//! #[derive(Default)]
//! struct Double;
//!
//! #[async_trait::async_trait]
//! impl Task for Double {
//!     fn name(&self) -> &str {
//!         "double"
//!     }
//!
//!     async fn run(&self, _: Ctx, call: Arguments) -> Result<Value, TaskError> {
//!         Ok(json!(call.args[0].as_i64().unwrap_or(0) * 2))
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
//! let app = Canvas::builder().task::<Double>().build()?;
//! let worker = app.worker().start().await?;
//! assert_eq!(app.send("double", [21]).await?.get().await?, json!(42));
//! worker.stop().await;
//! # Ok::<(), canvas_core::Error>(()) }).unwrap();
//! ```
//!
//! A task is acknowledged after what follows it is committed. If the worker
//! dies in between, the message is delivered again when its lease ends, and
//! doing it all again changes nothing more.

mod builtins;
mod control;
mod execute;
mod flight;
mod hold;
mod roster;
mod run;
mod unlock;
mod worker;

pub use worker::{Running, Worker, WorkerExt};
