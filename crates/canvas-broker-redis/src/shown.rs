//! What a backend on the same server sees of this broker.

use std::sync::Arc;

use async_trait::async_trait;
use canvas_core::Result;
use canvas_core::broker::{Outgoing, Receipt};
use canvas_redis::{Queues, Seat};

use crate::hub::Hub;
use crate::scripts;

/// A broker, as its companion sees it.
#[derive(Debug)]
pub(crate) struct Shown(pub(crate) Arc<Hub>);

#[async_trait]
impl Queues for Shown {
    fn server_id(&self) -> String {
        self.0.server.id().to_owned()
    }

    fn out(&self) -> [&str; 2] {
        [&self.0.layout.unacked, &self.0.layout.index]
    }

    fn ack_script(&self) -> &'static str {
        scripts::ACK_SOURCE
    }

    async fn address(&self, outgoing: &Outgoing) -> Result<(Vec<String>, Vec<u8>)> {
        self.0.address(outgoing).await
    }

    fn seat(&self, receipt: &Receipt, list: &str) -> Option<Box<dyn Seat>> {
        self.0.seat(receipt, list)
    }

    fn landed(&self, receipt: &Receipt) {
        self.0.landed(&receipt.tag);
    }
}
