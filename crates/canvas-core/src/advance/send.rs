//! What is sent by whoever is not done yet: a client, or a running task.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::Run;
use crate::effect::Effect;
use crate::error::{Error, Result};
use crate::freeze::{Member, Place};
use crate::id::Ids;
use crate::plan::{Env, Onward, Origin, Planner};
use crate::primitive::normalize;
use crate::protocol::Request;
use crate::result::ResultTree;
use crate::signature::{Kwargs, Signature};

/// Effects that call `task` in `launched` by a running task: what
/// [`Ctx::launch`](crate::Ctx::launch) does.
pub(crate) fn launch(
    env: &Env,
    request: &Request,
    canvas: Signature,
    ids: &mut Ids,
    now: DateTime<Utc>,
) -> Result<(Vec<Effect>, ResultTree)> {
    let run = Run { env, request, now };
    let mut planner = run.planner("launch");
    planner.ids = ids.clone();
    let tree = planner.apply(canvas, &[], Place::default(), Onward::default())?;
    *ids = planner.ids;
    Ok((planner.effects, tree))
}

/// Effects that add a member to the chord that a running task is in.
pub(crate) fn add_to_chord(
    env: &Env,
    request: &Request,
    canvas: Signature,
    ids: &mut Ids,
    index: u64,
    now: DateTime<Utc>,
) -> Result<(Vec<Effect>, u64, ResultTree)> {
    let (Some(chord), Some(group)) = (&request.embed.chord, &request.headers.group) else {
        return Err(Error::InvalidCanvas(format!(
            "{} is not in the header of a chord, so nothing can be added to it",
            request.task
        )));
    };
    if !env.has_join(chord) {
        return Err(Error::InvalidCanvas(format!(
            "{} is in a chord that a Python client joins by `celery.chord_unlock`, so nothing can be added to it",
            request.task
        )));
    }
    let run = Run { env, request, now };
    let mut planner = run.planner("add_to_chord");
    planner.ids = ids.clone();
    let canvas = normalize(canvas)?;
    let size = crate::primitive::count(&canvas);
    let mut next = index;
    let place = Place {
        id: None,
        member: Some(Member {
            group: Some(group.clone()),
            next: &mut next,
        }),
    };
    let onward = Onward {
        chain: Vec::new(),
        chord: Some(chord.clone()),
    };
    let tree = planner.apply(canvas, &[], place, onward)?;
    *ids = planner.ids;
    Ok((planner.effects, size, tree))
}

/// The whole of what a client sends for a canvas.
///
/// # Errors
/// [`Error::InvalidCanvas`] when the canvas makes no sense.
pub fn apply(
    env: &Env,
    canvas: Signature,
    args: &[Value],
    kwargs: &Kwargs,
    now: DateTime<Utc>,
) -> Result<(Vec<Effect>, ResultTree)> {
    let mut canvas = canvas;
    canvas.merge(&[], kwargs, &crate::Options::new(), false);
    let mut planner = Planner::new(env, Ids::Random, Origin::default(), now);
    let tree = planner.apply(canvas, args, Place::default(), Onward::default())?;
    Ok((planner.effects, tree))
}
