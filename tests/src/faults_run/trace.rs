//! What workers did, as they wrote it down: a file for each process, to which
//! a line is added when a task starts and when it ends.
//!
//! It is a local file, so that no fault of Redis touches it, and a line is one
//! write, so that a process which is killed leaves only whole ones.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::faults_run::{Micros, now};

/// Where a process writes what it does. A clone is another handle on the same
/// file.
#[derive(Debug, Clone, Default)]
pub struct Trace(Option<Arc<Mutex<Writing>>>);

#[derive(Debug)]
struct Writing {
    file: File,
    runs: u64,
}

/// A run of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The task.
    pub id: String,
    /// The process, by the name of its file.
    pub process: String,
    /// When it started.
    pub started: Micros,
    /// When it ended, if it did.
    pub ended: Option<Micros>,
}

impl Trace {
    /// For a process that runs nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds to a file.
    ///
    /// # Errors
    /// That of opening it.
    pub fn to(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self(Some(Arc::new(Mutex::new(Writing { file, runs: 0 })))))
    }

    /// Notes that a task starts, and names the run.
    pub fn starts(&self, id: &str) -> String {
        let Some(writing) = &self.0 else {
            return String::new();
        };
        let mut writing = writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.runs += 1;
        let run = format!("{}.{}", std::process::id(), writing.runs);
        writing.line('+', id, &run);
        run
    }

    /// Notes that a run ends.
    pub fn ends(&self, id: &str, run: &str) {
        if let Some(writing) = &self.0 {
            let mut writing = writing.lock().unwrap_or_else(PoisonError::into_inner);
            writing.line('-', id, run);
        }
    }
}

impl Writing {
    fn line(&mut self, mark: char, id: &str, run: &str) {
        let line = format!("{} {mark} {id} {run}\n", now());
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // Without it nothing can be judged.
            eprintln!("the trace cannot be written: {error}");
            std::process::exit(1);
        }
    }
}

/// All runs that the traces in a folder tell of, in the order of their starts.
///
/// # Errors
/// That of reading them, and one for a line that makes no sense.
pub fn read(folder: &Path) -> io::Result<Vec<Run>> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "trace")
        {
            let process = path.file_stem().unwrap_or_default().to_string_lossy();
            read_one(&process, &fs::read_to_string(&path)?, &mut runs)?;
        }
    }
    runs.sort_by_key(|run| run.started);
    Ok(runs)
}

fn read_one(process: &str, text: &str, runs: &mut Vec<Run>) -> io::Result<()> {
    let mut open: HashMap<&str, usize> = HashMap::new();
    for line in text.lines() {
        let odd = || io::Error::other(format!("{process}: no line of a trace: {line}"));
        let words: Vec<&str> = line.split(' ').collect();
        let &[at, mark, id, run] = words.as_slice() else {
            return Err(odd());
        };
        let at: Micros = at.parse().map_err(|_| odd())?;
        match mark {
            "+" => {
                open.insert(run, runs.len());
                runs.push(Run {
                    id: id.to_owned(),
                    process: process.to_owned(),
                    started: at,
                    ended: None,
                });
            }
            "-" => {
                let place = open.remove(run).ok_or_else(odd)?;
                runs[place].ended = Some(at);
            }
            _ => return Err(odd()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_an_end_was_cut_off() {
        let mut runs = Vec::new();
        let text = "5 + a 1.1\n6 + b 1.2\n9 - b 1.2\n";
        read_one("worker-0-0", text, &mut runs).unwrap();
        let ends: Vec<_> = runs.iter().map(|run| (&*run.id, run.ended)).collect();
        assert_eq!(ends, [("a", None), ("b", Some(9))]);
    }

    #[test]
    fn a_line_that_makes_no_sense_is_an_error() {
        for text in ["5 + a", "x + a 1.1", "5 ? a 1.1", "5 - a 1.1"] {
            assert!(read_one("p", text, &mut Vec::new()).is_err(), "{text}");
        }
    }
}
