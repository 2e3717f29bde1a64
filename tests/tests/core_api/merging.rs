//! What is merged into a signature, and when two are the same.

use super::*;

/// What is merged into what, and what Celery's `_merge` makes of it.
#[test]
fn arguments_keywords_and_options_merge_as_in_celery() {
    let own = || t("t").arg(2).kwarg("a", 1).set("queue", "q");
    let new = || {
        (
            json!([1]),
            json!({"a": 2, "b": 3}),
            json!({"queue": "r", "x": 1}),
        )
    };
    let none = || (json!([]), json!({}), json!({}));
    let with = |value: Value| t("t").replace(None, None, Some(options(value)));
    let given = |value: Value| (json!([]), json!({}), value);
    let table = [
        (
            "arguments go before, the rest overrides",
            own(),
            new(),
            false,
            json!([[1, 2], {"a": 2, "b": 3}, {"queue": "r", "x": 1}]),
        ),
        (
            "an immutable one takes options only",
            own().immutable(),
            new(),
            false,
            json!([[2], {"a": 1}, {"queue": "r", "x": 1}]),
        ),
        (
            "unless it is forced",
            own().immutable(),
            new(),
            true,
            json!([[1, 2], {"a": 2, "b": 3}, {"queue": "r", "x": 1}]),
        ),
        (
            "nothing changes nothing",
            own(),
            none(),
            false,
            json!([[2], {"a": 1}, {"queue": "q"}]),
        ),
        (
            "the group stands",
            with(json!({"group_id": "h"})),
            given(json!({"group_id": "g"})),
            false,
            json!([[], {}, {"group_id": "h"}]),
        ),
        (
            "even if it is null",
            with(json!({"group_id": null})),
            given(json!({"group_id": "g"})),
            true,
            json!([[], {}, {"group_id": null}]),
        ),
        (
            "a group is taken where there is none",
            t("t"),
            given(json!({"group_id": "g"})),
            false,
            json!([[], {}, {"group_id": "g"}]),
        ),
        (
            "stamps stand",
            with(json!({"stamped_headers": ["a"], "a": 1})),
            given(json!({"stamped_headers": ["b"], "a": 2, "b": 3})),
            false,
            json!([[], {}, {"stamped_headers": ["a"], "a": 1, "b": 3}]),
        ),
        (
            "stamps are taken where there are none",
            t("t"),
            given(json!({"stamped_headers": ["b"], "b": 3})),
            false,
            json!([[], {}, {"stamped_headers": ["b"], "b": 3}]),
        ),
        (
            "lists are not joined",
            with(json!({"link": [1]})),
            given(json!({"link": [2]})),
            false,
            json!([[], {}, {"link": [2]}]),
        ),
        (
            "nor objects",
            with(json!({"headers": {"a": 1}})),
            given(json!({"headers": {"b": 2}})),
            false,
            json!([[], {}, {"headers": {"b": 2}}]),
        ),
    ];
    for (what, mut signature, (args, kwargs, opts), force, want) in table {
        let args = args.as_array().unwrap();
        signature.merge(args, &map_of(kwargs), &options(opts), force);
        let have = json!([signature.args, signature.kwargs, signature.options]);
        assert_eq!(have, want, "{what}");
    }
}

#[test]
fn a_clone_with_more_leaves_the_original_alone() {
    let own = t("t").arg(2).kwarg("a", 1);
    let kwargs = map_of(json!({"a": 9}));
    let clone = own.clone_with(&[json!(1)], &kwargs, &options(json!({"queue": "q"})));
    assert_eq!(clone, t("t").args([1, 2]).kwarg("a", 9).queue("q"));
    assert_eq!(own, t("t").arg(2).kwarg("a", 1));
}

#[test]
fn replacing_substitutes_and_does_not_merge() {
    let own = t("t").args([1, 2]).kwarg("a", 1).queue("q").immutable();
    let replaced = own.replace(Some(vec![json!(9)]), None, None);
    assert_eq!(replaced, t("t").arg(9).kwarg("a", 1).queue("q").immutable());
    let replaced = own.replace(None, Some(Kwargs::new()), Some(Options::new()));
    assert_eq!(replaced, t("t").args([1, 2]).immutable());
    assert_eq!(own.replace(None, None, None), own);
}

#[test]
fn immutability_is_the_members_and_the_headers() {
    assert!(t("t").immutable().immutable);
    let group = group([t("a"), t("b")]).immutable();
    assert!(!group.immutable && parts(&group).iter().all(|member| member.immutable));
    let chord = chord([t("a")], t("b")).immutable();
    assert!(parts(&chord)[0].immutable && !body(&chord).immutable && !chord.immutable);
    let chain = (t("a") | t("b")).immutable();
    assert!(chain.immutable && !parts(&chain)[0].immutable);
}

#[test]
fn setting_sets_any_option_again_and_again() {
    let signature = t("t")
        .set("queue", "a")
        .set("mine", json!({"x": 1}))
        .set("queue", "b");
    assert_eq!(signature.options.queue(), Some("b"));
    assert_eq!(signature.options.get("mine"), Some(&json!({"x": 1})));
    assert_eq!(signature.set("queue", Value::Null).options.queue(), None);
}

#[test]
fn two_signatures_that_say_the_same_are_equal_and_hash_alike() {
    let make = |n: i64| {
        [
            t("a").arg(n).kwarg("x", json!({"k": [1, null]})),
            t("a").arg(n).immutable(),
            t("a").arg(n) | t("b"),
            group([t("a").arg(n), t("b")]),
            chord([t("a").arg(n)], t("b")),
            t("a").arg(n).link(t("b")),
            map(t("a"), [n]),
            chunks(t("a"), [json!([n])], 2),
        ]
    };
    let set: HashSet<Signature> = make(1).into_iter().chain(make(2)).chain(make(1)).collect();
    assert_eq!(set.len(), 16);
    assert!(make(2).iter().all(|signature| set.contains(signature)));
    // Read back from JSON, they are still the same, whatever the order of keys.
    for signature in make(1) {
        let text = serde_json::to_vec(&signature).unwrap();
        assert!(
            set.contains(&Signature::from_json(&text).unwrap()),
            "{signature}"
        );
    }
    let one = t("t").kwarg("a", 1).kwarg("b", 2);
    let other = t("t").kwarg("b", 2).kwarg("a", 1);
    assert_eq!(one, other);
    assert_eq!(
        HashSet::from([one]).len(),
        HashSet::from([other.clone()]).len()
    );
    assert!(HashSet::from([other]).contains(&t("t").kwarg("a", 1).kwarg("b", 2)));
}
