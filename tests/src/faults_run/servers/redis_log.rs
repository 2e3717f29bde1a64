//! How often each result was stored, and each task delivered, by the server's own
//! log of its writes.
//!
//! Whoever listens to the channel of a result misses what is said while
//! connections are cut. The append-only file has every write in the order in
//! which it took effect, those of scripts command by command, and it goes on
//! through a restart.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// What Celery's keys of results begin with.
const KEY: &[u8] = b"celery-task-meta-";

/// Where kombu keeps the messages that are out.
const OUT: &[u8] = b"unacked";

/// What a log tells, by the id of the task.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    /// How often a value was written to its result.
    pub results: HashMap<String, u64>,
    /// How often its message was given to a worker.
    pub deliveries: HashMap<String, u64>,
}

/// Commands that write no value, whatever key they are given.
const OTHERS: [&str; 7] = [
    "DEL",
    "UNLINK",
    "EXPIRE",
    "PEXPIRE",
    "EXPIREAT",
    "PEXPIREAT",
    "PERSIST",
];

/// Reads the log of the server whose data is in a folder.
///
/// # Errors
/// That of reading, and one for a log that is not understood: it would hide
/// writes.
pub(super) fn read(folder: &Path) -> io::Result<Log> {
    let mut found = Log::default();
    let mut logs = 0;
    let mut folders = vec![folder.to_owned()];
    // Redis 7 has a folder for its logs; before, there was one file.
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "aof") {
                logs += 1;
                count(BufReader::new(File::open(&path)?), &mut found)?;
            }
        }
    }
    match logs {
        1 => Ok(found),
        _ => Err(io::Error::other(format!(
            "{logs} append-only files in {}, and not one: was it rewritten?",
            folder.display()
        ))),
    }
}

fn count(mut log: impl BufRead, found: &mut Log) -> io::Result<()> {
    while let Some(command) = command(&mut log)? {
        let [name, key, rest @ ..] = command.as_slice() else {
            continue;
        };
        let name = String::from_utf8_lossy(name).to_uppercase();
        if name == "HSET" && key == OUT {
            for id in rest
                .iter()
                .skip(1)
                .step_by(2)
                .filter_map(|record| task(record))
            {
                *found.deliveries.entry(id).or_default() += 1;
            }
        }
        let Some(id) = key.strip_prefix(KEY) else {
            continue;
        };
        match name.as_str() {
            "SET" | "SETEX" | "PSETEX" => {
                let id = String::from_utf8_lossy(id).into_owned();
                *found.results.entry(id).or_default() += 1;
            }
            name if OTHERS.contains(&name) => {}
            _ => {
                return Err(io::Error::other(format!(
                    "{name} on the result of a task: does it store one?"
                )));
            }
        }
    }
    Ok(())
}

/// The task of a message: the header `id`, before all that could look like it.
fn task(record: &[u8]) -> Option<String> {
    const HEADER: &[u8] = b"\"id\":";
    let at = record
        .windows(HEADER.len())
        .position(|text| text == HEADER)?;
    let mut parts = record[at + HEADER.len()..].split(|byte| *byte == b'"');
    let id = parts.nth(1)?;
    Some(String::from_utf8_lossy(id).into_owned())
}

/// The next command, in words; `None` at the end of the log.
fn command(log: &mut impl BufRead) -> io::Result<Option<Vec<Vec<u8>>>> {
    let mut line = String::new();
    loop {
        line.clear();
        if log.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        // Others are remarks.
        if !line.starts_with('#') {
            break;
        }
    }
    let words = number(&line, '*')?;
    let mut command = Vec::with_capacity(words);
    for _ in 0..words {
        line.clear();
        log.read_line(&mut line)?;
        let mut word = vec![0; number(&line, '$')?];
        log.read_exact(&mut word)?;
        let mut end = [0; 2];
        log.read_exact(&mut end)?;
        command.push(word);
    }
    Ok(Some(command))
}

fn number(line: &str, mark: char) -> io::Result<usize> {
    let number = line
        .strip_prefix(mark)
        .and_then(|rest| rest.trim_end().parse().ok());
    number.ok_or_else(|| io::Error::other(format!("no line of an append-only file: {line:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(commands: &[&[&str]]) -> Vec<u8> {
        let mut log = b"#TS:1\r\n".to_vec();
        for command in commands {
            log.extend(format!("*{}\r\n", command.len()).bytes());
            for word in *command {
                log.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
            }
        }
        log
    }

    fn counted(commands: &[&[&str]]) -> io::Result<Log> {
        let mut found = Log::default();
        count(&*log(commands), &mut found)?;
        Ok(found)
    }

    #[test]
    fn every_write_of_a_result_is_counted() {
        let found = counted(&[
            &["SELECT", "0"],
            &["MULTI"],
            &["SET", "celery-task-meta-a", "one\r\n*1", "PXAT", "5"],
            &["EXEC"],
            &["set", "celery-task-meta-b", "x"],
            &["LPUSH", "celery", "SET celery-task-meta-b"],
            &["SET", "celery-task-meta-a", "two"],
            &["PEXPIRE", "celery-task-meta-b", "5"],
        ])
        .unwrap();
        let want = HashMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]);
        assert_eq!(found.results, want);
        assert_eq!(found.deliveries, HashMap::new());
    }

    #[test]
    fn every_delivery_is_counted() {
        let record = |id: &str| {
            format!(r#"[{{"headers": {{"id": "{id}", "root_id": "z"}}}}, "", "celery"]"#)
        };
        let [a, b] = [record("a"), record("b")];
        let found = counted(&[
            &["HSET", "unacked", "t1", &a, "t2", &b],
            &["HSET", "unacked", "t3", &a],
            &["HSET", "other", "t3", &a],
            &["HDEL", "unacked", "t1"],
        ])
        .unwrap();
        let want = HashMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]);
        assert_eq!(found.deliveries, want);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert!(counted(&[&["COPY", "celery-task-meta-a", "b"]]).is_err());
        let mut cut = log(&[&["SET", "celery-task-meta-a", "x"]]);
        cut.truncate(cut.len() - 3);
        assert!(count(&*cut, &mut Log::default()).is_err());
        assert!(count(&b"REDIS0011"[..], &mut Log::default()).is_err());
    }
}
