//! Questions about a worker: Celery's `inspect` commands.

use std::collections::HashSet;

use canvas_core::{Config, TaskOptions, format_time};
use serde_json::{Map, Value, json};

use super::missing;
use crate::roster::{Entry, Stage};
use crate::run::Node;

/// The answer, or what is wrong with the question; None if there is no such
/// question. The names that begin with `dump_` are Celery's older ones.
pub(super) fn ask(
    node: &Node,
    question: &str,
    arguments: &Map<String, Value>,
) -> Option<Result<Value, String>> {
    Some(Ok(match question {
        "active" | "dump_active" => {
            let safe = flag(arguments, "safe");
            let active = |entry: &Entry| matches!(entry.stage, Stage::Active { .. });
            list(node, active, |entry| info(node, entry, safe))
        }
        "reserved" | "dump_reserved" => {
            let reserved = |entry: &Entry| matches!(entry.stage, Stage::Reserved);
            list(node, reserved, |entry| info(node, entry, false))
        }
        "scheduled" | "dump_schedule" => {
            let scheduled = |entry: &Entry| matches!(entry.stage, Stage::Scheduled);
            list(node, scheduled, |entry| {
                json!({
                    "eta": entry.request.headers.eta.map(format_time),
                    "priority": 6,
                    "request": info(node, entry, false),
                })
            })
        }
        "query_task" => match arguments.get("ids") {
            None => return Some(Err(missing("query_task", "ids"))),
            Some(ids) => query(node, ids),
        },
        "revoked" | "dump_revoked" => json!(node.revoked.ids()),
        "registered" | "dump_tasks" => registered(node, arguments),
        "stats" => stats(node),
        "active_queues" => node.queues.iter().map(|name| queue(name)).collect(),
        "conf" | "dump_conf" => conf(node, flag(arguments, "with_defaults")),
        "report" => json!({ "ok": report(node) }),
        _ => return None,
    }))
}

fn list(node: &Node, wanted: impl Fn(&Entry) -> bool, show: impl Fn(&Entry) -> Value) -> Value {
    node.roster.list(wanted).iter().map(show).collect()
}

/// A task in hand.
fn info(node: &Node, entry: &Entry, safe: bool) -> Value {
    let request = &entry.request;
    let headers = &request.headers;
    let (args, kwargs) = if safe {
        (json!(headers.argsrepr), json!(headers.kwargsrepr))
    } else {
        (json!(request.args), json!(request.kwargs))
    };
    let since = match &entry.stage {
        Stage::Active { since, .. } => Some(since.timestamp_micros() as f64 / 1e6),
        _ => None,
    };
    json!({
        "id": request.id,
        "name": &*request.task,
        "args": args,
        "kwargs": kwargs,
        "type": &*request.task,
        "hostname": node.name,
        "time_start": since,
        "acknowledged": entry.acknowledged,
        "delivery_info": {
            "exchange": "",
            "routing_key": &*request.delivery.queue,
            "priority": request.properties.priority.unwrap_or(0),
            "redelivered": request.delivery.redelivered,
        },
        "worker_pid": since.map(|_| std::process::id()),
    })
}

/// The state in which each of these tasks is, as far as they are here.
fn query(node: &Node, ids: &Value) -> Value {
    let ids: HashSet<&str> = match ids {
        Value::Array(ids) => ids.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let found = node
        .roster
        .list(|entry| ids.contains(entry.request.id.as_str()));
    let found = found.iter().map(|entry| {
        let state = match entry.stage {
            Stage::Active { .. } => "active",
            Stage::Reserved => "reserved",
            Stage::Scheduled => "scheduled",
        };
        let id = entry.request.id.to_string();
        (id, json!([state, info(node, entry, false)]))
    });
    Value::Object(found.collect())
}

/// The tasks by name, each with those of its settings that were asked for.
fn registered(node: &Node, arguments: &Map<String, Value>) -> Value {
    let asked = arguments.get("taskinfoitems").and_then(Value::as_array);
    let items: Vec<&str> = match asked.filter(|items| !items.is_empty()) {
        Some(items) => items.iter().filter_map(Value::as_str).collect(),
        None => vec!["exchange", "routing_key", "rate_limit"],
    };
    let builtins = flag(arguments, "builtins");
    let tasks = node.app.tasks();
    let names = tasks
        .names()
        .filter(|name| builtins || !name.starts_with("celery."));
    let shown = names.map(|name| {
        let settings: Vec<String> = tasks
            .options(name)
            .into_iter()
            .flat_map(|options| items.iter().filter_map(|item| setting(options, item)))
            .collect();
        if settings.is_empty() {
            name.to_owned()
        } else {
            format!("{name} [{}]", settings.join(" "))
        }
    });
    shown.collect::<Vec<String>>().into()
}

/// A setting of a task by Celery's name for it, if it has one.
fn setting(options: &TaskOptions, item: &str) -> Option<String> {
    let seconds = |d: std::time::Duration| d.as_secs_f64().to_string();
    let yes = |yes: bool| if yes { "True" } else { "False" }.to_owned();
    let value = match item {
        "queue" | "routing_key" => options.queue.clone()?,
        "priority" => options.priority?.to_string(),
        "ignore_result" => yes(options.ignore_result),
        "acks_late" => yes(options.acks_late?),
        "track_started" => yes(options.track_started?),
        "time_limit" => seconds(options.time_limit?),
        "soft_time_limit" => seconds(options.soft_time_limit?),
        "expires" => seconds(options.expires?),
        "max_retries" => options.retry.max_retries?.to_string(),
        "default_retry_delay" => seconds(options.retry.delay),
        _ => return None,
    };
    Some(format!("{item}={value}"))
}

fn stats(node: &Node) -> Value {
    let broker = node.broker().info();
    let transport = broker.url.split("://").next().unwrap_or_default();
    json!({
        "total": node.roster.total(),
        "pid": std::process::id(),
        // Text, in Celery too.
        "clock": node.clock.value().to_string(),
        "uptime": node.started.elapsed().as_secs(),
        "pool": {
            "implementation": concat!("canvas ", env!("CARGO_PKG_VERSION")),
            "max-concurrency": node.concurrency,
            "processes": [std::process::id()],
            "max-tasks-per-child": "N/A",
            "put-guarded-by-semaphore": true,
            "timeouts": [0, 0],
            "writes": {},
        },
        "broker": { "hostname": broker.url, "transport": transport },
        "prefetch_count": node.prefetch,
        "rusage": "N/A",
    })
}

/// A queue with its exchange, as Celery lists it.
fn queue(name: &str) -> Value {
    json!({
        "name": name,
        "exchange": {
            "name": name,
            "type": "direct",
            "arguments": null,
            "durable": true,
            "passive": false,
            "auto_delete": false,
            "delivery_mode": null,
            "no_declare": false,
        },
        "routing_key": name,
        "queue_arguments": null,
        "binding_arguments": null,
        "consumer_arguments": null,
        "durable": true,
        "exclusive": false,
        "auto_delete": false,
        "no_ack": false,
        "alias": null,
        "bindings": [],
        "no_declare": null,
        "expires": null,
        "message_ttl": null,
        "max_length": null,
        "max_length_bytes": null,
        "max_priority": null,
    })
}

/// The settings that differ from the defaults, or all. URLs are shown without
/// their passwords.
fn conf(node: &Node, with_defaults: bool) -> Value {
    let table = |config: &Config| match serde_json::to_value(config) {
        Ok(Value::Object(table)) => table,
        _ => Map::new(),
    };
    let defaults = table(&Config::default());
    let mut settings = table(node.app.config());
    let urls = [
        ("broker_url", node.broker().info().url),
        ("result_backend", node.app.backend().info().url),
    ];
    for (key, url) in urls {
        settings.insert(key.to_owned(), url.into());
    }
    settings.retain(|key, value| with_defaults || defaults.get(key) != Some(value));
    Value::Object(settings)
}

fn report(node: &Node) -> String {
    format!(
        "software -> canvas:{} rust:{}\nplatform -> system:{} arch:{}\n\
         broker -> {}\nresults -> {}\nsettings -> {}\n",
        env!("CARGO_PKG_VERSION"),
        env!("CARGO_PKG_RUST_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        node.broker().info().url,
        node.app.backend().info().url,
        conf(node, false),
    )
}

fn flag(arguments: &Map<String, Value>, name: &str) -> bool {
    let flag = arguments.get(name).and_then(Value::as_bool);
    flag.unwrap_or(false)
}
