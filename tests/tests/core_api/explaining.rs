//! What a canvas says of itself before it is sent.

use super::*;

fn explain(canvas: Signature) -> Explanation {
    Canvas::in_memory().explain(canvas).unwrap()
}

/// `(who sends it, what)`, by task name.
fn sends(plan: &Explanation) -> Vec<(String, String)> {
    let name = |id: &Option<Id>| match id {
        None => "client".to_owned(),
        Some(id) => {
            let sender = plan.messages.iter().find(|message| message.id == *id);
            sender.unwrap().task.clone()
        }
    };
    plan.messages
        .iter()
        .map(|m| (name(&m.sent_by), m.task.clone()))
        .collect()
}

fn pairs(want: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(from, to): &(&str, &str)| ((*from).to_owned(), (*to).to_owned());
    want.iter().map(own).collect()
}

#[tokio::test]
async fn a_chord_in_a_chain_is_explained_before_it_is_sent() {
    let app = Canvas::in_memory();
    let header = group([t("b").queue("q"), t("c").task_id("c")]);
    let canvas = t("a").task_id("a") | header | t("d").task_id("d") | t("e").task_id("e");
    let plan = app.explain(canvas).unwrap();
    let want = [
        ("client", "a"),
        ("a", "b"),
        ("a", "c"),
        ("c", "d"),
        ("d", "e"),
    ];
    assert_eq!(sends(&plan), pairs(&want));
    let queues: Vec<&str> = plan.messages.iter().map(|m| m.queue.as_str()).collect();
    assert_eq!(queues, ["celery", "q", "celery", "celery", "celery"]);
    assert_eq!(plan.messages[2].id.as_str(), "c");
    let [join] = plan.joins.as_slice() else {
        panic!("one join: {:?}", plan.joins)
    };
    assert_eq!((join.size, join.quorum), (2, 2));
    assert_eq!(plan.result.id.as_str(), "e");
    assert_eq!(plan.result.parent.as_ref().unwrap().id.as_str(), "d");
    // The explained canvas is frozen: sent, it does what was said.
    let sent = app.apply(plan.canvas.clone()).await.unwrap();
    assert_eq!(*sent.tree(), plan.result);
    assert_eq!(
        app.broker().len("celery").await.unwrap(),
        1,
        "explaining sent nothing"
    );
    let upgrade = "group(b(), c()) followed by d() becomes a chord";
    assert!(
        plan.traps
            .iter()
            .any(|trap| { trap.contains(upgrade) || trap.contains("became a chord") }),
        "{:?}",
        plan.traps
    );
}

#[test]
fn the_bytes_are_those_of_the_bodies_that_will_be_sent() {
    let app = Canvas::in_memory();
    let mut canvas = t("a").arg("x".repeat(500)) | t("b");
    canvas.freeze().unwrap();
    let plan = app.explain(canvas.clone()).unwrap();
    let first = sent(&app, canvas).remove(0);
    assert_eq!(plan.messages[0].bytes, first.message.body.len());
    assert!(plan.messages[0].bytes > 500);
    assert_eq!(plan.kept_bytes, 0);
}

#[test]
fn callbacks_nested_chords_and_groups_at_the_end_are_followed() {
    let inner = chord([t("a"), t("b")], t("c"));
    let canvas = chord(
        [inner, t("d").link(t("e"))],
        t("f") | group([t("g"), t("h")]),
    );
    let plan = explain(canvas);
    let mut have = sends(&plan);
    have.sort();
    let mut want = pairs(&[
        ("client", "a"),
        ("client", "b"),
        ("client", "d"),
        ("b", "c"),
        ("d", "e"),
        ("c", "f"),
        ("f", "g"),
        ("f", "h"),
    ]);
    want.sort();
    assert_eq!(have, want);
    assert_eq!(plan.joins.len(), 2);
}

#[test]
fn a_plan_can_be_printed() {
    let canvas = t("a").task_id("1") | chord([t("b").task_id("2")], t("c").task_id("3"));
    let plan = explain(canvas);
    let shown = plan.to_string();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], "a() | chord([b()], c())");
    let bytes: usize = plan.messages.iter().map(|message| message.bytes).sum();
    assert_eq!(
        lines[1],
        format!("3 messages ({bytes} bytes of body), 1 joins, 0 bytes kept")
    );
    let first = plan.messages[0].bytes;
    assert_eq!(lines[2], format!("  client -> celery a[1] {first} bytes"));
    assert!(
        lines[3].starts_with("  task 1 -> celery b[2] "),
        "{}",
        lines[3]
    );
    assert!(
        lines[4].starts_with("  task 2 -> celery c[3] "),
        "{}",
        lines[4]
    );
    let join = &plan.joins[0].id;
    assert_eq!(lines[5], format!("  join {join} of 1, body after 1"));
}

#[test]
fn what_may_surprise_is_said() {
    let one = || group([t("b")]);
    let two = || group([t("b"), t("c")]);
    let none = || group::<Signature>([]);
    let read = |canvas: Signature| Signature::from_value(canvas.to_value()).unwrap();
    let in_chain = |steps: [Signature; 3]| {
        let mut chain = t("x") | t("y");
        chain.shape = Shape::Chain(steps.to_vec());
        read(chain)
    };
    for (trap, canvas) in [
        (
            "group(b()) is a group of one",
            in_chain([t("a"), one(), t("d")]),
        ),
        (
            "group(b()) is a group of one",
            group([t("a"), group([t("a"), one()])]),
        ),
        (
            "becomes a chord: the second waits for all",
            in_chain([t("a"), two(), t("d")]),
        ),
        (
            "became a chord: it needs a backend that joins",
            two() | t("d"),
        ),
        ("an empty group gives an empty list", t("a") | none()),
        ("an empty group gives an empty list", none()),
        (
            "b() ignores its result, but is in a header",
            chord([t("a"), t("b").ignore_result(true)], t("c")),
        ),
        (
            "b() ignores its result, but is in a header",
            t("x")
                | chord(
                    [chord([t("b").ignore_result(true)], t("y")), t("a")],
                    t("c"),
                ),
        ),
    ] {
        let traps = explain(canvas.clone()).traps;
        assert!(
            traps.iter().any(|found| found.contains(trap)),
            "{canvas}: {traps:?}"
        );
    }
    for quiet in [
        t("a"),
        t("a") | t("b"),
        two(),
        chord([t("a"), t("b")], t("c")),
        one(),
    ] {
        assert_eq!(
            explain(quiet.clone()).traps,
            Vec::<String>::new(),
            "{quiet}"
        );
    }
}

#[test]
fn nonsense_cannot_be_explained() {
    let error = Canvas::in_memory()
        .explain(chain::<Signature>([]))
        .unwrap_err();
    assert!(matches!(error, Error::InvalidCanvas(_)), "{error}");
}
