//! The deliveries that a worker has not settled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use canvas_core::broker::Receipt;

/// Receipts whose leases must be renewed.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Arc<str>, Receipt>>);

impl Flights {
    pub(crate) fn took_off(&self, receipt: &Receipt) {
        self.map().insert(receipt.tag.clone(), receipt.clone());
    }

    /// Forgets a delivery. If its lease was lost and the same message is out
    /// here again, that delivery flies on.
    pub(crate) fn landed(&self, receipt: &Receipt) {
        let mut map = self.map();
        if map.get(&receipt.tag) == Some(receipt) {
            map.remove(&receipt.tag);
        }
    }

    pub(crate) fn all(&self) -> Vec<Receipt> {
        self.map().values().cloned().collect()
    }

    fn map(&self) -> MutexGuard<'_, HashMap<Arc<str>, Receipt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
