//! States of tasks, shapes of groups and kept continuations.

use bytes::Bytes;
use canvas_core::backend::Stored;
use canvas_core::protocol::GroupMeta;
use canvas_core::{Error, Id, Result, ResultTree, State, TaskMeta};
use memcache::exp::{AsyncMetaClient, Set};

use crate::cache::{self, Cache, Done, TEXT};
use crate::config::ttl;

impl Cache {
    pub(crate) async fn store_meta(&self, meta: &TaskMeta) -> Result<Stored> {
        let key = self.keys.result(&meta.task_id);
        let text = meta.to_json()?;
        let (key, text) = (&key, &text);
        let life = ttl(self.config.result_expires);
        self.call("backend.store", |client, again| async move {
            let item = || Set::new(key, text).client_flags(TEXT).ttl(life);
            // Most results are the first that is stored of their task.
            if cache::add(&client, item()).await? {
                return Ok(Stored::Written);
            }
            loop {
                let Some(found) = cache::get(&client, key).await? else {
                    if cache::add(&client, item()).await? {
                        return Ok(Stored::Written);
                    }
                    continue;
                };
                // The answer to the first attempt was lost.
                if again && found.value == *text {
                    return Ok(Stored::Written);
                }
                if stands(&meta.task_id, &found.value, &meta.status)? {
                    return Ok(Stored::Kept);
                }
                if cache::swap(&client, item(), found.cas).await? {
                    return Ok(Stored::Written);
                }
            }
        })
        .await
    }

    pub(crate) async fn load_metas(
        &self,
        operation: &'static str,
        ids: &[Id],
    ) -> Result<Vec<Option<TaskMeta>>> {
        self.call(operation, |client, _| async move {
            self.metas(&client, ids).await
        })
        .await
    }

    pub(crate) async fn metas(
        &self,
        client: &AsyncMetaClient,
        ids: &[Id],
    ) -> Done<Vec<Option<TaskMeta>>> {
        let keys: Vec<String> = ids.iter().map(|id| self.keys.result(id)).collect();
        let texts = cache::get_many(client, &keys, None).await?;
        let read = |(id, text): (&Id, Option<Vec<u8>>)| text.map(|t| read(id, &t)).transpose();
        let metas: Result<_> = ids.iter().zip(texts).map(read).collect();
        Ok(metas?)
    }

    pub(crate) async fn forget_ids(&self, ids: &[Id]) -> Result<()> {
        let keys = ids.iter().flat_map(|id| {
            [
                self.keys.result(id),
                self.keys.join(id),
                self.keys.counter(id),
            ]
        });
        let keys: Vec<String> = keys.collect();
        self.remove("backend.forget", &keys).await
    }

    pub(crate) async fn store_group(&self, group: &ResultTree) -> Result<()> {
        let key = self.keys.group(&group.id);
        self.put(
            "backend.save_group",
            &key,
            &GroupMeta::to_json(group)?,
            TEXT,
        )
        .await
    }

    pub(crate) async fn restore_group(&self, id: &Id) -> Result<Option<ResultTree>> {
        self.call("backend.load_group", |client, _| async move {
            self.group(&client, id).await
        })
        .await
    }

    pub(crate) async fn group(
        &self,
        client: &AsyncMetaClient,
        id: &Id,
    ) -> Done<Option<ResultTree>> {
        let found = cache::get(client, &self.keys.group(id)).await?;
        let read = |item: cache::Item| GroupMeta::from_json(id, &item.value);
        Ok(found.map(read).transpose()?)
    }

    pub(crate) async fn delete_group(&self, id: &Id) -> Result<()> {
        self.remove("backend.forget_group", &[self.keys.group(id)])
            .await
    }

    pub(crate) async fn keep_value(&self, key: &Id, value: &[u8]) -> Result<()> {
        self.put("backend.keep", &self.keys.kept(key), value, TEXT)
            .await
    }

    pub(crate) async fn recall_value(&self, key: &Id) -> Result<Option<Bytes>> {
        let key = &self.keys.kept(key);
        self.call("backend.recall", |client, _| async move {
            let found = cache::get(&client, key).await?;
            Ok(found.map(|item| Bytes::from(item.value)))
        })
        .await
    }

    async fn put(
        &self,
        operation: &'static str,
        key: &str,
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        let life = ttl(self.config.result_expires);
        self.call(operation, |client, _| async move {
            let item = Set::new(key, value).client_flags(flags).ttl(life);
            cache::store(&client, item).await.map(drop)
        })
        .await
    }

    async fn remove(&self, operation: &'static str, keys: &[String]) -> Result<()> {
        self.call(operation, |client, _| async move {
            cache::delete(&client, keys).await
        })
        .await
    }
}

/// Whether what is stored of a task stays, if this state is to be stored.
fn stands(id: &Id, stored: &[u8], new: &State) -> Result<bool> {
    let stored = read(id, stored)?.status;
    Ok(stored == State::Success || (stored.is_ready() && !new.is_ready()))
}

/// Reads what is stored of a task.
fn read(id: &Id, text: &[u8]) -> Result<TaskMeta> {
    TaskMeta::from_json(text).map_err(|error| {
        let reason = match text {
            [0x80, ..] => "it is a pickle; set Celery's result_serializer to json".to_owned(),
            _ => error.to_string(),
        };
        Error::Encoding {
            action: "decode",
            what: format!("the stored result of {id}"),
            reason,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_says_which_setting_to_change() {
        let reason = |text: &[u8]| read(&"1".into(), text).unwrap_err().to_string();
        let pickled = reason(b"\x80\x05}");
        assert!(pickled.contains("result_serializer"), "{pickled}");
        let other = reason(b"{");
        assert!(other.contains("the stored result of 1"), "{other}");
    }

    #[test]
    fn only_an_end_overwrites_an_end_and_nothing_a_success() {
        let stands = |stored: State, new: State| {
            let stored = TaskMeta::new("1".into(), stored).to_json().unwrap();
            stands(&"1".into(), &stored, &new).unwrap()
        };
        assert!(!stands(State::Started, State::Retry));
        assert!(stands(State::Failure, State::Started));
        assert!(!stands(State::Failure, State::Revoked));
        assert!(stands(State::Success, State::Success));
    }
}
