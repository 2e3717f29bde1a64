//! `cargo xtask conformance`: the suites of all drivers, and the matrix of what
//! each of them can.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Tally, cargo};
use crate::{services, workspace};

/// Names the file to which each test of a suite adds a line.
const REPORT: &str = "CANVAS_CONFORMANCE_REPORT";

/// The page of the book that holds the matrix.
const PAGE: &str = "docs/src/conformance.md";

/// The crate that is written as somebody else would write one.
const THIRD_PARTY: &str = "tests/third-party/Cargo.toml";

pub(crate) fn conformance(extra: &[String]) -> Result<(), String> {
    let check = match extra {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => return Err("conformance takes nothing, or --check".to_owned()),
    };
    services::install_all()?;
    let report = fresh_report()?;
    let mut tally = Tally::default();
    // Each driver has its suites in tests/conformance.rs.
    let suites = cargo("test --no-fail-fast --test conformance");
    tally.tests(reporting(suites, &report));
    tally.tests(third_party(&report)?);
    tally.judge("the matrix".to_owned(), || judge(&report, check));
    tally.finish()
}

/// Where the tests of one run report to: a file that is not there yet.
pub(crate) fn fresh_report() -> Result<PathBuf, String> {
    let report = workspace::target()?.join("conformance.tsv");
    match fs::remove_file(&report) {
        Err(error) if report.exists() => Err(format!("{}: {error}", report.display())),
        _ => Ok(report),
    }
}

/// Has the tests of `command` report to this file.
pub(crate) fn reporting(mut command: Command, report: &Path) -> Command {
    command.env(REPORT, report);
    command
}

/// The tests of the crate outside the workspace, with its own versions of all
/// that it needs.
pub(crate) fn third_party(report: &Path) -> Result<Command, String> {
    Ok(reporting(outside("test --no-fail-fast")?, report))
}

/// A cargo command on that crate, which shares what the workspace has built.
pub(crate) fn outside(line: &str) -> Result<Command, String> {
    let mut command = cargo(line);
    command.args(["--manifest-path", THIRD_PARTY, "--target-dir"]);
    command.arg(workspace::target()?);
    Ok(command)
}

/// Prints the matrix, and writes the page or checks that it is current. An error
/// if any cell is one.
pub(crate) fn judge(report: &Path, check: bool) -> Result<(), String> {
    let text = fs::read_to_string(report).map_err(|e| format!("{}: {e}", report.display()))?;
    let suites = read(&text)?;
    for suite in &suites {
        print!("{}", suite.as_text());
    }
    let failing: usize = suites.iter().map(Suite::failing).sum();
    if failing > 0 {
        return Err(format!("{failing} cells of the matrix fail"));
    }
    let path = workspace::root().join(PAGE);
    let page = page(&suites);
    if !check {
        return fs::write(&path, page).map_err(|e| format!("{PAGE}: {e}"));
    }
    match fs::read_to_string(&path) {
        Ok(found) if found == page => Ok(()),
        _ => Err(format!(
            "{PAGE} is not what was found: `cargo xtask conformance` writes it"
        )),
    }
}

/// The behaviours of brokers, or of backends, and what came of them.
#[derive(Debug, PartialEq, Eq)]
struct Suite {
    name: String,
    ports: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Debug, PartialEq, Eq)]
struct Row {
    contract: String,
    /// One for each port.
    cells: Vec<Cell>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cell {
    Holds,
    /// The port says that it has not this ability.
    NotApplicable(String),
    Fails,
    /// Its test ended without a word, or did not run.
    Silent,
}

/// By the place of the behaviour: its contract, and the cells by port.
type Rows<'a> = BTreeMap<usize, (&'a str, BTreeMap<&'a str, Cell>)>;

/// Reads the lines of a report: the suite, the port, the place of the behaviour,
/// its name, its contract and the outcome, between tabs.
fn read(report: &str) -> Result<Vec<Suite>, String> {
    let mut suites: BTreeMap<&str, Rows> = BTreeMap::new();
    for line in report.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [suite, port, place, _, contract, outcome] = fields[..] else {
            return Err(format!("a report has no such line: {line}"));
        };
        let cell = match outcome.split_once(' ') {
            None if outcome == "ok" => Cell::Holds,
            Some(("n/a", ability)) => Cell::NotApplicable(ability.to_owned()),
            _ => Cell::Fails,
        };
        let place = place.parse().map_err(|e| format!("{line}: {e}"))?;
        let rows = suites.entry(suite).or_default();
        let (_, cells) = rows.entry(place).or_insert((contract, BTreeMap::new()));
        cells.insert(port, cell);
    }
    if suites.is_empty() {
        return Err("no suite has reported anything".to_owned());
    }
    let suites = suites.into_iter().map(|(name, rows)| {
        let ports: BTreeSet<&str> = rows
            .values()
            .flat_map(|(_, cells)| cells.keys().copied())
            .collect();
        let mut ports: Vec<&str> = ports.into_iter().collect();
        // The one that all others are measured by comes first.
        ports.sort_by_key(|port| *port != "memory");
        let rows = rows.into_values().map(|(contract, mut cells)| Row {
            contract: contract.to_owned(),
            cells: ports
                .iter()
                .map(|port| cells.remove(port).unwrap_or(Cell::Silent))
                .collect(),
        });
        Suite {
            name: name.to_owned(),
            rows: rows.collect(),
            ports: ports.into_iter().map(str::to_owned).collect(),
        }
    });
    Ok(suites.collect())
}

impl Suite {
    fn failing(&self) -> usize {
        let cells = self.rows.iter().flat_map(|row| &row.cells);
        cells
            .filter(|cell| matches!(cell, Cell::Fails | Cell::Silent))
            .count()
    }

    /// The abilities that some port has not; the cells refer to them by number.
    fn abilities(&self) -> Vec<&str> {
        let mut abilities = Vec::new();
        for cell in self.rows.iter().flat_map(|row| &row.cells) {
            if let Cell::NotApplicable(ability) = cell
                && !abilities.contains(&ability.as_str())
            {
                abilities.push(ability);
            }
        }
        abilities
    }

    fn shown(&self, cell: &Cell) -> String {
        match cell {
            Cell::Holds => "ok".to_owned(),
            Cell::Fails => "FAIL".to_owned(),
            Cell::Silent => "FAIL (silent)".to_owned(),
            Cell::NotApplicable(ability) => {
                let place = self.abilities().iter().position(|one| one == ability);
                format!("n/a {}", place.unwrap_or_default() + 1)
            }
        }
    }

    /// The notes that the numbers refer to.
    fn notes(&self) -> Vec<String> {
        let abilities = self.abilities();
        let notes = abilities.iter().enumerate();
        notes
            .map(|(place, ability)| format!("n/a {}: {ability} says no", place + 1))
            .collect()
    }

    /// For the terminal.
    fn as_text(&self) -> String {
        let contracts = self.rows.iter().map(|row| row.contract.chars().count());
        let first = contracts.max().unwrap_or_default();
        let mut text = format!("\n{:<first$}", self.name);
        for port in &self.ports {
            let _ = write!(text, "  {port:<5}");
        }
        text.push('\n');
        for row in &self.rows {
            let _ = write!(text, "{:<first$}", row.contract);
            for (port, cell) in self.ports.iter().zip(&row.cells) {
                let width = port.len().max(5);
                let _ = write!(text, "  {:<width$}", self.shown(cell));
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        for note in self.notes() {
            let _ = writeln!(text, "{note}");
        }
        text
    }

    /// For the book.
    fn as_page(&self) -> String {
        let mut text = format!("## What each {} does\n\n| |", self.name);
        for port in &self.ports {
            let _ = write!(text, " {port} |");
        }
        text.push_str("\n|---|");
        text.push_str(&"---|".repeat(self.ports.len()));
        text.push('\n');
        for row in &self.rows {
            let cells: Vec<String> = row.cells.iter().map(|cell| self.shown(cell)).collect();
            let _ = writeln!(text, "| {} | {} |", row.contract, cells.join(" | "));
        }
        text.push('\n');
        for note in self.notes() {
            let _ = writeln!(
                text,
                "* {}",
                note.replace(": ", ": `").replace(" says", "` says")
            );
        }
        text
    }
}

fn page(suites: &[Suite]) -> String {
    let mut page = PREFACE.to_owned();
    for suite in suites {
        page.push('\n');
        page.push_str(&suite.as_page());
    }
    page
}

const PREFACE: &str = "\
# What each driver does

Every driver is put through the same suite, on a real server. This is what
`cargo xtask conformance` found; it writes this page, and fails if any cell does.
`ok` is a behaviour that holds. `n/a` is one that the driver says it has not: there
is no other way to be excused. `files` is a crate [as anybody may write
it](write-a-backend.md).

For the behaviours of a restart the server is killed and started again. With quorum
queues RabbitMQ is stopped in order: 3.10 may refuse a quorum queue that was declared
just before a kill. SQLite and files have no server; there a new process's view is had
by opening the store again.
";

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
broker\tredis\t0\tone\tpublish: one\tok
broker\tmemory\t0\tone\tpublish: one\tok
broker\tmemory\t1\ttwo\tpublish: two\tn/a BrokerInfo::persistent
backend\tmemory\t0\tone\tstate: one\tFAIL
";

    #[test]
    fn a_report_is_read_whole() {
        let suites = read(REPORT).unwrap();
        let [backend, broker] = &suites[..] else {
            panic!("{suites:?}")
        };
        assert_eq!(broker.ports, ["memory", "redis"]);
        assert_eq!(backend.rows[0].cells, [Cell::Fails]);
        let gone = Cell::NotApplicable("BrokerInfo::persistent".to_owned());
        assert_eq!(broker.rows[1].cells, [gone, Cell::Silent]);
        assert_eq!((backend.failing(), broker.failing()), (1, 1));
    }

    #[test]
    fn a_report_that_makes_no_sense_is_an_error() {
        assert!(read("").is_err());
        assert!(read("ok\n").is_err());
        assert!(read("broker\tmemory\tfirst\tone\tpublish: one\tok\n").is_err());
    }

    #[test]
    fn the_matrix_says_why_a_cell_is_not_applicable() {
        let suites = read(REPORT).unwrap();
        let text = suites[1].as_text();
        assert_eq!(
            text,
            "\nbroker        memory  redis\n\
             publish: one  ok      ok\n\
             publish: two  n/a 1   FAIL (silent)\n\
             n/a 1: BrokerInfo::persistent says no\n"
        );
        let page = page(&suites);
        assert!(
            page.contains("| publish: two | n/a 1 | FAIL (silent) |\n"),
            "{page}"
        );
        assert!(
            page.contains("* n/a 1: `BrokerInfo::persistent` says no\n"),
            "{page}"
        );
    }
}
