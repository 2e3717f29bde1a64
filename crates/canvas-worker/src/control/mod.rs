//! Remote control: commands that reach every worker, and their answers, as
//! Celery's `pidbox` sends them.
//!
//! <https://docs.celeryq.dev/en/stable/userguide/workers.html#remote-control>

mod inspect;
mod reply;
mod revoke;
mod revoked;

use std::sync::Arc;
use std::time::Duration;

use canvas_core::broker::Subscription;
use canvas_core::protocol::python_repr;
use canvas_core::{Id, Message};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::run::Node;

pub(crate) use reply::Clock;
pub(crate) use revoked::Revoked;

/// A command, as it is sent.
#[derive(Debug, Deserialize)]
struct Command {
    method: String,
    #[serde(default)]
    arguments: Option<Map<String, Value>>,
    /// The nodes it is for; none or an empty list means all.
    #[serde(default)]
    destination: Option<Vec<String>>,
    /// Else, a pattern of their names, and how to read it.
    #[serde(default)]
    pattern: Option<String>,
    #[serde(default)]
    matcher: Option<String>,
    #[serde(default)]
    reply_to: Option<reply::Address>,
    #[serde(default)]
    ticket: Option<String>,
}

/// What has become of a command.
enum Done {
    /// This is the answer.
    Answer(Value),
    /// The answer comes when the backend knows that these were called off.
    CalledOff { ids: Vec<Id>, answer: Value },
}

/// The next command; never, without a subscription.
pub(crate) async fn next(commands: &mut Option<Box<dyn Subscription>>) -> Message {
    while let Some(subscription) = commands {
        match subscription.next().await {
            Ok(Some((_, message))) => return message,
            Ok(None) => *commands = None,
            Err(error) => {
                tracing::warn!(%error, "remote control failed; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    std::future::pending().await
}

/// Does what a command says, if it is for this node. What is called off is so
/// when this returns; the answer is sent in the background.
pub(crate) fn obey(node: &Arc<Node>, message: Message) {
    let clock = message.headers.extra.get("clock").and_then(Value::as_u64);
    node.clock.adjust(clock.unwrap_or(0));
    let command: Command = match serde_json::from_slice(&message.body) {
        Ok(command) => command,
        Err(error) => {
            tracing::warn!(%error, "a remote control command cannot be read");
            return;
        }
    };
    if !command.is_for(&node.name) {
        return;
    }
    let done = command.perform(node);
    let node = node.clone();
    tokio::spawn(async move {
        let answer = match done {
            Ok(Done::Answer(answer)) => answer,
            Ok(Done::CalledOff { ids, answer }) => {
                revoke::store(&node, ids).await;
                answer
            }
            Err(problem) => {
                tracing::warn!(method = command.method, problem, "remote control");
                json!({ "error": problem })
            }
        };
        if let Some(address) = command.reply_to {
            reply::send(&node, address, command.ticket, answer).await;
        }
    });
}

impl Command {
    fn is_for(&self, name: &str) -> bool {
        if let Some(names) = self.destination.as_ref().filter(|names| !names.is_empty()) {
            return names.iter().any(|it| it == name);
        }
        let (Some(pattern), Some(matcher)) = (&self.pattern, &self.matcher) else {
            return true;
        };
        match (matcher.as_str(), glob::Pattern::new(pattern)) {
            ("glob", Ok(pattern)) => pattern.matches(name),
            _ => {
                tracing::warn!(
                    pattern,
                    matcher,
                    "only patterns of the kind `glob` are understood"
                );
                false
            }
        }
    }

    /// Does it. An error is text as Python would show it.
    fn perform(&self, node: &Node) -> Result<Done, String> {
        let none = Map::new();
        let arguments = self.arguments.as_ref().unwrap_or(&none);
        let answer = match self.method.as_str() {
            "ping" => json!({ "ok": "pong" }),
            "revoke" => return revoke::by_id(node, arguments),
            "terminate" => {
                let mut arguments = arguments.clone();
                arguments.insert("terminate".to_owned(), Value::Bool(true));
                return revoke::by_id(node, &arguments);
            }
            "revoke_by_stamped_headers" => return revoke::by_stamp(node, arguments),
            "clock" => json!({ "clock": node.clock.value() }),
            "hello" => return Ok(Done::Answer(hello(node, arguments))),
            other => match inspect::ask(node, other, arguments) {
                Some(answer) => answer?,
                None => return Err(format!("KeyError({})", python_repr(&other.into()))),
            },
        };
        Ok(Done::Answer(answer))
    }
}

/// Another worker has started, and asks what it must know: Celery's mingle.
fn hello(node: &Node, arguments: &Map<String, Value>) -> Value {
    if arguments.get("from_node").and_then(Value::as_str) == Some(&node.name) {
        return Value::Null;
    }
    // A list of ids; up to Celery 5.6, an object with the ids as keys.
    let known: Vec<Id> = match arguments.get("revoked") {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_str).map(Id::from).collect(),
        Some(Value::Object(ids)) => ids.keys().map(|id| Id::from(id.as_str())).collect(),
        _ => Vec::new(),
    };
    for id in known {
        node.revoked.add(id);
    }
    json!({ "revoked": node.revoked.ids(), "clock": node.clock.forward() })
}

/// What Python says of a call without an argument that it needs.
fn missing(command: &str, argument: &str) -> String {
    let text = format!("{command}() missing 1 required positional argument: '{argument}'");
    format!("TypeError({})", python_repr(&text.into()))
}
