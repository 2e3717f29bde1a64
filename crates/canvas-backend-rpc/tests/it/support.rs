//! The small words of the tests.

#[path = "../../../../tests/kit/log.rs"]
mod log;

use std::sync::Arc;
use std::time::{Duration, Instant};

use canvas::prelude::*;
use canvas::{Backend, Builder};
use canvas_backend_rpc::{RpcBackend, RpcBackendConfig};

pub(crate) use crate::rabbit::{Rabbit, Vhost};
pub(crate) use log::{keep_log, logged};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[task(name = "tests.add")]
pub(crate) async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task(name = "tests.total")]
pub(crate) async fn total(numbers: Vec<i64>) -> i64 {
    numbers.iter().sum()
}

#[task(name = "tests.fail")]
pub(crate) async fn fail(why: String) -> Result<i64, TaskError> {
    Err(TaskError::msg(why))
}

/// Says where it is, and goes on when there is a file of that name.
#[task(name = "tests.wait")]
pub(crate) async fn wait(ctx: &Ctx, file: String) -> Result<String, TaskError> {
    ctx.update_state("WAITING", serde_json::json!({ "for": file }))
        .await?;
    while !std::path::Path::new(&file).exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok("done".to_owned())
}

/// Fails once and then succeeds.
#[task(name = "tests.flaky")]
pub(crate) async fn flaky(ctx: &Ctx, pause: f64) -> Result<u32, TaskError> {
    if ctx.retries() == 0 {
        let pause = Duration::from_secs_f64(pause);
        return Err(ctx
            .retry()
            .countdown(pause)
            .because(TaskError::msg("not yet")));
    }
    Ok(ctx.retries())
}

/// Sends a task of its own.
#[task(name = "tests.launch")]
pub(crate) async fn launch(ctx: &Ctx) -> Result<String, TaskError> {
    let child = ctx.launch(add::s(1, 1)).await?;
    Ok(child.id().to_string())
}

#[task(name = "tests.quote")]
pub(crate) async fn quote(text: String) -> String {
    format!("`{text}`")
}

/// Wants to be replaced by a chord.
#[task(name = "tests.joined")]
pub(crate) async fn joined(ctx: &Ctx) -> Result<i64, TaskError> {
    Err(ctx.replace(typed_chord([add::s(1, 1), add::s(2, 2)], total::partial())))
}

impl Vhost {
    pub(crate) fn backend(&self) -> Arc<dyn Backend> {
        self.backend_with(RpcBackendConfig::default())
    }

    pub(crate) fn backend_with(&self, config: RpcBackendConfig) -> Arc<dyn Backend> {
        RpcBackend::new("rpc://", &self.url(), config).unwrap()
    }

    /// An application as one writes it, without tasks: another process, as far
    /// as the server can tell.
    pub(crate) fn builder(&self) -> Builder {
        Canvas::builder()
            .broker_url(&self.url())
            .backend_url("rpc://")
    }

    pub(crate) fn client(&self) -> Canvas {
        self.builder().connect().unwrap()
    }

    /// One with tasks.
    pub(crate) fn app(&self) -> Canvas {
        with_tasks(self.builder()).connect().unwrap()
    }

    /// The names of the reply queues there are: all but the tasks' and those of
    /// remote control.
    pub(crate) fn reply_queues(&self) -> Vec<String> {
        let queues = self.list("queues");
        let names = queues.iter().filter_map(|queue| queue["name"].as_str());
        let own = names.filter(|name| *name != "celery" && !name.contains("celery.pidbox"));
        own.map(str::to_owned).collect()
    }
}

pub(crate) fn with_tasks(builder: Builder) -> Builder {
    builder
        .task::<add>()
        .task::<total>()
        .task::<fail>()
        .task::<wait>()
        .task::<flaky>()
        .task::<launch>()
        .task::<quote>()
        .task::<joined>()
}

/// A file that is not there yet.
pub(crate) fn no_file(name: &str) -> String {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = dir.join(format!("rpc-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path.to_str().unwrap().to_owned()
}

/// Waits until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
