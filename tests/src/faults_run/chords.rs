//! The chords that are sent, and what each must come to.
//!
//! Every task returns its id, a name for this one run of it, and what it was
//! given. So the final value of a canvas shows all that went into it, by which
//! run, and can be held against what is stored.

use std::sync::Arc;
use std::time::Duration;

use canvas::{Signature, Task, chain, chord};
use serde_json::{Value, json};

use crate::faults_run::trace::Trace;
use crate::support;

/// How many members each chord has, those of the chords inside it included.
pub const MEMBERS: usize = 20;

/// The task that all steps are.
const TASK: &str = "faults.step";

/// A task of a canvas, with all that comes before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its id.
    pub id: String,
    /// How long it takes.
    pub takes: Duration,
    /// What it is given.
    pub given: Given,
}

/// What a task is given.
#[derive(Debug, Clone, PartialEq)]
pub enum Given {
    /// Nothing: a member that is a single task, or the first of a chain.
    Nothing,
    /// The result of the step before.
    One(Box<Step>),
    /// The results of a header: it is the body of a chord.
    All(Vec<Step>),
}

/// A canvas with [`MEMBERS`] members. There are four shapes, that take turns: a
/// chord, a chord that is followed by two steps, a chord in a chord, and a chord
/// of single tasks, a chain and a chord that is followed by a step.
pub fn canvas(number: usize) -> Step {
    let mut draw = Draw { number, drawn: 0 };
    let m = MEMBERS;
    match number % 4 {
        0 => draw.body(m, vec![]),
        1 => {
            let body = draw.body(m, vec![]);
            let after = draw.after(body);
            draw.after(after)
        }
        2 => {
            let inner = draw.body(4, vec![]);
            draw.body(m - 4, vec![inner])
        }
        _ => {
            let first = draw.member();
            let chain = draw.after(first);
            let inner = draw.body(2, vec![]);
            let inner = draw.after(inner);
            let body = draw.body(m - 3, vec![chain, inner]);
            draw.after(body)
        }
    }
}

/// Draws steps, each with a name and a length of its own.
struct Draw {
    number: usize,
    drawn: usize,
}

impl Draw {
    fn step(&mut self, kind: &str, given: Given) -> Step {
        let place = self.drawn;
        self.drawn += 1;
        // Most take a few milliseconds, and one in ten long enough to be hit
        // for certain.
        let mix = self.number * 7 + place;
        let millis = if mix.is_multiple_of(10) {
            200
        } else {
            2 + mix % 9
        };
        Step {
            id: format!("faults-{}-{place}-{kind}", self.number),
            takes: Duration::from_millis(u64::try_from(millis).unwrap_or_default()),
            given,
        }
    }

    fn member(&mut self) -> Step {
        self.step("member", Given::Nothing)
    }

    fn after(&mut self, step: Step) -> Step {
        self.step("after", Given::One(Box::new(step)))
    }

    fn body(&mut self, members: usize, others: Vec<Step>) -> Step {
        let mut header: Vec<Step> = (0..members).map(|_| self.member()).collect();
        header.extend(others);
        self.step("body", Given::All(header))
    }
}

impl Step {
    /// The canvas, not frozen yet.
    pub fn signature(&self) -> Signature {
        let millis = u64::try_from(self.takes.as_millis()).unwrap_or_default();
        let own = Signature::new(TASK)
            .kwarg("millis", millis)
            .task_id(self.id.as_str());
        match &self.given {
            Given::Nothing => own,
            Given::One(step) => chain([step.signature(), own]),
            Given::All(header) => chord(header.iter().map(Step::signature), own),
        }
    }

    /// Whether it is the body of a chord.
    pub fn is_body(&self) -> bool {
        matches!(self.given, Given::All(_))
    }

    /// This task and all before it.
    pub fn all(&self) -> Vec<&Step> {
        let mut all = vec![self];
        match &self.given {
            Given::Nothing => {}
            Given::One(step) => all.extend(step.all()),
            Given::All(header) => all.extend(header.iter().flat_map(Step::all)),
        }
        all
    }

    /// Whether a value is what this step must return, whichever run did.
    pub fn fits(&self, value: &Value) -> bool {
        let given = &value["given"];
        value["id"] == *self.id
            && value["run"].is_string()
            && match &self.given {
                Given::Nothing => given.is_null(),
                Given::One(step) => step.fits(given),
                Given::All(header) => given.as_array().is_some_and(|given| {
                    given.len() == header.len() && header.iter().zip(given).all(|(s, v)| s.fits(v))
                }),
            }
    }

    /// Every result inside the value of this step, by the id of its task.
    pub fn results<'a>(&'a self, value: &'a Value) -> Vec<(&'a str, &'a Value)> {
        let mut all = vec![(self.id.as_str(), value)];
        let given = &value["given"];
        match &self.given {
            Given::Nothing => {}
            Given::One(step) => all.extend(step.results(given)),
            Given::All(header) => {
                let pairs = header
                    .iter()
                    .enumerate()
                    .flat_map(|(at, step)| step.results(&given[at]));
                all.extend(pairs);
            }
        }
        all
    }
}

/// The task: it takes its time, and says in the trace when it starts and ends.
pub fn task(trace: Trace) -> Arc<dyn Task> {
    support::task(TASK, move |ctx, call| {
        let trace = trace.clone();
        async move {
            let id = ctx.id().to_string();
            let run = trace.starts(&id);
            let millis = call.kwargs["millis"].as_u64().unwrap_or_default();
            tokio::time::sleep(Duration::from_millis(millis)).await;
            trace.ends(&id, &run);
            let given = call.args.into_iter().next();
            Ok(json!({ "id": id, "run": run, "given": given }))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(step: &Step) -> Value {
        let given = match &step.given {
            Given::Nothing => Value::Null,
            Given::One(step) => value(step),
            Given::All(header) => header.iter().map(value).collect(),
        };
        json!({ "id": step.id, "run": "any", "given": given })
    }

    #[test]
    fn every_canvas_has_its_members_and_no_id_twice() {
        let mut ids = std::collections::HashSet::new();
        for number in 0..40 {
            let canvas = canvas(number);
            let all = canvas.all();
            let single = all.iter().filter(|step| step.given == Given::Nothing);
            assert_eq!(single.count(), MEMBERS, "{number}");
            assert!(all.iter().all(|step| ids.insert(step.id.clone())));
        }
    }

    #[test]
    fn a_value_fits_only_with_all_results_in_their_places() {
        for number in 0..4 {
            let canvas = canvas(number);
            let good = value(&canvas);
            assert!(canvas.fits(&good));
            assert_eq!(canvas.results(&good).len(), canvas.all().len());
            let text = good.to_string();
            let (a, b) = (format!("{number}-0-member"), format!("{number}-1-member"));
            let swapped = text.replace(&a, "?").replace(&b, &a).replace('?', &b);
            assert_ne!(swapped, text);
            assert!(!canvas.fits(&serde_json::from_str(&swapped).unwrap()));
        }
        let mut short = value(&canvas(0));
        short["given"].as_array_mut().unwrap().pop();
        assert!(!canvas(0).fits(&short));
    }
}
