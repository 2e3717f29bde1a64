//! `cargo xtask faults`: workers killed, connections cut and servers stopped
//! under load, and what came of it.

use std::process::Stdio;

use crate::run::{cargo, run};
use crate::services::{self, Redis};
use crate::workspace;

const USAGE: &str = "\
faults redis takes
  --seconds N      for how long there are faults in each scenario; 60
  --only SCENARIO  worker-killed, connections-cut, server-paused or
                   server-shut-down, instead of all
  --committer HOW  `ordered` or `together`, instead of the default";

pub(crate) fn faults(arguments: &[String]) -> Result<(), String> {
    match arguments.split_first() {
        Some((what, arguments)) if what == "redis" => redis(arguments),
        _ => Err(USAGE.to_owned()),
    }
}

fn redis(arguments: &[String]) -> Result<(), String> {
    let mut options = Vec::new();
    let mut committer = None;
    let mut arguments = arguments.iter().map(String::as_str);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        match option {
            "--seconds" | "--only" => options.extend([option, value]),
            "--committer" => committer = Some(value),
            _ => return Err(USAGE.to_owned()),
        }
    }
    services::install(&Redis)?;
    run(cargo(
        "build --quiet --bin faults-redis --bin faults-worker",
    ))?;
    let target = workspace::target()?;
    let mut faults = std::process::Command::new(target.join("debug/faults-redis"));
    faults.arg("--folder").arg(target.join("faults"));
    faults.args(options);
    match committer {
        None => {}
        // A setting like any other: workers have the environment of this.
        Some("ordered") => _ = faults.env("CANVAS_COMMIT_TOGETHER", "false"),
        Some("together") => _ = faults.env("CANVAS_COMMIT_TOGETHER", "true"),
        Some(_) => return Err(USAGE.to_owned()),
    }
    // It ends when its input does, and so when this program does.
    let mut child = faults
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|e| format!("faults-redis could not be started: {e}"))?;
    // Waiting would close it.
    let _input = child.stdin.take();
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the fault runs ended with {status}")),
        Err(error) => Err(format!("faults-redis: {error}")),
    }
}
