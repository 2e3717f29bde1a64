//! The book and the README: every Rust code block in them is compiled and run
//! by `cargo test -p canvas-tests --doc`.
//!
//! What no compiler sees is checked here.
//!
//! A page is in the summary and in this file, or nobody would read or run it:
//!
//! ```
//! let summary = std::fs::read_to_string("../docs/src/SUMMARY.md").unwrap();
//! let here = std::fs::read_to_string("src/book.rs").unwrap();
//! let mut pages = 0;
//! for entry in std::fs::read_dir("../docs/src").unwrap() {
//!     let name = entry.unwrap().file_name().into_string().unwrap();
//!     if name != "SUMMARY.md" {
//!         assert!(summary.contains(&format!("({name})")), "{name} is not in the summary");
//!         assert!(here.contains(&format!("docs/src/{name}\")]")), "{name} is not run");
//!         pages += 1;
//!     }
//! }
//! assert!(pages > 10);
//! ```
//!
//! Links between files lead somewhere:
//!
//! ```
//! let mut links = 0;
//! for folder in ["..", "../docs", "../docs/src", "../docs/decisions"] {
//!     for entry in std::fs::read_dir(folder).unwrap() {
//!         let path = entry.unwrap().path();
//!         if path.extension().is_none_or(|extension| extension != "md") {
//!             continue;
//!         }
//!         let text = std::fs::read_to_string(&path).unwrap();
//!         for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
//!             if !target.starts_with("http") {
//!                 let to = path.parent().unwrap().join(target.split('#').next().unwrap());
//!                 assert!(to.exists(), "{}: {target}", path.display());
//!                 links += 1;
//!             }
//!         }
//!     }
//! }
//! assert!(links > 20);
//! ```
//!
//! Every setting is on its page, with its default:
//!
//! ```
//! use serde_json::Value;
//! let page = std::fs::read_to_string("../docs/src/configuration.md").unwrap();
//! let config = canvas::Canvas::builder().build().unwrap().config().clone();
//! for (name, default) in serde_json::to_value(config).unwrap().as_object().unwrap() {
//!     let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
//!     let row = row.unwrap_or_else(|| panic!("{name} is not in the table"));
//!     let shown = match default {
//!         Value::Null => continue,
//!         Value::Array(none) => { assert!(none.is_empty()); "none".to_owned() }
//!         Value::String(text) => format!("`{text}`"),
//!         Value::Number(n) if n.is_f64() => format!("`{}`", n.as_f64().unwrap()),
//!         other => format!("`{other}`"),
//!     };
//!     assert!(row.split('|').nth(2).unwrap().contains(&shown), "{row}: {shown}");
//! }
//! ```
//!
//! Every kind of error is on its page:
//!
//! ```
//! let page = std::fs::read_to_string("../docs/src/errors.md").unwrap();
//! let source = std::fs::read_to_string("../crates/canvas-core/src/error.rs").unwrap();
//! let kinds = source.split("pub enum Error {").nth(1).unwrap().split("\n}").next().unwrap();
//! let kinds = kinds.lines().filter_map(|line| line.strip_prefix("    "));
//! let kinds = kinds.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
//! let kinds: Vec<&str> = kinds.filter_map(|line| line.split(['(', ' ', ',']).next()).collect();
//! assert!(kinds.len() > 8, "{kinds:?}");
//! for kind in kinds {
//!     assert!(page.contains(&format!("| `{kind}` |")), "{kind} is not on the page");
//! }
//! ```
//!
//! The backend that the book writes is the one in third-party/, which is compiled
//! and tested, piece by piece:
//!
//! ```
//! let page = std::fs::read_to_string("../docs/src/write-a-backend.md").unwrap();
//! let source = std::fs::read_to_string("third-party/src/lib.rs").unwrap();
//! let tests = std::fs::read_to_string("third-party/tests/conformance.rs").unwrap();
//! assert!(page.contains(&format!("with {} lines", source.lines().count())));
//! // However far it is indented.
//! let plain = |code: &str| code.lines().map(str::trim).collect::<Vec<_>>().join("\n");
//! let there = plain(&source) + &plain(&tests);
//! let pieces = page.split("```rs\n").skip(1).filter_map(|rest| rest.split("\n```").next());
//! for piece in pieces.clone() {
//!     assert!(there.contains(&plain(piece)), "not in third-party/:\n{piece}");
//! }
//! assert!(pieces.count() > 5);
//! ```
//!
//! The proofs that the architecture names are tests:
//!
//! ```
//! fn sources(folder: &std::path::Path, all: &mut String) {
//!     for entry in std::fs::read_dir(folder).unwrap() {
//!         let path = entry.unwrap().path();
//!         if path.is_dir() {
//!             sources(&path, all);
//!         } else if path.extension().is_some_and(|extension| extension == "rs") {
//!             all.push_str(&std::fs::read_to_string(&path).unwrap());
//!         }
//!     }
//! }
//! let mut all = String::new();
//! sources("../crates".as_ref(), &mut all);
//! sources("../tests".as_ref(), &mut all);
//! let text = std::fs::read_to_string("../docs/architecture.md").unwrap();
//! let table = text.split("## What must stay true").nth(1).unwrap();
//! let rows = table.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| "));
//! let mut tests = 0;
//! for row in rows.skip(1) {
//!     let proofs: Vec<&str> = row.split(" | ").nth(2).unwrap().split('`').skip(1).step_by(2).collect();
//!     assert!(!proofs.is_empty(), "no proof: {row}");
//!     for proof in proofs {
//!         assert!(all.contains(&format!("fn {proof}(")), "there is no test {proof}");
//!         tests += 1;
//!     }
//! }
//! assert!(tests > 15);
//! ```

#[doc = include_str!("../../README.md")]
mod readme {}

#[doc = include_str!("../../docs/src/introduction.md")]
mod introduction {}

#[doc = include_str!("../../docs/src/tasks.md")]
mod tasks {}

#[doc = include_str!("../../docs/src/signatures.md")]
mod signatures {}

#[doc = include_str!("../../docs/src/callbacks.md")]
mod callbacks {}

#[doc = include_str!("../../docs/src/chains.md")]
mod chains {}

#[doc = include_str!("../../docs/src/groups.md")]
mod groups {}

#[doc = include_str!("../../docs/src/chords.md")]
mod chords {}

#[doc = include_str!("../../docs/src/map.md")]
mod map {}

#[doc = include_str!("../../docs/src/own-primitive.md")]
mod own_primitive {}

#[doc = include_str!("../../docs/src/inside-a-task.md")]
mod inside_a_task {}

#[doc = include_str!("../../docs/src/results.md")]
mod results {}

#[doc = include_str!("../../docs/src/failure.md")]
mod failure {}

#[doc = include_str!("../../docs/src/rules-of-thumb.md")]
mod rules_of_thumb {}

#[doc = include_str!("../../docs/src/worker.md")]
mod worker {}

#[doc = include_str!("../../docs/src/references.md")]
mod references {}

#[doc = include_str!("../../docs/src/pairs.md")]
mod pairs {}

#[doc = include_str!("../../docs/src/benchmarks.md")]
mod benchmarks {}

#[doc = include_str!("../../docs/src/conformance.md")]
mod conformance {}

#[doc = include_str!("../../docs/src/write-a-backend.md")]
mod write_a_backend {}

#[doc = include_str!("../../docs/src/configuration.md")]
mod configuration {}

#[doc = include_str!("../../docs/src/errors.md")]
mod errors {}
