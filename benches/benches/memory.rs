//! From end to end in one process: a client, a worker, and everything in memory.

use std::time::Duration;

use canvas::{Signature, WorkerExt};
use canvas_benches::{app, counting_chain, counting_chord, counting_group};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

fn end_to_end(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let cases = [
        ("drain a group", 10_000, counting_group(10_000)),
        ("chain", 100, counting_chain(100)),
        ("chord", 1_000, counting_chord(1_000)),
    ];
    let mut group = criterion.benchmark_group("memory");
    for (name, size, canvas) in cases {
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::new(name, size), |bencher| {
            bencher
                .to_async(&runtime)
                .iter_custom(|times| runs(times, canvas.clone()));
        });
    }
}

/// How long so many runs take, each from applying the canvas to its result. A
/// new application for each: results pile up, and would be measured too.
async fn runs(times: u64, canvas: Signature) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..times {
        let app = app().build().expect("an application");
        let worker = app.worker().start().await.expect("a worker");
        let started = std::time::Instant::now();
        let result = app
            .apply(canvas.clone())
            .await
            .expect("a canvas that makes sense");
        result.get().await.expect("tasks that do not fail");
        took += started.elapsed();
        worker.stop().await;
    }
    took
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = end_to_end
}
criterion_main!(benches);
