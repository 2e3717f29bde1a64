//! A task message, read: what the worker runs and what follows.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::{Body, Embed, Headers, Message, Properties, Reply, Sealed, v1};
use crate::error::{Error, Result};
use crate::id::Id;
use crate::signature::Kwargs;

/// The header of a message that may have been sent before: whoever sends it
/// does something again, after a fault. Whoever gets it looks for a result
/// before it runs the task. Python workers pay no heed.
pub(crate) const REPEAT: &str = "canvas-repeat";

/// One run of a task: Celery's request, `self.request` in a bound task.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The id of the task.
    pub id: Id,
    /// The name of the task.
    pub task: Arc<str>,
    /// Positional arguments.
    pub args: Vec<Value>,
    /// Keyword arguments.
    pub kwargs: Kwargs,
    /// What follows.
    pub embed: Embed,
    /// The headers, read.
    pub headers: Headers,
    /// The properties.
    pub properties: Properties,
    /// How the message came.
    pub delivery: DeliveryInfo,
}

/// How a message came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryInfo {
    /// The queue.
    pub queue: Arc<str>,
    /// Whether it came before and was not settled.
    pub redelivered: bool,
}

impl Request {
    /// Reads a message, of protocol version 2 or 1.
    ///
    /// # Errors
    /// [`Error::MalformedMessage`], with the id and the task as far as they
    /// can be told.
    pub fn decode(message: &Message, delivery: DeliveryInfo) -> Result<Self> {
        let headers = &message.headers;
        let fail = |reason: String| Error::MalformedMessage {
            reason,
            id: headers.id.clone(),
            task: headers.task.as_deref().map(str::to_owned),
        };
        let content_type = &*message.properties.content_type;
        if content_type != "application/json" {
            return Err(fail(format!(
                "content type `{content_type}` is refused: only application/json is accepted, \
                 send with serializer='json'"
            )));
        }
        // A driver that can unpack the body takes the header off.
        if let Some(compression) = headers.extra.get("compression").and_then(Value::as_str) {
            return Err(fail(format!(
                "the body is compressed with {compression}, which is not supported: \
                 send it without compression"
            )));
        }
        if let Some(problem) = &headers.problem {
            return Err(fail(problem.to_string()));
        }
        let Some(task) = headers.task.clone() else {
            return v1::decode(message, delivery);
        };
        let Some(id) = headers.id.clone() else {
            return Err(fail("header `id` is missing".to_owned()));
        };
        let Body(args, kwargs, embed) =
            Body::from_json(&message.body).map_err(|e| fail(e.to_string()))?;
        Ok(Self {
            id,
            task,
            args,
            kwargs,
            embed,
            headers: headers.clone(),
            properties: message.properties.clone(),
            delivery,
        })
    }

    /// What can still be read of a message that [`decode`](Self::decode)
    /// refuses: a request that cannot be run, but through which all that
    /// follows it can be told that it failed. None, where even that is lost.
    pub fn salvage(message: &Message, delivery: DeliveryInfo) -> Option<Self> {
        if message.properties.content_type != "application/json" {
            return None;
        }
        let headers = &message.headers;
        let what = "what follows a malformed message";
        let (_, _, embed): (IgnoredAny, IgnoredAny, Embed) =
            crate::json::parse(&message.body, what).ok()?;
        Some(Self {
            id: headers.id.clone()?,
            task: headers.task.clone().unwrap_or_else(|| "?".into()),
            args: Vec::new(),
            kwargs: Map::new(),
            embed,
            headers: headers.clone(),
            properties: message.properties.clone(),
            delivery,
        })
    }

    /// The message that sends this request again, as a retry does.
    ///
    /// # Errors
    /// [`Error::Encoding`] when the arguments are nested too deeply.
    pub fn encode(&self) -> Result<Message> {
        let body = Body(self.args.clone(), self.kwargs.clone(), self.embed.clone());
        Ok(Message {
            headers: self.headers.clone(),
            properties: self.properties.clone(),
            body: body.to_json()?,
        })
    }

    /// The first task of the canvas: itself, if nobody said.
    pub fn root_id(&self) -> Id {
        self.headers
            .root_id
            .clone()
            .unwrap_or_else(|| self.id.clone())
    }

    /// Whether the task may have run to its end before: the message came
    /// before, or the same was sent before.
    pub fn may_be_repeat(&self) -> bool {
        self.delivery.redelivered || self.headers.extra.contains_key(REPEAT)
    }

    /// Where its states are sent, if they are sent at all.
    pub fn reply(&self) -> Option<Reply> {
        let properties = &self.properties;
        let own = || self.id.clone();
        Some(Reply {
            to: properties.reply_to.clone()?,
            correlation_id: properties.correlation_id.clone().unwrap_or_else(own),
        })
    }

    /// How often it was tried before.
    pub fn retries(&self) -> u32 {
        self.headers.retries
    }

    /// Hard time limit of this call.
    pub fn time_limit(&self) -> Option<Duration> {
        limit(self.headers.timelimit.0)
    }

    /// Soft time limit of this call.
    pub fn soft_time_limit(&self) -> Option<Duration> {
        limit(self.headers.timelimit.1)
    }

    /// Whether the call is past its date at `now`.
    pub fn has_expired(&self, now: DateTime<Utc>) -> bool {
        self.headers.expires.is_some_and(|expires| now > expires)
    }

    /// Whether this task is a member of a chord's header.
    pub fn is_in_chord(&self) -> bool {
        self.embed.chord.is_some() && self.headers.group.is_some()
    }

    /// The steps still to come, the next one last.
    pub(crate) fn chain(&self) -> &[Sealed] {
        self.embed.chain.as_deref().unwrap_or_default()
    }

    /// The request as an error callback sees it.
    pub fn to_value(&self) -> Value {
        let headers = &self.headers;
        json!({
            "id": self.id.as_str(),
            "task": &*self.task,
            "args": self.args,
            "kwargs": self.kwargs,
            "root_id": headers.root_id,
            "parent_id": headers.parent_id,
            "group": headers.group,
            "group_index": headers.group_index,
            "retries": headers.retries,
            "eta": headers.eta.map(crate::options::format_time),
            "expires": headers.expires.map(crate::options::format_time),
            "origin": &*headers.origin,
            "stamps": headers.stamps,
            "stamped_headers": headers.stamped_headers,
            "headers": headers.extra,
            "delivery_info": {
                "routing_key": &*self.delivery.queue,
                "redelivered": self.delivery.redelivered,
                "priority": self.properties.priority,
            },
        })
    }

    /// A request that stands for a task that never ran: the body of a chord
    /// whose header failed.
    pub(crate) fn stand_in(id: Id, task: &str, like: &Request) -> Self {
        Self {
            id: id.clone(),
            task: task.into(),
            args: Vec::new(),
            kwargs: Map::new(),
            embed: Embed::default(),
            headers: Headers {
                task: Some(task.into()),
                id: Some(id),
                root_id: like.headers.root_id.clone(),
                origin: like.headers.origin.clone(),
                ..Headers::default()
            },
            properties: Properties::default(),
            delivery: like.delivery.clone(),
        }
    }
}

fn limit(seconds: Option<f64>) -> Option<Duration> {
    seconds.and_then(|s| Duration::try_from_secs_f64(s).ok())
}
