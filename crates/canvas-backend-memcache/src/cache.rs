//! The servers, and calls to them that are tried again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use canvas_core::{Error, Result};
use memcache::exp::{self, AsyncMetaClient, Delete, Get, Meta, Op, Set, Ttl};
use tokio::time::Instant;

use crate::config::MemcacheBackendConfig;
use crate::keys::Keys;
use crate::servers::{Highest, Servers};

/// How many items one request names at most. It is written before the answers are
/// read, and both must fit into what the system buffers.
pub(crate) const BATCH: usize = 256;

/// The pause before the first attempt to do a call again, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// What Celery's clients take for text, and not for bytes, where they tell.
pub(crate) const TEXT: u32 = 16;

/// What went wrong with a call.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The connection broke: the same call may succeed in a moment. Whether the
    /// server did what it was asked is not known.
    Passing(exp::Error),
    /// The server answered, and will not do it, of this item.
    Refused(String, exp::Error),
    Final(Error),
}

pub(crate) type Done<T> = std::result::Result<T, Fault>;

impl From<exp::Error> for Fault {
    fn from(error: exp::Error) -> Self {
        match error {
            exp::Error::Io(_) | exp::Error::Timeout { .. } | exp::Error::Protocol(_) => {
                Self::Passing(error)
            }
            // That the server has refused it is an outcome, too.
            exp::Error::Ambiguous { key, source } => match Self::from(*source) {
                Self::Passing(source) => Self::Passing(exp::Error::Ambiguous {
                    key,
                    source: Box::new(source),
                }),
                refused => refused,
            },
            other => Self::Refused(String::new(), other),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// An item, and by what to see that nobody has changed it.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) value: Vec<u8>,
    pub(crate) cas: u64,
}

/// All servers as one.
pub(crate) struct Cache {
    pub(crate) config: MemcacheBackendConfig,
    pub(crate) keys: Keys,
    servers: Servers,
    /// Names are resolved when it is made, so one that failed is made anew.
    client: Mutex<Option<AsyncMetaClient>>,
}

impl Cache {
    pub(crate) fn new(url: &str, config: MemcacheBackendConfig) -> Result<Self> {
        Ok(Self {
            keys: Keys::new(&config.global_keyprefix),
            config,
            servers: Servers::parse(url)?,
            client: Mutex::default(),
        })
    }

    /// The URL as people may see it.
    pub(crate) fn url(&self) -> &str {
        &self.servers.shown
    }

    /// Makes a call that may be made twice, and makes it again if a connection is
    /// lost. It is told whether it is made again.
    ///
    /// # Errors
    /// [`Error::Connection`] if it still fails after a while, and whatever the
    /// server refuses it for.
    pub(crate) async fn call<T, F>(
        &self,
        operation: &'static str,
        mut call: impl FnMut(AsyncMetaClient, bool) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Done<T>>,
    {
        let started = Instant::now();
        let (mut pause, longest) = PAUSE;
        let mut again = false;
        loop {
            let tried = match self.client().await {
                Ok(client) => call(client, again).await,
                Err(error) => Err(error.into()),
            };
            let error = match tried {
                Ok(done) => return Ok(done),
                Err(Fault::Passing(error)) => error,
                Err(Fault::Refused(key, error)) => return Err(self.refused(operation, &key, error)),
                Err(Fault::Final(error)) => return Err(error),
            };
            *self.there() = None;
            if started.elapsed() + pause > self.config.retry_for {
                return Err(Error::Connection {
                    operation,
                    reason: format!(
                        "{}: {error}; tried for {:.1?}; is it running, and reachable from here?",
                        self.url(),
                        started.elapsed()
                    ),
                });
            }
            tracing::debug!(%error, operation, "trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
            again = true;
        }
    }

    fn refused(&self, operation: &'static str, key: &str, error: exp::Error) -> Error {
        let what = match key {
            "" => "a value".to_owned(),
            key => format!("`{key}`"),
        };
        let url = self.url();
        let reason = match &error {
            exp::Error::Server(said) if said.contains("too large") => format!(
                "{operation}: {url}: {said}; raise the item limit, as with `memcached -I 8m`, or \
                 store a reference to what is large"
            ),
            exp::Error::Usage(_) => format!("{operation}: {error}; use shorter ids"),
            _ => {
                let hint = match &error {
                    exp::Error::Rejected(_) => "; is it Memcached 1.6 or later?",
                    exp::Error::Server(_) => "; is its memory full? Give it more with `-m`",
                    _ => "",
                };
                return Error::Connection {
                    operation,
                    reason: format!("{url}: {error}{hint}"),
                };
            }
        };
        Error::Encoding {
            action: "store",
            what,
            reason,
        }
    }

    async fn client(&self) -> exp::Result<AsyncMetaClient> {
        if let Some(client) = self.there().clone() {
            return Ok(client);
        }
        let connections = self.config.max_connections.max(1);
        let client = AsyncMetaClient::builder()
            .router(Highest {
                joins: self.keys.joins(),
            })
            .max_connections(Some(connections))
            .max_idle(connections)
            .connect_timeout(Some(self.config.connect_timeout))
            .io_timeout(Some(self.config.response_timeout))
            .connect_multiple_async(self.servers.addresses.iter().map(String::as_str))
            .await?;
        Ok(self.there().get_or_insert(client).clone())
    }

    fn there(&self) -> MutexGuard<'_, Option<AsyncMetaClient>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An item; `None` if there is none.
pub(crate) async fn get(client: &AsyncMetaClient, key: &str) -> Done<Option<Item>> {
    let found = client
        .run(Get::new(key).meta(Meta::NONE.cas()))
        .await
        .map_err(|error| about(key, error))?;
    Ok(found.value.map(|value| Item {
        value,
        cas: found.item.cas.unwrap_or_default(),
    }))
}

/// The values of many, in the order asked for. With a `ttl`, their lives begin
/// anew.
pub(crate) async fn get_many(
    client: &AsyncMetaClient,
    keys: &[String],
    ttl: Option<Ttl>,
) -> Done<Vec<Option<Vec<u8>>>> {
    let mut values = Vec::with_capacity(keys.len());
    for keys in keys.chunks(BATCH) {
        let gets = keys.iter().map(|key| match ttl {
            Some(ttl) => Get::new(key).touch(ttl),
            None => Get::new(key),
        });
        let found = client.run_many(gets).await?;
        for (key, found) in keys.iter().zip(found) {
            values.push(found.map_err(|error| about(key, error))?.value);
        }
    }
    Ok(values)
}

/// Stores an item if there is none; tells whether it did.
pub(crate) async fn add(client: &AsyncMetaClient, item: Set) -> Done<bool> {
    store(client, item.add()).await
}

/// Stores an item if nobody has changed it since; tells whether it did.
pub(crate) async fn swap(client: &AsyncMetaClient, item: Set, cas: u64) -> Done<bool> {
    store(client, item.compare_cas(cas)).await
}

/// Stores an item, whether there is one or not.
pub(crate) async fn store(client: &AsyncMetaClient, item: Set) -> Done<bool> {
    let key = String::from_utf8_lossy(&item.key).into_owned();
    let stored = client.run(item).await.map_err(|error| about(&key, error))?;
    Ok(stored.applied())
}

/// Removes items, if they are there.
pub(crate) async fn delete(client: &AsyncMetaClient, keys: &[String]) -> Done<()> {
    for keys in keys.chunks(BATCH) {
        let deletes = keys.iter().map(|key| Op::from(Delete::new(key)));
        for deleted in client.run_batch(deletes).await? {
            deleted?;
        }
    }
    Ok(())
}

/// Removes an item if nobody has changed it since; tells whether it did.
pub(crate) async fn delete_as_read(client: &AsyncMetaClient, key: &str, cas: u64) -> Done<bool> {
    let deleted = client.run(Delete::new(key).compare_cas(cas)).await;
    Ok(deleted.map_err(|error| about(key, error))?.applied())
}

/// Says of which item an error is.
pub(crate) fn about(key: &str, error: exp::Error) -> Fault {
    match error.into() {
        Fault::Refused(_, error) => Fault::Refused(key.to_owned(), error),
        other => other,
    }
}
