//! The fault runs: sends chords, makes faults, judges, and ends with 1 if
//! something is not as it must be. `cargo xtask faults` builds and runs it.
//!
//! `faults-run --folder FOLDER [--pair all|BROKER+BACKEND] [--seconds N]
//! [--only SCENARIO] [--visibility-timeout S]`
//!
//! It ends when its standard input does, and all that it has started with it.

use std::collections::BTreeSet;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use canvas::Canvas;
use canvas_tests::faults_run::client::AT_A_TIME;
use canvas_tests::faults_run::pair::Pair;
use canvas_tests::faults_run::report::{summary, table};
use canvas_tests::faults_run::scenario::{CONCURRENCY, Scenario, Setting, WORKERS, run};
use canvas_tests::faults_run::{chords::MEMBERS, end_with_stdin, options};

const OPTIONS: [&str; 5] = ["pair", "folder", "seconds", "only", "visibility-timeout"];

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    end_with_stdin();
    let options = options(std::env::args().skip(1), &OPTIONS)?;
    let seconds = |name: &str, default: u64| -> Result<Duration, Box<dyn Error>> {
        let given = options.get(name).map(|text| text.parse()).transpose()?;
        Ok(Duration::from_secs(given.unwrap_or(default)))
    };
    let folder = options.get("folder").ok_or("--folder is needed")?;
    let setting = Setting {
        time: seconds("seconds", 60)?,
        lease: seconds("visibility-timeout", 10)?,
        worker: std::env::current_exe()?.with_file_name("faults-worker"),
        folder: folder.into(),
    };
    let pairs: Vec<Pair> = match options.get("pair").map(String::as_str) {
        None | Some("all") => Pair::PERSISTENT
            .iter()
            .map(|name| Pair::parse(name))
            .collect(),
        Some(name) => Pair::parse(name).map(|pair| vec![pair]),
    }?;
    let only = options.get("only").map(String::as_str);
    let is_chosen = |scenario: &Scenario| only.is_none_or(|only| scenario.name() == only);
    if !pairs
        .iter()
        .flat_map(Pair::scenarios)
        .any(|s| is_chosen(&s))
    {
        let known = pairs.iter().flat_map(Pair::scenarios);
        let known: BTreeSet<&str> = known.map(Scenario::name).collect();
        let known = Vec::from_iter(known).join(", ");
        return Err(format!("no such scenario; known are {known}").into());
    }
    say(&setting)?;
    let mut all = Vec::new();
    for pair in &pairs {
        let mut reports = Vec::new();
        for scenario in pair.scenarios().into_iter().filter(is_chosen) {
            println!(
                "{}, {}: {:?} of faults",
                pair.name(),
                scenario.name(),
                setting.time
            );
            reports.push(run(pair, scenario, &setting).await?);
        }
        print!("\n{}\n{}\n", pair.name(), table(&reports));
        for problem in reports.iter().flat_map(|report| report.problems()) {
            println!("NOT AS IT MUST BE  {}: {problem}", pair.name());
        }
        all.push((pair.name(), reports));
    }
    println!("{}", summary(&all));
    let reports = all.iter().flat_map(|(_, reports)| reports);
    if reports
        .flat_map(|report| report.problems())
        .next()
        .is_none()
    {
        println!("all is as it must be");
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "what workers and servers said: {}",
        setting.folder.display()
    );
    Ok(ExitCode::FAILURE)
}

/// Under which settings all this holds.
fn say(setting: &Setting) -> canvas::Result<()> {
    let app = Canvas::builder().env()?.build()?;
    let config = app.config();
    println!(
        "{AT_A_TIME} chords of {MEMBERS} members at a time; \
         {WORKERS} workers of {CONCURRENCY} tasks; servers that keep what they answer\n\
         task_acks_late = {}, worker_deduplicate_successful_tasks = {}, commit_together = {}\n\
         visibility_timeout = {} s: a recovery may take {} s, until it is noticed\n",
        config.task_acks_late,
        config.worker_deduplicate_successful_tasks,
        config.commit_together,
        setting.lease.as_secs(),
        setting.recovery().as_secs(),
    );
    Ok(())
}
