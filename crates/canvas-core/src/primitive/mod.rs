//! The ways in which signatures compose: chain, group, chord, map, starmap,
//! chunks, and those that an application adds.

mod compose;
mod custom;
mod map;
mod normalize;

pub use custom::{Primitive, PrimitiveRegistry};
pub use map::{chunks, map, starmap};
pub(crate) use normalize::{count, ends_in_group, needs_join, no_results, normalize};

use crate::signature::{ChordParts, HeaderForm, Kwargs, Shape, Signature, as_header};

/// Runs the steps one after the other, each given the result of the one before
/// as its first argument. The result is the last step's; walk back by
/// `parent`.
///
/// Steps are folded with `|`, so all its rules hold: chains in it are
/// flattened, a group followed by a step becomes a chord. An empty chain does
/// nothing, and applying it is an error; a chain of one is that step.
///
/// Celery: <https://docs.celeryq.dev/en/stable/userguide/canvas.html#chains>
///
/// ```
/// use canvas_core::{Signature, chain};
/// let add = |n: i64| Signature::new("add").arg(n);
/// assert_eq!(chain([add(1), add(2)]), add(1) | add(2));
/// ```
pub fn chain<S: Into<Signature>>(steps: impl IntoIterator<Item = S>) -> Signature {
    let empty = Signature::shaped("celery.chain", Shape::Chain(Vec::new()));
    steps
        .into_iter()
        .fold(empty, |chain, step| chain | step.into())
}

/// Runs the members side by side. The result is a group result: the members'
/// results in their order.
///
/// Groups inside a group are flattened when it is applied. An empty group ends
/// at once with an empty list. See [`Group`](crate::Group) for members that
/// should not all be in memory.
///
/// Celery: <https://docs.celeryq.dev/en/stable/userguide/canvas.html#groups>
pub fn group<S: Into<Signature>>(members: impl IntoIterator<Item = S>) -> Signature {
    let mut members: Vec<Signature> = members.into_iter().map(Into::into).collect();
    // As in Celery, a group of nothing but a group is that group.
    if members.len() == 1
        && matches!(members[0].shape, Shape::Group(_))
        && members[0].options.is_empty()
        && let Some(only) = members.pop()
    {
        return only;
    }
    Signature::shaped("celery.group", Shape::Group(members))
}

/// Runs `body` with the list of the members' results, once all have succeeded.
/// The result is the body's; its parent is the header's group result.
///
/// If a member fails, the body fails with a `ChordError` that names it, without
/// having run; [`Policy`](crate::Policy) has other rules. With no members the
/// body runs at once, with an empty list. An empty group as the body is no body:
/// what is left is the header, a group.
///
/// Celery: <https://docs.celeryq.dev/en/stable/userguide/canvas.html#chords>
///
/// ```
/// use canvas_core::{Signature, chord, group};
/// let add = |n: i64| Signature::new("add").args([n, n]);
/// let sum = Signature::new("tsum");
/// let chord = chord([add(1), add(2)], sum);
/// assert_eq!(chord.to_string(), "chord([add(1, 1), add(2, 2)], tsum())");
/// ```
pub fn chord<S: Into<Signature>>(
    header: impl IntoIterator<Item = S>,
    body: impl Into<Signature>,
) -> Signature {
    let members = header.into_iter().map(Into::into).collect();
    let header = Signature::shaped("celery.group", Shape::Group(members));
    let body = body.into();
    if compose::is_empty_group(&body) {
        return header;
    }
    chord_of(header, HeaderForm::List, body)
}

/// A chord of what was a group before `body` followed it. A list would lose
/// what the group has besides its members.
pub(crate) fn upgraded(group: Signature, body: Signature) -> Signature {
    let only_members = group.args.is_empty() && group.kwargs.is_empty() && group.options.is_empty();
    let form = if only_members && group.extra.is_empty() {
        HeaderForm::Upgraded
    } else {
        HeaderForm::Group
    };
    chord_of(group, form, body)
}

fn chord_of(header: Signature, header_form: HeaderForm, body: Signature) -> Signature {
    Signature::shaped(
        "celery.chord",
        Shape::Chord(Box::new(ChordParts {
            header: as_header(header),
            header_form,
            body: Some(body),
            kwargs: Kwargs::new(),
        })),
    )
}
