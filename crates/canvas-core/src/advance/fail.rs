//! Ending what will now never run.

use serde_json::Value;

use super::{Run, Told, first_tasks, opened, sort};
use crate::backend::Part;
use crate::effect::{Arrive, Effect};
use crate::exception::ExceptionInfo;
use crate::json::deep;
use crate::primitive::normalize;
use crate::protocol::{Reply, Request, Sealed, TaskMeta};
use crate::signature::{Shape, Signature};
use crate::state::State;
use crate::task::Failure;

impl Run<'_> {
    pub(super) fn fail_sealed(
        &self,
        sealed: &Sealed,
        exception: &ExceptionInfo,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(signature) = opened(sealed) {
            self.fail(&signature, exception, effects);
        }
    }

    /// Ends every task of a canvas that will now never run.
    pub(super) fn fail(
        &self,
        signature: &Signature,
        exception: &ExceptionInfo,
        effects: &mut Vec<Effect>,
    ) {
        deep(|| match &signature.shape {
            Shape::Task | Shape::Custom(_) => {
                self.fail_task(signature, exception, effects);
                self.fail_tail(signature, exception, effects);
            }
            Shape::Chain(tasks) | Shape::Group(tasks) => {
                for task in tasks {
                    self.fail(task, exception, effects);
                }
                self.fail_tail(signature, exception, effects);
            }
            Shape::Chord(parts) => {
                self.fail(&parts.header, exception, effects);
                if let Some(body) = &parts.body {
                    self.fail(body, exception, effects);
                }
                self.fail_tail(signature, exception, effects);
            }
        });
    }

    pub(super) fn fail_task(
        &self,
        signature: &Signature,
        exception: &ExceptionInfo,
        effects: &mut Vec<Effect>,
    ) {
        let options = &signature.options;
        let Some(id) = options.task_id() else {
            return;
        };
        if options.ignore_result() != Some(true)
            || self.env.config.task_store_errors_even_if_ignored
        {
            let mut meta = TaskMeta::new(id.clone(), State::Failure);
            meta.result = exception.to_value();
            meta.date_done = Some(self.now);
            meta.group_id = options.group_id();
            meta.parent_id = Some(self.request.id.clone());
            let asked = || self.request.properties.reply_to.clone();
            meta.reply = options.reply_to().or_else(asked).map(|to| Reply {
                to,
                correlation_id: id.clone(),
            });
            effects.push(Effect::Store(Box::new(meta)));
        }
        for link in options.links().unwrap_or_default() {
            self.fail(&link, exception, effects);
        }
        if let (Some(chord), Some(join)) = (options.get("chord"), options.group_id())
            && let Ok(body) = Signature::from_value(chord.clone())
            && let Ok(body) = Sealed::new(&body)
        {
            let part = Part {
                task_id: id,
                index: options.group_index(),
                state: State::Failure,
                result: exception.to_value(),
            };
            effects.push(Effect::Arrive(Box::new(Arrive { join, part, body })));
        }
    }

    /// The steps that follow a canvas as an option of it.
    pub(super) fn fail_tail(
        &self,
        signature: &Signature,
        exception: &ExceptionInfo,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(Value::Array(steps)) = signature.options.get("chain") {
            for step in steps.iter().rev() {
                if let Ok(step) = Signature::from_value(step.clone()) {
                    self.fail(&step, exception, effects);
                }
            }
        }
    }

    /// A chord's body will not run: it fails, its error callbacks are called
    /// as if it had run, and what waits for it fails too. The members of a body
    /// that is a group fail with the error of the header's, `cause`, itself, as
    /// in Celery. Who was `told` for a chord in the header is not told again.
    pub(super) fn fail_body(
        &self,
        body: &Signature,
        exception: &ExceptionInfo,
        cause: Option<&ExceptionInfo>,
        mut told: Told,
    ) -> Vec<Effect> {
        let before = told.clone();
        let mut effects = Vec::new();
        let canvas = normalize(body.clone()).unwrap_or_else(|_| body.clone());
        let exception = match (&canvas.shape, cause) {
            (Shape::Group(_), Some(cause)) => cause,
            _ => exception,
        };
        self.fail(&canvas, exception, &mut effects);
        let failure = Failure {
            exception: exception.clone(),
            traceback: None,
        };
        for task in first_tasks(&canvas) {
            let Some(id) = task.options.task_id() else {
                continue;
            };
            let request = Request::stand_in(id.clone(), &task.task, self.request);
            let mut errbacks = task.options.error_links().unwrap_or_default();
            errbacks.retain(|errback| !before.contains(errback));
            errbacks.iter().for_each(|errback| told.add(errback));
            let sent = self.errbacks(errbacks, &request, &failure, &mut effects);
            // Celery sends them before it stores that the body failed, so
            // they are found there.
            let stored = effects.iter_mut().find_map(|effect| match effect {
                Effect::Store(meta) if meta.task_id == id => Some(meta),
                _ => None,
            });
            if let (Some(meta), Some(sent)) = (stored, sent) {
                meta.children = Some(vec![sent]);
            }
        }
        for effect in &mut effects {
            if let Effect::Arrive(arrive) = effect {
                told.note(&mut arrive.part);
            }
        }
        sort(&mut effects);
        effects
    }
}
