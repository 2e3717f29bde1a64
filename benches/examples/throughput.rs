//! How many messages go through a broker in a second.
//!
//! `cargo run --release -p canvas-benches --example throughput -- redis://localhost/9`,
//! or `amqp://localhost//`
//!
//! A second argument says how many messages, 100,000 if none does. The queue
//! `throughput` is purged before and after.

use std::sync::Arc;
use std::time::{Duration, Instant};

use canvas::broker::{ConsumeSpec, Consumer, Destination, Outgoing, Settle};
use canvas::protocol::{Headers, Message, Properties};
use canvas::{Broker, Canvas, Connect, Error, Id, Result};
use tokio::task::JoinSet;

const QUEUE: &str = "throughput";
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1);
    let url = url.ok_or_else(|| Error::Config("which broker? give a URL".to_owned()))?;
    let count = std::env::args().nth(2).and_then(|count| count.parse().ok());
    let count: usize = count.unwrap_or(100_000);
    let app = Canvas::builder().broker_url(&url).connect()?;
    let broker = app.broker().clone();
    broker.purge(QUEUE).await?;
    for (size, flight) in [(1, 1), (1, 64), (64, 1), (64, 4), (1_000, 1)] {
        let messages = if size * flight == 1 {
            count / 10
        } else {
            count
        };
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            rates.push(publish(&broker, messages, size, flight).await?);
            broker.purge(QUEUE).await?;
        }
        say(
            &format!("publish, {size} a batch, {flight} in flight"),
            rates,
        );
    }
    for prefetch in [1, 16, 64, 256] {
        let messages = if prefetch == 1 { count / 10 } else { count };
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            publish(&broker, messages, 64, 4).await?;
            rates.push(drain(&broker, messages, prefetch).await?);
        }
        say(
            &format!("consume and acknowledge, prefetch {prefetch}"),
            rates,
        );
    }
    latency(&broker).await
}

fn say(what: &str, mut rates: Vec<f64>) {
    rates.sort_by(f64::total_cmp);
    println!("{what:48} {:>9.0} messages/s", rates[rates.len() / 2]);
}

/// Some 700 bytes on the wire, as a task without arguments is.
fn message() -> Outgoing {
    let id = Id::random();
    let body = r#"[[], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;
    Outgoing {
        to: Destination::queue(QUEUE),
        message: Message {
            headers: Headers {
                task: Some("task".into()),
                root_id: Some(id.clone()),
                id: Some(id.clone()),
                ..Headers::default()
            },
            properties: Properties {
                correlation_id: Some(id),
                ..Properties::default()
            },
            body: body.into(),
        },
    }
}

async fn publish(
    broker: &Arc<dyn Broker>,
    messages: usize,
    size: usize,
    flight: usize,
) -> Result<f64> {
    let start = Instant::now();
    let mut publishers: JoinSet<Result<usize>> = JoinSet::new();
    for _ in 0..flight {
        let broker = broker.clone();
        let batches = messages / flight / size;
        publishers.spawn(async move {
            for _ in 0..batches {
                broker
                    .publish((0..size).map(|_| message()).collect())
                    .await?;
            }
            Ok(batches * size)
        });
    }
    let mut published = 0;
    while let Some(done) = publishers.join_next().await {
        published += done.map_err(|_| Error::Closed("a publisher"))??;
    }
    Ok(published as f64 / start.elapsed().as_secs_f64())
}

async fn consume(broker: &Arc<dyn Broker>, prefetch: usize) -> Result<Box<dyn Consumer>> {
    let spec = ConsumeSpec {
        queues: vec![QUEUE.into()],
        prefetch,
        lease: Duration::from_secs(30),
    };
    broker.consume(spec).await
}

async fn drain(broker: &Arc<dyn Broker>, messages: usize, prefetch: usize) -> Result<f64> {
    let messages = messages.min(broker.len(QUEUE).await? as usize);
    let mut consumer = consume(broker, prefetch).await?;
    let start = Instant::now();
    let mut settling = JoinSet::new();
    for _ in 0..messages {
        let delivery = consumer
            .next()
            .await?
            .ok_or(Error::Closed("the consumer"))?;
        let broker = broker.clone();
        settling.spawn(async move { broker.settle(&delivery.receipt, Settle::Ack).await });
        while settling.try_join_next().is_some() {}
    }
    while settling.join_next().await.is_some() {}
    Ok(messages as f64 / start.elapsed().as_secs_f64())
}

/// From publishing to having it, one at a time.
async fn latency(broker: &Arc<dyn Broker>) -> Result<()> {
    let mut consumer = consume(broker, 1).await?;
    let mut times = Vec::new();
    for _ in 0..2_000 {
        let (published, delivery) = tokio::join!(
            async {
                // The consumer is waiting by now.
                tokio::time::sleep(Duration::from_millis(1)).await;
                let start = Instant::now();
                broker.publish(vec![message()]).await.map(|()| start)
            },
            async {
                consumer
                    .next()
                    .await
                    .map(|delivery| (delivery, Instant::now()))
            },
        );
        let (delivery, end) = delivery?;
        times.push(end - published?);
        let delivery = delivery.ok_or(Error::Closed("the consumer"))?;
        broker.settle(&delivery.receipt, Settle::Ack).await?;
    }
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 100];
    println!(
        "from publishing to having it: p50 {:?}, p99 {:?}",
        at(50),
        at(99)
    );
    Ok(())
}
