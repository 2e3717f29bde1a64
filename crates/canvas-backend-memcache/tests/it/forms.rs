//! What is in the cache, and for how long.

use std::time::Duration;

use bytes::Bytes;
use canvas_core::backend::{Arrival, Backend};
use canvas_core::{Error, ResultTree};
use serde_json::{Value, json};

use crate::support::{Memcached, arrive, open, part, success};

const DAY: i64 = 86_400;

#[tokio::test]
async fn a_result_is_text_under_celerys_key() {
    let memcached = Memcached::start().await;
    let backend = memcached.backend();
    backend
        .store(&success("1", json!({ "ü": 3 })))
        .await
        .unwrap();
    let (flags, text) = memcached.item("celery-task-meta-1").unwrap();
    assert_eq!(flags, 16);
    let expected = r#"{"status":"SUCCESS","result":{"ü":3},"traceback":null,"children":[],"date_done":null,"task_id":"1"}"#;
    let (found, expected): (Value, Value) = (
        serde_json::from_str(&text).unwrap(),
        serde_json::from_str(expected).unwrap(),
    );
    assert_eq!(found, expected);
    let group = ResultTree::group("g".into(), vec![ResultTree::task("1".into())]);
    backend.save_group(&group).await.unwrap();
    let (flags, text) = memcached.item("celery-taskset-meta-g").unwrap();
    assert_eq!(
        (flags, text.as_str()),
        (16, r#"{"result":[["g",null],[[["1",null],null]]]}"#)
    );
    backend
        .keep(&"k".into(), Bytes::from_static(b"[]"))
        .await
        .unwrap();
    assert_eq!(memcached.item("canvas-ref-k").unwrap().1, "[]");
}

#[tokio::test]
async fn the_counter_of_a_chord_is_celerys() {
    let memcached = Memcached::start().await;
    let backend = memcached.backend();
    open(&*backend, "g", 3).await;
    assert_eq!(memcached.item("chord-unlock-g"), Some((0, "0".to_owned())));
    arrive(&*backend, "g", &part(0)).await;
    arrive(&*backend, "g", &part(1)).await;
    arrive(&*backend, "g", &part(1)).await;
    assert_eq!(memcached.item("chord-unlock-g").unwrap().1, "2");
}

#[tokio::test]
async fn a_closed_join_leaves_only_the_note_that_it_is() {
    let memcached = Memcached::start().await;
    let backend = memcached.backend();
    open(&*backend, "g", 3).await;
    arrive(&*backend, "g", &part(0)).await;
    arrive(&*backend, "g", &part(2)).await;
    let Arrival::Complete { claim, .. } = arrive(&*backend, "g", &part(1)).await else {
        panic!("not complete")
    };
    assert!(backend.close_join(&"g".into(), claim).await.unwrap());
    let count = |lines: Vec<String>| {
        let items = lines
            .iter()
            .find_map(|line| line.strip_prefix("STAT curr_items "));
        items.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(count(memcached.ask("stats")), 1);
    assert!(memcached.item("canvas-join-g").is_some());
}

#[tokio::test]
async fn keys_begin_with_the_prefix() {
    let memcached = Memcached::start().await;
    let backend = memcached.backend_with(|config| config.global_keyprefix = "shop".to_owned());
    backend.store(&success("1", 1)).await.unwrap();
    open(&*backend, "g", 1).await;
    for key in ["celery-task-meta-1", "chord-unlock-g", "canvas-join-g"] {
        assert!(memcached.item(&format!("shop_{key}")).is_some(), "{key}");
    }
}

/// Memcached takes more than 30 days for a time, which would be long past.
#[tokio::test]
async fn what_lives_longer_than_a_month_lives_as_long() {
    let memcached = Memcached::start().await;
    for (days, seconds) in [(Some(1), DAY), (Some(45), 45 * DAY), (None, -1)] {
        let expires = days.map(|days| Duration::from_secs(days * 86_400));
        let backend = memcached.backend_with(|config| {
            config.result_expires = expires;
            config.join_expires = expires;
        });
        let id = format!("{days:?}");
        backend.store(&success(&id, 1)).await.unwrap();
        open(&*backend, &id, 2).await;
        assert_eq!(
            arrive(&*backend, &id, &part(0)).await,
            Arrival::Waiting {
                arrived: 1,
                size: 2
            }
        );
        for key in ["celery-task-meta", "canvas-join"] {
            let life = memcached.life(&format!("{key}-{id}"));
            assert!((seconds - 3..=seconds + 1).contains(&life), "{key}: {life}");
        }
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_says_what_to_do() {
    let memcached = Memcached::start().await;
    let backend = memcached.backend();
    let large = "x".repeat(2 << 20);
    let refused = |done: canvas_core::Result<()>, what: &str| {
        let error = done.unwrap_err();
        assert!(matches!(error, Error::Encoding { .. }), "{error:?}");
        assert!(!error.is_retryable());
        let said = error.to_string();
        for word in [what, "too large", "-I"] {
            assert!(said.contains(word), "{word}: {said}");
        }
    };
    let stored = backend.store(&success("1", large.as_str())).await;
    refused(stored.map(drop), "celery-task-meta-1");
    let kept = backend.keep(&"k".into(), Bytes::from(large.clone())).await;
    refused(kept, "canvas-ref-k");
    open(&*backend, "g", 1).await;
    let mut member = part(0);
    member.result = json!(large);
    let arrived = backend
        .arrive(&"g".into(), &member, Duration::from_secs(5))
        .await;
    refused(arrived.map(drop), "canvas-join-g");
    // The connection is as good as before.
    backend.store(&success("1", "small")).await.unwrap();
    let roomy = Memcached::start_with(&["-I", "8m"]).await;
    let backend = roomy.backend();
    backend.store(&success("1", large.as_str())).await.unwrap();
    let found = backend.load(&["1".into()]).await.unwrap();
    assert_eq!(found, [Some(success("1", large.as_str()))]);
}

#[tokio::test]
async fn an_id_that_is_too_long_is_refused() {
    let memcached = Memcached::start().await;
    let backend = memcached.backend();
    let error = backend
        .store(&success(&"1".repeat(300), 1))
        .await
        .unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("250 bytes") && said.contains("shorter ids"),
        "{said}"
    );
}
