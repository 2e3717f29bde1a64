//! Several servers that are used as one.

use std::collections::HashSet;

use canvas_backend_memcache::{MemcacheBackend, MemcacheBackendConfig};
use canvas_conformance::{BackendFixture, Need, Outcome};
use canvas_core::Id;
use canvas_core::backend::{Arrival, Backend};
use serde_json::json;

use crate::support::{Memcached, arrive, open, part, success, url};

fn backend(servers: &[Memcached]) -> std::sync::Arc<MemcacheBackend> {
    MemcacheBackend::new(&url(servers), MemcacheBackendConfig::default()).unwrap()
}

#[test]
fn several_servers_do_what_one_does() {
    let mut hold = 0;
    for behaviour in canvas_conformance::backend::behaviours() {
        if behaviour.need() != Need::Fresh {
            continue;
        }
        let outcome = behaviour.run(false, async |_| {
            let servers = Memcached::several(3).await;
            BackendFixture::new(backend(&servers)).keep(servers)
        });
        hold += usize::from(outcome == Outcome::Holds);
    }
    assert!(hold > 30, "{hold}");
}

#[tokio::test]
async fn what_is_stored_is_spread_over_all() {
    let servers = Memcached::several(3).await;
    let backend = backend(&servers);
    let ids: Vec<Id> = (0..60).map(|n| Id::from(n.to_string())).collect();
    for id in &ids {
        backend.store(&success(id.as_str(), 1)).await.unwrap();
    }
    let found = backend.load(&ids).await.unwrap();
    assert!(found.iter().all(Option::is_some));
    for server in &servers {
        let key = |id: &Id| format!("celery-task-meta-{id}");
        let here = ids.iter().filter(|id| server.item(&key(id)).is_some());
        assert!((5..40).contains(&here.count()));
    }
}

#[tokio::test]
async fn the_order_in_which_servers_are_named_does_not_matter() {
    let mut servers = Memcached::several(3).await;
    let one = backend(&servers);
    servers.reverse();
    let other = backend(&servers);
    for n in 0..20 {
        let id = n.to_string();
        one.store(&success(&id, n)).await.unwrap();
        let found = other.load(&[id.as_str().into()]).await.unwrap();
        assert_eq!(found, [Some(success(&id, n))]);
    }
}

/// A join and its members are on one server, its counter perhaps on another.
#[tokio::test]
async fn one_server_that_is_restarted_loses_its_own_joins_and_no_others() {
    let mut servers = Memcached::several(3).await;
    let backend = backend(&servers);
    let joins: Vec<String> = (0..20).map(|n| format!("g{n}")).collect();
    for join in &joins {
        open(&*backend, join, 3).await;
        arrive(&*backend, join, &part(0)).await;
        arrive(&*backend, join, &part(1)).await;
    }
    let mine = |server: &Memcached, join: &String| {
        let keys = [
            format!("canvas-join-{join}"),
            format!("chord-unlock-{join}"),
        ];
        keys.iter().any(|key| server.item(key).is_some())
    };
    let lost = joins.iter().filter(|join| mine(&servers[1], join)).cloned();
    let lost: HashSet<String> = lost.collect();
    assert!((1..20).contains(&lost.len()), "{lost:?}");
    servers[1].kill();
    servers[1].run().await;
    for join in &joins {
        let found = arrive(&*backend, join, &part(2)).await;
        match found {
            Arrival::Missing => assert!(lost.contains(join), "{join} was not lost"),
            Arrival::Complete { parts, .. } => {
                assert!(!lost.contains(join), "{join} was lost");
                let values: Vec<_> = parts.iter().map(|part| part.result.clone()).collect();
                assert_eq!(values, [json!(0), json!(1), json!(2)]);
            }
            other => panic!("{join}: {other:?}"),
        }
    }
}
