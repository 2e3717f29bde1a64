//! Python on the other side: Celery's client, its worker, its messages.

#[path = "../../../../tests/kit/python.rs"]
mod python;

use std::path::Path;
use std::process::Stdio;

use canvas::prelude::*;
use canvas::protocol::Reply;
use canvas::{ResultTree, State, TaskMeta};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::support::{PATIENCE, Vhost, add, fail, flaky, no_file, until, wait};

/// What the Python needs.
const PACKAGES: &str = "celery==5.7.0";

/// One of the scripts, killed when what is made of it is dropped.
fn script(name: &str, arguments: &[&str]) -> Command {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python");
    let mut command = Command::new(python::python(PACKAGES));
    command.arg(scripts.join(name)).args(arguments);
    command.kill_on_drop(true);
    command
}

/// What a script prints last.
async fn run(name: &str, arguments: &[&str]) -> Value {
    let running = script(name, arguments).output();
    let output = tokio::time::timeout(PATIENCE * 2, running).await;
    let output = output.expect("the script goes on").unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
    let printed = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(printed.lines().last().unwrap()).unwrap()
}

/// A stock worker. Its input ends with this process, and it with that.
fn stock_worker(arguments: &[&str]) -> Child {
    let mut worker = script("worker.py", arguments);
    worker.stdin(Stdio::piped()).stdout(Stdio::null());
    worker.spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn celerys_client_gets_the_results_of_our_worker() {
    let vhost = Vhost::new();
    let worker = vhost.app().worker().start().await.unwrap();
    let found = run("client.py", &[&vhost.url()]).await;
    worker.stop().await;
    let group: Vec<i64> = (1..=20).collect();
    let expected = json!({
        "twice": [3, 3],
        "chain": [10, 6],
        "children": true,
        "group": group,
        "failure": ["Exception", "why"],
        "follower": ["Exception", "why"],
        "states": ["RETRY", "SUCCESS"],
        "chord": "The \"rpc\" result backend does not support chords!",
    });
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_gets_the_results_of_celerys_worker() {
    let vhost = Vhost::new();
    let _worker = stock_worker(&[&vhost.url()]);
    let client = vhost.client();
    let result = client.apply(add::s(1, 2)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!(3));
    }
    let chained = add::s(1, 2).then(add::partial(3)).then(add::partial(4));
    let result = client.apply(chained).await.unwrap();
    assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!(10));
    let parent = result.parent().unwrap();
    assert_eq!(parent.get_timeout(PATIENCE).await.unwrap(), json!(6));
    assert_eq!(parent.children().await.unwrap()[0].id(), result.id());
    let many = group((0..20).map(|n| Signature::from(add::s(n, 1))));
    let result = client.apply(many).await.unwrap();
    let values: Vec<i64> = (1..=20).collect();
    assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!(values));

    let result = client.apply(fail::s("why")).await.unwrap();
    let error = result.get_timeout(PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("ValueError: why"), "{error}");
    assert!(result.traceback().await.unwrap().is_some());

    let result = client.apply(flaky::s(1.0)).await.unwrap();
    until("it is to be tried again", || async {
        result.state().await.unwrap() == State::Retry
    })
    .await;
    assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!(1));
    let file = no_file("celery");
    let result = client.apply(wait::s(file.clone())).await.unwrap();
    until("it says where it is", || async {
        result.state().await.unwrap() == State::Custom("WAITING".to_owned())
    })
    .await;
    std::fs::write(&file, "").unwrap();
    assert_eq!(result.get_timeout(PATIENCE).await.unwrap(), json!("done"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_in_another_form_than_json_is_an_error_that_says_so() {
    let vhost = Vhost::new();
    let _worker = stock_worker(&[&vhost.url(), "pickle"]);
    let client = vhost.client();
    let result = client.apply(add::s(1, 2)).await.unwrap();
    let error = result.get_timeout(PATIENCE).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("only application/json is read"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_on_the_wire_what_celerys_is() {
    let vhost = Vhost::new();
    run("wire.py", &[&vhost.url(), "send"]).await;
    // What only Python knows of its messages: when they were made.
    let theirs = run("wire.py", &[&vhost.url(), "take"]).await["theirs"].take();
    let theirs = theirs.as_array().unwrap();
    assert_eq!(theirs.len(), 2);
    let backend = vhost.backend();
    for sent in theirs {
        let mut meta = TaskMeta::from_json(sent["body"].as_str().unwrap().as_bytes()).unwrap();
        assert_eq!(meta.children, Some(vec![ResultTree::task("child".into())]));
        assert_eq!(meta.group_id, Some("g".into()));
        meta.reply = Some(Reply {
            to: "ours".into(),
            correlation_id: "c".into(),
        });
        backend.store(&meta).await.unwrap();
    }
    let ours = run("wire.py", &[&vhost.url(), "take"]).await["ours"].take();
    let ours: Vec<String> = ours.as_array().unwrap().iter().map(compact).collect();
    let theirs: Vec<String> = theirs.iter().map(compact).collect();
    assert_eq!(ours, theirs);
}

/// A message as text, the names in its body in their order. Python puts spaces
/// into it.
fn compact(message: &Value) -> String {
    let body: Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
    format!("{} {body}", message["properties"])
}
