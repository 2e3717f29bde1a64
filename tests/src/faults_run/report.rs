//! What is said of the runs, in one table, and what is not as it must be.

use std::fmt::Write;
use std::time::Duration;

use crate::faults_run::client::AT_A_TIME;
use crate::faults_run::judge::Left;
use crate::faults_run::scenario::Scenario;

/// The counts of a run.
#[derive(Debug)]
pub struct Report {
    /// What went wrong.
    pub scenario: Scenario,
    /// How often.
    pub faults: usize,
    /// The canvases that were sent.
    pub sent: usize,
    /// Those that never ended.
    pub unfinished: usize,
    /// Those that ended in a wrong value, or an error.
    pub wrong: usize,
    /// The first error, and whose it is.
    pub failure: Option<String>,
    /// Tasks whose stored result is not the one that was passed on.
    pub differing: usize,
    /// Bodies of chords.
    pub bodies: usize,
    /// Those whose result was stored exactly once.
    pub bodies_stored_once: usize,
    /// Those whose result was stored more than once.
    pub bodies_stored_twice: usize,
    /// Other tasks whose result was stored more than once.
    pub others_stored_twice: usize,
    /// All tasks.
    pub tasks: usize,
    /// Bodies that ran more than once.
    pub bodies_run_again: usize,
    /// Tasks that ran more than once, bodies among them.
    pub tasks_run_again: usize,
    /// Runs that a kill has cut off.
    pub interrupted: usize,
    /// The longest time from a fault until all that was out at it was settled
    /// or given back for another worker to take, where that can be seen.
    pub recovery: Option<Duration>,
    /// The longest time from a fault until a task was started next.
    pub standstill: Duration,
    /// The longest time from a kill until a task that it had cut off ran again,
    /// for each delivery of it that was lost.
    pub rerun: Duration,
    /// How long that may be.
    pub limit: Duration,
    /// From the last fault until the last canvas ended.
    pub drained: Duration,
    /// How often a canvas was sent again, since an error came back.
    pub again: usize,
    /// How often waiting broke off.
    pub broken: usize,
    /// How many workers ended by themselves.
    pub gave_up: usize,
    /// What was left on the servers.
    pub left: Left,
}

/// What a row says of a run, and whether that is as it must be.
type Cell = fn(&Report) -> (String, bool);

const ROWS: [(&str, Cell); 23] = [
    ("faults", |r| (r.faults.to_string(), r.faults > 0)),
    ("chords sent", |r| (r.sent.to_string(), r.sent >= AT_A_TIME)),
    ("chords unfinished", |r| none(r.unfinished)),
    ("chords with a wrong end", |r| none(r.wrong)),
    ("bodies", |r| any(r.bodies)),
    ("bodies with two stored results", |r| {
        none(r.bodies_stored_twice)
    }),
    ("bodies with no stored result", |r| {
        none(r.bodies - r.bodies_stored_once - r.bodies_stored_twice)
    }),
    ("bodies run more than once", |r| any(r.bodies_run_again)),
    ("tasks, bodies among them", |r| any(r.tasks)),
    ("other tasks with two results", |r| {
        none(r.others_stored_twice)
    }),
    ("results not as passed on", |r| none(r.differing)),
    ("tasks run more than once", |r| any(r.tasks_run_again)),
    ("tasks cut off by a kill", |r| {
        let must = r.scenario == Scenario::WorkerKilled;
        (r.interrupted.to_string(), !must || r.interrupted > 0)
    }),
    ("longest recovery", |r| match r.recovery {
        Some(time) => (seconds(time), time <= r.limit),
        None => ("-".to_owned(), true),
    }),
    ("longest until work goes on", |r| {
        (seconds(r.standstill), r.standstill <= r.limit)
    }),
    ("longest until run again, per hit", |r| {
        (seconds(r.rerun), r.rerun <= r.limit)
    }),
    ("last fault to last end", |r| (seconds(r.drained), true)),
    ("chords sent again", |r| any(r.again)),
    ("waits broken off", |r| any(r.broken)),
    ("workers that gave up", |r| none(r.gave_up)),
    ("left: out, queued, dead", |r| {
        let left = &r.left;
        let nothing = left.out + left.queued == 0 && left.dead == 0;
        let shown = format!("{}, {}, {}", left.out, left.queued, left.dead);
        (shown, nothing)
    }),
    ("left: open joins", |r| {
        (r.left.joins.open.to_string(), r.left.joins.open == 0)
    }),
    ("left: late parts of closed joins", |r| {
        (r.left.joins.late.to_string(), true)
    }),
];

fn none(count: usize) -> (String, bool) {
    (count.to_string(), count == 0)
}

fn any(count: usize) -> (String, bool) {
    (count.to_string(), true)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

impl Report {
    /// What is not as it must be.
    pub fn problems(&self) -> Vec<String> {
        let name = self.scenario.name();
        let cells = ROWS.iter().map(|(what, cell)| (what, cell(self)));
        let bad = cells.filter(|(_, (_, is_good))| !is_good);
        let rows = bad.map(|(what, (value, _))| format!("{name}: {what}: {value}"));
        let failure = self.failure.iter().map(|why| format!("{name}: {why}"));
        rows.chain(failure).collect()
    }
}

/// The table: a row for each count, a column for each run. What is not as it
/// must be has a `!`.
pub fn table(reports: &[Report]) -> String {
    let mut text = format!("{:<36}", "");
    for report in reports {
        let _ = write!(text, "{:>18}", report.scenario.name());
    }
    text.push('\n');
    for (what, cell) in ROWS {
        let _ = write!(text, "{what:<36}");
        for report in reports {
            let (value, is_good) = cell(report);
            let mark = if is_good { "" } else { "! " };
            let _ = write!(text, "{:>18}", format!("{mark}{value}"));
        }
        text.push('\n');
    }
    text
}

/// The counts that matter most, a row for each run of each pair.
pub fn summary(pairs: &[(String, Vec<Report>)]) -> String {
    let mut text = format!(
        "{:<16}{:<20}{:>8}{:>8}{:>8}{:>8}{:>12}\n",
        "pair", "scenario", "faults", "chords", "lost", "wrong", "two results"
    );
    for (pair, reports) in pairs {
        for r in reports {
            let twice = r.bodies_stored_twice + r.others_stored_twice;
            let _ = writeln!(
                text,
                "{pair:<16}{:<20}{:>8}{:>8}{:>8}{:>8}{twice:>12}",
                r.scenario.name(),
                r.faults,
                r.sent,
                r.unfinished,
                r.wrong,
            );
        }
    }
    text
}
