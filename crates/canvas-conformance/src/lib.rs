//! What every broker and every backend of canvas must do, as tests.
//!
//! There are two suites, each a list of named behaviours, and each behaviour has
//! a contract of one line: [`backend::behaviours`], [`broker::behaviours`]. Who
//! writes a driver writes one constructor and one line, and gets a `#[test]` for
//! each behaviour:
//!
//! ```
//! # mod tests {
//! use std::sync::Arc;
//!
//! use canvas_conformance::{BackendFixture, Need};
//! # use canvas_core::memory::MemoryBackend as MyBackend;
//!
//! async fn my_backend(_: Need) -> BackendFixture {
//!     BackendFixture::new(Arc::new(MyBackend::new()))
//! }
//!
//! canvas_conformance::backend_suite!(my_backend);
//! # }
//! ```
//!
//! The constructor makes a port that is fresh and empty, each time it is called,
//! and says with it what else must live as long: see [`Fixture`]. What a
//! behaviour [needs](Need) beyond that it is told.
//!
//! # What a store cannot have
//! A behaviour that the port says it has not, in its
//! [`BackendInfo`](canvas_core::backend::BackendInfo) or
//! [`BrokerInfo`](canvas_core::broker::BrokerInfo), is not applicable. Its test
//! then passes, and says `not applicable: BackendInfo::join`. There is no other
//! way to leave a behaviour out, so a port is taken at its word: what it says it
//! can, it must.
//!
//! # The matrix
//! If `CANVAS_CONFORMANCE_REPORT` names a file, each test adds a line to it, of
//! fields between tabs: `backend` or `broker`; the port, by the name of its
//! constructor; the place in the list; the behaviour; its contract; and `ok`,
//! `n/a` with the reason, or `FAIL`. In canvas itself, `cargo xtask conformance`
//! makes a table of these.

#![expect(
    clippy::unwrap_used,
    reason = "a behaviour that does not hold is a panic"
)]

pub mod backend;
mod behaviour;
pub mod broker;
mod fixture;

pub use behaviour::{Behaviour, Outcome};
pub use fixture::{BackendFixture, BrokerFixture, Fixture, Need};

/// Makes a test of each behaviour of a backend.
///
/// The argument is the name of an `async fn(Need) -> BackendFixture`; the tests
/// are in a module of the same name. Time runs as it does, unless `paused` is
/// added, as is right for a backend in this process: then waiting takes no time.
///
/// ```
/// # mod tests {
/// # use canvas_conformance::{BackendFixture, Need};
/// # async fn my_backend(_: Need) -> BackendFixture { unimplemented!() }
/// # async fn in_memory(_: Need) -> BackendFixture { unimplemented!() }
/// canvas_conformance::backend_suite!(my_backend);
/// canvas_conformance::backend_suite!(in_memory, paused);
/// # }
/// ```
#[macro_export]
macro_rules! backend_suite {
    ($constructor:ident) => {
        $crate::__backend_behaviours! { __tests (backend $constructor false) }
    };
    ($constructor:ident, paused) => {
        $crate::__backend_behaviours! { __tests (backend $constructor true) }
    };
}

/// Makes a test of each behaviour of a broker; as [`backend_suite!`] does, of an
/// `async fn(Need) -> BrokerFixture`.
#[macro_export]
macro_rules! broker_suite {
    ($constructor:ident) => {
        $crate::__broker_behaviours! { __tests (broker $constructor false) }
    };
    ($constructor:ident, paused) => {
        $crate::__broker_behaviours! { __tests (broker $constructor true) }
    };
}

/// The tests of a list of behaviours.
#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    (($suite:ident $constructor:ident $paused:literal)
        $($module:ident :: $name:ident ($($argument:ident),+) $(if $($can:ident),+)?: $contract:literal;)+
    ) => {
        mod $constructor {
            $(
                #[doc = $contract]
                #[test]
                fn $name() {
                    let port = stringify!($constructor);
                    $crate::$suite::test(stringify!($name), port, $paused, super::$constructor);
                }
            )+
        }
    };
}

/// The same list, as a value.
#[doc(hidden)]
#[macro_export]
macro_rules! __table {
    (($port:ty)
        $($module:ident :: $name:ident $arguments:tt $(if $($can:ident),+)?: $contract:literal;)+
    ) => {
        &[$(
            $crate::Behaviour {
                name: stringify!($name),
                contract: $contract,
                need: $crate::__need!($arguments),
                asks: &[$($(can::$can),+)?],
                run: |fixture: $crate::Fixture<$port>| {
                    Box::pin(async move { $crate::__run!(fixture $module::$name $arguments) })
                },
            },
        )+]
    };
}

/// What a behaviour needs, by what it takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __need {
    ((port)) => {
        $crate::Need::Fresh
    };
    ((port, expiry)) => {
        $crate::Need::Expiry
    };
    ((fixture)) => {
        $crate::Need::Restart
    };
}

/// Gives a behaviour what it takes. The fixture outlives the call.
#[doc(hidden)]
#[macro_export]
macro_rules! __run {
    ($fixture:ident $module:ident :: $name:ident (port)) => {
        $module::$name($fixture.port()).await
    };
    ($fixture:ident $module:ident :: $name:ident (port, expiry)) => {
        $module::$name($fixture.port(), $fixture.expiry()).await
    };
    ($fixture:ident $module:ident :: $name:ident (fixture)) => {
        $module::$name($fixture).await
    };
}
