//! `cargo xtask faults`: workers killed, connections cut and servers stopped
//! under load, and what came of it.

use std::process::{Command, Stdio};

use crate::run::{cargo, run};
use crate::services::{self, MariaDb, Postgres, RabbitMq, Redis, Service};
use crate::workspace;

const USAGE: &str = "\
faults all, or faults BROKER+BACKEND, or faults redis for one Redis that is
both, takes
  --seconds N      for how long there are faults in each scenario; 60
  --only SCENARIO  worker-killed, connections-cut, broker-paused,
                   broker-shut-down, backend-paused or backend-shut-down (with
                   one server: server-paused, server-shut-down), instead of all
  --committer HOW  `ordered` or `together`, instead of the default
Brokers are amqp and redis; backends are redis, postgres, mariadb and sqlite.";

/// What has to be installed for a part of a pair's name.
const SERVERS: [(&str, &dyn Service); 4] = [
    ("amqp", &RabbitMq),
    ("redis", &Redis),
    ("postgres", &Postgres),
    ("mariadb", &MariaDb),
];

pub(crate) fn faults(arguments: &[String]) -> Result<(), String> {
    let (pair, arguments) = arguments.split_first().ok_or(USAGE)?;
    if pair.starts_with('-') {
        return Err(USAGE.to_owned());
    }
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
    for (name, server) in SERVERS {
        if pair == "all" || pair.split('+').any(|part| part == name) {
            services::install(server)?;
        }
    }
    run(cargo("build --quiet --bin faults-run --bin faults-worker"))?;
    let target = workspace::target()?;
    let mut faults = Command::new(target.join("debug/faults-run"));
    faults.arg("--folder").arg(target.join("faults"));
    faults.args(["--pair", pair]).args(options);
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
        .map_err(|e| format!("faults-run could not be started: {e}"))?;
    // Waiting would close it.
    let _input = child.stdin.take();
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the fault runs ended with {status}")),
        Err(error) => Err(format!("faults-run: {error}")),
    }
}
