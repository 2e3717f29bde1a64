//! Tasks that return a canvas, and one that takes it apart.

use canvas::{Builder, Shape, Signature, TaskError, chain, chord, group, task};
use serde_json::Value;

use super::python::type_error;
use super::{call, name};
use crate::support::task as closure;

pub(super) fn add_to(builder: Builder) -> Builder {
    let add = || call("add");
    // Nothing of this is ever run: the arguments would be missing.
    let canvases = [
        ("chain_chain", chain([chain([add()])])),
        ("chain_group", chain([group([add()])])),
        ("chain_chord", chain([chord([add()], add())])),
        ("group_chain", group([chain([add()])])),
        ("group_group", group([group([add()])])),
        ("group_chord", group([chord([add()], add())])),
        ("chord_chain", chord([chain([add()])], add())),
        ("chord_group", chord([group([add()])], add())),
        ("chord_chord", chord([chord([add()], add())], add())),
    ];
    let builder = canvases
        .into_iter()
        .fold(builder, |builder, (kind, canvas)| {
            let task = name(&format!("return_nested_signature_{kind}"));
            let value = canvas.to_value();
            builder.task_object(closure(&task, move |_, _| {
                let value = value.clone();
                async move { Ok(value) }
            }))
        });
    builder.task::<rebuild_signature>()
}

#[task(name = "t.integration.tasks.rebuild_signature")]
async fn rebuild_signature(sig_dict: Value) -> Result<(), TaskError> {
    let signature = Signature::from_value(sig_dict.clone())
        .map_err(|_| type_error(format!("{sig_dict} is not a signature object")))?;
    look(&signature)
}

/// Looks at every part of a canvas.
fn look(signature: &Signature) -> Result<(), TaskError> {
    match &signature.shape {
        Shape::Task | Shape::Custom(_) if signature.task.is_empty() => {
            Err(type_error("a part of the canvas has no task"))
        }
        Shape::Task | Shape::Custom(_) => Ok(()),
        Shape::Chain(parts) | Shape::Group(parts) => parts.iter().try_for_each(look),
        Shape::Chord(parts) => {
            look(&parts.header)?;
            parts.body.iter().try_for_each(look)
        }
    }
}
