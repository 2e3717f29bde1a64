//! Signatures that are passed on unread.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::Result;
use crate::id::Id;
use crate::options::malformed;
use crate::signature::{Shape, Signature};

/// The task name and `subtask_type` of a reference: a signature that stands
/// for continuations kept in the backend under the key in its `kwargs`.
pub const REFERENCE: &str = "canvas.ref";

/// A signature as the JSON it arrived in.
///
/// The steps of a chain that come later, and the body of a chord, only pass
/// through a worker: reading them is left to whoever runs them.
#[derive(Debug, Clone)]
pub struct Sealed(Arc<RawValue>);

impl Sealed {
    /// Seals a signature.
    ///
    /// # Errors
    /// [`Error::Encoding`](crate::Error::Encoding), when it is nested too deeply to be written.
    pub fn new(signature: &Signature) -> Result<Self> {
        let text = crate::json::deep(|| serde_json::value::to_raw_value(signature));
        text.map(|raw| Self(Arc::from(raw)))
            .map_err(|e| malformed(e.to_string()))
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`Error::MalformedSignature`](crate::Error::MalformedSignature) or
    /// [`Error::Encoding`](crate::Error::Encoding) if it is no signature.
    pub fn open(&self) -> Result<Signature> {
        Signature::from_json(self.0.get().as_bytes())
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.0.get().len()
    }

    /// Never: a sealed signature is at least a pair of braces.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// A signature that stands for what is kept under `key`. `like` gives it
    /// the ids that must be readable without looking there.
    pub fn reference(key: &Id, like: Option<&Signature>) -> Result<Self> {
        let mut reference =
            Signature::shaped(REFERENCE, Shape::Custom(REFERENCE.to_owned())).immutable();
        reference
            .kwargs
            .insert("key".to_owned(), key.as_str().into());
        if let Some(like) = like {
            for name in ["task_id", "group_id", "group_index", "reply_to"] {
                if let Some(value) = like.options.get(name) {
                    reference.options.set(name, value.clone());
                }
            }
        }
        Self::new(&reference)
    }

    /// The key it stands for, if this is a reference.
    pub fn reference_key(&self) -> Option<Id> {
        // Cheap for the usual case: a reference is short and says so.
        if self.len() > 1024 || !self.0.get().contains(REFERENCE) {
            return None;
        }
        self.open().ok().as_ref().and_then(reference_key)
    }
}

/// The key of a reference, read already.
fn reference_key(signature: &Signature) -> Option<Id> {
    match &signature.shape {
        Shape::Custom(name) if name == REFERENCE => {
            signature.kwargs.get("key")?.as_str().map(Id::from)
        }
        _ => None,
    }
}

impl PartialEq for Sealed {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
            || matches!((self.open(), other.open()), (Ok(a), Ok(b)) if a == b)
    }
}

impl Eq for Sealed {}

impl Hash for Sealed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.open() {
            Ok(signature) => signature.hash(state),
            Err(_) => self.0.get().hash(state),
        }
    }
}

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| Self(Arc::from(raw)))
    }
}
