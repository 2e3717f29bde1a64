//! Signatures that know their types.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::app::Canvas;
use crate::error::Result;
use crate::id::Id;
use crate::result::AsyncResult;
use crate::signature::Signature;
use crate::state::State;

/// A [`Signature`] that says what it takes from the step before it (`In`, `()`
/// for nothing) and what it gives to the next one (`Out`).
///
/// What `#[task]` makes is typed, so that composing tasks is checked by the
/// compiler. It is the untyped signature underneath: [`into_inner`](Self::into_inner)
/// gives that, for canvases whose shape is known at run time only.
pub struct Sig<In, Out> {
    signature: Signature,
    types: PhantomData<fn(In) -> Out>,
}

impl<In, Out> Sig<In, Out> {
    /// Claims that `signature` takes an `In` and gives an `Out`. For tasks that
    /// live elsewhere, in Python say; a wrong claim shows as a `TypeError` of
    /// the task that gets the wrong value.
    pub fn from_signature(signature: Signature) -> Self {
        Self {
            signature,
            types: PhantomData,
        }
    }

    /// The signature without its types.
    pub fn into_inner(self) -> Signature {
        self.signature
    }

    /// The signature without its types.
    pub fn as_inner(&self) -> &Signature {
        &self.signature
    }

    /// Changes the signature, but not its types: options, callbacks, and so on.
    #[must_use]
    pub fn with(self, change: impl FnOnce(Signature) -> Signature) -> Self {
        Self::from_signature(change(self.signature))
    }

    /// Sets a keyword argument, usually one that has a default.
    #[must_use]
    pub fn kwarg(self, key: &str, value: impl Into<Value>) -> Self {
        self.with(|s| s.kwarg(key, value))
    }

    /// Sets any option.
    #[must_use]
    pub fn set(self, key: &str, value: impl Into<Value>) -> Self {
        self.with(|s| s.set(key, value))
    }

    /// [`Signature::queue`].
    #[must_use]
    pub fn queue(self, name: &str) -> Self {
        self.with(|s| s.queue(name))
    }

    /// [`Signature::priority`].
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        self.with(|s| s.priority(priority))
    }

    /// [`Signature::countdown`].
    #[must_use]
    pub fn countdown(self, delay: Duration) -> Self {
        self.with(|s| s.countdown(delay))
    }

    /// [`Signature::expires_in`].
    #[must_use]
    pub fn expires_in(self, after: Duration) -> Self {
        self.with(|s| s.expires_in(after))
    }

    /// [`Signature::ignore_result`].
    #[must_use]
    pub fn ignore_result(self, ignore: bool) -> Self {
        self.with(|s| s.ignore_result(ignore))
    }

    /// Then runs `next` with the result of this.
    #[must_use]
    pub fn then<Next>(self, next: Sig<Out, Next>) -> Sig<In, Next> {
        Sig::from_signature(self.signature | next.signature)
    }

    /// Then runs `next`, which has all its arguments and takes no result.
    #[must_use]
    pub fn then_si<Next>(self, next: Sig<(), Next>) -> Sig<In, Next> {
        Sig::from_signature(self.signature | next.signature.immutable())
    }

    /// Calls `callback` with the result. The result of the whole stays this one's.
    #[must_use]
    pub fn link<Next>(self, callback: Sig<Out, Next>) -> Self {
        self.with(|s| s.link(callback.signature))
    }

    /// Calls `errback` if this fails.
    #[must_use]
    pub fn link_error(self, errback: impl Into<Signature>) -> Self {
        self.with(|s| s.link_error(errback))
    }
}

impl<Out: DeserializeOwned> Sig<(), Out> {
    /// Sends it.
    ///
    /// # Errors
    /// As [`Canvas::apply`].
    pub async fn apply(self, app: &Canvas) -> Result<TypedResult<Out>> {
        let result = app.apply(self.signature).await?;
        Ok(TypedResult {
            result,
            out: PhantomData,
        })
    }
}

/// A group of signatures of one type; its results are a list.
///
/// ```
/// use canvas_core::{Sig, Signature, typed_group};
/// let fetch = |page: i64| Sig::<(), String>::from_signature(Signature::new("fetch").arg(page));
/// let join = Sig::<Vec<String>, usize>::from_signature(Signature::new("join"));
/// let canvas: Sig<(), usize> = typed_group([fetch(1), fetch(2)]).then(join);
/// ```
pub fn typed_group<In, Out>(members: impl IntoIterator<Item = Sig<In, Out>>) -> Sig<In, Vec<Out>> {
    Sig::from_signature(crate::group(members))
}

/// A chord whose body takes the list of what the members give.
pub fn typed_chord<In, Out, Next>(
    header: impl IntoIterator<Item = Sig<In, Out>>,
    body: Sig<Vec<Out>, Next>,
) -> Sig<In, Next> {
    Sig::from_signature(crate::chord(header, body))
}

impl<In, Out> From<Sig<In, Out>> for Signature {
    fn from(typed: Sig<In, Out>) -> Self {
        typed.signature
    }
}

impl<In, Out> Clone for Sig<In, Out> {
    fn clone(&self) -> Self {
        Self::from_signature(self.signature.clone())
    }
}

impl<In, Out> PartialEq for Sig<In, Out> {
    fn eq(&self, other: &Self) -> bool {
        self.signature == other.signature
    }
}

impl<In, Out> fmt::Debug for Sig<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.signature.fmt(f)
    }
}

impl<In, Out> fmt::Display for Sig<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.signature.fmt(f)
    }
}

impl<In, Out, Next> std::ops::BitOr<Sig<Out, Next>> for Sig<In, Out> {
    type Output = Sig<In, Next>;

    /// The same as [`then`](Sig::then).
    fn bitor(self, next: Sig<Out, Next>) -> Sig<In, Next> {
        self.then(next)
    }
}

/// An [`AsyncResult`] that knows the type of its value.
pub struct TypedResult<Out> {
    result: AsyncResult,
    out: PhantomData<fn() -> Out>,
}

impl<Out: DeserializeOwned> TypedResult<Out> {
    /// Waits for the value.
    ///
    /// # Errors
    /// As [`AsyncResult::get`].
    pub async fn get(&self) -> Result<Out> {
        self.result.get_as().await
    }

    /// Waits for the value at most this long.
    ///
    /// # Errors
    /// As [`AsyncResult::get_timeout`].
    pub async fn get_timeout(&self, timeout: Duration) -> Result<Out> {
        let value = self.result.get_timeout(timeout).await?;
        self.result.read_as(value)
    }

    /// The state.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn state(&self) -> Result<State> {
        self.result.state().await
    }

    /// The id.
    pub fn id(&self) -> &Id {
        self.result.id()
    }

    /// The result without its type, with all that can be asked of it.
    pub fn into_inner(self) -> AsyncResult {
        self.result
    }

    /// The result without its type.
    pub fn as_inner(&self) -> &AsyncResult {
        &self.result
    }
}

impl<Out> fmt::Debug for TypedResult<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.result.fmt(f)
    }
}

/// An argument as JSON, for `#[task]`. A value that has no JSON form (a map
/// with keys that are no text) becomes null, which the task then refuses.
#[doc(hidden)]
pub fn to_value<T: Serialize>(task: &str, param: &str, value: T) -> Value {
    serde_json::to_value(value).unwrap_or_else(|error| {
        tracing::error!(task, param, %error, "an argument has no JSON form");
        Value::Null
    })
}
