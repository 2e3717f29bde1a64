//! The body of a protocol 2 message.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Sealed;
use crate::error::Result;
use crate::signature::Kwargs;

/// `[args, kwargs, embed]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Body(pub Vec<Value>, pub Kwargs, pub Embed);

/// What follows the task. All four keys are always written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Embed {
    /// Called with the result on success.
    pub callbacks: Option<Vec<Sealed>>,
    /// Called on failure.
    pub errbacks: Option<Vec<Sealed>>,
    /// The steps still to come, the next one last.
    pub chain: Option<Vec<Sealed>>,
    /// The body of the chord whose header this task is in.
    pub chord: Option<Sealed>,
}

impl Body {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Error::Encoding`](crate::Error::Encoding) with the place and the reason.
    pub fn from_json(text: &[u8]) -> Result<Self> {
        crate::json::parse(text, "a message body [args, kwargs, embed]")
    }

    /// Writes a body.
    ///
    /// # Errors
    /// [`Error::Encoding`](crate::Error::Encoding) with the reason.
    pub fn to_json(&self) -> Result<Bytes> {
        crate::json::write(self, "a message body").map(Bytes::from)
    }
}
