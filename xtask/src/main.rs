//! What this repository automates: `cargo xtask help`.

mod bench;
mod book;
mod ci;
mod golden;
mod run;
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
  bench    the benchmarks, with a summary in target/bench/. After `--` come
           arguments of criterion, such as a filter.
  golden   records the golden files of tests/golden/ anew, from Celery itself
  book     builds the book in docs/
  help     this text
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let verb = arguments.next().unwrap_or_default();
    let extra: Vec<String> = arguments.skip_while(|argument| argument == "--").collect();
    let done = match verb.as_str() {
        "test" => test::test(&extra),
        "ci" => ci::ci(),
        "tidy" => tidy::tidy(),
        "bench" => bench::bench(&extra),
        "golden" => golden::golden(),
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
