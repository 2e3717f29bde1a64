//! What tasks leave behind for a test to find: lists and counters by key, in
//! Redis, where Celery's tests look, or in this process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::aio::ConnectionManager;
use redis::{AsyncCommands, RedisResult};

/// Lists and counters. A clone is another handle on the same ones.
#[derive(Clone)]
pub enum Notes {
    /// In this process.
    Here(Arc<Mutex<Kept>>),
    /// In Redis.
    Redis(ConnectionManager),
}

/// What is kept in this process.
#[derive(Debug, Default)]
pub struct Kept {
    lists: BTreeMap<String, Vec<String>>,
    counts: BTreeMap<String, u64>,
}

impl std::fmt::Debug for Notes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here(kept) => f.debug_tuple("Here").field(&*lock(kept)).finish(),
            Self::Redis(_) => f.write_str("Redis"),
        }
    }
}

impl Default for Notes {
    fn default() -> Self {
        Self::Here(Arc::default())
    }
}

impl Notes {
    /// In the Redis that Celery's tests look into: database 0 of `REDIS_HOST`
    /// and `REDIS_PORT`.
    ///
    /// # Errors
    /// That of the connection.
    pub async fn in_redis() -> RedisResult<Self> {
        let var = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let host = var("REDIS_HOST", "localhost");
        let port = var("REDIS_PORT", "6379");
        let client = redis::Client::open(format!("redis://{host}:{port}/0"))?;
        client.get_connection_manager().await.map(Self::Redis)
    }

    /// Appends to a list.
    ///
    /// # Errors
    /// That of the connection.
    pub async fn push(&self, key: &str, value: &str) -> RedisResult<()> {
        match self {
            Self::Here(kept) => {
                let mut kept = lock(kept);
                kept.lists
                    .entry(key.to_owned())
                    .or_default()
                    .push(value.to_owned());
                Ok(())
            }
            Self::Redis(connection) => connection.clone().rpush(key, value).await,
        }
    }

    /// Counts one more.
    ///
    /// # Errors
    /// That of the connection.
    pub async fn count(&self, key: &str) -> RedisResult<()> {
        match self {
            Self::Here(kept) => {
                *lock(kept).counts.entry(key.to_owned()).or_default() += 1;
                Ok(())
            }
            Self::Redis(connection) => connection.clone().incr(key, 1).await,
        }
    }

    /// A list that is kept in this process.
    pub fn list(&self, key: &str) -> Vec<String> {
        match self {
            Self::Here(kept) => lock(kept).lists.get(key).cloned().unwrap_or_default(),
            Self::Redis(_) => Vec::new(),
        }
    }

    /// A counter that is kept in this process.
    pub fn counted(&self, key: &str) -> u64 {
        match self {
            Self::Here(kept) => lock(kept).counts.get(key).copied().unwrap_or_default(),
            Self::Redis(_) => 0,
        }
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
