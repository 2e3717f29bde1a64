//! Calling tasks off.

use std::collections::BTreeMap;

use canvas_core::protocol::python_repr;
use canvas_core::{ExceptionInfo, Id, Request, State, TaskMeta};
use chrono::Utc;
use serde_json::{Map, Value, json};

use super::{Done, missing};
use crate::roster::Stage;
use crate::run::Node;

/// `revoke`: by id, or a list of ids.
pub(super) fn by_id(node: &Node, arguments: &Map<String, Value>) -> Result<Done, String> {
    let ids: Vec<Id> = match arguments.get("task_id") {
        None => return Err(missing("revoke", "task_id")),
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_str).map(Id::from).collect(),
        Some(one) => one.as_str().map(Id::from).into_iter().collect(),
    };
    for id in &ids {
        node.revoked.add(id.clone());
    }
    let terminate = terminates(arguments);
    let found = node.roster.call_off(|r| ids.contains(&r.id), terminate);
    tracing::info!(?ids, terminate, "called off");
    let answer = match (terminate, found.as_slice()) {
        (false, _) => format!("tasks {} flagged as revoked", set(&ids)),
        (true, []) => "terminate: tasks unknown".to_owned(),
        (true, found) => format!("terminate: {}", list(found)),
    };
    // The state of what runs here is for the task to decide.
    let running = node.roster.list(|entry| {
        matches!(entry.stage, Stage::Active { .. }) && ids.contains(&entry.request.id)
    });
    let is_running = |id: &Id| running.iter().any(|entry| entry.request.id == *id);
    Ok(Done::CalledOff {
        ids: ids.into_iter().filter(|id| !is_running(id)).collect(),
        answer: json!({ "ok": answer }),
    })
}

/// `revoke_by_stamped_headers`: an object of stamps and the values that are
/// called off, or a list of `stamp=value`.
pub(super) fn by_stamp(node: &Node, arguments: &Map<String, Value>) -> Result<Done, String> {
    let headers: Map<String, Value> = match arguments.get("headers") {
        Some(Value::Object(headers)) => headers.clone(),
        Some(Value::Array(pairs)) => {
            let pairs = pairs.iter().filter_map(Value::as_str);
            let pairs = pairs.filter_map(|pair| pair.split_once('='));
            pairs.map(|(k, v)| (k.to_owned(), v.into())).collect()
        }
        _ => return Err(missing("revoke_by_stamped_headers", "headers")),
    };
    for (name, values) in &headers {
        for value in each(values) {
            node.revoked.add_stamp(name, value.clone());
        }
    }
    let shown = python_repr(&Value::Object(headers.clone()));
    let answer = if !terminates(arguments) {
        format!("headers {shown} flagged as revoked, but not terminated")
    } else {
        let running = node
            .roster
            .list(|entry| matches!(entry.stage, Stage::Active { .. }));
        let mut stopped: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for entry in &running {
            for (name, value) in hits(&entry.request, &headers) {
                stopped.entry(name).or_default().push(value);
            }
        }
        let hit = |request: &Request| !hits(request, &headers).is_empty();
        node.roster.call_off(hit, true);
        if stopped.is_empty() {
            format!("headers {shown} were not terminated")
        } else {
            format!("headers {} revoked", python_repr(&json!(stopped)))
        }
    };
    Ok(Done::Answer(json!({ "ok": answer })))
}

/// Stores that tasks were called off, where nothing else has become of them:
/// whoever waits need not wait until a worker comes across the message.
pub(super) async fn store(node: &Node, ids: Vec<Id>) {
    let backend = node.app.backend();
    if !backend.info().shared {
        // Only the message says whom to tell.
        return;
    }
    let found = match backend.load(&ids).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "what was called off cannot be marked as such");
            return;
        }
    };
    for (id, meta) in ids.into_iter().zip(found) {
        let untouched = meta.is_none_or(|meta| {
            matches!(
                meta.status,
                State::Pending | State::Received | State::Retry | State::Rejected
            )
        });
        if !untouched {
            continue;
        }
        let mut meta = TaskMeta::new(id, State::Revoked);
        meta.result = ExceptionInfo::celery("TaskRevokedError", "revoked").to_value();
        meta.date_done = Some(Utc::now());
        if let Err(error) = backend.store(&meta).await {
            tracing::warn!(%error, "what was called off cannot be marked as such");
        }
    }
}

fn terminates(arguments: &Map<String, Value>) -> bool {
    let terminate = arguments.get("terminate").and_then(Value::as_bool);
    terminate.unwrap_or(false)
}

/// The stamps of a request that are among these.
fn hits<'a>(request: &Request, headers: &'a Map<String, Value>) -> Vec<(&'a str, Value)> {
    let mut hits = Vec::new();
    for (name, values) in headers {
        let Some(own) = request.headers.stamps.get(name) else {
            continue;
        };
        let values: Vec<&Value> = each(values).collect();
        let own = each(own).filter(|value| values.contains(value));
        hits.extend(own.map(|value| (name.as_str(), value.clone())));
    }
    hits
}

/// The members of a list, or the one value.
fn each(values: &Value) -> impl Iterator<Item = &Value> {
    match values {
        Value::Array(values) => values.as_slice(),
        one => std::slice::from_ref(one),
    }
    .iter()
}

/// As Python shows a set.
fn set(ids: &[Id]) -> String {
    if ids.is_empty() {
        return "set()".to_owned();
    }
    let ids: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
    format!("{{{}}}", ids.join(", "))
}

fn list(ids: &[Id]) -> String {
    let ids: Vec<&str> = ids.iter().map(Id::as_str).collect();
    ids.join(", ")
}
