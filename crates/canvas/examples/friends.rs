//! The talk's practical case: `cargo run --example friends`.
//!
//! A service gives the ids of all friends of a user in one call, 5,000 at
//! most, and the names for ids in another, 100 a call. A local HTTP server
//! enforces both limits; the canvas makes the 1 + 50 calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use canvas::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[path = "support/weave.rs"]
mod weave;
use weave::{Weave, join, weave};

const FRIENDS: u64 = 5_000;
const IDS_A_CALL: usize = 100;

static SERVICE: OnceLock<SocketAddr> = OnceLock::new();

#[task]
async fn friend_ids(user: u64) -> Result<Vec<u64>, TaskError> {
    get(&format!("/friends?user={user}")).await
}

#[task]
async fn user_names(ids: Vec<u64>) -> Result<Vec<String>, TaskError> {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    get(&format!("/users?ids={}", ids.join(","))).await
}

#[tokio::main]
async fn main() -> canvas::Result<()> {
    let calls = Arc::new(Calls::default());
    serve(calls.clone())
        .await
        .map_err(|e| canvas::Error::Config(e.to_string()))?;

    let app = Canvas::builder()
        .task::<friend_ids>()
        .task::<user_names>()
        .task::<join>()
        .primitive(Weave)
        .build()?;
    let worker = app.worker().concurrency(16).start().await?;

    let canvas = friend_ids::s(1) | weave(user_names::partial(), IDS_A_CALL);
    println!("{canvas}");
    let started = Instant::now();
    let names: Vec<String> = app.apply(canvas).await?.get_as().await?;
    let (friends, users) = (
        calls.friends.load(Ordering::SeqCst),
        calls.users.load(Ordering::SeqCst),
    );
    println!(
        "{} names, from \"{}\" to \"{}\", in {:.0?}: {friends} + {users} calls",
        names.len(),
        names[0],
        names[names.len() - 1],
        started.elapsed()
    );
    assert_eq!((names.len() as u64, friends, users), (FRIENDS, 1, 50));

    // The service means its limits.
    let greedy = app.apply(user_names::s((0..101).collect())).await?;
    let refused = greedy.get().await.expect_err("101 ids are too many");
    println!("{refused}");

    worker.stop().await;
    Ok(())
}

#[derive(Default)]
struct Calls {
    friends: AtomicUsize,
    users: AtomicUsize,
}

/// A service of the plainest sort: HTTP/1.0, one request a connection.
async fn serve(calls: Arc<Calls>) -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let _ = SERVICE.set(listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, calls.clone()));
        }
    });
    Ok(())
}

async fn answer(mut stream: TcpStream, calls: Arc<Calls>) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let (status, body) = if path.starts_with("/friends?") {
        calls.friends.fetch_add(1, Ordering::SeqCst);
        ("200 OK", json!((1..=FRIENDS).collect::<Vec<_>>()))
    } else {
        let ids: Vec<&str> = path.trim_start_matches("/users?ids=").split(',').collect();
        if ids.len() > IDS_A_CALL {
            (
                "400 Bad Request",
                json!(format!("{} ids, at most {IDS_A_CALL}", ids.len())),
            )
        } else {
            calls.users.fetch_add(1, Ordering::SeqCst);
            let names: Vec<String> = ids.iter().map(|id| format!("user {id}")).collect();
            ("200 OK", json!(names))
        }
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.0 {status}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await
}

async fn get<T: DeserializeOwned>(path: &str) -> Result<T, TaskError> {
    let address = SERVICE
        .get()
        .ok_or_else(|| TaskError::msg("the service is not up"))?;
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    if !head.starts_with("HTTP/1.0 200") {
        return Err(TaskError::msg(format!("{path:.20}…: {body}")));
    }
    Ok(serde_json::from_str(body)?)
}
