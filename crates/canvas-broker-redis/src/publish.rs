//! Publishing: where a message goes, and a batch in one round trip.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use canvas_core::broker::{Destination, Outgoing};
use canvas_core::{Error, Result};
use canvas_redis::Live;
use redis::{AsyncCommands, Pipeline};

use crate::envelope;
use crate::hub::{Declared, Hub};
use crate::layout::SEP;

/// How long the bindings of an exchange are taken for unchanged.
const FRESH: Duration = Duration::from_secs(1);

/// How much goes into one command: the server does nothing else meanwhile.
const COMMAND_BYTES: usize = 1024 * 1024;
const COMMAND_MESSAGES: usize = 256;

/// Knows which queues are bound to an exchange.
#[derive(Debug, Default)]
pub(crate) struct Router {
    tables: Mutex<HashMap<Arc<str>, Table>>,
    declared: Mutex<Declared>,
}

/// The bindings of an exchange, and when they were read.
type Table = (Instant, Arc<[Binding]>);

/// A queue that is bound to an exchange.
#[derive(Debug, PartialEq)]
struct Binding {
    key: String,
    /// Whether the key is a pattern: the exchange is a topic then.
    topic: bool,
    queue: Arc<str>,
}

impl Hub {
    /// Puts messages into their queues.
    pub(crate) async fn publish(&self, batch: Vec<Outgoing>) -> Result<()> {
        let mut lists: HashMap<(Arc<str>, usize), Vec<Vec<u8>>> = HashMap::new();
        let mut declare = Vec::new();
        for outgoing in &batch {
            let to = &outgoing.to;
            let raw = encode(outgoing)?;
            let step = self.step(outgoing);
            let mut queues = self.route(to).await?.into_iter();
            if to.exchange.is_empty() {
                declare.push(to.routing_key.clone());
            }
            let Some(first) = queues.next() else { continue };
            for other in queues {
                lists.entry((other, step)).or_default().push(raw.clone());
            }
            lists.entry((first, step)).or_default().push(raw);
        }
        if lists.is_empty() {
            return Ok(());
        }
        let live = self.link.live("broker.publish").await?;
        let mut pipeline = Pipeline::with_capacity(lists.len() + 2);
        self.declare(&live, &declare, &mut pipeline);
        for ((queue, step), messages) in lists {
            push(&mut pipeline, &self.layout.list(&queue, step), messages);
        }
        let call = |mut connection| async move { pipeline.exec_async(&mut connection).await };
        Ok(self.link.call_on(&live, "broker.publish", call).await?)
    }

    /// The lists that a message goes to, their queue declared, and what is put
    /// into them.
    pub(crate) async fn address(&self, outgoing: &Outgoing) -> Result<(Vec<String>, Vec<u8>)> {
        let raw = encode(outgoing)?;
        let step = self.step(outgoing);
        let to = &outgoing.to;
        let queues = self.route(to).await?;
        if to.exchange.is_empty() {
            let live = self.link.live("broker.publish").await?;
            let mut pipeline = Pipeline::new();
            self.declare(&live, std::slice::from_ref(&to.routing_key), &mut pipeline);
            if !pipeline.is_empty() {
                let call =
                    |mut connection| async move { pipeline.exec_async(&mut connection).await };
                self.link.call_on(&live, "broker.publish", call).await?;
            }
        }
        let lists = queues.iter().map(|queue| self.layout.list(queue, step));
        Ok((lists.collect(), raw))
    }

    /// Declares those queues that were not declared on this connection.
    fn declare(&self, live: &Live, queues: &[Arc<str>], pipeline: &mut Pipeline) {
        let declared = &self.router.declared;
        let mut declared = declared.lock().unwrap_or_else(PoisonError::into_inner);
        for queue in queues {
            declared.declare(live.generation, queue, &self.layout, pipeline);
        }
    }

    fn step(&self, outgoing: &Outgoing) -> usize {
        let priority = outgoing.message.properties.priority;
        self.layout.step(priority.unwrap_or(0))
    }

    /// The queues that get what is sent to a destination.
    pub(crate) async fn route(&self, to: &Destination) -> Result<Vec<Arc<str>>> {
        if to.exchange.is_empty() {
            if to.routing_key.is_empty() {
                return Err(Error::Config("a message was sent to no queue".to_owned()));
            }
            return Ok(vec![to.routing_key.clone()]);
        }
        if let Some(table) = self.router.known(&to.exchange)
            && let queues = matching(&table, &to.routing_key)
            && !queues.is_empty()
        {
            return Ok(queues);
        }
        let key = self.layout.bindings(&to.exchange);
        let call = |mut connection: redis::aio::MultiplexedConnection| async move {
            connection.smembers::<_, Vec<String>>(key).await
        };
        let members = self.link.call("broker.publish", call).await?;
        let table: Arc<[Binding]> = members.iter().filter_map(|m| Binding::read(m)).collect();
        self.router.learn(&to.exchange, table.clone());
        let queues = matching(&table, &to.routing_key);
        if !queues.is_empty() {
            return Ok(queues);
        }
        // kombu drops such a message without a word.
        let queue = match &*to.routing_key {
            "" => to.exchange.clone(),
            _ => to.routing_key.clone(),
        };
        tracing::warn!(
            exchange = &*to.exchange,
            routing_key = &*to.routing_key,
            "no queue is bound to this: sent to the queue of that name"
        );
        Ok(vec![queue])
    }
}

fn encode(outgoing: &Outgoing) -> Result<Vec<u8>> {
    envelope::encode(&outgoing.message, &outgoing.to).map_err(|error| Error::Encoding {
        action: "encode",
        what: "a message".to_owned(),
        reason: error.to_string(),
    })
}

/// Adds messages to a list, the first of them to be taken first.
fn push(pipeline: &mut Pipeline, list: &str, messages: Vec<Vec<u8>>) {
    let (mut bytes, mut count) = (0, 0);
    for raw in messages {
        if count == 0 || count >= COMMAND_MESSAGES || bytes >= COMMAND_BYTES {
            pipeline.cmd("LPUSH").arg(list).ignore();
            (bytes, count) = (0, 0);
        }
        bytes += raw.len();
        count += 1;
        pipeline.arg(raw);
    }
}

impl Router {
    fn known(&self, exchange: &str) -> Option<Arc<[Binding]>> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, table) = tables.get(exchange)?;
        (at.elapsed() < FRESH).then(|| table.clone())
    }

    fn learn(&self, exchange: &Arc<str>, table: Arc<[Binding]>) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.insert(exchange.clone(), (Instant::now(), table));
    }
}

impl Binding {
    /// Reads a member of kombu's set: routing key, pattern, queue.
    fn read(member: &str) -> Option<Self> {
        let mut parts = member.split(SEP);
        let (key, pattern, queue) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            key: key.to_owned(),
            topic: !pattern.is_empty(),
            queue: queue.into(),
        })
    }

    fn matches(&self, routing_key: &str) -> bool {
        if self.topic {
            let words: Vec<&str> = self.key.split('.').collect();
            matches_words(&words, routing_key)
        } else {
            self.key == routing_key
        }
    }
}

/// The queues that a routing key leads to, each once, in the same order always.
fn matching(table: &[Binding], routing_key: &str) -> Vec<Arc<str>> {
    let found = table.iter().filter(|binding| binding.matches(routing_key));
    let mut queues: Vec<Arc<str>> = found.map(|binding| binding.queue.clone()).collect();
    queues.sort_unstable();
    queues.dedup();
    queues
}

/// kombu's topics: `*` is one word, `#` is any text between its dots, even none.
fn matches_words(words: &[&str], text: &str) -> bool {
    let Some((word, rest)) = words.split_first() else {
        return false;
    };
    let goes_on = |text: &str| match text.strip_prefix('.') {
        Some(text) => matches_words(rest, text),
        None => false,
    };
    match (*word, rest.is_empty()) {
        ("#", true) => true,
        ("#", false) => text.match_indices('.').any(|(at, _)| goes_on(&text[at..])),
        ("*", last) => {
            let end = text.find('.').unwrap_or(text.len());
            end > 0
                && if last {
                    end == text.len()
                } else {
                    goes_on(&text[end..])
                }
        }
        (word, true) => word == text,
        (word, false) => text.strip_prefix(word).is_some_and(goes_on),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_match_as_kombus_patterns_do() {
        // Each row: what re.match says of kombu's pattern for the binding key.
        let table = [
            ("task.*", "task.sent", true),
            ("task.*", "task.", false),
            ("task.*", "task.a.b", false),
            ("*.b", "a.b", true),
            ("*", "a", true),
            ("*", "", false),
            ("#", "", true),
            ("#", "a.b.c", true),
            ("a.#", "a.", true),
            ("a.#", "a", false),
            ("a.#", "a.b.c", true),
            ("#.c", "a.b.c", true),
            ("#.c", "c", false),
            ("#.c", ".c", true),
            ("a.#.c", "a.c", false),
            ("a.#.c", "a.b.b.c", true),
            ("a.b", "a.b", true),
            ("a.b", "axb", false),
            ("a+.b", "a+.b", true),
        ];
        for (key, routing_key, want) in table {
            let words: Vec<&str> = key.split('.').collect();
            assert_eq!(
                matches_words(&words, routing_key),
                want,
                "{key} {routing_key}"
            );
        }
    }

    #[test]
    fn a_table_gives_each_queue_once() {
        let member =
            |key: &str, pattern: &str, queue: &str| format!("{key}{SEP}{pattern}{SEP}{queue}");
        let members = [
            member("a", "", "q2"),
            member("a", "", "q1"),
            member("b", "", "q3"),
            member("#", "^.*?$", "q1"),
            "nonsense".to_owned(),
        ];
        let table: Vec<Binding> = members.iter().filter_map(|m| Binding::read(m)).collect();
        assert_eq!(table.len(), 4);
        assert_eq!(
            matching(&table, "a"),
            ["q1".into(), "q2".into()] as [Arc<str>; 2]
        );
        assert_eq!(matching(&table, "c"), ["q1".into()] as [Arc<str>; 1]);
    }

    #[test]
    fn long_batches_are_several_commands() {
        let mut pipeline = Pipeline::new();
        push(&mut pipeline, "q", vec![vec![b'x'; 10]; 600]);
        assert_eq!(pipeline.len(), 3);
        let mut pipeline = Pipeline::new();
        push(&mut pipeline, "q", vec![vec![b'x'; COMMAND_BYTES]; 3]);
        assert_eq!(pipeline.len(), 3);
    }
}
