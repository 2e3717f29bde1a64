//! Joins of chord headers, on Celery's own keys.

use std::time::Duration;

use canvas_core::backend::{Arrival, JoinSpec, Part};
use canvas_core::{Id, Result, State, json};
use redis::{FromRedisValue, ParsingError, Value};

use crate::RedisBackend;
use crate::config::RedisBackendConfig;
use crate::script::{self, ARRIVE, CLOSE, GROW, OPEN};

/// Celery remembers a closed join for at least this long.
const REMEMBERED: Duration = Duration::from_secs(300);

impl RedisBackend {
    pub(crate) async fn open(&self, spec: &JoinSpec) -> Result<()> {
        let keys = self.keys.join(&spec.id);
        let mut open = OPEN.key(&[keys.size, keys.claim, keys.quorum]);
        open.arg(spec.size)
            .arg(spec.quorum)
            .arg(script::life(self.config.join_expires));
        let open = &open;
        self.link
            .call("backend.open_join", |mut redis| async move {
                open.invoke_async(&mut redis).await
            })
            .await
    }

    pub(crate) async fn grow(&self, join: &Id, member: &Id, by: u64) -> Result<()> {
        let keys = self.keys.join(join);
        let mut grow = GROW.key(&[
            keys.parts,
            keys.growth,
            keys.size,
            keys.claim,
            keys.claims,
            keys.grown,
        ]);
        grow.arg(member.as_str())
            .arg(by)
            .arg(script::life(self.config.join_expires));
        let grow = &grow;
        self.link
            .call("backend.grow_join", |mut redis| async move {
                grow.invoke_async(&mut redis).await
            })
            .await
    }

    pub(crate) async fn count_in(
        &self,
        join: &Id,
        part: &Part,
        lease: Duration,
    ) -> Result<Arrival> {
        let keys = self.keys.join(join);
        let mut arrive = ARRIVE.key(&[
            keys.parts,
            keys.growth,
            keys.size,
            keys.arrived,
            keys.claim,
            keys.group,
            keys.quorum,
            keys.claims,
            keys.grown,
            keys.waits,
        ]);
        let life = Life::of(&self.config);
        arrive
            .arg(part.task_id.as_str())
            .arg(place(part))
            .arg(encode(part)?)
            .arg(u8::from(part.is_ok()))
            .arg(script::millis(lease))
            .arg(life.join)
            .arg(asker())
            .arg(script::life(Some(self.config.header_grace)))
            .arg(life.closed)
            .arg(life.group);
        let arrive = &arrive;
        let found: Found = self
            .link
            .call("backend.arrive", |mut redis| async move {
                arrive.invoke_async(&mut redis).await
            })
            .await?;
        found.read()
    }

    pub(crate) async fn close(&self, join: &Id, claim: u64) -> Result<bool> {
        let mut close = CLOSE.key(&self.keys.join(join).own());
        close.arg(claim).arg(Life::of(&self.config).closed);
        let close = &close;
        self.link
            .call("backend.close_join", |mut redis| async move {
                close.invoke_async(&mut redis).await
            })
            .await
    }
}

/// How long what belongs to a join lives, as the scripts take it.
pub(crate) struct Life {
    pub(crate) join: u64,
    /// Of the note that it was closed.
    pub(crate) closed: u64,
    /// Of the shape of its header, which is also read by users: no shorter than
    /// results.
    pub(crate) group: u64,
}

impl Life {
    pub(crate) fn of(config: &RedisBackendConfig) -> Self {
        let results = script::life(config.result_expires);
        match script::life(config.join_expires) {
            0 => Self {
                join: 0,
                closed: 0,
                group: 0,
            },
            join => Self {
                join,
                closed: join.max(script::millis(REMEMBERED)),
                group: if results == 0 { 0 } else { join.max(results) },
            },
        }
    }
}

/// The place of a member as Celery scores it.
pub(crate) fn place(part: &Part) -> String {
    part.index.map_or("+inf".to_owned(), |i| i.to_string())
}

/// Who arrives: the same through all attempts at one call, so that one whose
/// answer was lost is not told that somebody else has the claim.
pub(crate) fn asker() -> String {
    format!("{:016x}", fastrand::u64(..))
}

/// A part as Celery keeps it; its place is kept beside it.
pub(crate) fn encode(part: &Part) -> Result<Vec<u8>> {
    let kept = (1, &part.task_id, &part.state, &part.result);
    json::write(&kept, "the result of a member of a chord")
}

fn decode(text: &[u8], place: f64) -> Result<Part> {
    let (_, task_id, state, result): (serde::de::IgnoredAny, Id, State, serde_json::Value) =
        json::parse(text, "the result of a member of a chord")?;
    Ok(Part {
        task_id,
        // Celery's +inf is a member without a place.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "places are whole numbers that were written by us or Celery"
        )]
        index: place.is_finite().then_some(place as u64),
        state,
        result,
    })
}

/// What the script answers.
pub(crate) enum Found {
    Arrival(Arrival),
    Complete {
        claim: u64,
        parts: Vec<(Vec<u8>, f64)>,
    },
}

impl Found {
    pub(crate) fn read(self) -> Result<Arrival> {
        let (claim, parts) = match self {
            Self::Arrival(arrival) => return Ok(arrival),
            Self::Complete { claim, parts } => (claim, parts),
        };
        let parts: Result<_> = parts.iter().map(|(text, at)| decode(text, *at)).collect();
        Ok(Arrival::Complete {
            claim,
            parts: parts?,
        })
    }
}

impl FromRedisValue for Found {
    fn from_redis_value(value: Value) -> std::result::Result<Self, ParsingError> {
        let mut items = Vec::<Value>::from_redis_value(value)?.into_iter();
        let mut next = || items.next().unwrap_or(Value::Nil);
        let word = String::from_redis_value(next())?;
        Ok(Self::Arrival(match word.as_str() {
            "complete" => {
                return Ok(Self::Complete {
                    claim: u64::from_redis_value(next())?,
                    parts: Vec::from_redis_value(next())?,
                });
            }
            "waiting" => Arrival::Waiting {
                arrived: u64::from_redis_value(next())?,
                size: u64::from_redis_value(next())?,
            },
            "claimed" => Arrival::Claimed {
                retry_after: Duration::from_millis(u64::from_redis_value(next())?),
            },
            "closed" => Arrival::Closed,
            "missing" => Arrival::Missing,
            other => return Err(format!("no answer of arrive.lua: {other}").into()),
        }))
    }
}
