//! Protocol version 1, which Celery wrote before 4.0 and still reads.

use serde_json::{Map, Value};

use super::{DeliveryInfo, Embed, Headers, Message, Request, Sealed};
use crate::error::{Error, Result};
use crate::id::Id;
use crate::signature::Signature;

/// Reads a version 1 message: one object that holds everything.
pub(super) fn decode(message: &Message, delivery: DeliveryInfo) -> Result<Request> {
    let Ok(Value::Object(mut map)) = crate::json::parse(&message.body, "a message body") else {
        return Err(Error::malformed(
            "no `task` header (protocol 2) and no JSON object as body (protocol 1)",
        ));
    };
    let text = |map: &Map<String, Value>, key: &str| {
        map.get(key).and_then(Value::as_str).map(str::to_owned)
    };
    let (task, id) = (text(&map, "task"), text(&map, "id").map(Id::from));
    let fail = |reason: &str| Error::MalformedMessage {
        reason: reason.to_owned(),
        id: id.clone(),
        task: task.clone(),
    };
    let (Some(task), Some(id)) = (task.clone(), id.clone()) else {
        return Err(fail("a version 1 message needs `task` and `id`"));
    };
    let args = match map.shift_remove("args") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(args)) => args,
        Some(_) => return Err(fail("`args` must be a list")),
    };
    let kwargs = match map.shift_remove("kwargs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(kwargs)) => kwargs,
        Some(_) => return Err(fail("`kwargs` must be an object")),
    };
    let mut sealed = |key: &str| -> Result<Option<Vec<Sealed>>> {
        let items = match map.shift_remove(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(items)) => items,
            Some(one) => vec![one],
        };
        let seal = |item| Sealed::new(&Signature::from_value(item)?);
        items.into_iter().map(seal).collect::<Result<_>>().map(Some)
    };
    let embed = Embed {
        callbacks: sealed("callbacks")?,
        errbacks: sealed("errbacks")?,
        chain: None,
        chord: sealed("chord")?.and_then(|mut list| list.pop()),
    };
    // The rest has the names and types of the headers of version 2.
    if map.get("group").is_none_or(Value::is_null)
        && let Some(taskset) = map.shift_remove("taskset")
    {
        map.insert("group".to_owned(), taskset);
    }
    let mut headers = Headers::from_map(map);
    headers.extra.clear();
    if let Some(problem) = &headers.problem {
        return Err(fail(problem));
    }
    headers.task = Some(task.as_str().into());
    headers.id = Some(id.clone());
    Ok(Request {
        id,
        task: task.into(),
        args,
        kwargs,
        embed,
        headers,
        properties: message.properties.clone(),
        delivery,
    })
}
