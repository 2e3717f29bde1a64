//! Remote control: so far, calling tasks off.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use canvas_core::broker::Subscription;
use canvas_core::{Ctx, Id, Message};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::run::Node;

/// How many ids are remembered, as in Celery.
const REMEMBERED: usize = 50_000;

/// The tasks that were called off, and those that can be stopped.
#[derive(Debug, Default)]
pub struct Revoked(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    ids: HashSet<Id>,
    order: VecDeque<Id>,
    running: HashMap<Id, (Ctx, CancellationToken)>,
}

impl Revoked {
    /// Remembers that a task was called off; with `terminate` it is stopped
    /// if it runs here.
    pub fn add(&self, id: Id, terminate: bool) {
        let mut state = self.state();
        if let Some((ctx, token)) = state.running.get(&id) {
            ctx.set_revoked();
            if terminate {
                token.cancel();
            }
        }
        if state.ids.insert(id.clone()) {
            state.order.push_back(id);
        }
        if state.order.len() > REMEMBERED
            && let Some(oldest) = state.order.pop_front()
        {
            state.ids.remove(&oldest);
        }
    }

    /// Whether a task was called off.
    pub fn contains(&self, id: &Id) -> bool {
        self.state().ids.contains(id)
    }

    /// Notes that a task runs; the token says when to stop it.
    pub(crate) fn started(&self, ctx: &Ctx) -> CancellationToken {
        let token = CancellationToken::new();
        let running = (ctx.clone(), token.clone());
        self.state().running.insert(ctx.id().clone(), running);
        token
    }

    pub(crate) fn ended(&self, id: &Id) {
        self.state().running.remove(id);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next command; never, without a subscription.
pub(crate) async fn next(commands: &mut Option<Box<dyn Subscription>>) -> Message {
    while let Some(subscription) = commands {
        match subscription.next().await {
            Ok(Some((_, message))) => return message,
            Ok(None) => *commands = None,
            Err(error) => {
                tracing::warn!(%error, "remote control failed; trying again");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
    std::future::pending().await
}

/// Does what a command says, if it is for this node.
pub(crate) fn obey(node: &Node, message: Message) {
    let Ok(command) = serde_json::from_slice::<Value>(&message.body) else {
        tracing::warn!("a remote control command is no JSON");
        return;
    };
    if let Some(names) = command["destination"].as_array()
        && !names.iter().any(|name| *name == node.name.as_str())
    {
        return;
    }
    let arguments = &command["arguments"];
    match command["method"].as_str() {
        Some("revoke") => {
            let terminate = arguments["terminate"].as_bool().unwrap_or(false);
            let ids = match &arguments["task_id"] {
                Value::Array(ids) => ids.iter().collect(),
                one => vec![one],
            };
            for id in ids.into_iter().filter_map(Value::as_str) {
                node.revoked.add(Id::from(id), terminate);
            }
        }
        other => tracing::warn!(method = other, "unknown remote control command"),
    }
}
