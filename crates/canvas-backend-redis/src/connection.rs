//! One connection that all calls share.

use std::sync::Arc;
use std::time::Duration;

use canvas_core::Result;
use canvas_redis::Server;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;

pub(crate) use canvas_redis::wrong_type;

/// The connection that all calls share, and their patience with it.
#[derive(Debug)]
pub(crate) struct Link {
    link: canvas_redis::Link,
    retry_for: Duration,
}

impl Link {
    /// A link that connects when it is first used.
    pub(crate) fn new(server: Arc<Server>, retry_for: Duration) -> Self {
        Self {
            link: canvas_redis::Link::new("canvas-backend", server),
            retry_for,
        }
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        self.link.server()
    }

    /// Makes a call that may be made twice, and makes it again if the
    /// connection is lost.
    ///
    /// # Errors
    /// [`Error::Connection`](canvas_core::Error::Connection) if it still fails
    /// after a while, and whatever the server refuses it for.
    pub(crate) async fn call<T, F>(
        &self,
        operation: &'static str,
        call: impl FnMut(MultiplexedConnection) -> F,
    ) -> Result<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.link
            .call_patiently(operation, self.retry_for, call)
            .await
    }
}
