//! Rejected messages: read without being taken.

use canvas_core::Result;
use canvas_core::broker::DeadLetter;
use canvas_core::protocol::Headers;
use chrono::{DateTime, Utc};
use lapin::options::BasicGetOptions;
use serde_json::Value;

use crate::hub::Hub;
use crate::layout::dead_queue;
use crate::link::{fault, is_not_found};
use crate::wire;

/// The header with the reason.
pub(crate) const REASON: &str = "x-canvas-reason";

/// The header with the time.
pub(crate) const AT: &str = "x-canvas-rejected-at";

impl Hub {
    /// The dead letters of a queue, oldest first. They are taken on a channel
    /// that then ends, which puts them back where they were.
    pub(crate) async fn dead_letters(&self, queue: &str) -> Result<Vec<DeadLetter>> {
        const OPERATION: &str = "broker.dead_letters";
        let _reading = self.reading.lock().await;
        let (channel, _) = self.link.channel(OPERATION).await?;
        let name = wire::short(&dead_queue(queue))?;
        let mut letters = Vec::new();
        loop {
            let got = channel.basic_get(name.clone(), BasicGetOptions::default());
            match got.await {
                Ok(Some(got)) => {
                    let body = got.delivery.data.into();
                    letters.push(letter(
                        wire::decode(&got.delivery.properties, &body).message,
                    ));
                }
                Ok(None) => break,
                Err(error) if is_not_found(&error) => return Ok(letters),
                Err(error) => return Err(fault(OPERATION, &error)),
            }
        }
        let closed = channel.close(200, "done".into()).await;
        closed.map_err(|error| fault(OPERATION, &error))?;
        Ok(letters)
    }
}

fn letter(mut message: canvas_core::protocol::Message) -> DeadLetter {
    let reason = take(&mut message.headers, REASON);
    let at = take(&mut message.headers, AT);
    DeadLetter {
        reason: reason
            .as_ref()
            .and_then(Value::as_str)
            .unwrap_or("not told")
            .to_owned(),
        at: at
            .as_ref()
            .and_then(canvas_core::parse_time)
            .unwrap_or(DateTime::<Utc>::UNIX_EPOCH),
        message,
    }
}

fn take(headers: &mut Headers, name: &str) -> Option<Value> {
    headers.extra.shift_remove(name)
}
