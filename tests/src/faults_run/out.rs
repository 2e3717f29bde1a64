//! How long it takes to recover from a fault: until the deliveries that were out
//! at it are settled or given back, which are looked at again and again in a
//! Redis, and until work goes on.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;

use crate::faults_run::servers::connect;
use crate::faults_run::trace::Run;
use crate::faults_run::{Micros, between, now};

/// How often to look.
const EVERY: Duration = Duration::from_millis(50);

/// Something that was done to the system under test: from when until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// When it began.
    pub began: Micros,
    /// When it was over; the same moment, for a kill or a cut.
    pub ended: Micros,
}

/// A delivery: when it was first seen to be out, and when first not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    first: Micros,
    gone: Option<Micros>,
}

impl Seen {
    /// A delivery that was out from when to when, if not for good.
    pub fn new(first: Micros, gone: Option<Micros>) -> Self {
        Self { first, gone }
    }
}

/// All deliveries that were seen.
#[derive(Debug, Default)]
struct Book {
    out: HashMap<String, Micros>,
    gone: Vec<Seen>,
}

/// Looks at the record of deliveries until it is dropped.
#[derive(Debug)]
pub struct Watch {
    book: Arc<Mutex<Book>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    /// Starts to look.
    pub fn start(url: &str) -> Self {
        let book = Arc::default();
        let task = tokio::spawn(keep_looking(url.to_owned(), Arc::clone(&book)));
        Self { book, task }
    }

    /// What was seen so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.book
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .all()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_looking(url: String, book: Arc<Mutex<Book>>) {
    let mut connection = None;
    loop {
        // What cannot be seen now, the server being stopped, is seen later.
        match look(&url, &mut connection).await {
            Ok(tags) => {
                let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
                book.note(&tags, now());
            }
            Err(_) => connection = None,
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn look(
    url: &str,
    connection: &mut Option<MultiplexedConnection>,
) -> redis::RedisResult<Vec<String>> {
    let mut live = match connection.take() {
        Some(live) => live,
        None => connect(url).await?,
    };
    let tags = redis::cmd("HKEYS")
        .arg("unacked")
        .query_async(&mut live)
        .await?;
    *connection = Some(live);
    Ok(tags)
}

impl Book {
    fn note(&mut self, tags: &[String], at: Micros) {
        let tags: HashSet<&String> = tags.iter().collect();
        let gone = &mut self.gone;
        self.out.retain(|tag, first| {
            let is_out = tags.contains(tag);
            if !is_out {
                gone.push(Seen::new(*first, Some(at)));
            }
            is_out
        });
        for tag in tags {
            self.out.entry(tag.clone()).or_insert(at);
        }
    }

    fn all(&self) -> Vec<Seen> {
        let out = self.out.values().map(|first| Seen::new(*first, None));
        self.gone.iter().copied().chain(out).collect()
    }
}

/// The longest time from the end of a fault until every delivery that was out
/// when it began was out no more: settled, or its lease over and the message
/// given to another. `until` is when looking ended.
pub fn recovery(faults: &[Fault], seen: &[Seen], until: Micros) -> Duration {
    let times = faults.iter().flat_map(|fault| {
        let hit = seen.iter().filter(|delivery| {
            delivery.first <= fault.began && delivery.gone.is_none_or(|gone| gone > fault.began)
        });
        hit.map(|delivery| between(fault.ended, delivery.gone.unwrap_or(until)))
    });
    times.max().unwrap_or_default()
}

/// The longest time from the end of a fault until a task was started next. The
/// last faults may come when there is nothing left to start.
pub fn standstill(faults: &[Fault], runs: &[Run]) -> Duration {
    let times = faults.iter().filter_map(|fault| {
        let starts = runs.iter().map(|run| run.started);
        let next = starts.filter(|started| *started > fault.ended).min()?;
        Some(between(fault.ended, next))
    });
    times.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_is_how_long_what_was_out_at_a_fault_stays_out_after_it() {
        let mut book = Book::default();
        let looks: [(&[&str], Micros); 4] = [
            (&["a"], 10),
            (&["a", "b"], 20),
            (&["a", "c"], 30),
            (&["c"], 40),
        ];
        for (tags, at) in looks {
            let tags: Vec<String> = tags.iter().map(|&tag| tag.to_owned()).collect();
            book.note(&tags, at);
        }
        let seen = book.all();
        let recovery = |began, ended| {
            let micros = recovery(&[Fault { began, ended }], &seen, 100).as_micros();
            u64::try_from(micros).unwrap()
        };
        assert_eq!(recovery(25, 25), 15, "`a` is gone at 40");
        assert_eq!(recovery(25, 50), 0, "`a` went while it lasted");
        assert_eq!(recovery(35, 35), 65, "`c` never went");
        assert_eq!(recovery(5, 5), 0, "nothing was out");
    }

    #[test]
    fn a_standstill_lasts_from_a_fault_until_a_task_starts() {
        let run = |started| Run {
            id: "a".to_owned(),
            process: "p".to_owned(),
            started,
            ended: None,
        };
        let fault = |began, ended| Fault { began, ended };
        let faults = [fault(10, 20), fault(40, 40), fault(90, 90)];
        let standstill = standstill(&faults, &[run(5), run(15), run(30), run(47)]);
        assert_eq!(standstill, Duration::from_micros(10));
    }
}
