//! What a canvas costs in bytes.

use super::*;

fn app(reference_size: Option<usize>) -> Canvas {
    let builder = Canvas::builder();
    // Ports of its own, so that nothing switches references on.
    let builder = builder
        .broker(std::sync::Arc::new(canvas::memory::MemoryBroker::new()))
        .backend(std::sync::Arc::new(canvas::memory::MemoryBackend::new()));
    let builder = builder.configure(|c| c.continuation_reference_size = reference_size);
    builder.build().unwrap()
}

fn steps(count: usize) -> Signature {
    chain((0..count).map(|n| t("tasks.step").arg(n)))
}

/// The largest message, and all there is to send and to keep.
fn cost(app: &Canvas, canvas: Signature) -> (usize, usize) {
    let plan = app.explain(canvas).unwrap();
    let bytes = plan.messages.iter().map(|message| message.bytes);
    let largest = bytes.clone().max().unwrap();
    (largest, bytes.sum::<usize>() + plan.kept_bytes)
}

#[test]
fn a_long_chain_by_reference_has_small_messages_and_costs_bytes_in_line_with_its_steps() {
    let app = app(Some(2_048));
    let (largest, all) = cost(&app, steps(1_000));
    assert!(largest < 4_096, "{largest}");
    let (_, twice) = cost(&app, steps(2_000));
    let ratio = twice as f64 / all as f64;
    assert!((1.8..2.3).contains(&ratio), "{all} bytes, then {twice}");
}

#[test]
fn a_long_chain_by_copy_costs_the_square_as_in_celery() {
    let app = app(None);
    let (largest, all) = cost(&app, steps(200));
    let (twice_the_largest, twice) = cost(&app, steps(400));
    assert!(twice_the_largest > largest * 3 / 2);
    assert!(twice > all * 3, "{all} bytes, then {twice}");
}

#[test]
fn a_large_body_is_kept_once_and_not_in_each_message_of_its_header() {
    let body = || steps(100);
    assert!(serde_json::to_vec(&body()).unwrap().len() > 8_000);
    let canvas = chord((0..500).map(|n| t("tasks.member").arg(n)), body());
    let plan = app(Some(2_048)).explain(canvas).unwrap();
    let members = plan
        .messages
        .iter()
        .filter(|message| message.task == "tasks.member");
    let sizes: Vec<usize> = members.map(|message| message.bytes).collect();
    assert_eq!(sizes.len(), 500);
    assert!(sizes.iter().all(|bytes| *bytes < 512), "{sizes:?}");
    assert!(plan.kept_bytes < 40_000, "{}", plan.kept_bytes);
}

#[test]
fn nested_continuations_do_not_multiply() {
    // Each level doubled the bytes in Celery before 5.7.
    let canvas = |depth: usize| {
        (0..depth).fold(t("start"), |canvas, n| {
            let member = |m: &str| t("tasks.member").arg(format!("{n}-{m}"));
            canvas | group([member("a"), member("b")]) | t("tasks.body")
        })
    };
    for reference_size in [None, Some(512)] {
        let app = app(reference_size);
        let (_, ten) = cost(&app, canvas(10));
        let (_, twenty) = cost(&app, canvas(20));
        assert!(
            twenty < ten * 5,
            "{reference_size:?}: {ten} bytes, then {twenty}"
        );
    }
}

#[tokio::test]
async fn a_lazy_group_holds_few_members_at_a_time() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let app = app(None);
    let broker = app.broker().clone();
    let behind = Arc::new(AtomicUsize::new(0));
    let most = behind.clone();
    let (made, waiting) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = waiting.clone();
    let watched = tokio::spawn(async move {
        loop {
            seen.store(
                broker.len("celery").await.unwrap() as usize,
                Ordering::Relaxed,
            );
            tokio::task::yield_now().await;
        }
    });
    let members = (0..20_000).map(move |n| {
        let made = made.fetch_add(1, Ordering::Relaxed) + 1;
        let held = made.saturating_sub(waiting.load(Ordering::Relaxed));
        most.fetch_max(held, Ordering::Relaxed);
        t("t").arg(n)
    });
    let result = Group::from_iter(members).apply(&app).await.unwrap();
    watched.abort();
    assert_eq!(result.as_group().unwrap().len(), 20_000);
    assert_eq!(app.broker().len("celery").await.unwrap(), 20_000);
    let behind = behind.load(Ordering::Relaxed);
    assert!(
        behind <= 1_024,
        "{behind} members were made before they were sent"
    );
}
