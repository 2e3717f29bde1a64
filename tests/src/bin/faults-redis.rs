//! The fault runs on Redis: sends chords, makes faults, judges, and ends with 1
//! if something is not as it must be. `cargo xtask faults redis` builds and runs
//! it.
//!
//! `faults-redis --folder FOLDER [--seconds N] [--only SCENARIO]
//! [--visibility-timeout S]`
//!
//! It ends when its standard input does, and all that it has started with it.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use canvas::Canvas;
use canvas_tests::faults_redis::client::AT_A_TIME;
use canvas_tests::faults_redis::report::table;
use canvas_tests::faults_redis::scenario::{CONCURRENCY, Scenario, Setting, WORKERS, run};
use canvas_tests::faults_redis::{chords::MEMBERS, end_with_stdin, options};

const OPTIONS: [&str; 4] = ["folder", "seconds", "only", "visibility-timeout"];

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
    let scenarios: Vec<Scenario> = match options.get("only") {
        None => Scenario::ALL.to_vec(),
        Some(name) => Scenario::ALL
            .into_iter()
            .filter(|scenario| scenario.name() == name)
            .collect(),
    };
    if scenarios.is_empty() {
        let known = Scenario::ALL.map(Scenario::name).join(", ");
        return Err(format!("no such scenario; known are {known}").into());
    }
    say(&setting)?;
    let mut reports = Vec::new();
    for scenario in scenarios {
        println!("{}: {:?} of faults", scenario.name(), setting.time);
        reports.push(run(scenario, &setting).await?);
    }
    print!("\n{}\n", table(&reports));
    let problems: Vec<String> = reports.iter().flat_map(|r| r.problems()).collect();
    for problem in &problems {
        println!("NOT AS IT MUST BE  {problem}");
    }
    if problems.is_empty() {
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
         {WORKERS} workers of {CONCURRENCY} tasks; Redis with appendfsync always\n\
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
