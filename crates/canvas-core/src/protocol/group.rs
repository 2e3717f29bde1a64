//! The shape of a group, as Celery's backends keep it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::id::Id;
use crate::json::{self, MAX_DEPTH};
use crate::result::ResultTree;

/// The JSON of a saved group.
#[derive(Debug, Deserialize)]
pub struct GroupMeta {
    result: ResultTree,
}

impl GroupMeta {
    /// As stores of keys and values have it: `{"result": <tuple>}`.
    ///
    /// # Errors
    /// [`Error::Encoding`] if it is too deep to be read again.
    pub fn to_json(group: &ResultTree) -> Result<Vec<u8>> {
        let saved = || serde_json::json!({ "result": group.to_value() });
        write(group, 1, saved)
    }

    /// As the database backend has it: the tuple alone.
    ///
    /// # Errors
    /// [`Error::Encoding`] if it is too deep to be read again.
    pub fn tuple_to_json(group: &ResultTree) -> Result<Vec<u8>> {
        write(group, 0, || group)
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// [`Error::Encoding`] with the reason, naming the group.
    pub fn from_json(id: &Id, text: &[u8]) -> Result<ResultTree> {
        let saved: Self = json::parse(text, &what(id))?;
        Ok(saved.result)
    }
}

fn what(id: &Id) -> String {
    format!("the shape of group {id}")
}

/// Writes what is made of a group, which is `above` levels deeper than it: not
/// before it is known that the depth is one that can be written.
fn write<T: Serialize>(
    group: &ResultTree,
    above: usize,
    made: impl FnOnce() -> T,
) -> Result<Vec<u8>> {
    let depth = depth(group) + above;
    if depth > MAX_DEPTH {
        return Err(Error::Encoding {
            action: "encode",
            what: what(&group.id),
            reason: format!("nested {depth} deep; at most {MAX_DEPTH} could be read again"),
        });
    }
    json::write(&made(), &what(&group.id))
}

/// How deep the JSON of a group is nested, found without recursion.
fn depth(group: &ResultTree) -> usize {
    let mut deepest = 0;
    let mut open = vec![(group, 0)];
    while let Some((node, above)) = open.pop() {
        // `[[id, parent], members]`
        let own = above + 2;
        deepest = own.max(deepest);
        open.extend(node.parent.as_deref().map(|parent| (parent, own)));
        open.extend(node.members.iter().flatten().map(|member| (member, own)));
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_depth_of_a_group_is_that_of_its_json() {
        let text_depth = |text: Vec<u8>| {
            let open = |depth: &mut usize, c| {
                match c {
                    b'[' | b'{' => *depth += 1,
                    b']' | b'}' => *depth -= 1,
                    _ => {}
                }
                Some(*depth)
            };
            text.into_iter().scan(0, open).max()
        };
        let mut member = ResultTree::task("b".into());
        member.set_root_parent(ResultTree::task("a".into()));
        let inner = ResultTree::group("inner".into(), vec![member]);
        let group = ResultTree::group("g".into(), vec![inner]);
        for group in [&group, &ResultTree::task("t".into())] {
            let saved = GroupMeta::to_json(group).unwrap();
            assert_eq!(GroupMeta::from_json(&group.id, &saved).unwrap(), *group);
            assert_eq!(Some(depth(group) + 1), text_depth(saved));
            let tuple = GroupMeta::tuple_to_json(group).unwrap();
            assert_eq!(Some(depth(group)), text_depth(tuple));
        }
    }
}
