//! The members that have arrived at a join, in the order in which they came.
//!
//! Each takes the next place, by adding an item that must not be there yet, so no
//! two have the same one and there is no gap. A member notes beforehand from where
//! on its place is, and whoever brings it again looks from there, so none has two.
//! The counter says where to look first, and may be behind: it is not counted again
//! after a crash.

use std::collections::HashSet;

use canvas_core::backend::Part;
use canvas_core::{Id, ResultTree, State, json};
use memcache::exp::{Arithmetic, AsyncMetaClient, Get, Set, Ttl};
use serde_json::Value;

use crate::cache::{self, BATCH, Cache, Done};
use crate::joins::Head;
use crate::servers::murmur3;

/// The places of a join that is open.
pub(crate) struct Places<'a> {
    pub(crate) cache: &'a Cache,
    pub(crate) client: &'a AsyncMetaClient,
    pub(crate) join: &'a Id,
    pub(crate) head: &'a Head,
}

/// Who has arrived.
pub(crate) struct Arrived {
    /// How many.
    pub(crate) count: u64,
    /// How many of them have succeeded, where that matters.
    pub(crate) successes: u64,
}

/// What completes a join.
pub(crate) enum Members {
    /// All of them, in header order.
    All(Vec<Part>),
    /// Some have not ended: Celery has counted one twice.
    NotYet,
    /// Some have been lost.
    Lost,
}

impl Places<'_> {
    /// Counts a member in, if it is not yet. `counter` is how many have arrived at
    /// least.
    pub(crate) async fn take(&self, part: &Part, counter: u64) -> Done<Arrived> {
        let from = self.first_place(part, counter).await?;
        let (place, is_new) = self.place(part, from).await?;
        let mut count = counter.max(place);
        if is_new {
            // Where it is lost, the counter is behind, and no harm is done.
            let key = self.cache.keys.counter(self.join);
            let add = Arithmetic::new(key).ttl(self.life());
            if let Ok(counted) = self.client.run(add).await {
                let counted = counted.value.filter(|_| self.head.is_celerys);
                count = count.max(counted.unwrap_or_default());
            }
        }
        count = self.last_place(count).await?;
        let successes = match self.head.quorum < self.head.size {
            true => self.successes(count).await?,
            false => 0,
        };
        Ok(Arrived { count, successes })
    }

    /// From where on the place of a member is.
    async fn first_place(&self, part: &Part, counter: u64) -> Done<u64> {
        let key = self.cache.keys.member(self.join, &self.head.epoch, part);
        loop {
            let first = counter + 1;
            let note = Set::new(&key, first.to_string()).ttl(self.life());
            if cache::add(self.client, note).await? {
                return Ok(first);
            }
            if let Some(noted) = cache::get(self.client, &key).await? {
                // What cannot be read is looked for everywhere.
                let noted = String::from_utf8_lossy(&noted.value).parse();
                return Ok(noted.unwrap_or(1));
            }
        }
    }

    /// The place of a member, and whether it has only now got it.
    async fn place(&self, part: &Part, first: u64) -> Done<(u64, bool)> {
        let text = encode(part)?;
        let mut place = first;
        loop {
            let item = Set::new(self.slot(place), &text)
                .client_flags(mark(part))
                .ttl(self.life());
            if cache::add(self.client, item).await? {
                return Ok((place, true));
            }
            // Somebody else has it, or this one from before.
            let places: Vec<u64> = (place..).take(BATCH / 8).collect();
            let next = places.len() as u64 + place;
            for (at, found) in places.iter().zip(self.marks(&places).await?) {
                place = *at;
                let Some(found) = found else { break };
                if found | 1 == mark(part) | 1 && self.is_at(part, place).await? {
                    return Ok((place, false));
                }
                place = next;
            }
        }
    }

    async fn is_at(&self, part: &Part, place: u64) -> Done<bool> {
        let found = cache::get(self.client, &self.slot(place)).await?;
        let found = found.map(|item| decode(&item.value)).transpose()?;
        Ok(found.is_some_and(|found| who(&found) == who(part)))
    }

    /// The last place that is taken, from `place` on.
    async fn last_place(&self, mut place: u64) -> Done<u64> {
        loop {
            let places: Vec<u64> = (place + 1..).take(BATCH / 8).collect();
            let marks = self.marks(&places).await?;
            let taken = marks.iter().take_while(|mark| mark.is_some()).count();
            place += taken as u64;
            if taken < places.len() {
                return Ok(place);
            }
        }
    }

    async fn successes(&self, count: u64) -> Done<u64> {
        let places: Vec<u64> = (1..=count).collect();
        let marks = self.marks(&places).await?;
        Ok(marks.iter().flatten().map(|mark| u64::from(mark & 1)).sum())
    }

    /// The marks of those who have these places, without their results.
    async fn marks(&self, places: &[u64]) -> Done<Vec<Option<u32>>> {
        let mut marks = Vec::with_capacity(places.len());
        for places in places.chunks(BATCH) {
            let gets = places
                .iter()
                .map(|place| Get::new(self.slot(*place)).without_value());
            for found in self.client.run_many(gets).await? {
                let found = found?;
                marks.push(found.client_flags.filter(|_| found.hit()));
            }
        }
        Ok(marks)
    }

    /// The members that have the places up to `count`.
    pub(crate) async fn members(&self, count: u64) -> Done<Members> {
        let found = self.read(count, None).await?;
        let gaps = found.iter().any(Option::is_none);
        let mut parts: Vec<Part> = found.into_iter().flatten().collect();
        let mut distinct = HashSet::with_capacity(parts.len());
        if !parts.iter().all(|part| distinct.insert(who(part))) {
            return Ok(Members::Lost);
        }
        drop(distinct);
        if gaps {
            return match self.head.is_celerys {
                true => self.celerys(parts).await,
                false => Ok(Members::Lost),
            };
        }
        // Stable, so members without a place keep the order of arrival.
        parts.sort_by_key(|part| part.index.unwrap_or(u64::MAX));
        Ok(Members::All(parts))
    }

    /// Adds what Python workers have run, which they only count: it is in the shape
    /// of the header, and its results are stored.
    async fn celerys(&self, parts: Vec<Part>) -> Done<Members> {
        let Some(shape) = self.cache.group(self.client, self.join).await? else {
            return Ok(Members::Lost);
        };
        let leaves: Vec<Id> = shape.leaves().iter().map(|leaf| leaf.id.clone()).collect();
        let metas = self.cache.metas(self.client, &leaves).await?;
        let mut all = Vec::with_capacity(leaves.len());
        for ((place, id), meta) in (0..).zip(&leaves).zip(metas) {
            if let Some(part) = parts.iter().find(|part| part.task_id == *id) {
                all.push(part.clone());
                continue;
            }
            let Some(meta) = meta.filter(|meta| meta.status.is_ready()) else {
                return Ok(Members::NotYet);
            };
            all.push(Part {
                task_id: id.clone(),
                index: Some(place),
                state: meta.status,
                result: meta.result,
            });
        }
        Ok(Members::All(all))
    }

    async fn read(&self, count: u64, ttl: Option<Ttl>) -> Done<Vec<Option<Part>>> {
        let keys: Vec<String> = (1..=count).map(|place| self.slot(place)).collect();
        let texts = cache::get_many(self.client, &keys, ttl).await?;
        let read = |text: Option<Vec<u8>>| text.map(|text| decode(&text)).transpose();
        texts.into_iter().map(read).collect()
    }

    /// Has all that belongs to those who have arrived, at least `counter`, live on.
    pub(crate) async fn renew(&self, counter: u64) -> Done<()> {
        let life = self.life();
        let count = self.last_place(counter).await?;
        let found = self.read(count, Some(life)).await?;
        let mut keys = self.notes(found.iter().flatten());
        keys.push(self.cache.keys.counter(self.join));
        cache::get_many(self.client, &keys, Some(life)).await?;
        Ok(())
    }

    /// Removes the notes of where these members are: once the join is claimed,
    /// nobody looks for them but who had read it before. Such a one may find its
    /// member twice, and then that the join has changed.
    pub(crate) async fn forget_notes(&self, parts: &[Part]) -> Done<()> {
        let keys = self.notes(parts.iter());
        cache::delete(self.client, &keys).await
    }

    /// Removes the members.
    pub(crate) async fn clear(&self) -> Done<()> {
        let mut keys: Vec<String> = (1..=self.head.count).map(|at| self.slot(at)).collect();
        keys.push(self.cache.keys.counter(self.join));
        cache::delete(self.client, &keys).await
    }

    fn notes<'p>(&self, parts: impl Iterator<Item = &'p Part>) -> Vec<String> {
        let key = |part| self.cache.keys.member(self.join, &self.head.epoch, part);
        parts.map(key).collect()
    }

    fn slot(&self, place: u64) -> String {
        self.cache.keys.slot(self.join, &self.head.epoch, place)
    }

    fn life(&self) -> Ttl {
        self.cache.members_life()
    }
}

/// How many tasks of a header arrive.
pub(crate) fn size(shape: &ResultTree) -> u64 {
    shape.leaves().len() as u64
}

fn who(part: &Part) -> (&Id, Option<u64>) {
    (&part.task_id, part.index)
}

/// By what a member is known from afar, nearly always; the last bit says whether it
/// has succeeded.
fn mark(part: &Part) -> u32 {
    let name = format!("{:?}|{}", part.index, part.task_id);
    (murmur3(name.as_bytes()) & !1) | u32::from(part.is_ok())
}

fn encode(part: &Part) -> Done<Vec<u8>> {
    let kept = (&part.task_id, part.index, &part.state, &part.result);
    Ok(json::write(&kept, "the result of a member of a chord")?)
}

fn decode(text: &[u8]) -> Done<Part> {
    let (task_id, index, state, result): (Id, Option<u64>, State, Value) =
        json::parse(text, "the result of a member of a chord")?;
    Ok(Part {
        task_id,
        index,
        state,
        result,
    })
}
