//! The application: settings, tasks and the two connections.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;
use serde_json::{Value, json};

use crate::advance;
use crate::backend::Backend;
use crate::broker::Broker;
use crate::commit::Committer;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::id::Id;
use crate::memory::{MemoryBackend, MemoryBroker};
use crate::plan::{Env, RouteFn};
use crate::primitive::{Primitive, PrimitiveRegistry, needs_join, normalize};
use crate::protocol::{Headers, Message, Properties};
use crate::result::{AsyncResult, ResultTree};
use crate::signature::{Kwargs, Signature};
use crate::task::{Task, TaskRegistry};

/// The exchange of remote control commands.
pub const CONTROL_EXCHANGE: &str = "celery.pidbox";

/// An application: Celery's `app`. It sends canvases, and workers run its
/// tasks. A clone is another handle on the same one.
///
/// ```
/// use canvas_core::Canvas;
/// let app = Canvas::in_memory();
/// assert_eq!(app.config().task_default_queue, "celery");
/// ```
#[derive(Clone, Debug)]
pub struct Canvas(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    committer: Committer,
    primitives: PrimitiveRegistry,
}

impl Canvas {
    /// An application without tasks of its own, with everything in this
    /// process.
    pub fn in_memory() -> Self {
        // Nothing in the defaults can be refused.
        let builder = Builder {
            config: embedded(Config::default()),
            ..Builder::default()
        };
        builder.assemble(
            Arc::new(MemoryBroker::new()),
            Arc::new(MemoryBackend::new()),
        )
    }

    /// Starts an application with settings of your choice.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.env().config
    }

    /// The tasks.
    pub fn tasks(&self) -> &TaskRegistry {
        &self.env().tasks
    }

    /// The primitives of its own.
    pub fn primitives(&self) -> &PrimitiveRegistry {
        &self.0.primitives
    }

    /// Where messages go.
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.0.committer.broker
    }

    /// Where results go.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.0.committer.backend
    }

    /// What makes effects happen.
    pub fn committer(&self) -> &Committer {
        &self.0.committer
    }

    /// What planning needs to know.
    pub fn env(&self) -> &Env {
        &self.0.committer.env
    }

    /// Sends a canvas to the workers. The result is there at once, to be
    /// waited for; its ids are the signature's own, if it was frozen.
    ///
    /// Celery: `Signature.apply_async`.
    ///
    /// # Errors
    /// [`Error::InvalidCanvas`] before anything was sent;
    /// [`Error::Connection`] if the broker or the backend cannot be reached,
    /// with any part of it sent.
    pub async fn apply(&self, canvas: impl Into<Signature>) -> Result<AsyncResult> {
        self.apply_with(canvas, &[], &Kwargs::new()).await
    }

    /// [`apply`](Self::apply) with arguments that go before the signature's
    /// own, as if they came from a step before it.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn apply_with(
        &self,
        canvas: impl Into<Signature>,
        args: &[Value],
        kwargs: &Kwargs,
    ) -> Result<AsyncResult> {
        let canvas = canvas.into();
        self.check_joins(&canvas)?;
        let (effects, tree) = advance::apply(self.env(), canvas, args, kwargs, Utc::now())?;
        self.backend().expect(std::slice::from_ref(&tree)).await?;
        self.committer().send(effects).await?;
        Ok(AsyncResult::new(self.clone(), tree))
    }

    /// Calls a task by name: Celery's `send_task`.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn send<V: Into<Value>>(
        &self,
        task: &str,
        args: impl IntoIterator<Item = V>,
    ) -> Result<AsyncResult> {
        self.apply(Signature::new(task).args(args)).await
    }

    /// Refuses a canvas with a chord anywhere in it before any of it is sent,
    /// if nothing could join it.
    pub(crate) fn check_joins(&self, canvas: &Signature) -> Result<()> {
        let info = self.backend().info();
        if info.join || !needs_join(&normalize(canvas.clone())?) {
            return Ok(());
        }
        Err(Error::Unsupported {
            operation: "backend.open_join",
            driver: info.url,
            hint: "chords need a backend that can join, such as memory://".to_owned(),
        })
    }

    /// A handle on the result of a task, by id.
    pub fn result(&self, id: impl Into<Id>) -> AsyncResult {
        AsyncResult::new(self.clone(), ResultTree::task(id.into()))
    }

    /// A handle on a result tree that was kept as [`ResultTree`] or
    /// `as_tuple()`.
    pub fn result_of(&self, tree: ResultTree) -> AsyncResult {
        AsyncResult::new(self.clone(), tree)
    }

    /// A group that was saved; `None` if it was not, or has expired.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn restore_group(&self, id: impl Into<Id>) -> Result<Option<AsyncResult>> {
        let tree = self.backend().load_group(&id.into()).await?;
        Ok(tree.map(|tree| self.result_of(tree)))
    }

    /// Calls tasks off: workers that get one drop it as REVOKED, and with
    /// `terminate` stop it where it is running. What depends on it fails.
    ///
    /// Celery: `app.control.revoke`.
    ///
    /// # Errors
    /// The broker's error.
    pub async fn revoke(&self, ids: &[Id], terminate: bool) -> Result<()> {
        let arguments = json!({ "task_id": ids, "terminate": terminate, "signal": "SIGTERM" });
        self.broadcast("revoke", arguments).await
    }

    /// Sends a remote control command to all workers.
    ///
    /// # Errors
    /// The broker's error.
    pub async fn broadcast(&self, method: &str, arguments: Value) -> Result<()> {
        let body = json!({
            "method": method, "arguments": arguments, "destination": null,
            "pattern": null, "matcher": null, "ticket": null, "reply_to": null,
        });
        let message = Message {
            headers: Headers::default(),
            properties: Properties::default(),
            body: Bytes::from(crate::json::write(&body, "a control command")?),
        };
        self.broker().broadcast(CONTROL_EXCHANGE, "", message).await
    }
}

/// Opens a broker for a URL, with the settings of the application.
type BrokerDriver = Arc<dyn Fn(&Config) -> Result<Arc<dyn Broker>> + Send + Sync>;

/// Opens a backend for a URL, with the settings of the application.
type BackendDriver = Arc<dyn Fn(&Config) -> Result<Arc<dyn Backend>> + Send + Sync>;

/// Collects what an application is made of.
#[derive(Default)]
pub struct Builder {
    config: Config,
    broker: Option<Arc<dyn Broker>>,
    backend: Option<Arc<dyn Backend>>,
    broker_drivers: Vec<(&'static str, BrokerDriver)>,
    backend_drivers: Vec<(&'static str, BackendDriver)>,
    tasks: TaskRegistry,
    primitives: PrimitiveRegistry,
    router: Option<Arc<RouteFn>>,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("tasks", &self.tasks)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Replaces all settings.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Changes settings.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Reads settings from a TOML file.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn config_file(mut self, path: impl AsRef<Path>) -> Result<Self> {
        self.config = Config::from_file(path)?;
        Ok(self)
    }

    /// Overrides settings from the environment: see [`Config::with_env`].
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn env(mut self) -> Result<Self> {
        self.config = self.config.with_env()?;
        Ok(self)
    }

    /// The broker, by URL.
    #[must_use]
    pub fn broker_url(mut self, url: &str) -> Self {
        url.clone_into(&mut self.config.broker_url);
        self
    }

    /// The result backend, by URL.
    #[must_use]
    pub fn backend_url(mut self, url: &str) -> Self {
        url.clone_into(&mut self.config.result_backend);
        self
    }

    /// A broker of your own.
    #[must_use]
    pub fn broker(mut self, broker: Arc<dyn Broker>) -> Self {
        self.broker = Some(broker);
        self
    }

    /// A backend of your own.
    #[must_use]
    pub fn backend(mut self, backend: Arc<dyn Backend>) -> Self {
        self.backend = Some(backend);
        self
    }

    /// Adds a driver: `open` is asked for a broker if the scheme of
    /// `broker_url` is one of these. The facade's `connect` adds those that are
    /// compiled in.
    #[must_use]
    pub fn broker_driver(
        mut self,
        schemes: &[&'static str],
        open: impl Fn(&Config) -> Result<Arc<dyn Broker>> + Send + Sync + 'static,
    ) -> Self {
        let open: BrokerDriver = Arc::new(open);
        let drivers = schemes.iter().map(|scheme| (*scheme, open.clone()));
        self.broker_drivers.extend(drivers);
        self
    }

    /// Adds a driver: `open` is asked for a backend if the scheme of
    /// `result_backend` is one of these.
    #[must_use]
    pub fn backend_driver(
        mut self,
        schemes: &[&'static str],
        open: impl Fn(&Config) -> Result<Arc<dyn Backend>> + Send + Sync + 'static,
    ) -> Self {
        let open: BackendDriver = Arc::new(open);
        let drivers = schemes.iter().map(|scheme| (*scheme, open.clone()));
        self.backend_drivers.extend(drivers);
        self
    }

    /// Adds a task made by `#[task]`.
    #[must_use]
    pub fn task<T: Task + Default>(self) -> Self {
        self.task_object(Arc::new(T::default()))
    }

    /// Adds a task that was made in another way.
    #[must_use]
    pub fn task_object(mut self, task: Arc<dyn Task>) -> Self {
        self.tasks.add(task);
        self
    }

    /// Adds a primitive.
    #[must_use]
    pub fn primitive(mut self, primitive: impl Primitive) -> Self {
        self.primitives.add(Arc::new(primitive));
        self
    }

    /// Decides queues in code: `route` is asked before the task's own queue
    /// counts, after `task_routes`.
    #[must_use]
    pub fn route(mut self, route: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        self.router = Some(Arc::new(route));
        self
    }

    /// Builds it. Without drivers, `memory://` is the only scheme known.
    ///
    /// # Errors
    /// [`Error::UnknownScheme`], and what a driver says of a URL.
    pub fn build(mut self) -> Result<Canvas> {
        let broker = match self.broker.take() {
            Some(broker) => broker,
            None => match driver("broker", &self.config.broker_url, &self.broker_drivers)? {
                Some(open) => open(&self.config)?,
                None => Arc::new(MemoryBroker::new()),
            },
        };
        let backend = match self.backend.take() {
            Some(backend) => backend,
            None => match driver(
                "backend",
                &self.config.result_backend,
                &self.backend_drivers,
            )? {
                Some(open) => open(&self.config)?,
                None => {
                    self.config = embedded(self.config);
                    Arc::new(MemoryBackend::with_expiry(Some(self.config.result_expires)))
                }
            },
        };
        Ok(self.assemble(broker, backend))
    }

    fn assemble(self, broker: Arc<dyn Broker>, backend: Arc<dyn Backend>) -> Canvas {
        let env = Env {
            config: Arc::new(self.config),
            tasks: Arc::new(self.tasks),
            router: self.router,
            origin: format!("gen{}@{}", std::process::id(), hostname()).into(),
            reply_to: backend.reply_to().unwrap_or_else(Id::random),
            polled: backend.info().polled,
        };
        let together = match env.config.commit_together {
            true => backend.together(&*broker),
            false => None,
        };
        Canvas(Arc::new(Shared {
            committer: Committer {
                env,
                broker,
                backend,
                together,
            },
            primitives: self.primitives,
        }))
    }
}

/// No Python worker reads the messages of this process, so references are on.
fn embedded(mut config: Config) -> Config {
    config.continuation_reference_size.get_or_insert(2048);
    config
}

/// The driver for a URL; `None` for what is in this process.
fn driver<'a, D>(
    port: &'static str,
    url: &str,
    drivers: &'a [(&'static str, D)],
) -> Result<Option<&'a D>> {
    let scheme = url.split("://").next().unwrap_or(url);
    if scheme == "memory" {
        return Ok(None);
    }
    let found = drivers.iter().find(|(known, _)| *known == scheme);
    let known = drivers.iter().map(|(known, _)| *known);
    found
        .map(|(_, driver)| Some(driver))
        .ok_or_else(|| Error::UnknownScheme {
            port,
            scheme: scheme.to_owned(),
            known: ["memory"]
                .into_iter()
                .chain(known)
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// The name of this machine, for names of nodes.
pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_else(|| "localhost".to_owned())
}
