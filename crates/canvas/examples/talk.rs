//! The talk's snippets, each with its numbers: `cargo run --example talk`.

use canvas::prelude::*;
use serde_json::{Value, json};

#[path = "support/weave.rs"]
mod weave;
use weave::{Weave, join, weave};

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task]
async fn tsum(numbers: Vec<i64>) -> i64 {
    numbers.iter().sum()
}

#[task]
async fn range(up_to: i64) -> Vec<i64> {
    (0..up_to).collect()
}

#[task]
async fn double(numbers: Vec<i64>) -> Vec<i64> {
    numbers.into_iter().map(|n| n * 2).collect()
}

#[task]
async fn broken() -> Result<i64, TaskError> {
    Err(TaskError::msg("out of luck"))
}

#[tokio::main]
async fn main() -> canvas::Result<()> {
    let app = Canvas::builder()
        .task::<add>()
        .task::<tsum>()
        .task::<range>()
        .task::<double>()
        .task::<broken>()
        .task::<join>()
        .primitive(Weave)
        .build()?;
    let worker = app.worker().start().await?;

    // A signature is a call as data.
    let signature: Signature = add::s(1, 2).into();
    println!(
        "signature   {}",
        serde_json::to_string(&signature).unwrap_or_default()
    );
    let parsed: Signature =
        serde_json::from_value(signature.to_value()).unwrap_or_else(|_| Signature::new("?"));
    assert_eq!(parsed, signature);

    // A callback: 1 + 2, and then + 3 on the result.
    let parent = add::s(1, 2).link(add::partial(3)).apply(&app).await?;
    let child = wait_for_child(parent.as_inner()).await?;
    println!(
        "callback    parent {}, child {}",
        parent.get().await?,
        child.get().await?
    );
    assert_eq!((parent.get().await?, child.get().await?), (3, json!(6)));

    // A chain: (4 + 4) + 8 + 16. The steps are there as parents.
    let chain = add::s(4, 4).then(add::partial(8)).then(add::partial(16));
    let result = chain.apply(&app).await?;
    assert_eq!(result.get().await?, 32);
    let before = result.as_inner().parent().expect("a step before it");
    let first = before.parent().expect("the first step");
    println!(
        "chain       {} <- {} <- {}",
        32,
        before.get().await?,
        first.get().await?
    );
    assert_eq!(
        (before.get().await?, first.get().await?),
        (json!(16), json!(8))
    );

    // A group: side by side.
    let sums = typed_group((0..10).map(|n| add::s(n, n)));
    let result = sums.apply(&app).await?.get().await?;
    println!("group       {result:?}");
    assert_eq!(result, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]);

    // A chord: the group's results feed a body.
    let chord = typed_chord((0..100).map(|n| add::s(n, n)), tsum::partial());
    let result = chord.apply(&app).await?.get().await?;
    println!("chord       {result}");
    assert_eq!(result, 9900);

    // A group with a step after it is a chord.
    let upgraded = typed_group([add::s(2, 2), add::s(4, 4)]).then(tsum::partial());
    assert!(upgraded.to_string().starts_with("chord("), "{upgraded}");
    assert_eq!(upgraded.apply(&app).await?.get().await?, 12);

    // map, starmap and chunks: one task over many arguments.
    let pairs = || (0..4).map(|n| json!([n, n]));
    let starmap = app
        .apply(starmap(Signature::new(add::name()), pairs()))
        .await?;
    assert_eq!(starmap.get().await?, json!([0, 2, 4, 6]));
    let chunks = app
        .apply(chunks(Signature::new(add::name()), pairs(), 3))
        .await?;
    println!("chunks      {}", chunks.get().await?);
    assert_eq!(chunks.get().await?, json!([[0, 2, 4], [6]]));

    // A primitive of our own, fed by the step before it.
    let canvas = range::s(10) | weave(double::partial(), 3);
    println!("weave       {canvas}");
    let woven = app.apply(canvas).await?.get().await?;
    assert_eq!(woven, json!((0..10).map(|n| n * 2).collect::<Vec<i64>>()));
    println!("            {woven}");

    // Failure: the body fails with the member's name, and nobody waits for ever.
    let canvas = group([Signature::from(add::s(1, 1)), broken::s().into()]) | tsum::partial();
    let result = app.apply(canvas).await?;
    let error = result.get().await.expect_err("a member fails");
    println!("failure     {error}");
    let member = &result
        .tree()
        .parent
        .as_ref()
        .and_then(|h| h.members.clone())
        .unwrap_or_default()[1];
    assert!(error.to_string().contains(member.id.as_str()), "{error}");
    assert!(error.to_string().contains("out of luck"), "{error}");

    worker.stop().await;
    Ok(())
}

/// The callback is among the children once the task has ended.
async fn wait_for_child(parent: &canvas::AsyncResult) -> canvas::Result<canvas::AsyncResult> {
    let _: Value = parent.get().await?;
    let mut children = parent.children().await?;
    Ok(children.remove(0))
}
