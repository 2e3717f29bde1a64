//! A canvas in the form in which it is run: Celery's `prepare_steps`.
//!
//! Whatever was composed, afterwards: chains have no chains in them, at least
//! two steps, and a group only at the end; a chord's body in a chain is one
//! step, with what follows it beside it rather than inside; groups have no
//! groups in them; options that belong to the parts have moved there.

use std::collections::VecDeque;

use serde_json::Value;

use super::compose::{is_empty_group, unchain, unroll};
use super::map::expand_chunks;
use super::upgraded;
use crate::error::{Error, Result};
use crate::json::deep;
use crate::options::Options;
use crate::signature::{Shape, Signature};

/// Options that say who a node is, rather than how to run it.
const IDENTITY: [&str; 7] = [
    "task_id",
    "group_id",
    "group_index",
    "root_id",
    "parent_id",
    "reply_to",
    "chord",
];

/// Brings a canvas into the form in which it is run. Doing it twice changes
/// nothing more.
///
/// # Errors
/// [`Error::InvalidCanvas`] for an empty chain or a chord without a body.
pub(crate) fn normalize(signature: Signature) -> Result<Signature> {
    deep(|| match signature.shape {
        Shape::Task if signature.task == "celery.chunks" => normalize(expand_chunks(&signature)?),
        Shape::Task | Shape::Custom(_) => Ok(signature),
        Shape::Chain(_) => normalize_chain(signature),
        Shape::Group(_) => normalize_group(signature),
        Shape::Chord(_) => normalize_chord(signature),
    })
}

fn normalize_chain(mut chain: Signature) -> Result<Signature> {
    let mut options = std::mem::take(&mut chain.options);
    let own = Options::from(options.as_map().clone());
    let immutable = chain.immutable;
    options.remove("link");
    options.remove("link_error");
    chain.options = own;
    let steps = flatten(unchain(chain))?;
    let mut steps = upgrade(steps)?;
    // Who the chain is, its last step is; how to run it, is for its first.
    let mut identity = Options::new();
    for key in IDENTITY {
        if let Some(value) = options.remove(key) {
            identity.set(key, value);
        }
    }
    // The first task is the parent of the others.
    identity.remove("parent_id");
    let tail = options.remove("chain");
    if let Some(first) = steps.first_mut() {
        first.options.merge(&options);
        if immutable {
            first.set_immutable(true);
        }
    }
    if let Some(last) = steps.last_mut() {
        last.options.merge(&identity);
    }
    let single = steps.len() == 1;
    let mut whole = match steps.pop() {
        None => {
            return Err(Error::InvalidCanvas(
                "a chain needs at least one step".to_owned(),
            ));
        }
        Some(only) if single => only,
        Some(last) => {
            steps.push(last);
            Signature::shaped("celery.chain", Shape::Chain(steps))
        }
    };
    if let Some(tail) = tail {
        whole.options.set("chain", tail);
    }
    Ok(whole)
}

/// Splices nested chains in, takes groups of one apart, drops empty groups
/// where there are other steps, and unties what follows a chord from its body.
fn flatten(steps: Vec<Signature>) -> Result<Vec<Signature>> {
    let mut open = VecDeque::from(steps);
    let mut flat = Vec::new();
    let mut empty = None;
    while let Some(step) = open.pop_front() {
        let step = unroll(step);
        let mut later = Vec::new();
        match step.shape {
            Shape::Chain(_) => later = unchain(step),
            Shape::Chord(_) => {
                let (chord, rest) = untie(step);
                match normalize(chord)? {
                    chord if matches!(chord.shape, Shape::Chord(_)) => flat.push(chord),
                    group => later.push(group),
                }
                later.extend(rest);
            }
            // Chunks turn out to be a group.
            Shape::Task if step.task == "celery.chunks" => later.push(normalize(step)?),
            Shape::Task | Shape::Custom(_) => flat.push(step),
            Shape::Group(_) => match unroll(normalize(step)?) {
                group if is_empty_group(&group) => empty = Some(group),
                group if matches!(group.shape, Shape::Group(_)) => flat.push(group),
                // What looked like a group came down to one thing.
                other => later.push(other),
            },
        }
        for step in later.into_iter().rev() {
            open.push_front(step);
        }
    }
    if flat.is_empty() {
        flat.extend(empty);
    }
    Ok(flat)
}

/// `chord(header, a | b | c)` is `chord(header, a) | b | c`: otherwise each
/// message of the header would carry all that follows.
fn untie(mut chord: Signature) -> (Signature, Vec<Signature>) {
    let led_by_task = |body: &Signature| match &body.shape {
        Shape::Chain(steps) => matches!(
            steps.first().map(|s| &s.shape),
            Some(Shape::Task | Shape::Custom(_))
        ),
        _ => false,
    };
    let Shape::Chord(parts) = &mut chord.shape else {
        return (chord, Vec::new());
    };
    match parts.body.take() {
        Some(body) if led_by_task(&body) => {
            let mut steps = unchain(body);
            let rest = steps.split_off(1);
            parts.body = steps.pop();
            (chord, rest)
        }
        body => {
            parts.body = body;
            (chord, Vec::new())
        }
    }
}

/// A group that something follows is the header of a chord with that as body,
/// also where the group is what a chord before it ends with.
fn upgrade(steps: Vec<Signature>) -> Result<Vec<Signature>> {
    let mut done: Vec<Signature> = Vec::with_capacity(steps.len());
    for step in steps.into_iter().rev() {
        match (step, done.pop()) {
            (group, Some(next)) if matches!(group.shape, Shape::Group(_)) => {
                done.push(upgraded(group, next));
            }
            (chord, Some(next)) if ends_in_group(&chord) => {
                done.push(into_body(chord, next)?);
            }
            (step, next) => {
                done.extend(next);
                done.push(step);
            }
        }
    }
    done.reverse();
    Ok(done)
}

/// Moves the step after a chord into its body.
fn into_body(mut chord: Signature, next: Signature) -> Result<Signature> {
    if let Shape::Chord(parts) = &mut chord.shape
        && let Some(body) = parts.body.take()
    {
        parts.body = Some(normalize(match &body.shape {
            Shape::Group(_) => upgraded(body, next),
            Shape::Chord(_) => into_body(body, next)?,
            _ => Signature::shaped("celery.chain", Shape::Chain(vec![body, next])),
        })?);
    }
    Ok(chord)
}

fn normalize_group(mut group: Signature) -> Result<Signature> {
    let Shape::Group(members) = std::mem::replace(&mut group.shape, Shape::Task) else {
        return Ok(group);
    };
    let mut options = std::mem::take(&mut group.options);
    let mut identity = Options::new();
    for key in IDENTITY.into_iter().chain(["chain"]) {
        if let Some(value) = options.remove(key) {
            identity.set(key, value);
        }
    }
    let (links, error_links) = (options.links()?, options.error_links()?);
    options.remove("link");
    options.remove("link_error");
    if members.is_empty() && !(links.is_empty() && error_links.is_empty()) {
        return Err(Error::InvalidCanvas(
            "an empty group has no task that could call `link` or `link_error`: use a chord"
                .to_owned(),
        ));
    }
    let args = std::mem::take(&mut group.args);
    let kwargs = std::mem::take(&mut group.kwargs);
    let mut flat = Vec::with_capacity(members.len());
    for member in members {
        if matches!(&member.shape, Shape::Chain(steps) if steps.is_empty()) {
            continue;
        }
        let mut member = member;
        member.merge(&args, &kwargs, &options, false);
        // As options, callbacks are for each member. (In Celery they take the
        // place of the member's own; here nobody's callback is lost.)
        links.iter().for_each(|link| member.add_link(link.clone()));
        for errback in &error_links {
            member.add_link_error(errback.clone());
        }
        let member = normalize(member)?;
        match member.shape {
            Shape::Group(inner) => flat.extend(inner),
            shape => flat.push(Signature { shape, ..member }),
        }
    }
    group.options = identity;
    // As in Celery, a group of one chain that ends in a group is that chain.
    if let [only] = flat.as_slice()
        && matches!(only.shape, Shape::Chain(_))
        && ends_in_group(only)
        && group.options.is_empty()
        && let Some(only) = flat.pop()
    {
        return Ok(only);
    }
    group.shape = Shape::Group(flat);
    Ok(group)
}

fn normalize_chord(mut chord: Signature) -> Result<Signature> {
    let Shape::Chord(mut parts) = std::mem::replace(&mut chord.shape, Shape::Task) else {
        return Ok(chord);
    };
    let Some(body) = parts.body.take() else {
        return Err(Error::InvalidCanvas(format!(
            "a chord needs a body: chord([{}]) has none",
            parts.header
        )));
    };
    let mut options = std::mem::take(&mut chord.options);
    // A Python worker that finds that a member has failed looks for the error
    // callbacks of a chain on the chain itself, though it runs none.
    let errbacks = match body.shape {
        Shape::Chain(_) => body.options.error_links()?,
        _ => Vec::new(),
    };
    let mut body = normalize(body)?;
    if matches!(body.shape, Shape::Chain(_)) {
        for errback in errbacks {
            body.add_link_error(errback);
        }
    }
    if is_empty_group(&body) {
        // As in `group | group()`, where nothing follows the group.
        let mut group = parts.header;
        group.merge(&chord.args, &parts.kwargs, &options, false);
        return normalize_group(group);
    }
    for link in options.links()? {
        body.add_link(link);
    }
    for errback in options.error_links()? {
        body.add_link_error(errback);
    }
    options.remove("link");
    options.remove("link_error");
    let mut identity = Options::new();
    for key in IDENTITY.into_iter().chain(["chain"]) {
        if let Some(value) = options.remove(key) {
            identity.set(key, value);
        }
    }
    let args = std::mem::take(&mut chord.args);
    let mut inner = std::mem::take(&mut parts.kwargs);
    inner.extend(std::mem::take(&mut chord.kwargs));
    parts.header.merge(&args, &inner, &options, false);
    // A delay is the header's; everything else holds for the body as well.
    options.remove("countdown");
    options.remove("eta");
    body.options.merge(&options);
    // Not `normalize`: a header of one chain must stay a group.
    let mut header = normalize_group(parts.header)?;
    if !matches!(header.shape, Shape::Group(_)) {
        header = Signature::shaped("celery.group", Shape::Group(vec![header]));
    }
    parts.header = header;
    parts.body = Some(body);
    chord.shape = Shape::Chord(parts);
    chord.options = identity;
    Ok(chord)
}

/// How often a member of a header, in normal form, arrives at its chord:
/// Celery's `_descend`.
pub(crate) fn count(signature: &Signature) -> u64 {
    deep(|| match &signature.shape {
        Shape::Task | Shape::Custom(_) => 1,
        Shape::Group(members) => members.iter().map(count).sum(),
        // Only its last step arrives. Celery looks for the last that counts, and
        // then waits for one that will never be told to arrive.
        Shape::Chain(steps) => steps.last().map_or(0, count),
        Shape::Chord(parts) => parts.body.as_ref().map_or(0, count),
    })
}

/// Whether there is a chord with a header in a canvas in normal form.
pub(crate) fn needs_join(signature: &Signature) -> bool {
    deep(|| match &signature.shape {
        Shape::Task | Shape::Custom(_) => false,
        Shape::Chain(parts) | Shape::Group(parts) => parts.iter().any(needs_join),
        Shape::Chord(parts) => {
            count(&parts.header) > 0 || parts.body.as_ref().is_some_and(needs_join)
        }
    })
}

/// Whether the result of a canvas is that of a group.
pub(crate) fn ends_in_group(signature: &Signature) -> bool {
    deep(|| match &signature.shape {
        Shape::Task | Shape::Custom(_) => false,
        Shape::Group(_) => true,
        Shape::Chain(steps) => steps.last().is_some_and(ends_in_group),
        Shape::Chord(parts) => parts.body.as_ref().is_some_and(ends_in_group),
    })
}

/// The value that chords without members give their body.
pub(crate) fn no_results() -> Value {
    Value::Array(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{chain, chord, chunks, group};

    fn t(name: &str) -> Signature {
        Signature::new(name)
    }

    fn shown(signature: Signature) -> String {
        normalize(signature).unwrap().to_string()
    }

    #[test]
    fn a_chord_in_a_chain_gives_back_what_follows_its_body() {
        let canvas = t("a") | group([t("b"), t("c")]) | t("d") | t("e");
        assert_eq!(shown(canvas), "a() | chord([b(), c()], d()) | e()");
        let canvas = group([t("a"), t("b")]) | t("c") | group([t("d"), t("e")]) | t("a");
        assert_eq!(
            shown(chain([canvas])),
            "chord([a(), b()], c()) | chord([d(), e()], a())"
        );
    }

    #[test]
    fn nested_groups_keep_their_order() {
        let nested = group([group([t("a"), t("b")]), t("c")]);
        assert_eq!(shown(nested), "group(a(), b(), c())");
    }

    #[test]
    fn groups_followed_by_groups_become_chords() {
        let canvas = t("a") | group([t("b"), t("c")]) | group([t("d"), t("e")]);
        assert_eq!(shown(canvas), "a() | chord([b(), c()], group(d(), e()))");
    }

    #[test]
    fn empty_canvases() {
        assert_eq!(shown(chain([t("a"), group::<Signature>([])])), "a()");
        assert_eq!(shown(chain([group::<Signature>([])])), "group()");
        assert_eq!(shown(t("a") | group::<Signature>([])), "a()");
        assert!(normalize(chain::<Signature>([])).is_err());
        assert_eq!(shown(chord::<Signature>([], t("a"))), "chord([], a())");
    }

    #[test]
    fn chunks_are_a_group_of_starmaps() {
        let pieces = chunks(t("add"), (0..5).map(|n| serde_json::json!([n, n])), 2);
        let Shape::Group(members) = normalize(pieces).unwrap().shape else {
            panic!("not a group")
        };
        assert_eq!(members.len(), 3);
        assert_eq!(members[2].task, "celery.starmap");
        assert_eq!(members[2].kwargs["it"], serde_json::json!([[4, 4]]));
    }

    #[test]
    fn counts_as_celery_descends() {
        let g = || group([t("b"), t("c")]);
        for (canvas, want) in [
            (t("a"), 1),
            (t("a") | t("b"), 1),
            (g(), 2),
            (group([g(), t("d")]), 3),
            (t("a") | g(), 2),
            (g() | t("d"), 1),
            (g() | group([t("d"), t("e"), t("f")]), 3),
            (group([t("a") | g(), t("d")]), 3),
            (t("a") | group::<Signature>([]), 1),
            (group::<Signature>([]), 0),
        ] {
            let shown = canvas.to_string();
            assert_eq!(count(&normalize(canvas).unwrap()), want, "{shown}");
        }
    }

    #[test]
    fn what_is_given_to_a_canvas_reaches_the_tasks_that_start_it() {
        let given = |canvas: Signature| {
            let kwargs = crate::Kwargs::from_iter([("z".to_owned(), 2.into())]);
            canvas
                .queue("q")
                .clone_with(&[1.into()], &kwargs, &Options::new())
        };
        let ab = || t("a") | t("b");
        assert_eq!(shown(given(ab())), "a(1, z=2) | b()");
        let members = group([ab(), t("c"), ab().immutable()]);
        let want = "group(a(1, z=2) | b(), c(1, z=2), a() | b())";
        assert_eq!(shown(given(members.clone())), want);
        let header = "chord([a(1, z=2) | b(), c(1, z=2), a() | b()], d())";
        assert_eq!(shown(given(members | t("d"))), header);
        // An immutable chain starts with a task that takes nothing later either.
        let Shape::Chain(steps) = normalize(given(ab().immutable())).unwrap().shape else {
            panic!("not a chain")
        };
        assert!(steps[0].immutable && !steps[1].immutable);
        assert_eq!(steps[0].options.queue(), Some("q"));
        assert_eq!(steps[1].options.queue(), None);
    }

    #[test]
    fn normalizing_twice_changes_nothing_more() {
        let canvas = (t("a") | chord([t("b") | g2(), t("c")], t("d") | t("e")) | t("f")).queue("q");
        fn g2() -> Signature {
            group([t("x"), t("y")])
        }
        let once = normalize(canvas).unwrap();
        assert_eq!(normalize(once.clone()).unwrap(), once);
    }
}
