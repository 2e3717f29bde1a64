//! Joins of chord headers: what is known of one is an item that is changed only as
//! it was read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use canvas_core::backend::{Arrival, JoinSpec, Part};
use canvas_core::{Id, Result, json};
use memcache::exp::{AsyncMetaClient, Get, Meta, Op, OpResult, Set, Ttl};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard};

use crate::cache::{self, Cache, Done};
use crate::config::ttl;
use crate::parts::{Members, Places, size};
use crate::servers::murmur3;

/// What is known of a join.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Another one each time that the join is opened, so that nothing is mistaken
    /// that an expired one has left.
    pub(crate) epoch: String,
    pub(crate) size: u64,
    pub(crate) quorum: u64,
    /// Whether a Python process has sent the chord.
    pub(crate) is_celerys: bool,
    /// Who has made it grow.
    grown: Vec<Id>,
    phase: Phase,
    /// How often it was claimed.
    claims: u64,
    /// By whom, the last time.
    asker: u64,
    /// Until when that counts, in milliseconds since 1970.
    until: u64,
    /// How many members the body gets.
    pub(crate) count: u64,
    /// When the members were last renewed, in milliseconds since 1970.
    renewed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Waiting,
    Claimed,
    Closed,
}

impl Head {
    fn new(size: u64, quorum: u64, is_celerys: bool) -> Self {
        Self {
            epoch: format!("{:08x}", fastrand::u32(..)),
            size,
            quorum,
            is_celerys,
            grown: Vec::new(),
            phase: Phase::Waiting,
            claims: 0,
            asker: 0,
            until: 0,
            count: 0,
            renewed: now(),
        }
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    millis(since.unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Lets the members of a join that arrive in this process do so one after the
/// other.
pub(crate) struct Turns([Mutex<()>; 64]);

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Turns {
    pub(crate) async fn of(&self, join: &Id) -> MutexGuard<'_, ()> {
        let at = murmur3(join.as_str().as_bytes()) as usize % self.0.len();
        self.0[at].lock().await
    }
}

impl Cache {
    pub(crate) async fn open_join(&self, spec: &JoinSpec) -> Result<()> {
        self.call("backend.open_join", |client, _| async move {
            if cache::get(&client, &self.keys.join(&spec.id))
                .await?
                .is_some()
            {
                return Ok(());
            }
            // Celery's form. Whoever opens it at the same time sets it, too: it may
            // be behind.
            let counter = Set::new(self.keys.counter(&spec.id), "0");
            cache::store(&client, counter.ttl(self.members_life())).await?;
            let head = Head::new(spec.size, spec.quorum, false);
            cache::add(&client, self.item(&spec.id, &head)?).await?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn grow_join(&self, join: &Id, member: &Id, by: u64) -> Result<()> {
        self.call("backend.grow_join", |client, _| async move {
            while let Some((mut head, cas)) = self.head(&client, join).await? {
                if head.phase != Phase::Waiting || head.grown.contains(member) {
                    break;
                }
                // A quorum of all stays one of all.
                if head.quorum == head.size {
                    head.quorum += by;
                }
                head.size += by;
                head.grown.push(member.clone());
                if cache::swap(&client, self.item(join, &head)?, cas).await? {
                    break;
                }
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn arrive(&self, join: &Id, part: &Part, lease: Duration) -> Result<Arrival> {
        // The same through all attempts, so that one whose answer was lost is not
        // told that somebody else has the claim.
        let asker = fastrand::u64(1..);
        let arriving = |client: AsyncMetaClient, _| async move {
            loop {
                if let Some(arrival) = self.try_arrive(&client, join, part, lease, asker).await? {
                    return Ok(arrival);
                }
            }
        };
        self.call("backend.arrive", arriving).await
    }

    /// `None` if somebody else has changed the join meanwhile.
    async fn try_arrive(
        &self,
        client: &AsyncMetaClient,
        join: &Id,
        part: &Part,
        lease: Duration,
        asker: u64,
    ) -> Done<Option<Arrival>> {
        let (head, counter) = self.head_and_counter(client, join).await?;
        let Some((head, cas)) = head else {
            return Ok(Some(Arrival::Missing));
        };
        let places = Places {
            cache: self,
            client,
            join,
            head: &head,
        };
        let count = match head.phase {
            Phase::Closed => return Ok(Some(Arrival::Closed)),
            Phase::Claimed if head.asker == asker => head.count,
            Phase::Claimed if head.until > now() => {
                let retry_after = Duration::from_millis(head.until.saturating_sub(now()));
                return Ok(Some(Arrival::Claimed { retry_after }));
            }
            // Whoever had it is late or dead. What arrived since it was complete
            // stays out: the body is sent again, not another one.
            Phase::Claimed => head.count,
            Phase::Waiting => {
                let Some(counter) = counter else {
                    return self.lost(client, join, cas).await;
                };
                if self.is_to_be_renewed(&head) {
                    places.renew(counter).await?;
                    let mut renewed = head.clone();
                    renewed.renewed = now();
                    cache::swap(client, self.item(join, &renewed)?, cas).await?;
                    return Ok(None);
                }
                let arrived = places.take(part, counter).await?;
                let is_complete = arrived.count >= head.size
                    || (head.quorum < head.size && arrived.successes >= head.quorum);
                if !is_complete {
                    return Ok(Some(Arrival::Waiting {
                        arrived: arrived.count,
                        size: head.size,
                    }));
                }
                arrived.count
            }
        };
        let parts = match places.members(count).await? {
            Members::All(parts) => parts,
            Members::Lost => return self.lost(client, join, cas).await,
            Members::NotYet => {
                return Ok(Some(Arrival::Waiting {
                    arrived: head.size.saturating_sub(1),
                    size: head.size,
                }));
            }
        };
        if head.phase == Phase::Claimed && head.asker == asker {
            let claim = head.claims;
            return Ok(Some(Arrival::Complete { claim, parts }));
        }
        let mut claimed = head.clone();
        claimed.phase = Phase::Claimed;
        claimed.claims += 1;
        claimed.asker = asker;
        claimed.until = now().saturating_add(millis(lease));
        claimed.count = count;
        if !cache::swap(client, self.item(join, &claimed)?, cas).await? {
            return Ok(None);
        }
        tidied(places.forget_notes(&parts).await);
        Ok(Some(Arrival::Complete {
            claim: claimed.claims,
            parts,
        }))
    }

    pub(crate) async fn close_join(&self, join: &Id, claim: u64) -> Result<bool> {
        self.call("backend.close_join", |client, _| async move {
            while let Some((mut head, cas)) = self.head(&client, join).await? {
                if head.phase != Phase::Claimed || head.claims != claim {
                    break;
                }
                head.phase = Phase::Closed;
                if cache::swap(&client, self.item(join, &head)?, cas).await? {
                    let places = Places {
                        cache: self,
                        client: &client,
                        join,
                        head: &head,
                    };
                    tidied(places.clear().await);
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }

    /// What is known of a join, and by what to see that nobody has changed it.
    async fn head(&self, client: &AsyncMetaClient, join: &Id) -> Done<Option<(Head, u64)>> {
        Ok(self.head_and_counter(client, join).await?.0)
    }

    /// In one step, as both are needed for each arrival, and the life of the join
    /// begins anew with it.
    async fn head_and_counter(
        &self,
        client: &AsyncMetaClient,
        join: &Id,
    ) -> Done<(Option<(Head, u64)>, Option<u64>)> {
        let head = Get::new(self.keys.join(join)).meta(Meta::NONE.cas());
        let asked: [Op; 2] = [
            head.touch(ttl(self.config.join_expires)).into(),
            Get::new(self.keys.counter(join)).into(),
        ];
        let mut found = Vec::with_capacity(asked.len());
        for answer in client.run_batch(asked).await? {
            match answer? {
                OpResult::Get(item) => found.push(item.value.map(|value| (value, item.item.cas))),
                _ => found.push(None),
            }
        }
        let counter = found.pop().flatten();
        let counter =
            counter.and_then(|(text, _)| String::from_utf8(text).ok()?.trim().parse().ok());
        let head = match found.pop().flatten() {
            Some((text, cas)) => Some((read(&text)?, cas.unwrap_or_default())),
            None if counter.is_some() => self.adopt(client, join).await?,
            None => None,
        };
        Ok((head, counter))
    }

    /// Takes over a chord that a Python process has sent: it sets the counter, and
    /// saves the group, before it sends the first member.
    async fn adopt(&self, client: &AsyncMetaClient, join: &Id) -> Done<Option<(Head, u64)>> {
        let Some(shape) = self.group(client, join).await? else {
            return Ok(None);
        };
        let size = size(&shape);
        let head = Head::new(size, size, true);
        cache::add(client, self.item(join, &head)?).await?;
        let found = cache::get(client, &self.keys.join(join)).await?;
        found
            .map(|item| Ok((read(&item.value)?, item.cas)))
            .transpose()
    }

    /// Has all later members find it lost, too. `None` if somebody has changed the
    /// join since it was read: who completes or closes one removes parts of it.
    async fn lost(&self, client: &AsyncMetaClient, join: &Id, cas: u64) -> Done<Option<Arrival>> {
        if !cache::delete_as_read(client, &self.keys.join(join), cas).await? {
            return Ok(None);
        }
        tracing::warn!(%join, "a part of a join has gone from the cache: its body is to fail");
        cache::delete(client, &[self.keys.counter(join)]).await?;
        Ok(Some(Arrival::Missing))
    }

    /// Whether it is time to renew the members: not at each arrival.
    fn is_to_be_renewed(&self, head: &Head) -> bool {
        let life = self.config.join_expires.map(millis);
        let late = now().saturating_sub(head.renewed);
        life.is_some_and(|life| life > 0 && late > life / 4)
    }

    fn item(&self, join: &Id, head: &Head) -> Result<Set> {
        let text = json::write(head, "what is known of a join")?;
        Ok(Set::new(self.keys.join(join), text).ttl(ttl(self.config.join_expires)))
    }

    /// How long that lives which is not renewed at each arrival: longer than the
    /// join by as much as it may be late, and by the seconds that are rounded.
    pub(crate) fn members_life(&self) -> Ttl {
        let life = self.config.join_expires;
        ttl(life.map(|life| (life / 4).saturating_add(life) + Duration::from_secs(2)))
    }
}

fn read(text: &[u8]) -> Result<Head> {
    json::parse(text, "what is known of a join")
}

/// What is not removed expires.
fn tidied(done: Done<()>) {
    if let Err(fault) = done {
        tracing::debug!(?fault, "what is no longer needed was not removed");
    }
}
