//! Giving ids to a canvas, which settles its result tree.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::id::{Id, Ids};
use crate::json::deep;
use crate::primitive::normalize;
use crate::result::ResultTree;
use crate::signature::{ChordParts, HeaderForm, Shape, Signature};

impl Signature {
    /// Brings the canvas into the form in which it runs, and gives every part
    /// of it an id: those it has are kept. Applying a frozen signature uses
    /// its ids, so the results can be waited for before it is sent.
    ///
    /// Celery: `Signature.freeze`.
    ///
    /// # Errors
    /// [`Error::InvalidCanvas`] for an empty chain or a chord without a body.
    pub fn freeze(&mut self) -> Result<ResultTree> {
        self.freeze_with(&mut Ids::Random)
    }

    /// [`freeze`](Self::freeze) with ids from a source of your choice.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn freeze_with(&mut self, ids: &mut Ids) -> Result<ResultTree> {
        let taken = std::mem::replace(self, Signature::new(""));
        *self = normalize(taken)?;
        freeze(self, ids, Place::default())
    }
}

/// Where in a canvas a signature stands.
#[derive(Debug, Default)]
pub(crate) struct Place<'a> {
    /// The id for the task whose result is the canvas's.
    pub(crate) id: Option<Id>,
    /// The group whose join the last tasks arrive at, and the next place in it.
    pub(crate) member: Option<Member<'a>>,
}

/// A place in a group.
#[derive(Debug)]
pub(crate) struct Member<'a> {
    /// Its id, once it is known who sends the group: until then, the group
    /// says it for all of its members.
    pub(crate) group: Option<Id>,
    /// Counts the tasks that arrive, so that each has an index of its own,
    /// also where one member is a chain that ends in a group.
    pub(crate) next: &'a mut u64,
}

/// Freezes a canvas that is in normal form.
pub(crate) fn freeze(
    signature: &mut Signature,
    ids: &mut Ids,
    place: Place<'_>,
) -> Result<ResultTree> {
    deep(|| {
        let Signature { shape, options, .. } = signature;
        match shape {
            Shape::Task | Shape::Custom(_) => {
                let id = own_id(options, ids, place.id);
                if let Some(member) = place.member {
                    if let Some(group) = &member.group {
                        options.set_default("group_id", group.as_str());
                    }
                    options.set("group_index", *member.next);
                    *member.next += 1;
                }
                let mut node = ResultTree::task(id);
                node.ignored = options.ignore_result() == Some(true);
                Ok(node)
            }
            Shape::Chain(steps) => {
                let tree = freeze_chain(steps, ids, place)?;
                // What fails the chain as a whole looks for its id here.
                options.set("task_id", tree.id.as_str());
                Ok(tree)
            }
            Shape::Group(members) => {
                let id = own_id(options, ids, place.id);
                // Frozen before, it may have places at a join beyond its own.
                let mut own = options.group_index().unwrap_or(0);
                let (group, next) = match place.member {
                    Some(Member { group, next }) => {
                        if let Some(group) = &group {
                            options.set_default("group_id", group.as_str());
                        }
                        options.set("group_index", *next);
                        (group, next)
                    }
                    None => (None, &mut own),
                };
                let members = freeze_members(members, ids, group.as_ref(), next)?;
                Ok(ResultTree::group(id, members))
            }
            Shape::Chord(parts) => freeze_chord(parts, options, ids, place),
        }
    })
}

/// The result tree of a canvas that is frozen, without what runs before; None
/// if it is not.
pub(crate) fn frozen(signature: &Signature) -> Option<ResultTree> {
    deep(|| match &signature.shape {
        Shape::Task | Shape::Custom(_) => signature.options.task_id().map(ResultTree::task),
        Shape::Chain(steps) => frozen(steps.last()?),
        Shape::Group(members) => {
            let members: Option<_> = members.iter().map(frozen).collect();
            Some(ResultTree::group(signature.options.task_id()?, members?))
        }
        Shape::Chord(parts) => frozen(parts.body.as_ref()?),
    })
}

/// The id a node has, or is told, or a fresh one.
fn own_id(options: &mut crate::Options, ids: &mut Ids, told: Option<Id>) -> Id {
    if let Some(id) = options.task_id() {
        return id;
    }
    let id = told.unwrap_or_else(|| ids.fresh());
    options.set("task_id", id.as_str());
    id
}

fn freeze_chain(
    steps: &mut [Signature],
    ids: &mut Ids,
    mut place: Place<'_>,
) -> Result<ResultTree> {
    let mut tree: Option<ResultTree> = None;
    let last = steps.len().saturating_sub(1);
    for (i, step) in steps.iter_mut().enumerate() {
        let place = if i == last {
            std::mem::take(&mut place)
        } else {
            Place::default()
        };
        let mut node = freeze(step, ids, place)?;
        if let Some(before) = tree {
            node.set_root_parent(before);
        }
        tree = Some(node);
    }
    tree.ok_or_else(|| Error::InvalidCanvas("a chain needs at least one step".to_owned()))
}

pub(crate) fn freeze_members(
    members: &mut [Signature],
    ids: &mut Ids,
    group: Option<&Id>,
    next: &mut u64,
) -> Result<Vec<ResultTree>> {
    members
        .iter_mut()
        .map(|member| {
            let member_of = Some(Member {
                group: group.cloned(),
                next,
            });
            freeze(
                member,
                ids,
                Place {
                    id: None,
                    member: member_of,
                },
            )
        })
        .collect()
}

fn freeze_chord(
    parts: &mut ChordParts,
    options: &mut crate::Options,
    ids: &mut Ids,
    mut place: Place<'_>,
) -> Result<ResultTree> {
    let Some(body) = &mut parts.body else {
        return Err(Error::InvalidCanvas("a chord needs a body".to_owned()));
    };
    // Before it is frozen, an id on the chord is meant for the body, as in
    // Celery; afterwards it is the header's, which says so too.
    let told = options.task_id();
    let header_id = parts.header.options.task_id();
    if header_id.is_none() && told.is_some() && place.id.is_none() {
        place.id = told;
    }
    let group = header_id.unwrap_or_else(|| ids.fresh());
    let Shape::Group(members) = &mut parts.header.shape else {
        return Err(Error::InvalidCanvas(
            "the header of a chord must be a group".to_owned(),
        ));
    };
    let members = freeze_members(members, ids, None, &mut 0)?;
    parts.header.options.set("task_id", group.as_str());
    // A bare list has no place for its id.
    parts.header_form = HeaderForm::Group;
    options.set("task_id", Value::from(group.as_str()));
    let mut tree = freeze(body, ids, place)?;
    tree.set_root_parent(ResultTree::group(group, members));
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{chain, chord, group};

    fn t(name: &str) -> Signature {
        Signature::new(name)
    }

    #[test]
    fn a_chains_result_is_its_last_tasks_walkable_back() {
        let mut canvas = chain([
            t("a").task_id("1"),
            t("b").task_id("2"),
            t("c").task_id("3"),
        ]);
        let tree = canvas.freeze().unwrap();
        assert_eq!(tree.id, Id::from("3"));
        let parent = tree.parent.unwrap();
        assert_eq!(parent.id, Id::from("2"));
        assert_eq!(parent.parent.as_ref().unwrap().id, Id::from("1"));
    }

    #[test]
    fn a_chords_result_is_its_bodys_and_its_parent_the_headers() {
        let mut canvas = chord([t("a"), t("b")], t("c").task_id("body"));
        let tree = canvas.freeze().unwrap();
        assert_eq!(tree.id, Id::from("body"));
        let header = tree.parent.unwrap();
        assert_eq!(header.members.as_ref().map(Vec::len), Some(2));
        assert_eq!(canvas.options.task_id(), Some(header.id.clone()));
    }

    #[test]
    fn each_arrival_at_a_chord_has_an_index_of_its_own() {
        let mut canvas = chord([t("a") | group([t("b"), t("c")]), t("d")], t("body"));
        canvas.freeze().unwrap();
        let Shape::Chord(parts) = &canvas.shape else {
            panic!("not a chord")
        };
        let mut indexes = Vec::new();
        fn collect(signature: &Signature, out: &mut Vec<(String, Option<u64>)>) {
            match &signature.shape {
                Shape::Chain(all) | Shape::Group(all) => all.iter().for_each(|s| collect(s, out)),
                _ => out.push((signature.task.clone(), signature.options.group_index())),
            }
        }
        collect(&parts.header, &mut indexes);
        let want = [("a", None), ("b", Some(0)), ("c", Some(1)), ("d", Some(2))];
        assert_eq!(indexes, want.map(|(n, i)| (n.to_owned(), i)));
    }

    #[test]
    fn freezing_again_keeps_every_id() {
        let mut canvas = t("a") | group([t("b"), t("c")]) | t("d");
        let tree = canvas.freeze().unwrap();
        let before = canvas.clone();
        assert_eq!(canvas.freeze().unwrap(), tree);
        assert_eq!(canvas, before);
    }
}
