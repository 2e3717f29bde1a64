//! Celery's message protocol and result format: the only place with wire names.
//!
//! Version 2 is written, version 1 is read as well. Celery's description:
//! <https://docs.celeryq.dev/en/stable/internals/protocol.html>

mod body;
mod fields;
mod group;
mod headers;
mod meta;
pub(crate) mod reference;
pub(crate) mod repr;
mod request;
pub(crate) mod saferepr;
mod sealed;
mod v1;

pub use body::{Body, Embed};
pub use fields::Fields;
pub use group::GroupMeta;
pub use headers::{Headers, Properties};
pub use meta::{Reply, TaskMeta};
pub use reference::REFERENCE;
pub use repr::value as python_repr;
pub(crate) use request::REPEAT;
pub use request::{DeliveryInfo, Request};
pub use sealed::Sealed;

use bytes::Bytes;

/// A task message, whatever carries it.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// What the worker needs to know before it reads the body.
    pub headers: Headers,
    /// What the transport needs to know.
    pub properties: Properties,
    /// `[args, kwargs, embed]` as JSON, for protocol version 2.
    pub body: Bytes,
}
