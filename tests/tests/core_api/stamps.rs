//! Stamps. What Celery 5.7 does was seen there: each table is its output.

use super::*;

/// The stamps of a task: the names, sorted, and their values.
fn stamps(task: &Signature) -> (Vec<String>, Vec<Value>) {
    let mut names = task.options.stamped_headers();
    names.sort();
    let values = names
        .iter()
        .map(|name| task.options.get(name).cloned().unwrap_or_default());
    let values = values.collect();
    (names, values)
}

fn stamped(names: &[&str], values: Value) -> (Vec<String>, Vec<Value>) {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    (names, values.as_array().unwrap().clone())
}

#[test]
fn a_stamp_is_an_option_whose_name_is_listed() {
    let task = t("a").stamp([("n", 1)]);
    assert_eq!(
        json!(task.options),
        json!({"n": 1, "stamped_headers": ["n"]})
    );
    let nothing: [(&str, i64); 0] = [];
    assert!(t("a").stamp(nothing).options.is_empty());
}

#[test]
fn stamping_again_replaces_appends_or_adds() {
    let once = || t("a").stamp([("n", json!(1))]);
    let list = || t("a").stamp([("n", json!([1]))]);
    let table = [
        (once().stamp([("n", 2)]), json!(2)),
        (once().append_stamp([("n", 2)]), json!([2, 1])),
        (
            once().append_stamp([("n", 2)]).append_stamp([("n", 3)]),
            json!([3, 2, 1]),
        ),
        (list().stamp([("n", json!([2]))]), json!([2, 1])),
        (
            list().append_stamp([("n", json!([1, 2]))]),
            json!([1, 2, 1]),
        ),
    ];
    for (task, want) in table {
        assert_eq!(stamps(&task), (vec!["n".to_owned()], vec![want]));
    }
    let both = once().stamp([("m", 2)]);
    assert_eq!(stamps(&both), stamped(&["m", "n"], json!([2, 1])));
}

#[test]
fn stamps_reach_every_task_but_a_chords_body() {
    let canvas = group([t("a"), t("b") | t("c")]).stamp([("n", 1)]);
    let one = stamped(&["n"], json!([1]));
    assert!(canvas.options.is_empty());
    assert_eq!(stamps(&parts(&canvas)[0]), one);
    assert!(
        parts(&parts(&canvas)[1])
            .iter()
            .all(|step| stamps(step) == one)
    );
    let canvas = chord([t("a"), t("b")], t("c").link(t("d"))).stamp([("n", 1)]);
    assert!(parts(&canvas).iter().all(|member| stamps(member) == one));
    assert!(stamps(body(&canvas)).0.is_empty());
}

#[test]
fn stamps_reach_callbacks_and_error_callbacks() {
    let one = stamped(&["n"], json!([1]));
    let links = |s: &Signature| s.options.links().unwrap();
    let task = t("a")
        .link(t("b").link(t("c")))
        .link_error(t("e"))
        .stamp([("n", 1)]);
    assert_eq!(stamps(&links(&task)[0]), one);
    assert_eq!(stamps(&links(&links(&task)[0])[0]), one);
    assert_eq!(stamps(&task.options.error_links().unwrap()[0]), one);
    let chain = (t("a") | t("b")).link(t("c")).stamp([("n", 1)]);
    assert_eq!(stamps(&links(&chain)[0]), one);
    let group = group([t("a"), t("b")]).link(t("c")).stamp([("n", 1)]);
    assert_eq!(stamps(&links(&parts(&group)[0])[0]), one);
}

/// Says what it is told to, and notes what it is asked.
#[derive(Default)]
struct Visitor {
    says: Vec<(&'static str, Value)>,
    asked: Vec<String>,
}

impl Visitor {
    fn says(says: &[(&'static str, Value)]) -> Self {
        Self {
            says: says.to_vec(),
            asked: Vec::new(),
        }
    }

    fn ask(&mut self, what: &str, about: &Signature) -> Stamps {
        self.asked.push(format!("{what} {about}"));
        let found = self.says.iter().find(|(key, _)| *key == what);
        found
            .map(|(_, stamps)| map_of(stamps.clone()))
            .unwrap_or_default()
    }
}

impl StampingVisitor for Visitor {
    fn on_signature(&mut self, task: &Signature) -> Stamps {
        let mut stamps = self.ask("task", task);
        if let Some(name) = stamps.get_mut("name") {
            *name = json!(task.task);
        }
        stamps
    }

    fn on_group_start(&mut self, group: &Signature) -> Stamps {
        self.ask("group", group)
    }

    fn on_group_end(&mut self, group: &Signature) {
        self.ask("end of group", group);
    }

    fn on_chain_start(&mut self, chain: &Signature) -> Stamps {
        self.ask("chain", chain)
    }

    fn on_chain_end(&mut self, chain: &Signature) {
        self.ask("end of chain", chain);
    }

    fn on_chord_body(&mut self, chord: &Signature) -> Stamps {
        self.ask("body", chord)
    }

    fn on_callback(&mut self, callback: &Signature) -> Stamps {
        self.ask("callback", callback)
    }

    fn on_errback(&mut self, errback: &Signature) -> Stamps {
        self.ask("errback", errback)
    }
}

#[test]
fn a_visitor_stamps_each_task_as_it_likes() {
    let mut visitor = Visitor::says(&[("task", json!({"name": ""}))]);
    let canvas = (t("a") | t("b")).stamp_with(&mut visitor);
    assert_eq!(stamps(&parts(&canvas)[0]), stamped(&["name"], json!(["a"])));
    assert_eq!(stamps(&parts(&canvas)[1]), stamped(&["name"], json!(["b"])));
    let again = t("a").stamp([("name", 1)]).stamp_with(&mut visitor);
    assert_eq!(stamps(&again), stamped(&["name"], json!(["a"])));
}

#[test]
fn a_visitor_can_say_which_keys_are_stamps() {
    let says = json!({"x": 1, "priority": 2, "stamped_headers": ["x"]});
    let task = t("a").stamp_with(&mut Visitor::says(&[("task", says)]));
    assert_eq!(stamps(&task), stamped(&["x"], json!([1])));
    assert_eq!(task.options.priority(), Some(2));
}

#[test]
fn what_is_said_of_a_canvas_holds_for_its_parts_before_what_is_said_of_them() {
    let says = [
        ("task", json!({"k": "task"})),
        ("group", json!({"k": "group"})),
    ];
    let group = group([t("a"), t("b")]).stamp_with(&mut Visitor::says(&says));
    assert!(
        parts(&group)
            .iter()
            .all(|m| stamps(m) == stamped(&["k"], json!(["group"])))
    );
    let says = [("task", json!({"s": 1})), ("chain", json!({"c": 1}))];
    let chain = (t("a") | t("b")).stamp_with(&mut Visitor::says(&says));
    assert!(
        parts(&chain)
            .iter()
            .all(|s| stamps(s) == stamped(&["c", "s"], json!([1, 1])))
    );
}

#[test]
fn a_chords_header_is_asked_for_as_a_group_and_its_body_has_stamps_of_its_own() {
    let says = [
        ("task", json!({"s": 1})),
        ("group", json!({"g": 1})),
        ("body", json!({"b": 1})),
    ];
    let mut visitor = Visitor::says(&says);
    let chord = chord([t("a"), t("b")], t("c")).stamp_with(&mut visitor);
    assert!(
        parts(&chord)
            .iter()
            .all(|m| stamps(m) == stamped(&["g", "s"], json!([1, 1])))
    );
    assert_eq!(
        stamps(body(&chord)),
        stamped(&["b", "g", "s"], json!([1, 1, 1]))
    );
    let order: Vec<&str> = visitor
        .asked
        .iter()
        .map(|a| a.split(['(', ' ']).next().unwrap())
        .collect();
    assert_eq!(order, ["group", "task", "task", "end", "body", "task"]);
}

#[test]
fn callbacks_have_the_stamps_of_tasks_and_those_of_callbacks() {
    let says = [
        ("task", json!({"name": ""})),
        ("callback", json!({"cb": 1})),
        ("errback", json!({"eb": 1})),
    ];
    let task = t("a").link(t("b") | t("c")).link_error(t("e"));
    let task = task.stamp_with(&mut Visitor::says(&says));
    assert_eq!(stamps(&task), stamped(&["name"], json!(["a"])));
    let callback = &task.options.links().unwrap()[0];
    assert_eq!(
        stamps(&parts(callback)[0]),
        stamped(&["cb", "name"], json!([1, "b"]))
    );
    assert_eq!(
        stamps(&parts(callback)[1]),
        stamped(&["cb", "name"], json!([1, "c"]))
    );
    let errback = &task.options.error_links().unwrap()[0];
    assert_eq!(stamps(errback), stamped(&["eb", "name"], json!([1, "e"])));
}

#[test]
fn a_visitor_is_asked_from_the_outside_in_and_told_when_it_is_out() {
    let mut visitor = Visitor::default();
    let canvas = group([t("a"), t("b") | t("c")]).stamp_with(&mut visitor);
    assert_eq!(
        visitor.asked,
        [
            "group group(a(), b() | c())",
            "task a()",
            "chain b() | c()",
            "task b()",
            "task c()",
            "end of chain b() | c()",
            "end of group group(a(), b() | c())",
        ]
    );
    assert_eq!(
        canvas,
        group([t("a"), t("b") | t("c")]),
        "and has said nothing"
    );
}

#[test]
fn stamps_reach_the_messages_and_stay_through_composition() {
    let canvas = t("a").stamp([("user", "ann")]) | t("b").stamp([("user", "bob")]);
    let messages = sent(&Canvas::in_memory(), canvas.stamp([("trace", 7)]));
    let headers = &messages[0].message.headers;
    let mut names = headers.stamped_headers.clone().unwrap();
    names.sort();
    assert_eq!(names, ["trace", "user"]);
    assert_eq!(json!(headers.stamps), json!({"user": "ann", "trace": 7}));
    let wire = headers.to_map();
    assert_eq!(wire["stamps"]["user"], "ann");
    assert!(wire.get("user").is_none());
    assert!(messages[0].message.properties.extra.is_empty());
    let embed = Body::from_json(&messages[0].message.body).unwrap().2;
    let next = embed.chain.unwrap()[0].open().unwrap();
    assert_eq!(
        stamps(&next),
        stamped(&["trace", "user"], json!([7, "bob"]))
    );
}
