//! Answering a command.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use canvas_core::Message;
use canvas_core::broker::{Destination, Outgoing};
use canvas_core::protocol::{Headers, Properties};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::run::Node;

/// Where an answer is wanted.
#[derive(Debug, Deserialize)]
pub(super) struct Address {
    exchange: Arc<str>,
    routing_key: Arc<str>,
}

/// A Lamport clock: later events have higher numbers, whichever node they
/// are on.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    /// The last number given.
    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The next number.
    pub(crate) fn forward(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Goes past a number from another node.
    pub(crate) fn adjust(&self, other: u64) {
        self.0.fetch_max(other, Ordering::Relaxed);
        self.forward();
    }
}

/// Sends the answer of this node.
pub(super) async fn send(node: &Node, to: Address, ticket: Option<String>, answer: Value) {
    let mut body = Map::new();
    body.insert(node.name.clone(), answer);
    let headers = Headers {
        extra: [
            ("ticket".to_owned(), json!(ticket)),
            ("clock".to_owned(), json!(node.clock.forward())),
        ]
        .into_iter()
        .collect(),
        ..Headers::default()
    };
    let outgoing = Outgoing {
        to: Destination {
            exchange: to.exchange,
            routing_key: to.routing_key,
        },
        message: Message {
            headers,
            properties: Properties {
                // Nobody will ask for it after a restart of the broker.
                delivery_mode: 1,
                ..Properties::default()
            },
            body: Bytes::from(Value::Object(body).to_string()),
        },
    };
    if let Err(error) = node.broker().publish(vec![outgoing]).await {
        tracing::warn!(%error, "the answer to a remote control command is lost");
    }
}
