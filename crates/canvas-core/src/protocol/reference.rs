//! References: signatures that stand for continuations kept in the backend,
//! and how short they are written.
//!
//! One is in nearly every message of a long canvas, so only what cannot be
//! filled in is written: `{"key": …, "subtask_type": "canvas.ref"}`, and options
//! if there are any. The key of a chord's body begins with the body's id, which
//! must be known also when what was kept has expired: `<task id>.<hash>`.

use serde::Serializer;
use serde::ser::SerializeMap;
use serde_json::{Map, Value};

use crate::id::Id;
use crate::signature::{Shape, Signature};

/// The task name and `subtask_type` of a reference: a signature that stands
/// for continuations kept in the backend under the key in its `kwargs`.
pub const REFERENCE: &str = "canvas.ref";

/// The key under which to keep `text`, which is what `id` says if it is a
/// chord's body. It follows from them, so that keeping twice keeps once.
pub(crate) fn key(text: &[u8], id: Option<Id>) -> Id {
    let hash = Id::from(REFERENCE).derive(&String::from_utf8_lossy(text));
    match id {
        None => hash,
        // Tells apart the few texts that one task can be the body of.
        Some(id) => Id::from(format!("{id}.{}", &hash.as_str()[..8])),
    }
}

/// The signature that stands for what is kept under `key`. `like` gives it the
/// place in a group that must be readable without looking there.
pub(super) fn new(key: &Id, like: Option<&Signature>) -> Signature {
    let shape = Shape::Custom(REFERENCE.to_owned());
    let mut reference = Signature::shaped(REFERENCE, shape).immutable();
    let text = key.as_str();
    reference.kwargs.insert("key".to_owned(), text.into());
    if let Some(id) = task_id(text) {
        reference.options.set("task_id", id);
    }
    for name in ["group_id", "group_index"] {
        if let Some(value) = like.and_then(|like| like.options.get(name)) {
            reference.options.set(name, value.clone());
        }
    }
    reference
}

/// The key of a reference.
pub(super) fn key_of(signature: &Signature) -> Option<&str> {
    match &signature.shape {
        Shape::Custom(name) if name == REFERENCE => signature.kwargs.get("key")?.as_str(),
        _ => None,
    }
}

/// The id that a key begins with.
fn task_id(key: &str) -> Option<&str> {
    key.split_once('.').map(|(id, _)| id)
}

/// Writes a reference in its short form; hands the serializer back if the
/// signature is none, or says more than that form can.
pub(crate) fn write<S: Serializer>(
    signature: &Signature,
    serializer: S,
) -> Result<Result<S::Ok, S::Error>, S> {
    let is_plain = signature.args.is_empty()
        && signature.kwargs.len() == 1
        && signature.chord_size.is_none()
        && signature.extra.is_empty();
    match key_of(signature) {
        Some(key) if is_plain => Ok(write_plain(key, signature, serializer)),
        _ => Err(serializer),
    }
}

fn write_plain<S: Serializer>(
    key: &str,
    signature: &Signature,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut options = signature.options.clone();
    if options.task_id().as_ref().map(Id::as_str) == task_id(key) {
        options.remove("task_id");
    }
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("key", key)?;
    if !options.is_empty() {
        map.serialize_entry("options", &options)?;
    }
    map.serialize_entry("subtask_type", REFERENCE)?;
    map.end()
}

/// Completes the dictionary of a signature if it is a reference in its short
/// form.
pub(crate) fn complete(map: &mut Map<String, Value>) {
    let is_short = !map.contains_key("task")
        && map.get("subtask_type").and_then(Value::as_str) == Some(REFERENCE);
    if !is_short {
        return;
    }
    let Some(Value::String(key)) = map.shift_remove("key") else {
        return;
    };
    if let Some(id) = task_id(&key) {
        let options = map.entry("options").or_insert_with(|| Map::new().into());
        if let Some(options) = options.as_object_mut() {
            options.entry("task_id").or_insert_with(|| id.into());
        }
    }
    map.insert("task".to_owned(), REFERENCE.into());
    map.insert("kwargs".to_owned(), serde_json::json!({ "key": key }));
    map.insert("immutable".to_owned(), true.into());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reference_is_written_short_and_read_back_whole() {
        let reference = new(&"k".into(), None);
        let written = reference.to_value();
        assert_eq!(written, json!({"key": "k", "subtask_type": "canvas.ref"}));
        let read = Signature::from_value(written).unwrap();
        assert_eq!(read, reference);
        assert_eq!(key_of(&read), Some("k"));
    }

    #[test]
    fn the_key_of_a_body_tells_its_id() {
        let body = Signature::new("sum")
            .set("task_id", "b")
            .set("group_id", "g");
        let key = key(b"[]", body.options.task_id());
        assert!(key.as_str().starts_with("b."), "{key}");
        let reference = new(&key, Some(&body));
        let written = reference.to_value();
        assert_eq!(written["options"], json!({"group_id": "g"}));
        let read = Signature::from_value(written).unwrap();
        assert_eq!(read.options.task_id(), Some("b".into()));
        assert_eq!(read, reference);
    }

    #[test]
    fn what_the_short_form_cannot_say_is_written_whole() {
        let reference = new(&"k".into(), None).args([json!(1)]);
        let written = reference.to_value();
        assert_eq!(written["args"], json!([1]));
        assert_eq!(Signature::from_value(written).unwrap(), reference);
    }

    #[test]
    fn a_reference_without_a_key_is_malformed() {
        let error = Signature::from_value(json!({"subtask_type": "canvas.ref"}));
        assert!(error.unwrap_err().to_string().contains("`task`"));
    }
}
