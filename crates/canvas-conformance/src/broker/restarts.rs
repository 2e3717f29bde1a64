//! What outlives the server's own process.

use std::collections::BTreeSet;
use std::time::Duration;

use canvas_core::Error;
use canvas_core::broker::{ConsumeSpec, Consumer, Settle};
use tokio::time::{Instant, sleep};

use super::{LEASE, MOMENT, NEVER, Port, consume, id, message, next, nothing, settle, to};
use crate::BrokerFixture;

/// How long a server may take to read what it kept.
const RECOVERY: Duration = Duration::from_secs(120);

/// Consumes as soon as the server lets one: it answers some time before it has
/// read what it kept, and until then a connection may be lost again.
async fn consume_again(broker: &Port) -> Box<dyn Consumer> {
    let end = Instant::now() + RECOVERY;
    loop {
        let spec = ConsumeSpec {
            queues: vec!["q".into()],
            prefetch: 9,
            lease: NEVER,
        };
        match broker.consume(spec).await {
            Err(Error::Connection { .. }) if Instant::now() < end => sleep(MOMENT).await,
            consumer => return consumer.unwrap(),
        }
    }
}

pub(super) async fn what_was_confirmed_is_there_after_a_restart(fixture: BrokerFixture) {
    let before = fixture.port();
    let batch = ["1", "2", "3"].map(|id| to("q", message(id)));
    before.publish(batch.to_vec()).await.unwrap();
    drop(before);
    let fixture = fixture.restart().await;
    let after = fixture.port();
    let mut consumer = consume_again(&after).await;
    for want in ["1", "2", "3"] {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.message, message(want));
        settle(&after, &delivery, Settle::Ack).await;
    }
    nothing(&mut consumer).await;
}

pub(super) async fn what_was_out_comes_again_after_a_restart(fixture: BrokerFixture) {
    let before = fixture.port();
    let batch = ["1", "2"].map(|id| to("q", message(id)));
    before.publish(batch.to_vec()).await.unwrap();
    let mut consumer = consume(&before, &["q"], 1, LEASE).await;
    next(&mut consumer).await;
    drop((before, consumer));
    let fixture = fixture.restart().await;
    let after = fixture.port();
    let mut consumer = consume_again(&after).await;
    let again = [next(&mut consumer).await, next(&mut consumer).await];
    let ids: BTreeSet<String> = again.iter().map(id).collect();
    assert_eq!(ids, BTreeSet::from(["1".to_owned(), "2".to_owned()]));
}
