//! What a broker shows to a backend on the same server, so that both commit in
//! one step.

use std::fmt::Debug;
use std::sync::Arc;

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

    /// A seat for the one message that follows a delivery, to be put into this
    /// list: at the consumer that has the delivery, if it has nothing else to
    /// do.
    fn seat(&self, receipt: &Receipt, list: &str) -> Option<Box<dyn Seat>>;

    /// Takes note that a delivery is not out any more.
    fn landed(&self, receipt: &Receipt);
}

/// A place at a consumer, kept free for a message. It is given up when this is
/// dropped.
pub trait Seat: Send + Sync + Debug {
    /// The tag that the message is recorded under.
    fn tag(&self) -> &str;

    /// What follows the message in its record.
    fn tail(&self) -> &str;

    /// What is added to the time, in seconds, to make the score of the tag.
    fn offset(&self) -> f64;

    /// The lists that go before: if one of them has a message, that is next,
    /// and the one that follows has to wait in line.
    fn lists(&self) -> &[String];

    /// The message was recorded as out at this consumer.
    fn take(self: Box<Self>, message: Vec<u8>);
}

/// What [`Broker::companion`](canvas_core::Broker::companion) gives.
pub type Companion = Arc<dyn Queues>;
