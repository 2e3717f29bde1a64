//! Celery's canvas in Rust: tasks, and workflows made of them, run in the
//! background by workers.
//!
//! A **signature** is a call that has not happened yet. Signatures compose: a
//! **chain** runs one after the other, a **group** side by side, a **chord**
//! feeds a group's results to a body, and a [`Primitive`] is a way of your own.
//!
//! ```
//! use canvas::prelude::*;
//!
//! #[task]
//! async fn add(x: i64, y: i64) -> i64 {
//!     x + y
//! }
//!
//! #[task]
//! async fn total(numbers: Vec<i64>) -> i64 {
//!     numbers.iter().sum()
//! }
//!
//! #[tokio::main]
//! async fn main() -> canvas::Result<()> {
//!     let app = Canvas::builder().task::<add>().task::<total>().build()?;
//!     let worker = app.worker().start().await?;
//!
//!     let sums = (1..=3).map(|n| add::s(n, n));
//!     let result = typed_chord(sums, total::partial()).apply(&app).await?;
//!     assert_eq!(result.get().await?, 12);
//!
//!     worker.stop().await;
//!     Ok(())
//! }
//! ```
//!
//! # Features
//!
//! * `macros` (default): the [`task`](macro@task) attribute.
//! * `worker` (default): running tasks. A program that only sends them can do
//!   without.
//!
//! * `redis`: `redis://` as broker and as result backend, through
//!   [`connect`](Connect::connect).
//! * `amqp`: RabbitMQ as broker, `amqp://`, in the same way.
//! * `rpc`: `rpc://` as result backend: results as messages to whoever sent the
//!   task, over RabbitMQ.
//! * `memcache`: Memcached as result backend, `memcached://`.
//! * `postgres`, `mysql`, `sqlite`: `postgres://`, `mysql://` or `mariadb://`, and
//!   `sqlite://` as result backend, likewise. `sql-tls`: TLS to these.
//!
//! Broker and backend are in this process (`memory://`) where nothing else is
//! asked for. Messages and results have the form that Celery 5.7 gives them.

pub use canvas_core::{
    Arguments, AsyncResult, Backend, Broker, Builder, Canvas, ChordParts, Committer, Config, Ctx,
    Effect, Env, Error, ExceptionInfo, Explanation, Failure, Group, GroupResult, HeaderForm, Id,
    Ids, Kwargs, Message, Options, Outcome, Policy, Primitive, PrimitiveRegistry, Request, Result,
    ResultTree, RetryPolicy, RetryRequest, Route, Shape, Sig, Signature, StampingVisitor, Stamps,
    State, Task, TaskError, TaskMeta, TaskOptions, TypedResult, Wait, advance, backend, broker,
    chain, chord, chunks, group, map, memory, protocol, result, starmap, typed_chord, typed_group,
};
#[cfg(feature = "macros")]
pub use canvas_macros::task;
#[cfg(feature = "worker")]
pub use canvas_worker::{Running, Worker, WorkerExt};

mod connect;

#[cfg(feature = "memcache")]
pub use canvas_backend_memcache as backend_memcache;
#[cfg(feature = "redis")]
pub use canvas_backend_redis as backend_redis;
#[cfg(feature = "rpc")]
pub use canvas_backend_rpc as backend_rpc;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub use canvas_backend_sql as backend_sql;
#[cfg(feature = "amqp")]
pub use canvas_broker_amqp as broker_amqp;
#[cfg(feature = "redis")]
pub use canvas_broker_redis as broker_redis;

pub use connect::Connect;

#[doc(hidden)]
pub use canvas_core::__private;

/// What a program that uses canvas needs at hand: `use canvas::prelude::*`.
pub mod prelude {
    #[cfg(feature = "macros")]
    pub use canvas_macros::task;
    #[cfg(feature = "worker")]
    pub use canvas_worker::WorkerExt;

    pub use crate::Connect;

    pub use canvas_core::{
        Canvas, Ctx, Group, Policy, Primitive, Sig, Signature, TaskError, chain, chord, chunks,
        group, map, starmap, typed_chord, typed_group,
    };
}
