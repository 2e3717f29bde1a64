//! The README's worker and client: programs of their own, which share nothing
//! but a Redis.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

#[path = "references/fleet.rs"]
mod fleet;

use std::process::Command;

use canvas_tests::support::PATIENCE;
use fleet::{Fleet, interpreter};

const README: &str = include_str!("../../README.md");

/// A Redis with the README's worker.
async fn worker() -> Fleet {
    let mut fleet = Fleet::start().await;
    let worker = program(&fleet, env!("CARGO_BIN_EXE_readme-worker"));
    fleet.run(&worker, "worker");
    fleet
}

fn program(fleet: &Fleet, path: &str) -> Command {
    let mut program = Command::new(path);
    program.env("CANVAS_BROKER_URL", fleet.url());
    program.env("CANVAS_RESULT_BACKEND", fleet.url());
    program
}

/// What a client says, once it has all it waits for.
async fn says(client: Command) -> String {
    let mut client = tokio::process::Command::from(client);
    let output = tokio::time::timeout(PATIENCE, client.kill_on_drop(true).output());
    let output = output.await.expect("the client ends").unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_client_has_its_work_done_by_a_worker_in_another_process() {
    let fleet = worker().await;
    let client = program(&fleet, env!("CARGO_BIN_EXE_readme-client"));
    assert_eq!(says(client).await, "the total is 897\n");
}

#[tokio::test]
async fn a_client_in_python_has_its_work_done_by_the_same_worker() {
    let fleet = worker().await;
    let block = README.split("```python\n").nth(1).unwrap();
    let (text, _) = block.split_once("```").unwrap();
    assert!(text.contains("redis://localhost/0"), "{text}");
    let mut client = Command::new(interpreter());
    client.args(["-c", &text.replace("redis://localhost/0", &fleet.url())]);
    assert_eq!(says(client).await, "the total is 897\n");
}

#[test]
fn the_programs_are_in_the_readme_as_they_are() {
    for program in [
        include_str!("../../crates/canvas/examples/redis/worker.rs"),
        include_str!("../../crates/canvas/examples/redis/client.rs"),
    ] {
        let code = program.split_once("\n\n").unwrap().1;
        assert!(README.contains(code), "not in the README:\n{code}");
    }
}
