//! Ids, given once and kept.

use super::*;

fn canvas() -> Signature {
    t("a") | group([t("b") | t("c"), t("d")]) | t("e") | chord([t("f")], t("g"))
}

#[test]
fn freezing_again_changes_nothing_more() {
    let mut canvas = canvas();
    let tree = canvas.freeze().unwrap();
    let once = canvas.clone();
    assert_eq!(canvas.freeze().unwrap(), tree);
    assert_eq!(canvas, once);
    let mut read = Signature::from_value(canvas.to_value()).unwrap();
    assert_eq!(
        read.freeze().unwrap(),
        tree,
        "also after a trip through JSON"
    );
}

#[test]
fn each_freezing_gives_other_ids_to_what_has_none() {
    let all_ids = |tree: &ResultTree| -> HashSet<Id> {
        tree.nodes().iter().map(|node| node.id.clone()).collect()
    };
    let (mut one, mut two) = (canvas(), canvas());
    let (one, two) = (one.freeze().unwrap(), two.freeze().unwrap());
    assert_eq!(all_ids(&one).len(), one.nodes().len(), "each id once");
    assert!(all_ids(&one).is_disjoint(&all_ids(&two)));
}

#[tokio::test]
async fn a_frozen_canvas_is_sent_with_its_ids() {
    let app = Canvas::in_memory();
    for canvas in [t("a"), t("a") | t("b"), group([t("a"), t("b")]), canvas()] {
        let mut canvas = canvas;
        let tree = canvas.freeze().unwrap();
        let sent = app.apply(canvas.clone()).await.unwrap();
        assert_eq!(*sent.tree(), tree);
        let again = app.apply(canvas).await.unwrap();
        assert_eq!(*again.tree(), tree);
    }
}

#[test]
fn an_id_on_a_canvas_is_that_of_its_result() {
    for canvas in [
        t("a"),
        t("a") | t("b"),
        group([t("a"), t("b")]),
        chord([t("a")], t("b")),
    ] {
        let mut canvas = canvas.task_id("mine");
        assert_eq!(canvas.freeze().unwrap().id.as_str(), "mine", "{canvas}");
    }
}

#[test]
fn members_know_their_group_and_their_place() {
    let mut canvas = group([t("a"), t("b") | t("c")]).task_id("g");
    canvas.freeze().unwrap();
    let messages = sent(&Canvas::in_memory(), canvas);
    let [one, two] = [0, 1].map(|at| &messages[at].message);
    let place = |message: &Message| (message.headers.group.clone(), message.headers.group_index);
    let group = Some(Id::from("g"));
    assert_eq!(place(one), (group.clone(), Some(0)));
    assert_eq!(place(two), (None, None), "only the last step arrives");
    let steps = Body::from_json(&two.body).unwrap().2.chain.unwrap();
    let last = steps[0].open().unwrap().options;
    assert_eq!((last.group_id(), last.group_index()), (group, Some(1)));
}

#[test]
fn nonsense_is_refused_when_it_is_frozen() {
    let no_body = json!({
        "task": "celery.chord", "subtask_type": "chord",
        "kwargs": {"header": [], "body": null},
    });
    for (mut canvas, why) in [
        (chain::<Signature>([]), "a chain needs at least one step"),
        (
            Signature::from_value(no_body).unwrap(),
            "a chord needs a body",
        ),
        (
            group::<Signature>([]).set("link", json!([t("b")])),
            "use a chord",
        ),
    ] {
        let error = canvas.freeze().unwrap_err().to_string();
        assert!(
            error.starts_with("invalid canvas: ") && error.contains(why),
            "{error}"
        );
    }
}
