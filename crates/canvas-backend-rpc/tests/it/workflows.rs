//! A client and a worker, as two processes are.

use canvas::prelude::*;
use canvas::{Error, Id, State, Wait};
use canvas_backend_rpc::RpcBackendConfig;
use serde_json::{Value, json};

use crate::support::{
    PATIENCE, Vhost, add, fail, flaky, joined, keep_log, launch, logged, no_file, quote, total,
    until, wait,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_sent_to_the_client_who_may_ask_twice() {
    let vhost = Vhost::new();
    let worker = vhost.app().worker().start().await.unwrap();
    let client = vhost.client();
    let result = client.apply(add::s(1, 2)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!(3));
        assert_eq!(result.state().await.unwrap(), State::Success);
    }
    // By another handle, too, that knows only the id.
    let again = client.result(result.id().clone());
    assert_eq!(again.get_timeout(PATIENCE).await.unwrap(), json!(3));
    again.forget().await.unwrap();
    assert_eq!(result.state().await.unwrap(), State::Pending);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_was_stored_before_anyone_asked_is_there() {
    let vhost = Vhost::new();
    let worker = vhost.app().worker().start().await.unwrap();
    let client = vhost.client();
    let result = client.apply(add::s(1, 2)).await.unwrap();
    until("the result is there", || async {
        result.ready().await.unwrap()
    })
    .await;
    worker.stop().await;
    assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_of_chains_and_members_of_groups_answer_to_the_client() {
    let vhost = Vhost::new();
    let worker = vhost.app().worker().start().await.unwrap();
    let client = vhost.client();
    let chained = add::s(1, 2).then(add::partial(3)).then(add::partial(4));
    let result = client.apply(chained).await.unwrap();
    assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!(10));
    let parent = result.parent().unwrap();
    assert_eq!(parent.get_timeout(PATIENCE).await.unwrap(), json!(6));
    let first = parent.parent().unwrap();
    assert_eq!(first.get_timeout(PATIENCE).await.unwrap(), json!(3));
    let children = first.children().await.unwrap();
    assert_eq!(children[0].id(), parent.id());

    let many = group((0..50).map(|n| Signature::from(add::s(n, 1))));
    let result = client.apply(Signature::from(add::s(0, 0)) | many).await;
    // A step before a group, which passes its value on.
    let error = result.unwrap().get_timeout(PATIENCE).await.unwrap_err();
    assert!(matches!(error, Error::TaskFailed { .. }), "{error}");
    let many = group((0..50).map(|n| Signature::from(add::s(n, 1))));
    let result = client.apply(many).await.unwrap();
    let values: Vec<i64> = (1..=50).collect();
    assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!(values));

    let lazy = canvas::Group::from_iter((0..600).map(|n| add::s(n, 0)));
    let result = lazy.apply(&client).await.unwrap();
    let values: Vec<i64> = (0..600).collect();
    assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!(values));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_reaches_all_that_wait() {
    let vhost = Vhost::new();
    let worker = vhost.app().worker().start().await.unwrap();
    let client = vhost.client();
    let chained = fail::s("why").then(add::partial(3)).then(add::partial(4));
    let result = client.apply(chained).await.unwrap();
    for result in [&result, &result.parent().unwrap()] {
        let error = result.get_timeout(PATIENCE).await.unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    }
    // One that no worker knows.
    let result = client.send("tests.unknown", [1]).await.unwrap();
    let error = result.get_timeout(PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("NotRegistered"), "{error}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_state_on_the_way_is_seen() {
    let vhost = Vhost::new();
    let worker = vhost.app().worker().start().await.unwrap();
    let client = vhost.client();
    let file = no_file("states");
    let result = client.apply(wait::s(file.clone())).await.unwrap();
    until("it says where it is", || async {
        result.state().await.unwrap() == State::Custom("WAITING".to_owned())
    })
    .await;
    assert_eq!(result.meta().await.unwrap().result, json!({ "for": file }));
    std::fs::write(&file, "").unwrap();
    assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!("done"));

    let result = client.apply(flaky::s(1.0)).await.unwrap();
    until("it is to be tried again", || async {
        result.state().await.unwrap() == State::Retry
    })
    .await;
    let why = result.exception().await.unwrap().unwrap();
    assert!(why.to_string().contains("not yet"), "{why}");
    assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!(1));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_sees_pending_and_is_told_why() {
    keep_log();
    let vhost = Vhost::new();
    let worker = vhost.app().worker().start().await.unwrap();
    let (client, other) = (vhost.client(), vhost.client());
    let result = client.apply(add::s(1, 2)).await.unwrap();
    assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!(3));
    // One that has sent nothing, and one that has.
    for _ in 0..2 {
        let elsewhere = other.result(result.id().clone());
        assert_eq!(elsewhere.state().await.unwrap(), State::Pending);
        let error = elsewhere.get_timeout(PATIENCE).await.unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("results go to the process that sent the task"),
            "{text}"
        );
        let own = other.apply(add::s(2, 2)).await.unwrap();
        assert_eq!(own.get_timeout(PATIENCE).await.unwrap(), json!(4));
    }
    let notes = logged("PENDING here, whatever becomes of it");
    let about = |id: &Id| {
        notes
            .iter()
            .filter(|note| note.contains(id.as_str()))
            .count()
    };
    assert_eq!(about(result.id()), 1, "{notes:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_and_what_a_task_launches_answer_to_the_client() {
    let vhost = Vhost::new();
    let worker = vhost.app().worker().start().await.unwrap();
    let client = vhost.client();
    let sent = launch::s().link(quote::partial());
    let result = client.apply(sent).await.unwrap();
    let id = result.get_timeout(PATIENCE).await.unwrap();
    let all = tokio::time::timeout(PATIENCE, result.collect());
    let all = all.await.expect("it goes on").unwrap();
    let values: Vec<&Value> = all.iter().map(|(_, value)| value).collect();
    let quoted = json!(format!("`{}`", id.as_str().unwrap()));
    // What was launched ends first, and is told in the order of sending.
    assert_eq!(values, [&id, &json!(2), &quoted]);
    assert_eq!(json!(all[1].0.id()), id);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chord_is_refused_before_anything_is_sent() {
    let vhost = Vhost::new();
    let client = vhost.client();
    let header = || (0..3).map(|n| Signature::from(add::s(n, n)));
    let chords = [
        chord(header(), Signature::from(total::partial())),
        group(header()) | Signature::from(total::partial()),
        Signature::from(add::s(1, 1)) | group(header()) | Signature::from(total::partial()),
    ];
    for canvas in chords {
        let error = client.apply(canvas).await.unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains("chords need a backend that can join"),
            "{error}"
        );
    }
    assert_eq!(client.broker().len("celery").await.unwrap(), 0);
    assert!(vhost.reply_queues().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chord_that_a_task_wants_is_its_failure() {
    let vhost = Vhost::new();
    let worker = vhost.app().worker().start().await.unwrap();
    let client = vhost.client();
    let result = client.apply(joined::s()).await.unwrap();
    let error = result.get_timeout(PATIENCE).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("members of a chord cannot meet there"),
        "{text}"
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_kept_on_the_server() {
    let vhost = Vhost::new();
    let client = vhost.client();
    let result = client
        .apply(group([Signature::from(add::s(1, 1))]))
        .await
        .unwrap();
    let errors = [
        result.as_group().unwrap().save().await.unwrap_err(),
        client.restore_group("unknown").await.unwrap_err(),
    ];
    for error in errors {
        assert!(
            error.to_string().contains("results are sent and not kept"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_is_not_wanted_needs_no_queue() {
    let vhost = Vhost::new();
    let worker = vhost.app().worker().start().await.unwrap();
    let client = vhost.client();
    let mut unwanted = Signature::from(add::s(1, 2));
    unwanted.options.set("ignore_result", true);
    client.apply(unwanted).await.unwrap();
    until("it has run", || async {
        client.broker().len("celery").await.unwrap() == 0
    })
    .await;
    worker.stop().await;
    assert!(vhost.reply_queues().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_what_is_sent_twice_the_first_success_counts() {
    let vhost = Vhost::new();
    let client = vhost.client();
    let result = client.apply(add::s(1, 2)).await.unwrap();
    // Two workers that were given the same delivery.
    let worker = vhost.backend();
    for (status, value) in [
        (State::Failure, json!(null)),
        (State::Success, json!(3)),
        (State::Started, json!(null)),
        (State::Success, json!(4)),
    ] {
        let mut meta = canvas::TaskMeta::new(result.id().clone(), status);
        meta.result = value;
        meta.reply = Some(canvas::protocol::Reply {
            to: client.env().reply_to.clone(),
            correlation_id: result.id().clone(),
        });
        worker.store(&meta).await.unwrap();
    }
    assert_eq!(result.state().await.unwrap(), State::Success);
    let wait = Wait {
        timeout: Some(PATIENCE),
        ..Wait::default()
    };
    assert_eq!(result.wait(wait).await.unwrap(), json!(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_ends_takes_its_queue_with_it() {
    let vhost = Vhost::new();
    let client = vhost.client();
    client.apply(add::s(1, 2)).await.unwrap();
    assert_eq!(vhost.reply_queues(), [client.env().reply_to.to_string()]);
    drop(client);
    until("its queue is gone", || async {
        vhost.reply_queues().is_empty()
    })
    .await;
}

#[test]
fn a_client_that_dies_leaves_no_queue() {
    let vhost = Vhost::new();
    // A runtime that ends with all that runs on it, as the process would.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut config = RpcBackendConfig::default();
    config.queue_expires = std::time::Duration::from_secs(1);
    let client = vhost.builder().backend(vhost.backend_with(config));
    let client = client.connect().unwrap();
    runtime.block_on(client.apply(add::s(1, 2))).unwrap();
    assert_eq!(vhost.reply_queues().len(), 1);
    runtime.shutdown_background();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(until("its queue is gone", || async {
        vhost.reply_queues().is_empty()
    }));
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_does_not_mind_that_a_client_has_gone() {
    let vhost = Vhost::new();
    let gone = vhost.client();
    gone.apply(add::s(1, 2)).await.unwrap();
    drop(gone);
    until("its queue is gone", || async {
        vhost.reply_queues().is_empty()
    })
    .await;
    let worker = vhost.app().worker().start().await.unwrap();
    let client = vhost.client();
    let result = client.apply(add::s(2, 2)).await.unwrap();
    assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!(4));
    worker.stop().await;
    assert_eq!(client.broker().len("celery").await.unwrap(), 0);
    let dead = client.broker().dead_letters("celery").await.unwrap();
    assert!(dead.is_empty(), "{dead:?}");
}

#[test]
fn a_url_is_of_the_broker_or_of_another_rabbitmq() {
    let open = |url: &str, broker: &str| {
        canvas_backend_rpc::RpcBackend::new(url, broker, RpcBackendConfig::default())
    };
    let broker = "amqp://me:secret@mq/x";
    for (url, shown) in [
        ("rpc://", "rpc://me:**@mq:5672/x"),
        ("rpc", "rpc://me:**@mq:5672/x"),
        ("rpc://you:secret@other:7/y", "rpc://you:**@other:7/y"),
        ("amqp://other", "rpc://guest:**@other:5672//"),
        (
            "rpc://one;amqp://two",
            "rpc://guest:**@one:5672//;rpc://guest:**@two:5672//",
        ),
    ] {
        use canvas::Backend;
        assert_eq!(open(url, broker).unwrap().info().url, shown, "{url}");
    }
    let redis = "redis://:secret@localhost/0";
    for error in [open("rpc://", redis), open(redis, broker)] {
        let error = error.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Config(_)), "{text}");
        assert!(text.contains("through RabbitMQ, not redis://"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}
