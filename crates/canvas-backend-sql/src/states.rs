//! States of tasks, in Celery's table.

use async_trait::async_trait;
use canvas_core::backend::Stored;
use canvas_core::{Error, Id, Result, ResultTree, State, TaskMeta, json};
use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::database::{How, Work};
use crate::fault::Fault;
use crate::migrate::Found;
use crate::pickle;
use crate::schema::Tables;
use crate::session::{Arg, Row, Session, Sql};

/// How many ids one statement names at most.
pub(crate) const BATCH: usize = 256;

/// What fits into a column of names.
const NAME: usize = 155;

/// The columns that hold a state, in the order in which they are written and
/// read. What a row is found by comes first.
const COLUMNS: &str = "task_id, status, result, date_done, traceback, children, name, args, \
                       kwargs, worker, retries, queue, stamps, canvas_more";

const ENDS: &str = "('SUCCESS', 'FAILURE', 'REVOKED', 'IGNORED')";

/// True of a row that has expired, as of two arguments: the same time, as a
/// time and in milliseconds. Celery writes the one, we write both, and what was
/// written last counts; one with neither lives on.
pub(crate) const EXPIRED: &str = "(COALESCE(date_done < ?, canvas_stored IS NOT NULL) AND \
                       COALESCE(canvas_stored < ?, date_done IS NOT NULL))";

/// The statements.
#[derive(Debug, Clone)]
pub(crate) struct States {
    tables: Tables,
    insert: Sql,
    update: Sql,
    look: Sql,
}

impl States {
    pub(crate) fn new(tables: &Tables, found: &Found) -> Self {
        let table = &tables.task;
        let sql = |text: &str| Sql::new(tables.dialect, text);
        let (id, next) = match &found.next_task {
            Some(next) => ("id, ", format!("{next}, ")),
            None => ("", String::new()),
        };
        // Not by VALUES: MySQL would use up an id each time.
        let from = match tables.dialect {
            crate::url::Dialect::MySql => " FROM DUAL",
            _ => "",
        };
        let places = ["?"; 15].join(", ");
        let set: Vec<String> = COLUMNS
            .split(", ")
            .skip(1)
            .map(|column| format!("{column} = ?"))
            .collect();
        Self {
            insert: sql(&format!(
                "INSERT INTO {table} ({id}{COLUMNS}, canvas_stored) SELECT {next}{places}{from} \
                 WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE task_id = ?){}",
                tables.dialect.or_nothing()
            )),
            // A stored success is final. Another end gives way to ends only.
            update: sql(&format!(
                "UPDATE {table} SET {}, canvas_stored = ? WHERE task_id = ? AND ({EXPIRED} OR \
                 status IS NULL OR status NOT IN {ENDS} OR (status <> 'SUCCESS' AND ? = 1))",
                set.join(", ")
            )),
            look: sql(&format!("SELECT {COLUMNS} FROM {table} WHERE task_id = ?")),
            tables: tables.clone(),
        }
    }

    /// States of this many tasks.
    fn load(&self, count: usize, ended: bool) -> Sql {
        let places = vec!["?"; count].join(", ");
        let ended = match ended {
            true => format!(" AND status IN {ENDS}"),
            false => String::new(),
        };
        let text = format!(
            "SELECT {COLUMNS} FROM {} WHERE task_id IN ({places}) AND NOT {EXPIRED}{ended}",
            self.tables.task
        );
        Sql::new(self.tables.dialect, &text)
    }
}

/// What was stored before this has expired; nothing, if nothing expires.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Horizon {
    pub(crate) time: NaiveDateTime,
    pub(crate) millis: i64,
}

impl Horizon {
    pub(crate) fn new(expires: Option<std::time::Duration>) -> Self {
        let now = Utc::now();
        let life = expires.and_then(|life| chrono::Duration::from_std(life).ok());
        let time = life.and_then(|life| now.checked_sub_signed(life));
        let time = time.unwrap_or(DateTime::UNIX_EPOCH);
        Self {
            time: time.naive_utc(),
            millis: time.timestamp_millis(),
        }
    }
}

/// A state as a row.
#[derive(Debug)]
struct Columns<'a> {
    task_id: &'a str,
    status: &'a str,
    result: Vec<u8>,
    date_done: Option<NaiveDateTime>,
    traceback: Option<&'a str>,
    children: Option<Vec<u8>>,
    name: Option<&'a str>,
    args: Option<Vec<u8>>,
    kwargs: Option<Vec<u8>>,
    worker: Option<&'a str>,
    retries: Option<i64>,
    queue: Option<&'a str>,
    stamps: Option<Vec<u8>>,
    more: Option<Vec<u8>>,
}

/// What Celery's columns have no place for.
#[derive(Debug, Default, Serialize, Deserialize)]
struct More {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group_id: Option<Id>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent_id: Option<Id>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    extended: Map<String, Value>,
}

/// Celery's column `stamps`.
#[derive(Debug, Serialize, Deserialize)]
struct Stamps {
    stamped_headers: Vec<String>,
    stamps: Map<String, Value>,
}

impl<'a> Columns<'a> {
    fn of(meta: &'a TaskMeta) -> Result<Self> {
        let what = "a result";
        let mut extended: Map<String, Value> = Map::new();
        let mut columns = Self {
            task_id: meta.task_id.as_str(),
            status: meta.status.as_str(),
            result: json::write(&meta.result, what)?,
            date_done: meta.date_done.map(|time| time.naive_utc()),
            traceback: meta.traceback.as_deref(),
            children: None,
            name: None,
            args: None,
            kwargs: None,
            worker: None,
            retries: None,
            queue: None,
            stamps: None,
            more: None,
        };
        if let Some(children) = meta.children.as_ref().filter(|all| !all.is_empty()) {
            columns.children = Some(json::write(children, "the children of a task")?);
        }
        let stamps = Stamps::of(&meta.extended);
        let is_stamp = |key: &str| {
            let of = |stamps: &Stamps| key == "stamped_headers" || stamps.stamps.contains_key(key);
            stamps.as_ref().is_some_and(of)
        };
        for (key, value) in &meta.extended {
            let text = value.as_str().filter(|text| text.chars().count() <= NAME);
            match (key.as_str(), text) {
                ("name", Some(text)) => columns.name = Some(text),
                ("worker", Some(text)) => columns.worker = Some(text),
                ("queue", Some(text)) => columns.queue = Some(text),
                ("args", _) => columns.args = Some(json::write(value, what)?),
                ("kwargs", _) => columns.kwargs = Some(json::write(value, what)?),
                ("retries", _) if small(value).is_some() => columns.retries = small(value),
                (key, _) if is_stamp(key) => {}
                _ => _ = extended.insert(key.clone(), value.clone()),
            }
        }
        let stamps = stamps.map(|stamps| json::write(&stamps, "stamps"));
        columns.stamps = stamps.transpose()?;
        let more = More {
            group_id: meta.group_id.clone(),
            parent_id: meta.parent_id.clone(),
            extended,
        };
        if more.group_id.is_some() || more.parent_id.is_some() || !more.extended.is_empty() {
            columns.more = Some(json::write(&more, what)?);
        }
        Ok(columns)
    }

    fn args(&self) -> [Arg<'_>; 14] {
        [
            self.task_id.into(),
            self.status.into(),
            self.result.as_slice().into(),
            Arg::Time(self.date_done),
            Arg::Text(self.traceback),
            Arg::Bytes(self.children.as_deref()),
            Arg::Text(self.name),
            Arg::Bytes(self.args.as_deref()),
            Arg::Bytes(self.kwargs.as_deref()),
            Arg::Text(self.worker),
            Arg::Int(self.retries),
            Arg::Text(self.queue),
            Arg::Bytes(self.stamps.as_deref()),
            Arg::Bytes(self.more.as_deref()),
        ]
    }
}

impl Stamps {
    /// The stamps among the extended fields, where they have Celery's form.
    fn of(extended: &Map<String, Value>) -> Option<Self> {
        let headers = extended.get("stamped_headers")?.as_array()?;
        let headers: Option<Vec<&str>> = headers.iter().map(Value::as_str).collect();
        let headers = headers.filter(|headers| !headers.is_empty())?;
        let found = headers
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), extended.get(*key)?.clone())));
        Some(Self {
            stamps: found.collect(),
            stamped_headers: headers.iter().map(|key| (*key).to_owned()).collect(),
        })
    }
}

/// What fits into Celery's column of retries.
fn small(value: &Value) -> Option<i64> {
    let value = value.as_i64()?;
    i32::try_from(value).ok().map(i64::from)
}

/// Reads a row of [`COLUMNS`]: whose it is, and what there is to know.
fn read(mut row: Row) -> Result<(Id, Result<TaskMeta>)> {
    let id = Id::from(row.text()?.unwrap_or_default());
    let meta = read_meta(id.clone(), row);
    Ok((id, meta))
}

fn read_meta(task_id: Id, mut row: Row) -> Result<TaskMeta> {
    let status = row.text()?.unwrap_or_else(|| "PENDING".to_owned());
    let mut meta = TaskMeta::new(task_id, State::from(status.as_str()));
    let what = || format!("the result of task {}", meta.task_id);
    if let Some(result) = row.bytes()? {
        meta.result = value(&result, &what())?;
    }
    meta.date_done = row.time()?;
    meta.traceback = row.text()?;
    if let Some(children) = row.bytes()? {
        let what = format!("the children of task {}", meta.task_id);
        meta.children = json::parse::<Option<Vec<ResultTree>>>(&children, &what)?;
    }
    let mut columns: Vec<(&str, Option<Value>)> = Vec::with_capacity(6);
    columns.push(("name", row.text()?.map(Value::from)));
    for name in ["args", "kwargs"] {
        let stored = row.bytes()?.map(|stored| value(&stored, name));
        columns.push((name, stored.transpose()?));
    }
    columns.push(("worker", row.text()?.map(Value::from)));
    columns.push(("retries", row.int()?.map(Value::from)));
    columns.push(("queue", row.text()?.map(Value::from)));
    for (name, value) in columns {
        if let Some(value) = value {
            meta.extended.insert(name.to_owned(), value);
        }
    }
    if let Some(stamps) = row.bytes()? {
        let stamps: Stamps = json::parse(&stamps, "stamps")?;
        meta.extended
            .insert("stamped_headers".to_owned(), stamps.stamped_headers.into());
        meta.extended.extend(stamps.stamps);
    }
    if let Some(more) = row.bytes()? {
        let more: More = json::parse(&more, "what is kept of a task")?;
        (meta.group_id, meta.parent_id) = (more.group_id, more.parent_id);
        meta.extended.extend(more.extended);
    }
    Ok(meta)
}

/// A stored value: JSON, or what Celery pickled before 5.7.
pub(crate) fn value(stored: &[u8], what: &str) -> Result<Value> {
    if pickle::is_pickle(stored) {
        return pickle::decode(stored, what);
    }
    json::parse(stored, what)
}

/// Stores a state.
pub(crate) struct Store<'a> {
    states: &'a States,
    columns: Columns<'a>,
    is_end: bool,
    horizon: Horizon,
    now: i64,
}

impl<'a> Store<'a> {
    pub(crate) fn new(states: &'a States, meta: &'a TaskMeta, horizon: Horizon) -> Result<Self> {
        Ok(Self {
            states,
            columns: Columns::of(meta)?,
            is_end: meta.status.is_ready(),
            horizon,
            now: Utc::now().timestamp_millis(),
        })
    }
}

#[async_trait]
impl Work for Store<'_> {
    type Output = Stored;

    fn operation(&self) -> &'static str {
        "backend.store"
    }

    fn how(&self) -> How {
        How::Write
    }

    async fn run(&self, on: &mut Session<'_>, again: bool) -> Result<Stored, Fault> {
        let columns = self.columns.args();
        // Most often nothing is stored yet, and that is found out by storing it.
        let mut insert = columns.to_vec();
        let task = Arg::from(self.columns.task_id);
        insert.extend::<[Arg<'_>; 2]>([self.now.into(), task]);
        let mut update = columns[1..].to_vec();
        update.extend::<[Arg<'_>; 5]>([
            self.now.into(),
            task,
            self.horizon.time.into(),
            self.horizon.millis.into(),
            i64::from(self.is_end).into(),
        ]);
        // A row may come or go between two statements.
        for _ in 0..10 {
            if on.insert(&self.states.insert, &insert).await?
                || on.execute(&self.states.update, &update).await? > 0
            {
                return Ok(Stored::Written);
            }
            if let Some(row) = on.first(&self.states.look, &[task]).await? {
                // The answer to the same call may have been lost.
                let is_ours = again && self.is(row)?;
                return Ok(if is_ours {
                    Stored::Written
                } else {
                    Stored::Kept
                });
            }
        }
        Err(Fault::Passing(Error::Connection {
            operation: self.operation(),
            reason: format!("{}: the row comes and goes", on.url),
        }))
    }
}

impl Store<'_> {
    /// Whether a row holds what is to be stored.
    fn is(&self, mut row: Row) -> Result<bool> {
        let ours = &self.columns;
        row.text()?;
        let status = row.text()?;
        Ok(status.as_deref() == Some(ours.status) && row.bytes()?.as_ref() == Some(&ours.result))
    }
}

/// Loads states: all, or those of tasks that have ended.
pub(crate) struct Load<'a> {
    pub(crate) states: &'a States,
    pub(crate) operation: &'static str,
    /// No more than [`BATCH`].
    pub(crate) ids: &'a [Id],
    pub(crate) ended: bool,
    pub(crate) horizon: Horizon,
}

#[async_trait]
impl Work for Load<'_> {
    /// In no order. One that cannot be read is told with its error.
    type Output = Vec<(Id, Result<TaskMeta>)>;

    fn operation(&self) -> &'static str {
        self.operation
    }

    fn how(&self) -> How {
        How::Read
    }

    async fn run(&self, on: &mut Session<'_>, _: bool) -> Result<Self::Output, Fault> {
        // So that there are few statements to prepare: a power of two.
        let count = self.ids.len().next_power_of_two();
        let mut args: Vec<Arg<'_>> = self.ids.iter().map(|id| id.as_str().into()).collect();
        if let Some(last) = args.last().copied() {
            args.resize(count, last);
        }
        args.extend::<[Arg<'_>; 2]>([self.horizon.time.into(), self.horizon.millis.into()]);
        let sql = self.states.load(count, self.ended);
        let rows = on.fetch(&sql, &args).await?;
        let found: Result<Self::Output> = rows.into_iter().map(read).collect();
        Ok(found?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_fits_no_column_is_kept_beside_them() {
        let mut meta = TaskMeta::new("1".into(), State::Success);
        let long = "x".repeat(NAME + 1);
        meta.extended = [
            ("name", json!("tasks.add")),
            ("worker", json!(long)),
            ("queue", json!(5)),
            ("args", json!([1])),
            ("retries", json!(i64::MAX)),
            ("stamped_headers", json!(["mark"])),
            ("mark", json!("m")),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect();
        meta.parent_id = Some("0".into());
        let columns = Columns::of(&meta).unwrap();
        assert_eq!(columns.name, Some("tasks.add"));
        assert_eq!(columns.args.as_deref(), Some(b"[1]".as_slice()));
        assert_eq!((columns.worker, columns.retries), (None, None));
        let stamps: Value = serde_json::from_slice(&columns.stamps.unwrap()).unwrap();
        assert_eq!(
            stamps,
            json!({ "stamped_headers": ["mark"], "stamps": { "mark": "m" } })
        );
        let more: Value = serde_json::from_slice(&columns.more.unwrap()).unwrap();
        assert_eq!(
            more,
            json!({
                "parent_id": "0",
                "extended": { "worker": long, "queue": 5, "retries": i64::MAX },
            })
        );
    }
}
