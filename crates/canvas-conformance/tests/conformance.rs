//! The drivers in memory, which are the reference for all others.

mod backends {
    use std::sync::Arc;
    use std::time::Duration;

    use canvas_conformance::{BackendFixture, Need};
    use canvas_core::memory::MemoryBackend;

    async fn memory(need: Need) -> BackendFixture {
        match need {
            Need::Expiry => {
                let expiry = Duration::from_secs(10);
                let backend = MemoryBackend::with_expiry(Some(expiry));
                BackendFixture::new(Arc::new(backend)).expiring_after(expiry)
            }
            _ => BackendFixture::new(Arc::new(MemoryBackend::new())),
        }
    }

    canvas_conformance::backend_suite!(memory, paused);
}

mod brokers {
    use std::sync::Arc;

    use canvas_conformance::{BrokerFixture, Need};
    use canvas_core::memory::MemoryBroker;

    async fn memory(_: Need) -> BrokerFixture {
        BrokerFixture::new(Arc::new(MemoryBroker::new()))
    }

    canvas_conformance::broker_suite!(memory, paused);
}
