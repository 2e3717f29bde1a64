//! Calls that are made at once, and waited for later.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A call that was made.
pub(crate) type Started<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Makes a call of the library: at its first look, it hands its frames over,
/// whether anyone waits until they have left or not. So calls that are started
/// one after the other are sent in that order, and none that was started can be
/// dropped half-way.
pub(crate) fn start<T: Send + 'static>(
    call: impl Future<Output = T> + Send + 'static,
) -> Started<T> {
    let mut call: Started<T> = Box::pin(call);
    // Whoever waits looks once more, and is then told.
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Box::pin(std::future::ready(done)),
        Poll::Pending => call,
    }
}
