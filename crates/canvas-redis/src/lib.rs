//! What the Redis drivers of canvas share: the server that a URL names,
//! connections that come back, and what an error means.
//!
//! An implementation detail of `canvas-broker-redis` and `canvas-backend-redis`,
//! published only because each of them can be used without the other: nothing
//! here is for use by itself, and any of it may change.

mod backoff;
mod fault;
mod health;
mod link;
mod queues;
mod script;
mod sentinel;
mod server;
mod tls;
mod url;

pub use backoff::Backoff;
pub use fault::{Fault, wrong_type};
pub use link::{Link, Live};
pub use queues::{Companion, Queues, Seat};
pub use script::run_script;
pub use sentinel::SentinelOptions;
pub use server::{Server, ServerOptions};
