//! Each behaviour can fail: of a driver with one fault it does not hold, and
//! without that fault it does.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes only #[test] functions for tests (rust-clippy#13981)"
)]

mod backend;
mod broker;

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use canvas_conformance::{Behaviour, Fixture, Need, Outcome};

/// Makes a test of each behaviour, with the faults that it is to see, and one
/// that none was left out.
#[macro_export]
macro_rules! faults {
    ($behaviours:path, $constructor:path: $($name:ident: $($fault:ident),+;)+) => {
        mod sees {
            $(
                #[test]
                fn $name() {
                    $crate::sees(
                        $behaviours(),
                        stringify!($name),
                        &[$(super::Fault::$fault),+],
                        $constructor,
                    );
                }
            )+

            #[test]
            fn every_behaviour_can_fail() {
                let tried = [$(stringify!($name)),+];
                let names: Vec<&str> = $behaviours().iter().map(|one| one.name()).collect();
                assert_eq!(names, tried);
            }
        }
    };
}

fn sees<P: ?Sized, T: Copy + Debug>(
    behaviours: &[Behaviour<P>],
    name: &str,
    faults: &[T],
    constructor: fn(Option<T>, Need) -> Fixture<P>,
) {
    let behaviour = behaviours.iter().find(|one| one.name() == name).unwrap();
    let run = |fault| behaviour.run(true, async |need| constructor(fault, need));
    assert_eq!(run(None), Outcome::Holds);
    for &fault in faults {
        let tried = catch_unwind(AssertUnwindSafe(|| run(Some(fault))));
        assert!(tried.is_err(), "{name} does not see {fault:?}");
    }
}
