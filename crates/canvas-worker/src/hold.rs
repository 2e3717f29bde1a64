//! Deliveries that wait in the worker for their time, where the broker cannot
//! keep them back.

use std::time::Duration;

use canvas_core::broker::Delivery;
use chrono::Utc;
use futures_util::StreamExt;
use tokio_util::time::DelayQueue;

use crate::roster::Seat;

/// The queue's timer takes no more than about two years; what is further off
/// is looked at again after this long.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Deliveries by the time at which they may run. While they wait they are in
/// hand; then they are taken anew.
#[derive(Default)]
pub(crate) struct Hold(DelayQueue<(Delivery, Seat)>);

impl Hold {
    pub(crate) fn add(&mut self, delivery: Delivery, seat: Seat) {
        let eta = delivery.message.headers.eta;
        let wait = eta.and_then(|eta| (eta - Utc::now()).to_std().ok());
        self.0
            .insert((delivery, seat), wait.unwrap_or_default().min(LONGEST));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The next delivery whose time has come; never, if there is none.
    pub(crate) async fn due(&mut self) -> Delivery {
        match self.0.next().await {
            Some(expired) => expired.into_inner().0,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn drain(&mut self) -> Vec<Delivery> {
        let mut all = Vec::with_capacity(self.0.len());
        while let Some(key) = self.0.peek() {
            match self.0.try_remove(&key) {
                Some(expired) => all.push(expired.into_inner().0),
                None => break,
            }
        }
        all
    }
}
