//! Losing the connection, and having it back.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use canvas_backend_redis::{RedisBackend, RedisBackendConfig};
use canvas_core::backend::{Arrival, Backend, JoinSpec, Part, Stored};
use canvas_core::{Error, State};
use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::json;
use support::{Redis, soon, success};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, span};

fn part(index: u64) -> Part {
    Part {
        task_id: index.to_string().into(),
        index: Some(index),
        state: State::Success,
        result: json!(index),
    }
}

async fn open(backend: &RedisBackend, size: u64) {
    let spec = JoinSpec {
        id: "g".into(),
        size,
        quorum: size,
    };
    backend.open_join(&spec).await.unwrap();
}

async fn arrive(backend: &RedisBackend, index: u64) -> Arrival {
    let lease = Duration::from_secs(60);
    let part = part(index);
    backend.arrive(&"g".into(), &part, lease).await.unwrap()
}

#[tokio::test]
async fn all_calls_share_one_connection_with_a_name() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    assert!(
        redis.connections().await.is_empty(),
        "not before it is used"
    );
    let metas: Vec<_> = support::ids(500)
        .iter()
        .map(|id| success(id.as_str(), 1))
        .collect();
    let stored = join_all(metas.iter().map(|meta| backend.store(meta))).await;
    assert!(
        stored
            .into_iter()
            .all(|stored| stored.unwrap() == Stored::Written)
    );
    assert_eq!(redis.connections().await, ["canvas-backend"]);
}

#[tokio::test]
async fn a_backend_says_what_it_is_and_where() {
    let redis = Redis::start().await;
    let info = redis.backend().info();
    assert!(info.join && info.push && info.persistent);
    assert_eq!(info.url, format!("{}?virtual_host=0", redis.url()));
    let url = format!("{}?virtual_host=1", redis.url().replace("//", "//:secret@"));
    let other = RedisBackend::new(&url, RedisBackendConfig::default()).unwrap();
    assert_ne!(redis.backend().server_id(), other.server_id());
    assert!(!format!("{other:?}").contains("secret"));
    assert!(!other.info().url.contains("secret"));
}

#[tokio::test]
async fn calls_wait_for_a_server_that_restarts() {
    let mut redis = Redis::start().await;
    let backend = redis.backend();
    open(&backend, 2).await;
    arrive(&backend, 0).await;
    redis.kill();
    let calling = tokio::spawn({
        let backend = backend.clone();
        async move {
            let stored = backend.store(&success("1", 1)).await.unwrap();
            (stored, arrive(&backend, 1).await)
        }
    });
    redis.run().await;
    // Scripts that the server has forgotten, too.
    let (stored, arrival) = soon(calling).await.unwrap();
    assert_eq!(stored, Stored::Written);
    assert!(
        matches!(arrival, Arrival::Complete { claim: 1, .. }),
        "{arrival:?}"
    );
}

#[tokio::test]
async fn a_server_that_answers_no_more_is_left_for_a_new_connection() {
    let redis = Redis::start().await;
    let backend = redis.backend_with(|config| config.response_timeout = Duration::from_millis(100));
    backend.store(&success("1", 1)).await.unwrap();
    let id: i64 = redis.ask("CLIENT ID").await;
    redis.freeze(true);
    let storing = tokio::spawn({
        let backend = backend.clone();
        async move { backend.store(&success("2", 2)).await }
    });
    // Longer than one answer may take.
    tokio::time::sleep(Duration::from_millis(300)).await;
    redis.freeze(false);
    soon(storing).await.unwrap().unwrap();
    let list: String = redis.ask("CLIENT LIST").await;
    let line = list
        .lines()
        .find(|l| l.contains("name=canvas-backend "))
        .unwrap();
    let now: i64 = line.split(['=', ' ']).nth(1).unwrap().parse().unwrap();
    assert!(
        now > id,
        "still on the connection that did not answer: {line}"
    );
    let stored = backend.load(&["2".into()]).await.unwrap();
    assert_eq!(stored, [Some(success("2", 2))]);
}

#[tokio::test]
async fn connections_that_are_killed_lose_nothing() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    let size = 300;
    open(&backend, size).await;
    let arriving = (0..size).map(|index| {
        let backend = backend.clone();
        tokio::spawn(async move { arrive(&backend, index).await })
    });
    let arriving: Vec<_> = arriving.collect();
    for _ in 0..20 {
        let _: () = redis.ask("CLIENT KILL TYPE normal SKIPME yes").await;
        tokio::task::yield_now().await;
    }
    let mut completed = 0;
    for arrival in arriving {
        if let Arrival::Complete { claim, parts } = soon(arrival).await.unwrap() {
            assert_eq!((claim, parts.len()), (1, 300));
            completed += 1;
        }
    }
    assert_eq!(completed, 1);
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let redis = Redis::start().await;
    let backend = redis.backend();
    for n in 0..3 {
        let _: () = redis.ask("SCRIPT FLUSH").await;
        backend.store(&success(&n.to_string(), n)).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_an_error_that_says_what_to_do() {
    let mut config = RedisBackendConfig::default();
    config.retry_for = Duration::from_millis(200);
    let url = "redis+socket://ann:secret@/nowhere/redis.sock";
    let backend = RedisBackend::new(url, config).unwrap();
    let error = backend.store(&success("1", 1)).await.unwrap_err();
    assert!(error.is_retryable());
    let text = error.to_string();
    for part in [
        "backend.store",
        "ann:**@/nowhere/redis.sock",
        "is it running",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("secret"), "{text}");
}

/// Each would otherwise wait for all before it to have tried.
#[tokio::test]
async fn many_calls_to_a_server_that_is_gone_fail_together() {
    let redis = Redis::start().await;
    let backend = redis.backend_with(|config| {
        config.connect_timeout = Duration::from_millis(200);
        config.retry_for = Duration::from_millis(400);
    });
    // It takes connections, and says nothing.
    redis.freeze(true);
    let meta = success("1", 1);
    // One after the other they would have to wait for minutes.
    let calls = join_all((0..1_000).map(|_| backend.store(&meta)));
    for stored in soon(calls).await {
        assert!(matches!(stored, Err(Error::Connection { .. })));
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_at_once_and_not_shown() {
    let redis = Redis::start().await;
    let _: () = redis.ask("ACL SETUSER ann on >secret ~* &* +@all").await;
    let url = |password: &str| redis.url().replace("//", &format!("//ann:{password}@"));
    let config = || {
        let mut config = RedisBackendConfig::default();
        config.retry_for = support::PATIENCE * 2;
        config
    };
    let backend = RedisBackend::new(&url("wrong"), config()).unwrap();
    let error = soon(backend.load(&["1".into()])).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("check the user and the password"), "{text}");
    assert!(!text.contains("ann:wrong"), "{text}");
    let watch = backend.watch(&["1".into()]).await.unwrap();
    let told = soon(watch.collect::<Vec<_>>()).await;
    assert!(
        matches!(told.as_slice(), [Err(Error::Config(_))]),
        "{told:?}"
    );
    let backend = RedisBackend::new(&url("secret"), config()).unwrap();
    assert_eq!(backend.load(&["1".into()]).await.unwrap(), [None]);
}

#[tokio::test]
async fn a_port_serves_as_well_as_a_socket() {
    let redis = Redis::start().await;
    let url = redis.listen().await;
    let backend = RedisBackend::new(&url, RedisBackendConfig::default()).unwrap();
    let mut watch = backend.watch(&["1".into()]).await.unwrap();
    backend.store(&success("1", 1)).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().unwrap(), success("1", 1));
    assert_eq!(backend.info().url, format!("{url}/0"));
}

#[tokio::test]
async fn the_database_is_that_of_the_url() {
    let redis = Redis::start().await;
    let url = format!("{}?virtual_host=3", redis.url());
    let backend = RedisBackend::new(&url, RedisBackendConfig::default()).unwrap();
    backend.store(&success("1", 1)).await.unwrap();
    assert_eq!(redis.backend().load(&["1".into()]).await.unwrap(), [None]);
    let keyspace: String = redis.ask("INFO keyspace").await;
    assert!(keyspace.contains("db3:keys=1"), "{keyspace}");
}

/// A proxy on a socket of its own, which hangs up instead of handing on an
/// answer when it is told to.
async fn proxy(redis: &Redis, hang_up: Arc<AtomicBool>) -> String {
    let to = redis.url().replace("redis+socket://", "");
    let at = to.replace("redis.sock", "proxy.sock");
    let listener = UnixListener::bind(&at).unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (mut server, hang_up) = (UnixStream::connect(&to).await.unwrap(), hang_up.clone());
            tokio::spawn(async move {
                let (mut asked, mut answered) = ([0; 65_536], [0; 65_536]);
                loop {
                    tokio::select! {
                        Ok(read @ 1..) = client.read(&mut asked) => {
                            server.write_all(&asked[..read]).await.unwrap();
                        }
                        Ok(read @ 1..) = server.read(&mut answered) => {
                            if hang_up.swap(false, Ordering::SeqCst) {
                                return;
                            }
                            client.write_all(&answered[..read]).await.unwrap();
                        }
                        else => return,
                    }
                }
            });
        }
    });
    format!("unix://{at}")
}

/// Else a body would wait for the claim to lapse that its own sender holds.
#[tokio::test]
async fn an_arrival_whose_answer_was_lost_still_has_its_claim() {
    let redis = Redis::start().await;
    let hang_up = Arc::new(AtomicBool::new(false));
    let url = proxy(&redis, hang_up.clone()).await;
    let backend = RedisBackend::new(&url, RedisBackendConfig::default()).unwrap();
    open(&backend, 1).await;
    // The server knows the script, so the next answer is that of the call.
    arrive(
        &redis.backend_with(|config| config.global_keyprefix = "other".to_owned()),
        0,
    )
    .await;
    hang_up.store(true, Ordering::SeqCst);
    let arrival = soon(arrive(&backend, 0)).await;
    assert!(!hang_up.load(Ordering::SeqCst), "nothing was lost");
    match arrival {
        Arrival::Complete { claim: 1, parts } => assert_eq!(parts, [part(0)]),
        other => panic!("{other:?}"),
    }
    // Another call has not.
    let arrival = arrive(&backend, 0).await;
    assert!(matches!(arrival, Arrival::Claimed { .. }), "{arrival:?}");
    assert!(backend.close_join(&"g".into(), 1).await.unwrap());
}

/// Counts what is logged.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<String>>>);

impl Visit for Log {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("canvas_redis")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn a_lost_connection_is_logged_when_it_goes_and_when_it_is_back() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let mut redis = Redis::start().await;
    let backend = redis.backend();
    backend.store(&success("1", 1)).await.unwrap();
    for _ in 0..2 {
        redis.kill();
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let backend = backend.clone();
                tokio::spawn(async move { backend.store(&success("1", 1)).await })
            })
            .collect();
        // Long enough to fail a few times.
        tokio::time::sleep(Duration::from_millis(300)).await;
        redis.run().await;
        for call in calls {
            soon(call).await.unwrap().unwrap();
        }
    }
    let log = log.0.lock().unwrap().clone();
    let (lost, back) = ("connection to Redis lost", "connected to Redis again");
    assert_eq!(log, [lost, back, lost, back]);
}
