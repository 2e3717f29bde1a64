//! Results and joins of canvas in plain files, for the processes of one machine.
//!
//! A file holds one state, group, continuation or join. Whoever reads or writes
//! has the lock of the folder, so that each call is one step for all others.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use canvas_core::backend::{Arrival, Backend, BackendInfo, JoinSpec, Part, Stored};
use canvas_core::{Error, Id, Result, ResultTree, State, TaskMeta};
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, FuturesUnordered};
use serde::{Deserialize, Serialize};

/// What is done, in errors: `port.verb`.
type Op = &'static str;

/// A backend in a folder.
#[derive(Debug, Clone)]
pub struct FilesBackend {
    folder: PathBuf,
    expiry: Option<Duration>,
}

impl FilesBackend {
    /// Keeps things in `folder`, which is made if it is not there, for `expiry`
    /// after they were last written.
    pub fn new(folder: impl Into<PathBuf>, expiry: Option<Duration>) -> Self {
        Self { folder: folder.into(), expiry }
    }

    /// One step, with the folder to oneself.
    fn step<T>(&self, operation: Op, work: impl FnOnce() -> io::Result<T>) -> Result<T> {
        let locked = || {
            fs::create_dir_all(&self.folder)?;
            let lock = File::create(self.folder.join("lock"))?;
            lock.lock()?;
            work()
        };
        locked().map_err(|error| Error::Connection {
            operation,
            reason: format!("{}: {error}", self.folder.display()),
        })
    }

    /// An id may be anything; the name of a file may not.
    fn file(&self, kind: &str, id: &Id) -> PathBuf {
        let hex = id.as_str().bytes().map(|byte| format!("{byte:02x}"));
        self.folder.join(format!("{kind}-{}", hex.collect::<String>()))
    }

    fn read(&self, kind: &str, id: &Id) -> io::Result<Option<Vec<u8>>> {
        let path = self.file(kind, id);
        let written = match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            found => found?.modified()?,
        };
        let age = written.elapsed().unwrap_or_default();
        let expired = self.expiry.is_some_and(|expiry| age >= expiry);
        (!expired).then(|| fs::read(&path)).transpose()
    }

    /// Whole or not at all, should this process die meanwhile.
    fn write(&self, kind: &str, id: &Id, bytes: &[u8]) -> io::Result<()> {
        let new = self.folder.join("new");
        fs::write(&new, bytes)?;
        fs::rename(&new, self.file(kind, id))
    }

    fn remove(&self, kind: &str, id: &Id) -> io::Result<()> {
        match fs::remove_file(self.file(kind, id)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn state(&self, id: &Id) -> io::Result<Option<TaskMeta>> {
        let meta = self.read("state", id)?.map(|json| TaskMeta::from_json(&json));
        meta.transpose().map_err(io::Error::other)
    }

    /// Changes a join, if there is one; writing it starts its time anew.
    fn change<T>(&self, op: Op, id: &Id, change: impl FnOnce(&mut Join) -> T) -> Result<Option<T>> {
        self.step(op, || {
            let Some(json) = self.read("join", id)? else { return Ok(None) };
            let mut join = serde_json::from_slice(&json)?;
            let answer = change(&mut join);
            self.write("join", id, &serde_json::to_vec(&join)?)?;
            Ok(Some(answer))
        })
    }
}

#[async_trait]
impl Backend for FilesBackend {
    fn info(&self) -> BackendInfo {
        let mut info = BackendInfo::new(format!("files://{}", self.folder.display()));
        info.push = false;
        info.persistent = true;
        info
    }

    async fn store(&self, meta: &TaskMeta) -> Result<Stored> {
        let json = meta.to_json()?;
        self.step("backend.store", || {
            match self.state(&meta.task_id)?.map(|before| before.status) {
                Some(State::Success) => return Ok(Stored::Kept),
                Some(end) if end.is_ready() && !meta.status.is_ready() => return Ok(Stored::Kept),
                _ => self.write("state", &meta.task_id, &json)?,
            }
            Ok(Stored::Written)
        })
    }

    async fn load(&self, ids: &[Id]) -> Result<Vec<Option<TaskMeta>>> {
        self.step("backend.load", || ids.iter().map(|id| self.state(id)).collect())
    }

    async fn forget(&self, ids: &[Id]) -> Result<()> {
        self.step("backend.forget", || {
            let kinds = ids.iter().flat_map(|id| [("state", id), ("join", id)]);
            kinds.into_iter().try_for_each(|(kind, id)| self.remove(kind, id))
        })
    }

    async fn watch(&self, ids: &[Id]) -> Result<BoxStream<'static, Result<TaskMeta>>> {
        let ids: BTreeSet<Id> = ids.iter().cloned().collect();
        let ends = ids.into_iter().map(|id| {
            let (backend, ids) = (self.clone(), [id]);
            async move {
                loop {
                    match backend.load(&ids).await?.remove(0) {
                        Some(meta) if meta.status.is_ready() => return Ok(meta),
                        _ => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            }
        });
        Ok(ends.collect::<FuturesUnordered<_>>().boxed())
    }

    async fn save_group(&self, group: &ResultTree) -> Result<()> {
        let json = group.to_value().to_string();
        self.step("backend.save_group", || self.write("group", &group.id, json.as_bytes()))
    }

    async fn load_group(&self, id: &Id) -> Result<Option<ResultTree>> {
        let json = self.step("backend.load_group", || {
            let json = self.read("group", id)?;
            Ok(json.map(|json| serde_json::from_slice(&json)).transpose()?)
        })?;
        json.as_ref().map(ResultTree::from_value).transpose()
    }

    async fn forget_group(&self, id: &Id) -> Result<()> {
        self.step("backend.forget_group", || self.remove("group", id))
    }

    async fn keep(&self, key: &Id, value: Bytes) -> Result<()> {
        self.step("backend.keep", || self.write("kept", key, &value))
    }

    async fn recall(&self, key: &Id) -> Result<Option<Bytes>> {
        Ok(self.step("backend.recall", || self.read("kept", key))?.map(Bytes::from))
    }

    async fn open_join(&self, spec: &JoinSpec) -> Result<()> {
        let (size, quorum) = (spec.size, spec.quorum);
        let join = Join { size, quorum, ..Join::default() };
        self.step("backend.open_join", || match self.read("join", &spec.id)? {
            Some(_) => Ok(()),
            None => self.write("join", &spec.id, &serde_json::to_vec(&join)?),
        })
    }

    async fn grow_join(&self, join: &Id, member: &Id, by: u64) -> Result<()> {
        self.change("backend.grow_join", join, |join| join.grow(member, by)).map(|_| ())
    }

    async fn arrive(&self, join: &Id, part: &Part, lease: Duration) -> Result<Arrival> {
        let found = self.change("backend.arrive", join, |join| join.arrive(part, lease))?;
        Ok(found.unwrap_or(Arrival::Missing))
    }

    async fn close_join(&self, join: &Id, claim: u64) -> Result<bool> {
        let found = self.change("backend.close_join", join, |join| join.close(claim))?;
        Ok(found.unwrap_or(false))
    }
}

/// A join in its file.
#[derive(Default, Serialize, Deserialize)]
struct Join {
    size: u64,
    quorum: u64,
    grown: BTreeSet<Id>,
    parts: Vec<Part>,
    /// How often it was claimed. From the first claim on, nobody is counted in.
    claims: u64,
    /// By the clock, since processes have no other time in common.
    claimed_until: Option<SystemTime>,
    closed: bool,
}

impl Join {
    fn grow(&mut self, member: &Id, by: u64) {
        if self.claims == 0 && self.grown.insert(member.clone()) {
            // A quorum of all stays one of all.
            self.quorum += if self.quorum == self.size { by } else { 0 };
            self.size += by;
        }
    }

    fn arrive(&mut self, part: &Part, lease: Duration) -> Arrival {
        let now = SystemTime::now();
        match self.claimed_until.map(|until| until.duration_since(now)) {
            _ if self.closed => return Arrival::Closed,
            Some(Ok(retry_after)) => return Arrival::Claimed { retry_after },
            _ => {}
        }
        if self.claims == 0 {
            let who = |part: &Part| (part.task_id.clone(), part.index);
            if self.parts.iter().all(|other| who(other) != who(part)) {
                self.parts.push(part.clone());
                self.parts.sort_by_key(|part| part.index.unwrap_or(u64::MAX));
            }
            let (arrived, size) = (self.parts.len() as u64, self.size);
            let successes = self.parts.iter().filter(|part| part.is_ok()).count() as u64;
            if arrived < size && (self.quorum == size || successes < self.quorum) {
                return Arrival::Waiting { arrived, size };
            }
        }
        self.claims += 1;
        self.claimed_until = Some(now + lease);
        let (claim, parts) = (self.claims, self.parts.clone());
        Arrival::Complete { claim, parts }
    }

    fn close(&mut self, claim: u64) -> bool {
        let counts = claim > 0 && claim == self.claims && !self.closed;
        self.closed |= counts;
        counts
    }
}
