//! What this repository automates: `cargo xtask help`.

mod bench;
mod book;
mod ci;
mod conformance;
mod faults;
mod golden;
mod interop;
mod run;
mod services;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask VERB

  test     the whole proof: unit, integration and doc tests, each example, each
           bench once, and the scale run. After `--` come arguments of
           `cargo test`; with them, only `cargo test` runs.
  ci       exactly what CI checks: format, lints, features, docs, tidy,
           licences, and then `test`
  tidy     the house rules that no compiler checks
  bench    the benchmarks, and canvas beside Celery on one Redis, with summaries
           in target/bench/. `--side` is only the second; so are `--quick` and
           `--only NAME` (enqueue, drain, latency, chord, chain, memory, bytes).
           `--pairs [NAMES]` is beside Celery on pairs of servers.
           Anything else is for criterion, such as a filter.
  golden   records the golden files of tests/golden/ anew, from Celery itself
  services up|down|status|env [NAME…]
           the servers that tests talk to, on ports of their own; `env` prints
           where they are, for `eval`
  interop  Celery's own integration tests, with our worker in place of theirs.
           `--all` is on all pairs of broker and backend, `--pair P` on one, and
           without them on Redis alone. `--filter K` chooses among them,
           `--stock` leaves Celery's worker in place; `--reverse` and `--mixed`
           test the other way round, and both workers on one queue. Needs Python
           and a network.
  conformance
           the suites that every broker and every backend must pass, of all of
           them, and a matrix of what each can; also written to
           docs/src/conformance.md. `--check` sees that the page is current.
  faults all|redis|BROKER+BACKEND
           chords under load while workers are killed, connections cut and
           servers stopped; counts, and fails if anything is lost or done twice.
           Up to ten minutes for each pair; `--seconds 10` is shorter, `--only
           SCENARIO` is one of them.
  book     builds the book in docs/
  help     this text
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let verb = arguments.next().unwrap_or_default();
    // The first one only: a second is for the program behind.
    arguments.next_if(|argument| argument == "--");
    let extra: Vec<String> = arguments.collect();
    let done = match verb.as_str() {
        "test" => test::test(&extra),
        "ci" => ci::ci(),
        "tidy" => tidy::tidy(),
        "bench" => bench::bench(&extra),
        "golden" => golden::golden(),
        "interop" => interop::interop(&extra),
        "services" => services::services(&extra),
        "conformance" => conformance::conformance(&extra),
        "faults" => faults::faults(&extra),
        "book" => book::book(),
        "help" | "-h" | "--help" => {
            print!("{HELP}");
            Ok(())
        }
        other => {
            eprint!("{HELP}");
            Err(format!("no such verb: `{other}`"))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // Nothing to add where the tally has said it all.
            if !reason.is_empty() {
                eprintln!("xtask: {reason}");
            }
            ExitCode::FAILURE
        }
    }
}
