//! `cargo xtask ci`: exactly what CI checks.

use std::time::Duration;

use crate::run::{Tally, cargo, is_there};
use crate::{conformance, test, tidy, workspace};

/// No check takes longer, downloads and a first build included.
const LIMIT: Duration = Duration::from_secs(1800);

pub(crate) fn ci() -> Result<(), String> {
    let mut tally = Tally::default();
    tally.check(cargo("fmt --all --check"), LIMIT);
    tally.judge("tidy".to_owned(), tidy::tidy);
    // The lints of the workspace, `missing_docs` among them, are warnings
    // while one works, and errors here.
    let lint = "clippy --quiet --workspace --all-targets -- -D warnings";
    tally.check(cargo(lint), LIMIT);
    let mut outside = conformance::outside("clippy --quiet --all-targets")?;
    outside.args(["--", "-D", "warnings"]);
    tally.check(outside, LIMIT);
    features(&mut tally)?;
    let mut doc = cargo("doc --quiet --workspace --no-deps");
    doc.env("RUSTDOCFLAGS", "-D warnings");
    tally.check(doc, LIMIT);
    licences(&mut tally);
    test::proof(&mut tally)?;
    tally.finish()
}

/// The facade with no feature and with each alone. With all it was checked
/// just before, with the rest of the workspace.
fn features(tally: &mut Tally) -> Result<(), String> {
    let packages = workspace::packages()?;
    let facade = packages.iter().find(|package| package.name == "canvas");
    let facade = facade.ok_or("the workspace has no crate `canvas`")?;
    let mut choices = vec![String::new()];
    let alone = facade.features.iter();
    choices.extend(alone.map(|feature| format!("--features {feature}")));
    for choice in choices {
        let lint = format!("clippy --quiet -p canvas --no-default-features {choice}");
        tally.check(cargo(&format!("{lint} -- -D warnings")), LIMIT);
    }
    Ok(())
}

fn licences(tally: &mut Tally) {
    if is_there("cargo-deny", "--version") {
        tally.check(
            cargo("deny check --hide-inclusion-graph bans licenses sources"),
            LIMIT,
        );
    } else {
        println!("NOT RUN: cargo deny check bans licenses sources");
        println!("  cargo-deny is not installed: `cargo install --locked cargo-deny`\n");
    }
}
