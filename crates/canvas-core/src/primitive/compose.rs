//! `|`: Celery's rules for composing two signatures.

use std::ops::BitOr;

use super::upgraded;
use crate::options::Options;
use crate::signature::{Shape, Signature};

impl<S: Into<Signature>> BitOr<S> for Signature {
    type Output = Signature;

    /// `a | b` runs `b` with the result of `a`.
    fn bitor(self, other: S) -> Signature {
        pipe(self, other.into())
    }
}

fn pipe(left: Signature, right: Signature) -> Signature {
    match left.shape {
        Shape::Chain(_) => chain_then(left, right),
        Shape::Group(_) if is_empty_group(&right) => left,
        Shape::Group(_) => upgraded(left, right),
        Shape::Chord(_) => chord_then(left, right),
        Shape::Task | Shape::Custom(_) => task_then(left, right),
    }
}

fn task_then(task: Signature, other: Signature) -> Signature {
    let mut steps = vec![task];
    match unroll(other) {
        other if matches!(other.shape, Shape::Chain(_)) => steps.extend(unchain(other)),
        other => steps.push(other),
    }
    chain_of(steps, Options::new())
}

/// A chord takes what follows into its body, except for a group, which needs
/// the body's result, and a chain.
fn chord_then(mut chord: Signature, other: Signature) -> Signature {
    let other = match unroll(other) {
        group if matches!(group.shape, Shape::Group(_)) => {
            return chain_of(vec![chord, group], Options::new());
        }
        chain if matches!(chain.shape, Shape::Chain(_)) => {
            let mut steps = vec![chord];
            steps.extend(unchain(chain));
            return chain_of(steps, Options::new());
        }
        other => other,
    };
    extend_body(&mut chord, other);
    chord
}

fn extend_body(chord: &mut Signature, other: Signature) {
    if let Shape::Chord(parts) = &mut chord.shape {
        parts.body = Some(match parts.body.take() {
            Some(body) => pipe(body, other),
            None => other,
        });
    }
}

fn chain_then(mut chain: Signature, other: Signature) -> Signature {
    if let Shape::Chain(steps) = &mut chain.shape {
        match (steps.as_slice(), is_empty_group(&other)) {
            // An empty group counts only where there is nothing else.
            ([], true) => {
                steps.push(other);
                return chain;
            }
            (_, true) => return chain,
            ([only], false) if is_empty_group(only) => steps.clear(),
            (_, false) => {}
        }
    }
    let is_chord = |sig: Option<&Signature>| matches!(sig.map(|s| &s.shape), Some(Shape::Chord(_)));
    match unroll(other) {
        other if matches!(other.shape, Shape::Chain(_)) => {
            unchain(other).into_iter().fold(chain, pipe)
        }
        group if matches!(group.shape, Shape::Group(_)) => {
            let mut steps = unchain(chain);
            if steps.is_empty() {
                return group;
            }
            if is_chord(steps.last())
                && let Some(last) = steps.last_mut()
            {
                extend_body(last, group);
            } else {
                steps.push(group);
            }
            chain_of(steps, Options::new())
        }
        other => {
            let options = chain.options.clone();
            let (mut steps, head) = parts(chain);
            let last_is_group = matches!(steps.last().map(|s| &s.shape), Some(Shape::Group(_)));
            if last_is_group && let Some(header) = steps.pop() {
                let chord = upgraded(header, other);
                match steps.last_mut() {
                    Some(before) if is_chord(Some(before)) => extend_body(before, chord),
                    _ => steps.push(chord),
                }
                return with_head(chain_of(steps, options), head);
            }
            if is_chord(steps.last())
                && !matches!(other.shape, Shape::Chord(_))
                && let Some(last) = steps.last_mut()
            {
                extend_body(last, other);
                return with_head(chain_of(steps, options), head);
            }
            distribute_links(&mut steps, &options);
            steps.push(other);
            with_head(chain_of(steps, Options::new()), head)
        }
    }
}

/// The steps of a chain, and what is left of it without them.
fn parts(mut chain: Signature) -> (Vec<Signature>, Signature) {
    match std::mem::replace(&mut chain.shape, Shape::Chain(Vec::new())) {
        Shape::Chain(steps) => (steps, chain),
        _ => (Vec::new(), chain),
    }
}

/// Arguments given to the chain itself stay with it: they are for whatever
/// turns out to be its first step.
fn with_head(chain: Signature, head: Signature) -> Signature {
    Signature {
        args: head.args,
        kwargs: head.kwargs,
        immutable: head.immutable,
        ..chain
    }
}

fn chain_of(steps: Vec<Signature>, options: Options) -> Signature {
    let mut chain = Signature::shaped("celery.chain", Shape::Chain(steps));
    chain.options = options;
    chain
}

/// The steps of a chain, with its callbacks given to the last of them and its
/// error callbacks to all (Celery's `unchain_tasks`).
pub(super) fn unchain(chain: Signature) -> Vec<Signature> {
    let (mut steps, head) = parts(chain);
    if let Some(first) = steps.first_mut()
        && !head.immutable
    {
        first.merge(&head.args, &head.kwargs, &Options::new(), false);
    }
    distribute_links(&mut steps, &head.options);
    steps
}

fn distribute_links(steps: &mut [Signature], options: &Options) {
    if let Some(last) = steps.last_mut() {
        for link in options.links().unwrap_or_default() {
            last.add_link(link);
        }
    }
    for errback in options.error_links().unwrap_or_default() {
        for step in steps.iter_mut() {
            step.add_link_error(errback.clone());
        }
    }
}

/// A group of one is its member.
pub(super) fn unroll(signature: Signature) -> Signature {
    match signature.shape {
        Shape::Group(mut members) if members.len() == 1 => match members.pop() {
            Some(only) => only,
            None => unreachable_group(),
        },
        shape => Signature { shape, ..signature },
    }
}

/// Stands where a group of one turned out to have none; it cannot be reached.
fn unreachable_group() -> Signature {
    Signature::shaped("celery.group", Shape::Group(Vec::new()))
}

pub(super) fn is_empty_group(signature: &Signature) -> bool {
    matches!(&signature.shape, Shape::Group(members) if members.is_empty())
}

#[cfg(test)]
mod tests {
    use crate::{Signature, chain, chord, group};

    fn t(name: &str) -> Signature {
        Signature::new(name)
    }

    /// Celery's own algebra, as `repr` would show it: see the table in the docs.
    #[test]
    fn composes_as_celery_does() {
        let (a, b, c, d, e) = (t("a"), t("b"), t("c"), t("d"), t("e"));
        let g = |members: &[&Signature]| group(members.iter().map(|m| (*m).clone()));
        let ab = || g(&[&a, &b]);
        let table: Vec<(Signature, &str)> = vec![
            (a.clone() | b.clone() | c.clone(), "a() | b() | c()"),
            (a.clone() | (b.clone() | c.clone()), "a() | b() | c()"),
            (a.clone() | g(&[&b, &c]), "a() | group(b(), c())"),
            (a.clone() | g(&[&b]), "a() | b()"),
            (a.clone() | g(&[]), "a() | group()"),
            (g(&[]) | a.clone(), "chord([], a())"),
            (g(&[&a]) | b.clone(), "chord([a()], b())"),
            (ab() | c.clone(), "chord([a(), b()], c())"),
            (ab() | g(&[&c, &d]), "chord([a(), b()], group(c(), d()))"),
            (ab() | g(&[&c]), "chord([a(), b()], group(c()))"),
            (ab() | c.clone() | d.clone(), "chord([a(), b()], c() | d())"),
            (
                ab() | (c.clone() | d.clone()),
                "chord([a(), b()], c() | d())",
            ),
            (
                a.clone() | g(&[&b, &c]) | d.clone(),
                "a() | chord([b(), c()], d())",
            ),
            (
                a.clone() | g(&[&b, &c]) | d.clone() | e.clone(),
                "a() | chord([b(), c()], d() | e())",
            ),
            (
                a.clone() | g(&[&b, &c]) | g(&[&d, &e]),
                "a() | group(b(), c()) | group(d(), e())",
            ),
            (
                ab() | c.clone() | g(&[&d, &e]),
                "chord([a(), b()], c()) | group(d(), e())",
            ),
            (
                ab() | c.clone() | g(&[&d, &e]) | a.clone(),
                "chord([a(), b()], c() | chord([d(), e()], a()))",
            ),
            (
                chord([a.clone(), b.clone()], c.clone()) | g(&[&d]),
                "chord([a(), b()], c() | d())",
            ),
            (
                chord([a.clone(), b.clone()], c.clone()) | chord([d.clone(), e.clone()], a.clone()),
                "chord([a(), b()], c() | chord([d(), e()], a()))",
            ),
            (chain([ab(), c.clone()]), "chord([a(), b()], c())"),
            (chain([g(&[]), a.clone()]), "a()"),
            (chain([a.clone(), g(&[]), b.clone()]), "a() | b()"),
        ];
        for (canvas, want) in table {
            assert_eq!(canvas.to_string(), want);
        }
    }

    #[test]
    fn a_chains_callbacks_move_to_its_last_step_and_errbacks_to_all() {
        let inner = chain([t("b"), t("c")])
            .link(t("done"))
            .link_error(t("failed"));
        let whole = t("a") | inner;
        let crate::Shape::Chain(steps) = &whole.shape else {
            panic!("not a chain")
        };
        assert!(steps[1].options.links().unwrap().is_empty());
        assert_eq!(steps[2].options.links().unwrap(), [t("done")]);
        assert_eq!(steps[1].options.error_links().unwrap(), [t("failed")]);
        assert_eq!(steps[2].options.error_links().unwrap(), [t("failed")]);
    }
}
