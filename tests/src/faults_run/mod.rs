//! Faults on real servers: chords are sent while workers are killed, connections
//! cut and servers stopped, and what came of them is judged.
//!
//! `cargo xtask faults` runs it; the section *Fault runs* of the book's page on
//! failure says what is promised and how it is counted. The workers are
//! processes of their own (`faults-worker`), and so is whoever sends, makes the
//! faults and judges (`faults-run`).

pub mod chords;
pub mod client;
pub mod judge;
pub mod out;
pub mod pair;
pub mod process;
pub mod report;
pub mod scenario;
pub mod servers;
pub mod trace;
pub mod worker;

use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use canvas::{Canvas, Connect};

use self::trace::Trace;

/// A moment, in microseconds since 1970: processes compare theirs.
pub type Micros = u64;

/// Now.
pub fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}

/// From one moment to another; zero if it was before.
pub fn between(from: Micros, to: Micros) -> Duration {
    Duration::from_micros(to.saturating_sub(from))
}

/// The application of workers and client alike. All settings but the lease are
/// the defaults, unless the environment says otherwise (`CANVAS_…`).
///
/// # Errors
/// For a setting or a URL that makes no sense.
pub fn app(broker: &str, backend: &str, lease: Duration, trace: Trace) -> canvas::Result<Canvas> {
    Canvas::builder()
        .env()?
        .configure(|config| config.visibility_timeout = lease)
        .broker_url(broker)
        .backend_url(backend)
        .task_object(chords::task(trace))
        .connect()
}

/// Ends this process when its standard input does: whoever started it holds the
/// other end, and lets go of it however it dies.
pub fn end_with_stdin() {
    std::thread::spawn(|| {
        let mut nothing = Vec::new();
        // An error is an end, too.
        let _ = std::io::stdin().read_to_end(&mut nothing);
        std::process::exit(1);
    });
}

/// Options of a command line: `--name value`, each of them known.
///
/// # Errors
/// A sentence on what is wrong.
pub fn options(
    arguments: impl Iterator<Item = String>,
    known: &[&str],
) -> Result<BTreeMap<String, String>, String> {
    let mut found = BTreeMap::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let name = argument.strip_prefix("--").unwrap_or_default();
        if !known.contains(&name) {
            return Err(format!(
                "no such option: {argument}; known are {}",
                known.join(", ")
            ));
        }
        let value = arguments
            .next()
            .ok_or(format!("{argument} needs a value"))?;
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}
