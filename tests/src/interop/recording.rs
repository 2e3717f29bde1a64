//! Tasks that leave a note.

use std::sync::Arc;

use async_trait::async_trait;
use canvas::{Arguments, Builder, Ctx, Task, TaskError, TaskOptions};
use canvas_core::task::Bound;
use serde_json::{Value, json};

use super::python::{sum, text};
use super::{Notes, name};

pub(super) fn add_to(builder: Builder, notes: &Notes) -> Builder {
    let all = [
        ("redis_echo", Kind::Echo),
        ("redis_echo_group_id", Kind::EchoGroup),
        ("redis_count", Kind::Count),
        ("sum_and_record", Kind::Sum),
        ("errback_old_style", Kind::OldErrback),
        ("errback_new_style", Kind::NewErrback),
        ("errback_old_style_with_args", Kind::LabelledOldErrback),
        ("errback_new_style_with_args", Kind::LabelledNewErrback),
    ];
    all.into_iter().fold(builder, |builder, (task, kind)| {
        builder.task_object(Arc::new(Noting {
            name: name(task),
            kind,
            notes: notes.clone(),
        }))
    })
}

struct Noting {
    name: String,
    kind: Kind,
    notes: Notes,
}

/// What is noted.
#[derive(Clone, Copy)]
enum Kind {
    /// The first argument.
    Echo,
    /// The group that the task is in.
    EchoGroup,
    /// That it ran.
    Count,
    /// Its id; the sum of a list is returned.
    Sum,
    /// How often it was called for each failed task.
    OldErrback,
    NewErrback,
    /// A label, for each failed task.
    LabelledOldErrback,
    LabelledNewErrback,
}

impl Kind {
    fn params(self) -> &'static [&'static str] {
        match self {
            Self::Echo => &["message", "redis_key"],
            Self::EchoGroup => &["_", "redis_key"],
            Self::Count => &["redis_key"],
            Self::Sum => &["values", "redis_key"],
            Self::OldErrback => &["request_id"],
            Self::NewErrback => &["request", "exc", "tb"],
            Self::LabelledOldErrback => &["request_id", "label"],
            Self::LabelledNewErrback => &["request", "exc", "tb", "label"],
        }
    }
}

#[async_trait]
impl Task for Noting {
    fn name(&self) -> &str {
        &self.name
    }

    fn options(&self) -> TaskOptions {
        TaskOptions {
            errback: matches!(self.kind, Kind::NewErrback | Kind::LabelledNewErrback),
            ..TaskOptions::default()
        }
    }

    async fn run(&self, ctx: Ctx, call: Arguments) -> Result<Value, TaskError> {
        let mut given = Bound::new(&self.name, self.kind.params(), call)?;
        let notes = &self.notes;
        match self.kind {
            Kind::Echo => {
                let message: Value = given.required(0)?;
                let key: String = given.or_else(1, || "redis-echo".to_owned())?;
                notes.push(&key, &text(&message)).await?;
                Ok(Value::Null)
            }
            Kind::EchoGroup => {
                let key: String = given.or_else(1, || "redis-group-ids".to_owned())?;
                let group = json!(ctx.request().headers.group);
                notes.push(&key, &text(&group)).await?;
                Ok(Value::Null)
            }
            Kind::Count => {
                let key: String = given.or_else(0, || "redis-count".to_owned())?;
                notes.count(&key).await?;
                Ok(Value::Null)
            }
            Kind::Sum => {
                let total = sum(given.required(0)?)?;
                let key: String = given.required(1)?;
                notes.push(&key, ctx.id().as_str()).await?;
                Ok(total)
            }
            Kind::OldErrback => {
                let id: String = given.required(0)?;
                notes.count(&id).await?;
                Ok(json!(id))
            }
            Kind::NewErrback => {
                let request: Value = given.required(0)?;
                notes.count(&text(&request["id"])).await?;
                Ok(request["id"].clone())
            }
            Kind::LabelledOldErrback => {
                let (id, label): (String, Value) = (given.required(0)?, given.required(1)?);
                notes.push(&id, &text(&label)).await?;
                Ok(Value::Null)
            }
            Kind::LabelledNewErrback => {
                let (request, label): (Value, Value) = (given.required(0)?, given.required(3)?);
                notes.push(&text(&request["id"]), &text(&label)).await?;
                Ok(Value::Null)
            }
        }
    }
}
