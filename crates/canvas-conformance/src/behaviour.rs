//! A behaviour: its contract, whether it applies, and running it.

use std::any::Any;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;

use crate::{Fixture, Need};

/// Names a file to which each test adds what came of it.
const REPORT: &str = "CANVAS_CONFORMANCE_REPORT";

/// How long a behaviour may take. It is far less than a minute, but some port may
/// keep it waiting for ever.
const LIMIT: Duration = Duration::from_secs(240);

/// One thing that every port does, if it is able to.
pub struct Behaviour<P: ?Sized + 'static> {
    pub(crate) name: &'static str,
    pub(crate) contract: &'static str,
    pub(crate) need: Need,
    /// What the port must say of itself.
    pub(crate) asks: &'static [Ask<P>],
    pub(crate) run: fn(Fixture<P>) -> LocalBoxFuture<'static, ()>,
}

/// The name of the ability that a port lacks.
pub(crate) type Ask<P> = fn(&P) -> Result<(), &'static str>;

/// What came of a behaviour, unless it did not hold: that is a panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The port does it.
    Holds,
    /// The port says that it has not what this needs: the name of that ability.
    NotApplicable(&'static str),
}

impl<P: ?Sized + 'static> Behaviour<P> {
    /// What it is called: a sentence, and the name of its test.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it promises, in one line: `join: arriving twice counts once`.
    pub fn contract(&self) -> &'static str {
        self.contract
    }

    /// What it needs of the port.
    pub fn need(&self) -> Need {
        self.need
    }

    /// Tries it on what `constructor` makes. With `paused`, time runs only while
    /// everybody waits.
    ///
    /// # Panics
    /// If it does not hold, and if it cannot be tried.
    pub fn run<F>(&self, paused: bool, constructor: impl FnOnce(Need) -> F) -> Outcome
    where
        F: Future<Output = Fixture<P>>,
    {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(paused);
        runtime.build().unwrap().block_on(async {
            let fixture = constructor(self.need).await;
            let port = fixture.port();
            if let Some(lacks) = self.asks.iter().find_map(|ask| ask(&port).err()) {
                return Outcome::NotApplicable(lacks);
            }
            drop(port);
            let done = tokio::time::timeout(LIMIT, (self.run)(fixture)).await;
            done.unwrap_or_else(|_| panic!("it is waiting for ever: {}", self.contract));
            Outcome::Holds
        })
    }
}

impl<P: ?Sized + 'static> fmt::Debug for Behaviour<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Behaviour")
            .field("name", &self.name)
            .field("contract", &self.contract)
            .field("need", &self.need)
            .finish_non_exhaustive()
    }
}

/// A test, as the suites make them: tries a behaviour and reports of it.
pub(crate) fn test<P: ?Sized, F>(
    suite: (&str, &'static [Behaviour<P>]),
    name: &str,
    port: &str,
    paused: bool,
    constructor: impl FnOnce(Need) -> F,
) where
    F: Future<Output = Fixture<P>>,
{
    let (suite, behaviours) = suite;
    let place = behaviours.iter().position(|one| one.name == name).unwrap();
    let behaviour = &behaviours[place];
    let tried = catch_unwind(AssertUnwindSafe(|| behaviour.run(paused, constructor)));
    let outcome = outcome(&tried);
    let contract = behaviour.contract;
    report(&format!(
        "{suite}\t{port}\t{place}\t{name}\t{contract}\t{outcome}\n"
    ));
    match tried {
        Ok(Outcome::Holds) => {}
        Ok(Outcome::NotApplicable(ability)) => println!("not applicable: {ability}"),
        Err(panic) => {
            println!("broken: {contract}");
            resume_unwind(panic)
        }
    }
}

fn outcome(tried: &Result<Outcome, Box<dyn Any + Send>>) -> String {
    match tried {
        Ok(Outcome::Holds) => "ok".to_owned(),
        Ok(Outcome::NotApplicable(ability)) => format!("n/a {ability}"),
        Err(_) => "FAIL".to_owned(),
    }
}

/// In one write, so that the lines of several processes stay whole.
fn report(line: &str) {
    let Some(path) = std::env::var_os(REPORT) else {
        return;
    };
    let opened = OpenOptions::new().append(true).create(true).open(&path);
    let written = opened.and_then(|mut file| file.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| panic!("{REPORT} is {}: {error}", path.display()));
}
