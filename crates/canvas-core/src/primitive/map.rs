//! map, starmap and chunks: one task over many arguments.

use serde_json::Value;

use crate::error::Result;
use crate::options::malformed;
use crate::primitive::group;
use crate::signature::Signature;

/// Calls `task` with each item, all in one worker task; the result is the list
/// of what it returned. An item that fails fails the whole.
///
/// Celery: <https://docs.celeryq.dev/en/stable/userguide/canvas.html#map-starmap>
pub fn map<V: Into<Value>>(
    task: impl Into<Signature>,
    items: impl IntoIterator<Item = V>,
) -> Signature {
    over("celery.map", task.into(), items)
}

/// As [`map`], with each item a list of arguments.
pub fn starmap<V: Into<Value>>(
    task: impl Into<Signature>,
    items: impl IntoIterator<Item = V>,
) -> Signature {
    over("celery.starmap", task.into(), items)
}

/// Splits the items into pieces of `size` and makes a [`starmap`] of each: a
/// group of them. The result is a list of lists. No items make an empty group.
///
/// Celery: <https://docs.celeryq.dev/en/stable/userguide/canvas.html#chunks>
pub fn chunks<V: Into<Value>>(
    task: impl Into<Signature>,
    items: impl IntoIterator<Item = V>,
    size: usize,
) -> Signature {
    over("celery.chunks", task.into(), items).kwarg("n", size.max(1))
}

fn over<V: Into<Value>>(
    name: &str,
    task: Signature,
    items: impl IntoIterator<Item = V>,
) -> Signature {
    let items: Vec<Value> = items.into_iter().map(Into::into).collect();
    let over = Signature::new(name).kwarg("task", task).kwarg("it", items);
    // Map and starmap take nothing from the task before them.
    over.immutable()
}

/// The group of starmaps that `chunks` stands for.
///
/// # Errors
/// [`Error::MalformedSignature`](crate::Error::MalformedSignature) if it is not what [`chunks`] makes.
pub(super) fn expand_chunks(signature: &Signature) -> Result<Signature> {
    let bad = || malformed("celery.chunks needs `task`, a list `it` and a number `n`");
    let kwargs = &signature.kwargs;
    let task = Signature::from_value(kwargs.get("task").ok_or_else(bad)?.clone())?;
    let items = kwargs.get("it").and_then(Value::as_array).ok_or_else(bad)?;
    let size = kwargs.get("n").and_then(Value::as_u64).ok_or_else(bad)?;
    let size = usize::try_from(size).map_err(|_| bad())?.max(1);
    let pieces = items
        .chunks(size)
        .map(|piece| starmap(task.clone(), piece.iter().cloned()));
    // Not `group(..)`, which takes a group of one apart.
    let mut whole = group(pieces);
    whole.options = signature.options.clone();
    Ok(whole)
}
