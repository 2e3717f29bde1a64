//! Hearing what PostgreSQL tells.

use canvas_core::Id;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::store::Store;

/// Something heard.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "postgres"),
    expect(dead_code, reason = "nothing is told")
)]
pub(crate) enum Heard {
    /// A task has ended.
    Result(Id),
    /// Results are told from now on.
    Listening,
    /// They are not.
    Deaf,
}

/// Hears of results, where the database tells.
#[derive(Debug)]
pub(crate) struct Ears {
    heard: mpsc::UnboundedReceiver<Heard>,
    /// Keeps the receiver open where nothing is told.
    _kept: mpsc::UnboundedSender<Heard>,
    task: Option<JoinHandle<()>>,
}

impl Ears {
    pub(crate) fn open(store: &Store) -> Self {
        let (sender, heard) = mpsc::unbounded_channel();
        Self {
            task: start(store, &sender),
            _kept: sender,
            heard,
        }
    }

    /// The next thing heard. May be dropped and asked again.
    pub(crate) async fn next(&mut self) -> Heard {
        match self.heard.recv().await {
            Some(heard) => heard,
            // We hold the other end ourselves.
            None => std::future::pending().await,
        }
    }

    /// What was heard already.
    pub(crate) fn now(&mut self) -> Option<Heard> {
        self.heard.try_recv().ok()
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[cfg(not(feature = "postgres"))]
fn start(_: &Store, _: &mpsc::UnboundedSender<Heard>) -> Option<JoinHandle<()>> {
    None
}

#[cfg(feature = "postgres")]
fn start(store: &Store, sender: &mpsc::UnboundedSender<Heard>) -> Option<JoinHandle<()>> {
    // A pool of its own: its one connection must not be missing in the other.
    let others = store.database.postgres()?;
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(store.database.retry_for())
        .connect_lazy_with(others.connect_options().as_ref().clone());
    let channel = store.tables.channel.clone();
    Some(tokio::spawn(listen(pool, channel, sender.clone())))
}

/// Listens for ever, through lost connections.
#[cfg(feature = "postgres")]
async fn listen(pool: sqlx::PgPool, channel: String, sender: mpsc::UnboundedSender<Heard>) {
    use crate::database::Backoff;

    // Sending fails only once nobody listens, and then this task ends.
    let mut backoff = Backoff::new();
    loop {
        let mut is_well = false;
        let ended = session(&pool, &channel, &sender, &mut is_well).await;
        if is_well {
            backoff = Backoff::new();
        }
        tracing::debug!(error = %ended, "no connection to hear of results by: looking for them");
        let _ = sender.send(Heard::Deaf);
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// One connection's life.
#[cfg(feature = "postgres")]
async fn session(
    pool: &sqlx::PgPool,
    channel: &str,
    sender: &mpsc::UnboundedSender<Heard>,
    is_well: &mut bool,
) -> sqlx::Error {
    let listening = async {
        let mut listener = sqlx::postgres::PgListener::connect_with(pool).await?;
        listener.listen(channel).await?;
        *is_well = true;
        let _ = sender.send(Heard::Listening);
        loop {
            let _ = match listener.try_recv().await? {
                Some(told) => sender.send(Heard::Result(told.payload().into())),
                // It has a new connection.
                None => sender.send(Heard::Listening),
            };
        }
    };
    let ended: Result<std::convert::Infallible, sqlx::Error> = listening.await;
    match ended {
        Err(error) => error,
    }
}
