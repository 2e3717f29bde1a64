//! States of tasks, shapes of groups and kept continuations.

use bytes::Bytes;
use canvas_core::backend::Stored;
use canvas_core::protocol::GroupMeta;
use canvas_core::{Error, Id, Result, ResultTree, TaskMeta};
use redis::Cmd;

use crate::RedisBackend;
use crate::connection::Link;
use crate::keys::Keys;
use crate::retell::Retell;
use crate::script::{self, STORE};

/// How many keys one command names at most, so that it holds up others for no
/// more than a moment.
const BATCH: usize = 1_000;

impl RedisBackend {
    pub(crate) async fn store_meta(&self, meta: &TaskMeta) -> Result<Stored> {
        let mut store = STORE.key(self.keys.result(&meta.task_id));
        store
            .arg(meta.to_json()?)
            .arg(u8::from(meta.status.is_ready()))
            .arg(script::life(self.config.result_expires));
        let store = &store;
        let written: bool = self
            .link
            .call("backend.store", |mut redis| async move {
                store.invoke_async(&mut redis).await
            })
            .await?;
        if written && Retell::is_for(meta) {
            self.retell.later([meta.task_id.clone()]);
        }
        Ok(if written {
            Stored::Written
        } else {
            Stored::Kept
        })
    }

    pub(crate) async fn load_metas(&self, ids: &[Id]) -> Result<Vec<Option<TaskMeta>>> {
        let texts = load_texts(&self.link, &self.keys, "backend.load", ids).await?;
        let read = |(id, text): (&Id, Option<Vec<u8>>)| text.map(|t| read(id, &t)).transpose();
        ids.iter().zip(texts).map(read).collect()
    }

    pub(crate) async fn forget_ids(&self, ids: &[Id]) -> Result<()> {
        for ids in ids.chunks(BATCH / 10) {
            let mut delete = redis::cmd("DEL");
            for id in ids {
                delete.arg(self.keys.result(id));
                delete.arg(&self.keys.join(id).own());
            }
            self.query::<()>("backend.forget", &delete).await?;
        }
        Ok(())
    }

    pub(crate) async fn store_group(&self, group: &ResultTree) -> Result<()> {
        let set = self.set(self.keys.group(&group.id), &GroupMeta::to_json(group)?);
        self.query("backend.save_group", &set).await
    }

    pub(crate) async fn restore_group(&self, id: &Id) -> Result<Option<ResultTree>> {
        let mut get = redis::cmd("GET");
        get.arg(self.keys.group(id));
        let text: Option<Vec<u8>> = self.query("backend.load_group", &get).await?;
        let read = |text: Vec<u8>| GroupMeta::from_json(id, &text);
        text.map(read).transpose()
    }

    pub(crate) async fn delete_group(&self, id: &Id) -> Result<()> {
        let mut delete = redis::cmd("DEL");
        delete.arg(self.keys.group(id));
        self.query("backend.forget_group", &delete).await
    }

    pub(crate) async fn keep_value(&self, key: &Id, value: &[u8]) -> Result<()> {
        let set = self.set(self.keys.kept(key), value);
        self.query("backend.keep", &set).await
    }

    pub(crate) async fn recall_value(&self, key: &Id) -> Result<Option<Bytes>> {
        let mut get = redis::cmd("GET");
        get.arg(self.keys.kept(key));
        let value: Option<Vec<u8>> = self.query("backend.recall", &get).await?;
        Ok(value.map(Bytes::from))
    }

    fn set(&self, key: String, value: &[u8]) -> Cmd {
        let mut set = redis::cmd("SET");
        set.arg(key).arg(value);
        let life = script::life(self.config.result_expires);
        if life > 0 {
            set.arg("PX").arg(life);
        }
        set
    }

    async fn query<T: redis::FromRedisValue>(
        &self,
        operation: &'static str,
        command: &Cmd,
    ) -> Result<T> {
        self.link
            .call(operation, |mut redis| async move {
                command.query_async(&mut redis).await
            })
            .await
    }
}

/// What is stored of tasks, in the order asked for.
pub(crate) async fn load_texts(
    link: &Link,
    keys: &Keys,
    operation: &'static str,
    ids: &[Id],
) -> Result<Vec<Option<Vec<u8>>>> {
    let mut texts = Vec::with_capacity(ids.len());
    for ids in ids.chunks(BATCH) {
        let mut get = redis::cmd("MGET");
        for id in ids {
            get.arg(keys.result(id));
        }
        let get = &get;
        let found: Vec<Option<Vec<u8>>> = link
            .call(operation, |mut redis| async move {
                get.query_async(&mut redis).await
            })
            .await?;
        texts.extend(found);
    }
    Ok(texts)
}

/// Reads what is stored of a task.
pub(crate) fn read(id: &Id, text: &[u8]) -> Result<TaskMeta> {
    TaskMeta::from_json(text).map_err(|error| {
        let reason = match text {
            [0, ..] => "it is compressed; leave Celery's result_compression off".to_owned(),
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
        let compressed = reason(b"\0celery-compressed\0application/x-gzip\0...");
        assert!(compressed.contains("result_compression"), "{compressed}");
        let pickled = reason(b"\x80\x05}");
        assert!(pickled.contains("result_serializer"), "{pickled}");
        let other = reason(b"{");
        assert!(other.contains("the stored result of 1"), "{other}");
    }
}
