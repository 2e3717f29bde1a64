//! The pure parts: signatures as text, planning a canvas, and what follows a
//! finished task. No broker, no backend and no clock but the one handed in.

use std::hint::black_box;
use std::time::Duration;

use canvas::advance::apply;
use canvas::protocol::DeliveryInfo;
use canvas::{Canvas, Effect, Kwargs, Message, Outcome, Request, Signature, advance};
use canvas_benches::{app, counting_chain, counting_chord, counting_group, echo};
use chrono::{DateTime, Utc};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// Every task of a canvas, and the ids that its parts are given.
fn frozen(mut canvas: Signature) -> Signature {
    canvas.freeze().expect("a canvas that makes sense");
    canvas
}

fn signatures(criterion: &mut Criterion) {
    let canvases = [
        ("task", 1, frozen(echo::s(1).into())),
        ("chain", 100, frozen(counting_chain(100))),
        ("chord", 100, frozen(counting_chord(100))),
    ];
    let mut group = criterion.benchmark_group("signature");
    for (name, size, canvas) in canvases {
        let text = serde_json::to_vec(&canvas).expect("a signature is JSON");
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::new(format!("write/{name}"), size), |bencher| {
            bencher.iter(|| serde_json::to_vec(black_box(&canvas)));
        });
        group.bench_function(BenchmarkId::new(format!("read/{name}"), size), |bencher| {
            bencher.iter(|| Signature::from_json(black_box(&text)));
        });
    }
}

fn plans(criterion: &mut Criterion) {
    let app = app().build().expect("an application");
    let canvases = [
        ("chain", 10, counting_chain(10)),
        ("chain", 100, counting_chain(100)),
        ("chain", 1_000, counting_chain(1_000)),
        ("group", 1_000, counting_group(1_000)),
        ("chord", 1_000, counting_chord(1_000)),
    ];
    let mut group = criterion.benchmark_group("plan");
    for (name, size, canvas) in canvases {
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::new(name, size), |bencher| {
            let again = || canvas.clone();
            let plan = |canvas| apply(app.env(), canvas, &[], &Kwargs::new(), NOW);
            bencher.iter_batched(again, plan, BatchSize::SmallInput);
        });
    }
}

/// The messages that a canvas starts with.
fn messages(app: &Canvas, canvas: Signature) -> Vec<Message> {
    let planned = apply(app.env(), canvas, &[], &Kwargs::new(), NOW);
    let (effects, _) = planned.expect("a canvas that makes sense");
    let message = |effect| match effect {
        Effect::Publish(outgoing) => Some(outgoing.message),
        _ => None,
    };
    effects.into_iter().filter_map(message).collect()
}

fn read(message: &Message) -> Request {
    let read = Request::decode(message, DeliveryInfo::default());
    read.expect("a message that was just written")
}

fn steps(criterion: &mut Criterion) {
    let by_reference = app().build().expect("an application");
    let by_copy = app()
        .configure(|config| config.continuation_reference_size = Some(usize::MAX))
        .build()
        .expect("an application");
    let cases = [
        ("chain, by reference", 10, &by_reference, counting_chain(10)),
        (
            "chain, by reference",
            1_000,
            &by_reference,
            counting_chain(1_000),
        ),
        ("chain, by copy", 10, &by_copy, counting_chain(10)),
        ("chain, by copy", 1_000, &by_copy, counting_chain(1_000)),
        ("chord member", 1_000, &by_reference, counting_chord(1_000)),
    ];
    // What one finished task costs, however many come after it.
    let mut group = criterion.benchmark_group("step");
    group.throughput(Throughput::Elements(1));
    for (name, size, app, canvas) in cases {
        let message = messages(app, canvas).swap_remove(0);
        let request = read(&message);
        group.bench_function(BenchmarkId::new(format!("read/{name}"), size), |bencher| {
            bencher.iter(|| read(black_box(&message)));
        });
        group.bench_function(
            BenchmarkId::new(format!("advance/{name}"), size),
            |bencher| {
                let done = || Outcome::Success(1.into());
                bencher.iter(|| advance(app.env(), black_box(&request), done(), Vec::new(), NOW));
            },
        );
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = signatures, plans, steps
}
criterion_main!(benches);
