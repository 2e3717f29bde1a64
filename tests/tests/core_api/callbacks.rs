//! Where callbacks and error callbacks go.

use super::*;

fn links(signature: &Signature) -> Vec<Signature> {
    signature.options.links().unwrap()
}

fn errors(signature: &Signature) -> Vec<Signature> {
    signature.options.error_links().unwrap()
}

#[test]
fn an_equal_callback_is_linked_once() {
    let task = t("a").link(t("b")).link(t("c")).link(t("b"));
    assert_eq!(links(&task), [t("b"), t("c")]);
    let task = t("a").link_error(t("e")).on_error(t("e")).on_error(t("f"));
    assert_eq!(errors(&task), [t("e"), t("f")]);
}

#[test]
fn a_bare_callback_as_celery_may_write_it_becomes_a_list() {
    let task = t("a").set("link", t("b")).link(t("c"));
    assert_eq!(links(&task), [t("b"), t("c")]);
}

#[test]
fn a_chains_callbacks_are_its_own_until_it_is_composed() {
    let chain = (t("a") | t("b")).link(t("c")).link_error(t("e"));
    assert_eq!(
        (links(&chain), errors(&chain)),
        (vec![t("c")], vec![t("e")])
    );
    assert!(links(&parts(&chain)[1]).is_empty());
    let longer = t("first") | chain;
    let steps = parts(&longer);
    assert_eq!(links(&steps[2]), [t("c")]);
    assert!(errors(&steps[0]).is_empty());
    assert_eq!(
        (errors(&steps[1]), errors(&steps[2])),
        (vec![t("e")], vec![t("e")])
    );
}

#[test]
fn a_groups_callback_is_its_first_members_and_its_errback_all_of_theirs() {
    let group = group([t("a"), t("b")]).link(t("c")).link_error(t("e"));
    let members = parts(&group);
    assert_eq!(links(&members[0]), [t("c").immutable()]);
    assert!(links(&members[1]).is_empty());
    assert!(members.iter().all(|member| errors(member) == [t("e")]));
    assert!(group.options.is_empty());
}

#[test]
fn a_chords_callbacks_are_its_bodys_and_errbacks_reach_chords_in_its_header() {
    let inner = chord([t("x")], t("y"));
    let chord = chord([t("a"), inner], t("b"))
        .link(t("c"))
        .link_error(t("e"));
    assert_eq!(
        (links(body(&chord)), errors(body(&chord))),
        (vec![t("c")], vec![t("e")])
    );
    let header = parts(&chord);
    assert!(errors(&header[0]).is_empty());
    assert_eq!(errors(body(&header[1])), [t("e")]);
    assert!(chord.options.is_empty());
}

#[test]
fn links_are_flattened_depth_first() {
    let deep = t("a").link(t("b").link(t("c"))).link(t("d"));
    let names: Vec<String> = deep
        .flatten_links()
        .unwrap()
        .into_iter()
        .map(|link| link.task)
        .collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    let broken = t("a").set("link", json!([3]));
    let error = broken.flatten_links().unwrap_err();
    assert!(matches!(error, Error::MalformedSignature(_)), "{error}");
}
