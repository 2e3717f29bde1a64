//! Signatures that are passed on unread.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::reference;
use crate::error::Result;
use crate::id::Id;
use crate::options::malformed;
use crate::signature::Signature;

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
    /// what must be readable without looking there.
    pub fn reference(key: &Id, like: Option<&Signature>) -> Result<Self> {
        Self::new(&reference::new(key, like))
    }

    /// The key it stands for, if this is a reference.
    pub fn reference_key(&self) -> Option<Id> {
        // Cheap for the usual case: a reference is short and says so.
        if self.len() > 1024 || !self.0.get().contains(reference::REFERENCE) {
            return None;
        }
        let signature = self.open().ok()?;
        reference::key_of(&signature).map(Id::from)
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
