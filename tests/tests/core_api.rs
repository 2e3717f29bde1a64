//! The signature as a value: merging, callbacks, ids, equality, stamps, what of
//! it reaches the message, and what a canvas says of itself before it is sent.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

#[path = "core_api/callbacks.rs"]
mod callbacks;
#[path = "core_api/explaining.rs"]
mod explaining;
#[path = "core_api/freezing.rs"]
mod freezing;
#[path = "core_api/merging.rs"]
mod merging;
#[path = "core_api/routing.rs"]
mod routing;
#[path = "core_api/size.rs"]
mod size;
#[path = "core_api/stamps.rs"]
mod stamps;

use std::collections::HashSet;
use std::time::Duration;

use canvas::broker::{ConsumeSpec, Destination, Outgoing};
use canvas::protocol::Body;
use canvas::{
    Canvas, Effect, Error, Explanation, Group, Id, Kwargs, Message, Options, ResultTree, Shape,
    Signature, StampingVisitor, Stamps, advance, chain, chord, chunks, group, map,
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

fn t(name: &str) -> Signature {
    Signature::new(name)
}

fn map_of(value: Value) -> Kwargs {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

fn options(value: Value) -> Options {
    Options::from(map_of(value))
}

/// The members, steps or header of a canvas.
fn parts(canvas: &Signature) -> &[Signature] {
    match &canvas.shape {
        Shape::Chain(parts) | Shape::Group(parts) => parts,
        Shape::Chord(chord) => parts_of_header(&chord.header),
        other => panic!("no parts: {other:?}"),
    }
}

fn parts_of_header(header: &Signature) -> &[Signature] {
    match &header.shape {
        Shape::Group(parts) => parts,
        other => panic!("not a group: {other:?}"),
    }
}

fn body(canvas: &Signature) -> &Signature {
    match &canvas.shape {
        Shape::Chord(chord) => chord.body.as_ref().unwrap(),
        other => panic!("not a chord: {other:?}"),
    }
}

/// The messages that a client sends for a canvas.
fn sent(app: &Canvas, canvas: Signature) -> Vec<Outgoing> {
    let now = "2026-11-24T06:00:00Z".parse().unwrap();
    sent_at(app, canvas, now).unwrap()
}

fn sent_at(app: &Canvas, canvas: Signature, now: DateTime<Utc>) -> Result<Vec<Outgoing>, Error> {
    let (effects, _) = advance::apply(app.env(), canvas, &[], &Kwargs::new(), now)?;
    let outgoing = effects.into_iter().filter_map(|effect| match effect {
        Effect::Publish(outgoing) => Some(*outgoing),
        _ => None,
    });
    Ok(outgoing.collect())
}
