//! What a broker shows to a backend on the same server, so that both commit in
//! one step.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use canvas_core::Result;
use canvas_core::broker::{Outgoing, Receipt};

/// The queues of a broker, as commands of Redis see them.
#[async_trait]
pub trait Queues: Send + Sync + Debug {
    /// Which server and database they are in.
    fn server_id(&self) -> String;

    /// The hash of the messages that are out, and the sorted set of their tags.
    fn out(&self) -> [&str; 2];

    /// The script that ends deliveries for good, of which [`out`](Self::out)
    /// are the keys and the tags the arguments. It gives the places of the tags
    /// that were not there, from 1.
    fn ack_script(&self) -> &'static str;

    /// The lists that a message goes to, with what is pushed to their left.
    /// The queues are declared first.
    ///
    /// # Errors
    /// [`Error::Connection`](canvas_core::Error::Connection), and
    /// [`Error::Encoding`](canvas_core::Error::Encoding) for what cannot be
    /// written as JSON.
    async fn address(&self, outgoing: &Outgoing) -> Result<(Vec<String>, Vec<u8>)>;

    /// Until when a delivery is nobody else's.
    fn lease_end(&self, receipt: &Receipt) -> Instant;

    /// Takes note that a delivery is not out any more.
    fn landed(&self, receipt: &Receipt);
}

/// What [`Broker::companion`](canvas_core::Broker::companion) gives.
pub type Companion = Arc<dyn Queues>;
