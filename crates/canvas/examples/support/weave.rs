//! The weave: split a list into pieces, run a task on each piece, join the
//! pieces. A primitive of one's own, in twenty lines.

use canvas::prelude::*;
use canvas::{Arguments, Kwargs, Options};
use serde_json::Value;

/// Registered with `Canvas::builder().primitive(Weave)`.
#[derive(Debug)]
pub(crate) struct Weave;

impl Primitive for Weave {
    fn subtask_type(&self) -> &str {
        "weave"
    }

    // A worker asks once the list is there, so this works in mid-chain.
    fn expand(&self, call: Arguments) -> Result<Signature, TaskError> {
        let items: Vec<Value> = serde_json::from_value(call.args[0].clone())?;
        let task = Signature::from_value(call.kwargs["task"].clone())?;
        let size: usize = serde_json::from_value(call.kwargs["size"].clone())?;
        let piece =
            |items: &[Value]| task.clone_with(&[items.into()], &Kwargs::new(), &Options::new());
        Ok(group(items.chunks(size.max(1)).map(piece)) | join::partial())
    }
}

/// `task` is called with each piece of `size` items of the list that arrives.
pub(crate) fn weave<T, U>(task: Sig<Vec<T>, Vec<U>>, size: usize) -> Sig<Vec<T>, Vec<U>> {
    let call = Weave.signature().kwarg("task", task.into_inner());
    Sig::from_signature(call.kwarg("size", size))
}

/// Joins the pieces again.
#[task(name = "weave.join")]
pub(crate) async fn join(pieces: Vec<Vec<Value>>) -> Vec<Value> {
    pieces.into_iter().flatten().collect()
}
