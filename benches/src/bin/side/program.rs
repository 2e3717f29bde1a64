//! Programs beside this one: servers, workers, clients. They end with it,
//! however it ends.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::{Failure, Outcome};

/// Runs a program until its own standard input ends, which it does with
/// whoever holds the other end. Then all of its process group is ended.
const KEEPER: &str = r#""$@" </dev/null & cat >/dev/null; kill -KILL 0"#;

/// The programs that [`KEEPER`] itself consists of.
const KEEPERS: [&str; 2] = ["sh", "cat"];

/// A program and all that it has started.
#[derive(Debug)]
pub(crate) struct Program {
    group: u32,
    keeper: Child,
    _keep: Option<ChildStdin>,
}

/// What a program takes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Taken {
    /// Memory in bytes, as each of its processes has it.
    pub(crate) rss: u64,
    /// The same, with what processes share counted once.
    pub(crate) pss: u64,
    /// Processor time so far, in seconds.
    pub(crate) cpu: f64,
}

impl Program {
    /// Starts one, with what it says going to a file.
    pub(crate) fn start(
        program: impl AsRef<OsStr>,
        log: &Path,
        set_up: impl FnOnce(&mut Command),
    ) -> Outcome<Self> {
        let output = fs::File::create(log).map_err(|e| format!("{}: {e}", log.display()))?;
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "sh"]).arg(program);
        set_up(&mut command);
        command.stdout(output.try_clone()?).stderr(output);
        command.stdin(Stdio::piped()).process_group(0);
        let mut keeper = command.spawn().map_err(|e| format!("sh: {e}"))?;
        Ok(Self {
            group: keeper.id().ok_or("a program that has ended at once")?,
            _keep: keeper.stdin.take(),
            keeper,
        })
    }

    /// What it takes now.
    pub(crate) fn taken(&self) -> Taken {
        let mut taken = Taken::default();
        for (folder, cpu) in self.processes() {
            taken.cpu += cpu;
            taken.rss += kib(&folder.join("smaps_rollup"), "Rss:") * 1024;
            taken.pss += kib(&folder.join("smaps_rollup"), "Pss:") * 1024;
        }
        taken
    }

    /// Lets it run, or not: who keeps it runs on, so it ends all the same.
    pub(crate) fn let_run(&self, runs: bool) -> Outcome<()> {
        let mut kill = std::process::Command::new("kill");
        kill.arg(if runs { "-CONT" } else { "-STOP" });
        kill.args(
            self.processes()
                .iter()
                .filter_map(|(folder, _)| folder.file_name()),
        );
        let status = kill.status()?;
        if status.success() {
            Ok(())
        } else {
            Err("a worker has ended: does its log say why?".into())
        }
    }

    /// Its processes in /proc, each with its processor time.
    fn processes(&self) -> Vec<(PathBuf, f64)> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let folders = entries.map(|entry| entry.path());
        folders
            .filter_map(|folder| cpu_of(&folder, self.group).map(|cpu| (folder, cpu)))
            .collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let group = format!("-{}", self.group);
        let kill = std::process::Command::new("kill")
            .args(["-KILL", "--", &group])
            .stderr(Stdio::null())
            .status();
        // Without it, the end of its input ends it a little later.
        if kill.is_ok_and(|status| status.success()) {
            let _ = self.keeper.start_kill();
        }
    }
}

/// The processor time so far of a process and of those that it has started
/// and that still run, in seconds.
pub(crate) fn cpu_with_children(pid: u32) -> f64 {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = entries.filter_map(|entry| Stat::read(&entry.path()));
    let own = stats.filter(|stat| stat.pid == pid || stat.parent == pid);
    own.map(|stat| stat.cpu).sum()
}

/// What /proc tells of a process.
struct Stat {
    pid: u32,
    name: String,
    parent: u32,
    group: u32,
    /// Its processor time so far, in seconds.
    cpu: f64,
}

impl Stat {
    fn read(folder: &Path) -> Option<Self> {
        /// Clock ticks in a second; Linux shows it no other way on any machine.
        const TICKS: f64 = 100.0;
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        // The name is in parentheses, and may hold anything.
        let (start, rest) = stat.rsplit_once(')')?;
        let (pid, name) = start.split_once(" (")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |place: usize| -> Option<u32> { fields.get(place)?.parse().ok() };
        let ticks = |place: usize| -> Option<f64> { fields.get(place)?.parse().ok() };
        Some(Self {
            pid: pid.parse().ok()?,
            name: name.to_owned(),
            parent: number(1)?,
            group: number(2)?,
            cpu: (ticks(11)? + ticks(12)?) / TICKS,
        })
    }
}

/// The processor time of a process, if it is one of this group and does more
/// than to keep the others.
fn cpu_of(folder: &Path, group: u32) -> Option<f64> {
    let stat = Stat::read(folder)?;
    let is_keeper = KEEPERS.contains(&stat.name.as_str());
    (stat.group == group && !is_keeper).then_some(stat.cpu)
}

fn kib(file: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// A program that is asked line by line, in JSON.
#[derive(Debug)]
pub(crate) struct Driver {
    _child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Driver {
    /// Starts one; it ends when its standard input does.
    pub(crate) fn start(mut command: Command) -> Outcome<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let mut child = command
            .spawn()
            .map_err(|e| format!("{:?}: {e}", command.as_std().get_program()))?;
        let questions = child.stdin.take().ok_or("no standard input")?;
        let answers = child.stdout.take().ok_or("no standard output")?;
        Ok(Self {
            _child: child,
            questions,
            answers: BufReader::new(answers).lines(),
        })
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(&mut self, command: &str, mut question: Value) -> Outcome<Value> {
        question["command"] = json!(command);
        let line = format!("{question}\n");
        self.questions.write_all(line.as_bytes()).await?;
        let answer = self.answers.next_line().await?;
        let answer = answer.ok_or_else(|| format!("it has ended, asked to {command}"))?;
        let mut answer: Value = serde_json::from_str(&answer)?;
        match answer.get_mut("done") {
            Some(done) => Ok(done.take()),
            None => Err(Failure::from(format!("{command}: {}", answer["failed"]))),
        }
    }
}
