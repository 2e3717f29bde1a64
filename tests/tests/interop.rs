//! The tasks of the interop worker, before Celery's own tests call them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use canvas::{Canvas, Id, Signature, State, WorkerExt};
use canvas_tests::interop::{Notes, builder, call};
use canvas_tests::support::{PATIENCE, ended, eventually, failure, value};
use serde_json::{Value, json};

async fn fleet() -> (Canvas, Notes) {
    let notes = Notes::default();
    let app = builder(&notes).build().unwrap();
    // It stops with the process.
    drop(app.worker().concurrency(1).start().await.unwrap());
    (app, notes)
}

async fn gives(canvas: impl Into<Signature>) -> Value {
    let (app, _) = fleet().await;
    value(&app.apply(canvas).await.unwrap()).await
}

/// As they are named in Celery's `t/integration/tasks.py`.
const NAMES: &str = "
    add add_chord_to_chord add_ignore_result add_not_typed add_pydantic
    add_pydantic_string_annotations add_replaced add_replaced_with_chain
    add_to_all add_to_all_to_chord add_with_result build_chain_inside_task
    chain_add chord_add collect_ids delayed_sum delayed_sum_with_soft_guard
    errback_new_style errback_new_style_with_args errback_old_style
    errback_old_style_with_args fail fail_replaced fail_unpickleable identity
    ids mul print_unicode raise_error rebuild_signature
    record_replaced_task_nesting redis_count redis_echo redis_echo_group_id
    reject_then_succeed reject_without_requeue replace_with_chain
    replace_with_chain_which_contains_a_group replace_with_chain_which_raises
    replace_with_empty_chain replace_with_stamped_task replaced_with_me retry
    retry_once retry_once_headers retry_once_ignore_result retry_once_priority
    retry_once_with_result retry_unpickleable retry_with_args_after_kwargs
    retry_with_kwargs_after_args return_exception
    return_nested_signature_chain_chain return_nested_signature_chain_chord
    return_nested_signature_chain_group return_nested_signature_chord_chain
    return_nested_signature_chord_chord return_nested_signature_chord_group
    return_nested_signature_group_chain return_nested_signature_group_chord
    return_nested_signature_group_group return_priority return_properties
    return_request_eta return_request_time_limits second_order_replace1
    second_order_replace2 sleeping soft_time_limit_must_exceed_time_limit
    store_success_then_reject sum_and_record task_with_declared_time_limits
    tsum write_to_file_and_return_int xsum";

#[test]
fn every_task_that_the_suite_calls_is_known() {
    let app = builder(&Notes::default()).build().unwrap();
    let suite = NAMES.split_whitespace();
    let mut want: Vec<String> = suite
        .map(|task| format!("t.integration.tasks.{task}"))
        .collect();
    want.splice(
        0..0,
        ["auto_retry_class_task", "celery.ping"].map(str::to_owned),
    );
    let have: Vec<&str> = app.tasks().names().collect();
    assert_eq!(have, want);
}

#[tokio::test]
async fn sums_are_those_of_python() {
    let add = |x: Value, y: Value| call("add").arg(x).arg(y);
    assert_eq!(gives(add(json!(1), json!(2))).await, json!(3));
    assert_eq!(gives(add(json!("a"), json!("b"))).await, json!("ab"));
    assert_eq!(gives(add(json!([1]), json!(["A"]))).await, json!([1, "A"]));
    assert_eq!(gives(add(json!(1), json!(2)).kwarg("z", 4)).await, json!(7));
    assert_eq!(gives(call("xsum").arg(json!([1, [2, 3]]))).await, json!(6));
    let (app, _) = fleet().await;
    let wrong = app.apply(add(json!(1), json!("b"))).await.unwrap();
    let error = failure(&wrong).await.to_string();
    assert_eq!(
        error,
        "TypeError: unsupported operand type(s) for +: 'int' and 'str'"
    );
}

#[tokio::test]
async fn an_error_is_one_that_python_can_rebuild() {
    let (app, _) = fleet().await;
    let result = app.apply(call("fail").arg("why")).await.unwrap();
    let stored = ended(&app, result.id()).await.result;
    let want = json!({
        "exc_type": "ExpectedException",
        "exc_message": ["Task expected to fail", "why"],
        "exc_module": "t.integration.tasks",
    });
    assert_eq!(stored, want);
}

#[tokio::test]
async fn error_callbacks_of_both_kinds_note_whose_error_it_was() {
    let (app, notes) = fleet().await;
    for style in ["errback_old_style", "errback_new_style"] {
        let id = Id::random();
        let failing = call("fail").task_id(id.clone()).link_error(call(style));
        let result = app.apply(failing).await.unwrap();
        failure(&result).await;
        eventually(style, async || notes.counted(id.as_str()) == 1).await;
        let labelled = call(&format!("{style}_with_args")).arg("label");
        let result = app.apply(call("fail").link_error(labelled)).await.unwrap();
        eventually("a label", async || {
            notes.list(result.id().as_str()) == ["label"]
        })
        .await;
    }
}

#[tokio::test]
async fn tasks_that_are_refused_come_again_or_fail() {
    assert_eq!(gives(call("reject_then_succeed")).await, "second-pass");
    assert_eq!(gives(call("store_success_then_reject")).await, "first-pass");
    let (app, _) = fleet().await;
    let refused = app.apply(call("reject_without_requeue")).await.unwrap();
    let meta = ended(&app, refused.id()).await;
    assert_eq!(meta.status, State::Failure);
    assert_eq!(meta.exception().unwrap().exc_type, "Reject");
}

#[tokio::test]
async fn a_task_at_its_soft_limit_can_give_what_it_has() {
    let guarded = call("delayed_sum_with_soft_guard").arg(json!([100]));
    let long = guarded.kwarg("pause_time", PATIENCE.as_secs());
    let limited = long.soft_time_limit(std::time::Duration::from_millis(20));
    assert_eq!(gives(limited).await, json!(0));
}

#[tokio::test]
async fn replacements_leave_their_notes_in_order() {
    let (app, notes) = fleet().await;
    let result = app.apply(call("second_order_replace1")).await.unwrap();
    value(&result).await;
    let want = ["In A", "In B", "In/Out C", "Out B", "Out A"];
    assert_eq!(notes.list("redis-echo"), want);
    let depth = call("record_replaced_task_nesting").arg(3);
    assert_eq!(gives(depth).await, json!([0, 1, 2, 3]));
}

#[tokio::test]
async fn a_canvas_that_a_task_returns_can_be_rebuilt() {
    for kind in ["chain_group", "group_chord", "chord_chord"] {
        let nested = call(&format!("return_nested_signature_{kind}"));
        assert_eq!(gives(nested | call("rebuild_signature")).await, Value::Null);
    }
    let (app, _) = fleet().await;
    let wrong = app.apply(call("rebuild_signature").arg(1)).await.unwrap();
    assert_eq!(failure(&wrong).await.exc_type, "TypeError");
}
