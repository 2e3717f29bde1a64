//! Celery's canvas in Rust: signatures and how they compose, what a finished
//! task does, and the ports to brokers and backends, with one of each that
//! lives in this process.
//!
//! Most programs use the `canvas` crate, which re-exports this one together
//! with the worker and the drivers.
//!
//! ```
//! use canvas_core::{Canvas, Signature, chain, group};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let app = Canvas::in_memory();
//! let add = |n: i64| Signature::new("tasks.add").arg(n);
//! let canvas = group([add(1).arg(2), add(3).arg(4)]) | Signature::new("tasks.tsum");
//!
//! let result = app.apply(canvas).await?;
//! // Two messages wait for a worker: the body follows when both are done.
//! assert_eq!(app.broker().len("celery").await?, 2);
//! assert_eq!(result.parent().and_then(|header| header.as_group()).unwrap().len(), 2);
//! # Ok::<(), canvas_core::Error>(()) }).unwrap();
//! ```
//!
//! The parts, in the order in which a call passes through them:
//! [`Signature`] → [`Signature::freeze`] → [`Canvas::apply`] → [`Broker`] →
//! (a worker runs the [`Task`]) → [`advance()`] → [`Effect`]s → [`Committer`] →
//! [`Backend`] → [`AsyncResult`].

pub mod advance;
mod app;
pub mod backend;
pub mod broker;
mod commit;
mod config;
mod context;
mod effect;
mod error;
mod exception;
mod explain;
mod freeze;
mod id;
pub mod json;
mod lazy;
pub mod memory;
mod options;
mod plan;
mod policy;
mod primitive;
pub mod protocol;
pub mod result;
mod sequence;
mod signature;
mod stamp;
mod state;
pub mod task;
pub mod together;
mod typed;

pub use advance::{Outcome, advance};
pub use app::{Builder, CONTROL_EXCHANGE, Canvas, hostname};
pub use backend::Backend;
pub use broker::Broker;
pub use commit::{Committed, Committer, Errbacks, JOIN_CLAIM};
pub use config::{Config, Route};
pub use context::{Ctx, RetryRequest, inside_task};
pub use effect::{Arrive, Effect, Errback, Step};
pub use error::{Error, Result};
pub use exception::ExceptionInfo;
pub use explain::{Explanation, PlannedMessage};
pub use id::{Id, Ids};
pub use json::MAX_DEPTH;
pub use lazy::Group;
pub use options::{Options, format_time, parse_time};
pub use plan::Env;
pub use policy::Policy;
pub use primitive::{Primitive, PrimitiveRegistry, chain, chord, chunks, group, map, starmap};
pub use protocol::{Message, Request, TaskMeta};
pub use result::{AsyncResult, GroupResult, ResultTree, Wait};
pub use sequence::{Completion, Sequence, Work};
pub use signature::{ChordParts, HeaderForm, Kwargs, Shape, Signature};
pub use stamp::{StampingVisitor, Stamps};
pub use state::State;
pub use task::{Arguments, Failure, RetryPolicy, Task, TaskError, TaskOptions};
pub use together::Together;
pub use typed::{Sig, TypedResult, typed_chord, typed_group};

/// What `#[task]` writes refers to. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use std::time::Duration;

    pub use async_trait::async_trait;
    pub use serde_json::Value;

    pub use crate::context::Ctx;
    pub use crate::task::{
        Arguments, Bound, RetryPolicy, Task, TaskError, TaskOptions, blocking, encode,
    };
    pub use crate::typed::to_value;
}
