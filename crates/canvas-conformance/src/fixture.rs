//! What a constructor gives: a port, and what must live as long.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use canvas_core::{Backend, Broker};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

/// What a behaviour needs of the port that it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Need {
    /// That it is fresh and empty.
    Fresh,
    /// That what it stores goes soon: in a second or a few, as the store can be
    /// trusted to keep time, and said with [`Fixture::expiring_after`]. Asked of
    /// backends only. One that has no expiry gives what it has.
    Expiry,
    /// That what is behind it can be ended and started again, with
    /// [`Fixture::restarting`]. A port that loses everything then gives what it
    /// has.
    Restart,
}

/// A backend to be tested.
pub type BackendFixture = Fixture<dyn Backend>;

/// A broker to be tested.
pub type BrokerFixture = Fixture<dyn Broker>;

/// A port to be tested, and what must live as long as it, such as its server.
pub struct Fixture<P: ?Sized> {
    port: Arc<P>,
    expiry: Option<Duration>,
    restart: Option<Restart<P>>,
    /// Dropped last.
    guards: Vec<Box<dyn Any>>,
}

type Restart<P> = Box<dyn FnOnce() -> LocalBoxFuture<'static, Fixture<P>>>;

impl<P: ?Sized> Fixture<P> {
    /// A port that needs nothing else.
    pub fn new(port: Arc<P>) -> Self {
        Self {
            port,
            expiry: None,
            restart: None,
            guards: Vec::new(),
        }
    }

    /// Keeps something until the test is over: what ends the server when it is
    /// dropped, or a folder.
    #[must_use]
    pub fn keep(mut self, guard: impl Any) -> Self {
        self.guards.push(Box::new(guard));
        self
    }

    /// Says after how long what this port stores is gone, for [`Need::Expiry`].
    #[must_use]
    pub fn expiring_after(mut self, expiry: Duration) -> Self {
        self.expiry = Some(expiry);
        self
    }

    /// Says how to end what is behind the port, without warning, and start it
    /// again, for [`Need::Restart`]; gives a port to what has started. Where there
    /// is no server, that is to drop the port and to make another.
    #[must_use]
    pub fn restarting<F>(mut self, restart: impl FnOnce() -> F + 'static) -> Self
    where
        F: Future<Output = Self> + 'static,
    {
        self.restart = Some(Box::new(|| restart().boxed_local()));
        self
    }

    pub(crate) fn port(&self) -> Arc<P> {
        self.port.clone()
    }

    pub(crate) fn expiry(&self) -> Duration {
        let advice = "this port says that what it stores expires: have the constructor make one \
                      in which it does so soon, for `Need::Expiry`, and say with \
                      `Fixture::expiring_after` how soon";
        self.expiry.expect(advice)
    }

    /// The port after a restart.
    pub(crate) async fn restart(self) -> Self {
        let advice = "this port says that it is persistent: have the constructor say how to \
                      restart it, for `Need::Restart`, with `Fixture::restarting`";
        let restart = self.restart.expect(advice);
        drop(self.port);
        let mut after = restart().await;
        after.guards.extend(self.guards);
        after
    }
}

impl<P: ?Sized + fmt::Debug> fmt::Debug for Fixture<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixture")
            .field("port", &self.port)
            .field("expiry", &self.expiry)
            .field("restarts", &self.restart.is_some())
            .finish_non_exhaustive()
    }
}
