//! The verdict: what there is to see of a run, counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde_json::Value;

use crate::faults_run::chords::Step;
use crate::faults_run::client::Sendings;
use crate::faults_run::out::{self, Fault, Seen};
use crate::faults_run::report::Report;
use crate::faults_run::scenario::Scenario;
use crate::faults_run::servers::Joins;
use crate::faults_run::trace::Run;
use crate::faults_run::{Micros, between};

/// All that is known of a run.
#[derive(Debug)]
pub struct Evidence {
    /// What went wrong.
    pub scenario: Scenario,
    /// How long a recovery may take.
    pub limit: Duration,
    /// What was sent, and how it ended.
    pub sendings: Sendings,
    /// When something went wrong.
    pub faults: Vec<Fault>,
    /// The processes that were killed, and when.
    pub kills: HashMap<String, Micros>,
    /// What workers ran.
    pub runs: Vec<Run>,
    /// The results that are stored at the end.
    pub results: HashMap<String, Value>,
    /// How often each result was stored, by the id of its task.
    pub stored: HashMap<String, u64>,
    /// How often each message was delivered, by the id of its task, if the
    /// broker knows.
    pub deliveries: Option<HashMap<String, u64>>,
    /// The deliveries that were seen to be out, where they can be.
    pub seen: Option<Vec<Seen>>,
    /// Until when they were looked at.
    pub until: Micros,
    /// What was left on the server.
    pub left: Left,
    /// How many workers ended though nobody asked them to.
    pub gave_up: usize,
}

/// What is left on the servers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Left {
    /// Messages that are out.
    pub out: u64,
    /// Messages in the queue.
    pub queued: u64,
    /// Dead letters.
    pub dead: usize,
    /// Joins that are there.
    pub joins: Joins,
}

impl Left {
    /// Whether nothing is that should not be.
    pub fn is_nothing(&self) -> bool {
        self.out + self.queued + self.joins.open == 0 && self.dead == 0
    }
}

/// Counts what there is to see.
pub fn judge(evidence: &Evidence) -> Report {
    let sent = &evidence.sendings.sent;
    let steps: Vec<&Step> = sent.iter().flat_map(|sent| sent.canvas.all()).collect();
    let bodies: BTreeSet<&str> = steps
        .iter()
        .filter(|step| step.is_body())
        .map(|step| step.id.as_str())
        .collect();
    let times = |id: &str| evidence.stored.get(id).copied().unwrap_or_default();
    let runs = by_task(&evidence.runs);
    let again = |id: &&str| runs.get(id).is_some_and(|runs| runs.len() > 1);
    let over = |end: &Result<Value, String>, canvas: &Step| match end {
        Ok(value) => !canvas.fits(value),
        Err(_) => true,
    };
    let ends = sent
        .iter()
        .filter_map(|sent| Some((sent.end.as_ref()?, &sent.canvas)));
    let (interrupted, rerun) = interrupted(evidence, &runs);
    let last_fault = evidence.faults.last().map_or(0, |fault| fault.ended);
    Report {
        scenario: evidence.scenario,
        faults: evidence.faults.len(),
        sent: sent.len(),
        unfinished: sent.iter().filter(|sent| sent.end.is_none()).count(),
        wrong: ends
            .clone()
            .filter(|(end, canvas)| over(end, canvas))
            .count(),
        differing: ends
            .filter_map(|(end, canvas)| Some(canvas.results(end.as_ref().ok()?)))
            .flatten()
            .filter(|(id, value)| evidence.results.get(*id) != Some(*value))
            .count(),
        failure: sent.iter().find_map(|sent| {
            let error = sent.end.as_ref()?.as_ref().err()?;
            Some(format!("{}: {error}", sent.canvas.id))
        }),
        bodies: bodies.len(),
        bodies_stored_once: bodies.iter().filter(|id| times(id) == 1).count(),
        bodies_stored_twice: bodies.iter().filter(|id| times(id) > 1).count(),
        others_stored_twice: steps
            .iter()
            .filter(|step| !step.is_body() && times(&step.id) > 1)
            .count(),
        tasks: steps.len(),
        bodies_run_again: bodies.iter().filter(|id| again(id)).count(),
        tasks_run_again: steps.iter().filter(|step| again(&step.id.as_str())).count(),
        interrupted,
        recovery: evidence
            .seen
            .as_ref()
            .map(|seen| out::recovery(&evidence.faults, seen, evidence.until)),
        standstill: out::standstill(&evidence.faults, &evidence.runs),
        limit: evidence.limit,
        rerun,
        drained: between(last_fault, evidence.sendings.last),
        again: evidence.sendings.again,
        broken: evidence.sendings.broken,
        gave_up: evidence.gave_up,
        left: evidence.left.clone(),
    }
}

fn by_task(runs: &[Run]) -> BTreeMap<&str, Vec<&Run>> {
    let mut by_task: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        by_task.entry(&run.id).or_default().push(run);
    }
    by_task
}

/// How many runs were cut off by kills, and the longest time from a kill until
/// such a task ran again, for each delivery that was lost: the next worker to
/// have it may have been killed too, before it came to run it.
fn interrupted(evidence: &Evidence, runs: &BTreeMap<&str, Vec<&Run>>) -> (usize, Duration) {
    let cut_off = evidence.runs.iter().filter(|run| run.ended.is_none());
    let cut_off = cut_off.filter_map(|run| Some((run, *evidence.kills.get(&run.process)?)));
    let again = cut_off.clone().filter_map(|(run, killed)| {
        let runs = runs.get(run.id.as_str())?;
        let next = runs.iter().find(|next| next.started > killed)?;
        let deliveries = evidence.deliveries.as_ref();
        let others = deliveries
            .and_then(|deliveries| deliveries.get(&run.id).copied())
            .unwrap_or_default()
            .saturating_sub(runs.len() as u64);
        let lost = u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
        Some(between(killed, next.started) / lost)
    });
    (cut_off.count(), again.max().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::faults_run::chords::{Given, canvas};
    use crate::faults_run::client::{AT_A_TIME, Sent};

    fn value(step: &Step) -> Value {
        let given = match &step.given {
            Given::Nothing => Value::Null,
            Given::One(step) => value(step),
            Given::All(header) => header.iter().map(value).collect(),
        };
        json!({ "id": step.id, "run": "1.1", "given": given })
    }

    /// A run in which workers were killed and all went well.
    fn good() -> Evidence {
        let sent: Vec<Sent> = (0..AT_A_TIME)
            .map(|number| {
                let canvas = canvas(number);
                let end = Some(Ok(value(&canvas)));
                Sent { canvas, end }
            })
            .collect();
        let steps = || sent.iter().flat_map(|sent| sent.canvas.all());
        let run = |id: &str, process: &str, started, ended| Run {
            id: id.to_owned(),
            process: process.to_owned(),
            started,
            ended,
        };
        let mut runs = vec![run(&sent[0].canvas.id, "worker-0-0", 5, None)];
        runs.extend(steps().map(|step| run(&step.id, "worker-1-0", 2_000_020, Some(2_000_030))));
        Evidence {
            scenario: Scenario::WorkerKilled,
            limit: Duration::from_secs(12),
            faults: vec![Fault {
                began: 20,
                ended: 20,
            }],
            kills: HashMap::from([("worker-0-0".to_owned(), 20)]),
            runs,
            results: steps().map(|step| (step.id.clone(), value(step))).collect(),
            stored: steps().map(|step| (step.id.clone(), 1)).collect(),
            deliveries: Some(HashMap::from([(sent[0].canvas.id.clone(), 2)])),
            seen: Some(Vec::new()),
            until: 3_000_000,
            left: Left::default(),
            gave_up: 0,
            sendings: Sendings {
                sent,
                ..Sendings::default()
            },
        }
    }

    /// What is wrong with a run that is good but for one thing.
    fn problems(change: impl FnOnce(&mut Evidence)) -> Vec<String> {
        let mut evidence = good();
        change(&mut evidence);
        judge(&evidence).problems()
    }

    #[test]
    fn a_good_run_is_seen_to_be_good() {
        assert_eq!(problems(|_| {}), Vec::<String>::new());
        let report = judge(&good());
        assert_eq!((report.interrupted, report.bodies_run_again), (1, 1));
        assert_eq!(report.tasks_run_again, 1);
        assert_eq!(report.rerun, Duration::from_secs(2));
    }

    #[test]
    fn everything_that_must_not_be_is_found() {
        type Change = fn(&mut Evidence);
        let table: [(&str, Change); 14] = [
            ("unfinished", |e| e.sendings.sent[3].end = None),
            ("wrong end", |e| {
                e.sendings.sent[3].end = Some(Err("no".to_owned()));
            }),
            ("wrong end", |e| {
                e.sendings.sent[3].end = Some(Ok(value(&canvas(4))));
            }),
            ("not as passed on", |e| {
                let id = e.sendings.sent[0].canvas.all()[1].id.clone();
                e.results.insert(id, json!("another"));
            }),
            ("two stored results", |e| {
                _ = e.stored.insert(canvas(0).id, 2);
            }),
            ("no stored result", |e| _ = e.stored.remove(&canvas(0).id)),
            ("other tasks", |e| {
                let member = canvas(0).all()[1].id.clone();
                e.stored.insert(member, 2);
            }),
            ("recovery", |e| {
                e.seen = Some(vec![Seen::new(10, Some(12_000_021))])
            }),
            ("run again", |e| e.runs[1].started = 12_000_021),
            ("left", |e| e.left.joins.open = 1),
            ("left", |e| e.left.out = 1),
            ("gave up", |e| e.gave_up = 1),
            ("cut off", |e| e.kills.clear()),
            ("faults", |e| e.faults.clear()),
        ];
        for (want, change) in table {
            let problems = problems(change);
            assert!(
                problems.iter().any(|p| p.contains(want)),
                "{want}: {problems:?}"
            );
        }
    }

    #[test]
    fn a_task_that_was_hit_twice_may_take_twice_as_long() {
        let problems = problems(|e| {
            e.runs[1].started = 23_000_000;
            e.deliveries = Some(HashMap::from([(canvas(0).id, 3)]));
        });
        assert_eq!(problems, Vec::<String>::new());
    }
}
