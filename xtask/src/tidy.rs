//! `cargo xtask tidy`: the house rules that no compiler checks, from reading files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::workspace::{self, Package};

/// A file is one idea; a longer one has two. Not so in tests/: what a system
/// must do is a list, as long as it is.
const LINES: usize = 700;

/// Where Rust files are.
const SOURCES: [&str; 4] = ["crates", "tests", "benches", "xtask"];

/// How a test is set aside that only runs where there is more than Rust, such
/// as stock Celery: a verb of this program runs those.
const NEEDS: &str = "#[ignore = \"needs ";

/// What holds words of these rules and is not to be judged by them.
const THIS_FILE: &str = "xtask/src/tidy.rs";

pub(crate) fn tidy() -> Result<(), String> {
    let problems = problems()?;
    if problems.is_empty() {
        println!("tidy");
        return Ok(());
    }
    for problem in &problems {
        println!("{problem}");
    }
    Err(format!("{} things are not tidy", problems.len()))
}

fn problems() -> Result<Vec<String>, String> {
    let root = workspace::root();
    let packages = workspace::packages()?;
    let mut problems = Vec::new();
    for source in SOURCES {
        for path in rust_files(&root.join(source)) {
            let name = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .to_string_lossy()
                .replace('\\', "/");
            let text = fs::read_to_string(&path).map_err(|e| format!("{name}: {e}"))?;
            problems.extend(in_source(&name, &text));
        }
    }
    problems.extend(
        packages
            .iter()
            .flat_map(|package| in_arrows(package, &packages)),
    );
    for package in &packages {
        let manifest = fs::read_to_string(package.path.join("Cargo.toml")).unwrap_or_default();
        problems.extend(in_manifest(&package.name, &manifest));
    }
    let map = fs::read_to_string(root.join("docs/architecture.md")).unwrap_or_default();
    problems.extend(in_map(&map, &packages));
    Ok(problems)
}

/// The files below a directory, the programs of trybuild aside: those are
/// inputs of tests and must read as a user would write them.
fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort_unstable();
    let below = paths.into_iter().flat_map(|path| {
        if path.is_dir() {
            let aside = path
                .file_name()
                .is_some_and(|name| name == "ui" || name == "target");
            return if aside { Vec::new() } else { rust_files(&path) };
        }
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        is_rust.then_some(path).into_iter().collect()
    });
    below.collect()
}

fn in_source(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !text.starts_with("//!") {
        problems.push(format!(
            "{name}:1: does not say what it is, in a `//!` line"
        ));
    }
    let lines = text.lines().count();
    if lines > LINES && !name.starts_with("tests/") {
        problems.push(format!(
            "{name}: {lines} lines, over {LINES}: which second idea moved in?"
        ));
    }
    if name == THIS_FILE {
        return problems;
    }
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let line = line.trim_start();
        if line.starts_with("//") {
            continue;
        }
        if line.starts_with("#[ignore") && !line.starts_with(NEEDS) {
            problems.push(format!(
                "{name}:{number}: a test that does not run proves nothing"
            ));
        }
        if line.contains("todo!(") || line.contains("unimplemented!(") {
            problems.push(format!("{name}:{number}: not done yet"));
        }
    }
    problems
}

/// Arrows point one way: drivers and the worker know the core and nothing
/// else, the core knows nobody, and nobody knows what only tests and measures.
fn in_arrows(package: &Package, all: &[Package]) -> Vec<String> {
    let name = package.name.as_str();
    let allowed = |need: &str| match name {
        "canvas-core" | "canvas-macros" => false,
        "canvas-worker" | "canvas-conformance" | "canvas-redis" => need == "canvas-core",
        // Its two drivers, and nobody else, know what they share.
        "canvas-broker-redis" | "canvas-backend-redis" => {
            ["canvas-core", "canvas-redis"].contains(&need)
        }
        // Results as messages go through that broker's connections.
        "canvas-backend-rpc" => ["canvas-core", "canvas-broker-amqp"].contains(&need),
        _ if name.starts_with("canvas-broker-") || name.starts_with("canvas-backend-") => {
            need == "canvas-core"
        }
        "canvas" => is_library(need) && need != "canvas-conformance",
        _ => is_library(need),
    };
    let inside = package
        .needs
        .iter()
        .filter(|need| all.iter().any(|other| other.name == **need));
    let wrong = inside.filter(|need| !allowed(need));
    wrong
        .map(|need| format!("{name} must not depend on {need}"))
        .collect()
}

fn is_library(name: &str) -> bool {
    !["canvas-cli", "canvas-tests", "canvas-benches", "xtask"].contains(&name)
}

fn in_manifest(name: &str, manifest: &str) -> Option<String> {
    let mut lines = manifest.lines().map(str::trim);
    let found = lines.any(|line| line == "[lints]") && lines.next() == Some("workspace = true");
    (!found).then(|| format!("{name}: its Cargo.toml lacks `[lints] workspace = true`"))
}

/// The map names the crates in crates/, and no crate that is not there.
fn in_map(map: &str, packages: &[Package]) -> Vec<String> {
    if map.is_empty() {
        return vec!["docs/architecture.md: missing".to_owned()];
    }
    let word = |c: char| c.is_ascii_alphanumeric() || "-_/".contains(c);
    let mut named = BTreeSet::new();
    for token in map.split(|c| !word(c)) {
        let token = token.trim_matches('/');
        let below = token
            .strip_prefix("crates/")
            .and_then(|path| path.split('/').next());
        match below {
            Some(name) => _ = named.insert(name),
            None if token == "canvas" || token.starts_with("canvas-") => _ = named.insert(token),
            None => {}
        }
    }
    let crates = |package: &&Package| {
        package
            .path
            .parent()
            .is_some_and(|parent| parent.ends_with("crates"))
    };
    let missing = packages
        .iter()
        .filter(crates)
        .map(|package| package.name.as_str());
    let missing = missing.filter(|name| !named.contains(name));
    let unknown = named
        .iter()
        .filter(|name| !packages.iter().any(|package| package.name == **name));
    let missing = missing.map(|name| format!("docs/architecture.md: does not name {name}"));
    let unknown = unknown.map(|name| format!("docs/architecture.md: there is no crate {name}"));
    missing.chain(unknown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, needs: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            version: String::new(),
            path: Path::new("crates").join(name),
            features: Vec::new(),
            needs: needs.iter().map(|&need| need.to_owned()).collect(),
        }
    }

    #[test]
    fn the_workspace_is_tidy() {
        assert_eq!(problems().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_file_must_say_what_it_is() {
        assert_eq!(in_source("a.rs", "//! An idea.\n").len(), 0);
        assert_eq!(in_source("a.rs", "use std::fs;\n").len(), 1);
    }

    #[test]
    fn a_file_must_not_be_too_long() {
        let longest = "//! An idea.\n".repeat(LINES);
        assert_eq!(in_source("a.rs", &longest).len(), 0);
        let longer = format!("{longest}\n");
        assert_eq!(in_source("a.rs", &longer).len(), 1);
        assert_eq!(in_source("tests/tests/a.rs", &longer).len(), 0);
    }

    #[test]
    fn what_is_not_done_is_found_with_its_line() {
        let found = in_source(
            "a.rs",
            "//! An idea.\n// todo!()\nfn f() {\n    todo!()\n}\n",
        );
        assert_eq!(found, ["a.rs:4: not done yet"]);
        let found = in_source("a.rs", "//! An idea.\n    #[ignore = \"slow\"]\n");
        assert_eq!(found, ["a.rs:2: a test that does not run proves nothing"]);
        let needs = "//! An idea.\n#[ignore = \"needs stock Celery workers\"]\n";
        assert_eq!(in_source("a.rs", needs), Vec::<String>::new());
    }

    #[test]
    fn arrows_against_the_grain_are_found() {
        let all = [
            package("canvas", &["canvas-core", "canvas-worker", "serde"]),
            package("canvas-core", &["canvas-worker"]),
            package("canvas-worker", &["canvas-core"]),
            package(
                "canvas-backend-redis",
                &["canvas-core", "canvas-broker-redis"],
            ),
            package("canvas-broker-redis", &["canvas-core"]),
            package("canvas-cli", &["canvas", "canvas-tests"]),
            package("canvas-tests", &["canvas"]),
        ];
        let wrong: Vec<String> = all
            .iter()
            .flat_map(|package| in_arrows(package, &all))
            .collect();
        assert_eq!(
            wrong,
            [
                "canvas-core must not depend on canvas-worker",
                "canvas-backend-redis must not depend on canvas-broker-redis",
                "canvas-cli must not depend on canvas-tests",
            ]
        );
    }

    #[test]
    fn a_manifest_must_take_the_lints_of_the_workspace() {
        assert_eq!(
            in_manifest("a", "[package]\n\n[lints]\nworkspace = true\n"),
            None
        );
        assert!(in_manifest("a", "[package]\nworkspace = true\n").is_some());
        assert!(in_manifest("a", "[lints]\nrust.missing_docs = \"allow\"\n").is_some());
    }

    #[test]
    fn the_map_must_name_each_crate_and_no_other() {
        let all = [package("canvas", &[]), package("canvas-core", &[])];
        assert_eq!(
            in_map("`canvas` and crates/canvas-core/src", &all),
            Vec::<String>::new()
        );
        assert_eq!(
            in_map("crates/canvas/ stands on canvas-redis.", &all),
            [
                "docs/architecture.md: does not name canvas-core",
                "docs/architecture.md: there is no crate canvas-redis",
            ]
        );
        assert_eq!(in_map("", &all).len(), 1);
    }
}
