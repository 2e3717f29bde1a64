//! What outlives the store's own process.

use bytes::Bytes;
use canvas_core::ResultTree;
use canvas_core::backend::Arrival;

use super::{arrive, close, complete, failure, load, open, part, success, waiting};
use crate::BackendFixture;

pub(super) async fn what_was_stored_is_there_after_a_restart(fixture: BackendFixture) {
    let before = fixture.port();
    before.store(&success("1", 1)).await.unwrap();
    before.store(&failure("2")).await.unwrap();
    let group = ResultTree::group("g".into(), vec![ResultTree::task("1".into())]);
    before.save_group(&group).await.unwrap();
    let kept = Bytes::from_static(b"[{}]");
    before.keep(&"k".into(), kept.clone()).await.unwrap();
    drop(before);
    let fixture = fixture.restart().await;
    let after = fixture.port();
    assert_eq!(load(&after, "1").await, Some(success("1", 1)));
    assert_eq!(load(&after, "2").await, Some(failure("2")));
    assert_eq!(after.load_group(&"g".into()).await.unwrap(), Some(group));
    assert_eq!(after.recall(&"k".into()).await.unwrap(), Some(kept));
}

pub(super) async fn a_join_goes_on_after_a_restart(fixture: BackendFixture) {
    let before = fixture.port();
    open(&before, "j", 3).await;
    assert_eq!(arrive(&before, "j", &part(2, 2)).await, waiting(1, 3));
    open(&before, "closed", 1).await;
    let (claim, _) = complete(arrive(&before, "closed", &part(0, 0)).await);
    assert!(close(&before, "closed", claim).await);
    drop(before);
    let fixture = fixture.restart().await;
    let after = fixture.port();
    // Who arrived is known still, too.
    assert_eq!(arrive(&after, "j", &part(2, 2)).await, waiting(1, 3));
    assert_eq!(arrive(&after, "j", &part(0, 0)).await, waiting(2, 3));
    let (claim, parts) = complete(arrive(&after, "j", &part(1, 1)).await);
    assert_eq!(parts, [part(0, 0), part(1, 1), part(2, 2)]);
    assert!(close(&after, "j", claim).await);
    let closed = arrive(&after, "closed", &part(0, 0)).await;
    assert_eq!(closed, Arrival::Closed);
}
