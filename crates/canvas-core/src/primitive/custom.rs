//! Primitives of the application's own.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use crate::error::Result;
use crate::signature::{Shape, Signature};
use crate::task::{Arguments, TaskError};

/// A workflow type of the application's own: the talk's *weave*, say, which
/// splits a list, runs a task on each piece, and joins the pieces.
///
/// Its signature is a call with a `subtask_type` of its own. Wherever it
/// stands in a canvas, a worker calls [`expand`](Self::expand) once its
/// arguments are there, and puts the canvas that it returns in its place. The
/// signature's id stays: it is the id of the expansion's result, so a client
/// can wait for it from the start.
///
/// ```
/// use canvas_core::{Arguments, Primitive, Signature, TaskError, group};
///
/// /// Runs a task on each item of a list that arrives at run time.
/// #[derive(Debug)]
/// struct Each;
///
/// impl Primitive for Each {
///     fn subtask_type(&self) -> &str {
///         "each"
///     }
///
///     fn expand(&self, call: Arguments) -> Result<Signature, TaskError> {
///         let items = call.args[0].as_array().cloned().unwrap_or_default();
///         let task = Signature::from_value(call.kwargs["task"].clone())?;
///         Ok(group(items.into_iter().map(|item| task.clone().arg(item))))
///     }
/// }
///
/// let each = Each.signature().kwarg("task", Signature::new("double"));
/// let canvas = Signature::new("list_things") | each;
/// assert_eq!(canvas.to_string(), "list_things() | each(task=double())");
/// ```
pub trait Primitive: Debug + Send + Sync + 'static {
    /// The name in the dictionary, and of the task that workers see.
    fn subtask_type(&self) -> &str;

    /// What the call stands for. It must depend on its arguments alone: after
    /// a crash it is asked again, and must say the same.
    ///
    /// # Errors
    /// An error fails the primitive as it would fail a task.
    fn expand(&self, call: Arguments) -> Result<Signature, TaskError>;

    /// A call without arguments, to be filled in.
    fn signature(&self) -> Signature {
        let name = self.subtask_type();
        Signature::shaped(name, Shape::Custom(name.to_owned()))
    }
}

/// The primitives that an application knows, by `subtask_type`.
#[derive(Debug, Clone, Default)]
pub struct PrimitiveRegistry {
    custom: BTreeMap<String, Arc<dyn Primitive>>,
}

impl PrimitiveRegistry {
    /// The names that are always there.
    pub const BUILT_IN: [&'static str; 3] = ["chain", "group", "chord"];

    /// Adds a primitive; one of the same name is replaced.
    pub fn add(&mut self, primitive: Arc<dyn Primitive>) {
        let name = primitive.subtask_type().to_owned();
        self.custom.insert(name, primitive);
    }

    /// The primitive called `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Primitive>> {
        self.custom.get(name)
    }

    /// Rebuilds a canvas from JSON, and makes sure that each type in it is
    /// known here.
    ///
    /// # Errors
    /// [`Error::MalformedSignature`](crate::Error::MalformedSignature), naming an unknown type.
    pub fn rebuild(&self, json: &[u8]) -> Result<Signature> {
        let signature = Signature::from_json(json)?;
        self.check(&signature)?;
        Ok(signature)
    }

    fn check(&self, signature: &Signature) -> Result<()> {
        crate::json::deep(|| match &signature.shape {
            Shape::Task => Ok(()),
            Shape::Chain(tasks) | Shape::Group(tasks) => {
                tasks.iter().try_for_each(|t| self.check(t))
            }
            Shape::Chord(parts) => {
                self.check(&parts.header)?;
                parts.body.iter().try_for_each(|body| self.check(body))
            }
            Shape::Custom(name) if self.custom.contains_key(name) => Ok(()),
            Shape::Custom(name) => {
                let custom = self.custom.keys().map(String::as_str);
                let known: Vec<&str> = Self::BUILT_IN.into_iter().chain(custom).collect();
                Err(crate::options::malformed(format!(
                    "unknown subtask_type `{name}`: known are {}; register it with \
                     Canvas::builder().primitive(..)",
                    known.join(", ")
                )))
            }
        })
    }
}
