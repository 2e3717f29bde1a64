//! A canvas to check, and what its tasks do.

use std::time::Duration;

use canvas_core::task::{Retry, TaskError};
use canvas_core::{
    Canvas, Env, ExceptionInfo, Id, Ids, Outcome, Request, ResultTree, Signature, chain,
};
use serde_json::{Value, json};

/// A canvas, frozen, and what must be true of it.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) canvas: Signature,
    pub(crate) tree: ResultTree,
    pub(crate) chords: Vec<Chord>,
    /// The names of tasks of which is asked how often they run.
    pub(crate) counted: Vec<String>,
    /// Whether every run of a task ends alike.
    pub(crate) steady: bool,
    /// Whether a task that is delivered again is left alone if it succeeded.
    pub(crate) deduplicate: bool,
    by_reference: bool,
}

/// A chord in it.
#[derive(Debug, Clone)]
pub(crate) struct Chord {
    /// The task that is the body, or the first of it.
    pub(crate) body: Id,
    /// The tasks that arrive, in header order.
    pub(crate) members: Vec<Id>,
    /// How many successes the body is given.
    pub(crate) needed: usize,
}

impl Scene {
    pub(crate) fn new(mut canvas: Signature) -> Self {
        let mut ids = Ids::derived(&Id::from("model"), "scene");
        let tree = canvas.freeze_with(&mut ids);
        Self {
            canvas,
            tree: tree.expect("the canvas makes sense"),
            chords: Vec::new(),
            counted: Vec::new(),
            steady: true,
            deduplicate: true,
            by_reference: false,
        }
    }

    /// Says what the chord with this body waits for.
    pub(crate) fn chord(self, members: &[&str], body: &str) -> Self {
        self.quorum(members.len(), members, body)
    }

    /// The same for a chord that needs only so many.
    pub(crate) fn quorum(mut self, needed: usize, members: &[&str], body: &str) -> Self {
        self.chords.push(Chord {
            body: Id::from(body),
            members: members.iter().map(|name| Id::from(*name)).collect(),
            needed,
        });
        self
    }

    /// Asks how often this task runs.
    pub(crate) fn counted(mut self, task: &str) -> Self {
        self.counted.push(task.to_owned());
        self
    }

    /// Some task may end otherwise when it is run again.
    pub(crate) fn unsteady(mut self) -> Self {
        self.steady = false;
        self
    }

    /// A task that is delivered again is run again, whatever is stored.
    pub(crate) fn run_again(mut self) -> Self {
        self.deduplicate = false;
        self
    }

    /// Messages name what follows instead of copying it.
    pub(crate) fn by_reference(mut self) -> Self {
        self.by_reference = true;
        self
    }

    /// The surroundings in which it is planned.
    pub(crate) fn env(&self) -> Env {
        let size = if self.by_reference { 1 } else { usize::MAX };
        let app = Canvas::builder().configure(|config| {
            config.continuation_reference_size = Some(size);
        });
        app.build().expect("nothing to connect to").env().clone()
    }
}

/// A task that succeeds. Its name is its id.
pub(crate) fn t(name: &str) -> Signature {
    Signature::new(name).task_id(name)
}

/// A task that does as told: see [`outcomes`].
pub(crate) fn that(does: &str, name: &str) -> Signature {
    t(name).kwarg("does", does)
}

/// How a run may end.
pub(crate) fn outcomes(request: &Request) -> Vec<Outcome> {
    let name = &*request.task;
    let value = |tag: &str| {
        let args = Value::from(request.args.clone());
        Outcome::Success(json!(format!("{name}{tag}{args}")))
    };
    let failure = || {
        let exception = ExceptionInfo::builtin("ValueError", format!("{name} does not work"));
        Outcome::Error(TaskError::failed(exception))
    };
    match request.kwargs.get("does").and_then(Value::as_str) {
        Some("fails") => vec![failure()],
        Some("wavers") => vec![value("#1"), value("#2")],
        Some("breaks") => vec![value(""), failure()],
        Some("retries") if request.retries() == 0 => {
            vec![Outcome::Error(TaskError::Retry(Box::new(Retry {
                countdown: Some(Duration::ZERO),
                max_retries: None,
                arguments: None,
                cause: None,
            })))]
        }
        // The ids of these are the worker's to find.
        Some("is replaced") => {
            let steps = ["1", "2"].map(|step| Signature::new(format!("{name}{step}")));
            vec![Outcome::Error(TaskError::Replaced(Box::new(chain(steps))))]
        }
        _ => vec![value("")],
    }
}
