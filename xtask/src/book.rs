//! `cargo xtask book`: builds the book in docs/.

use std::process::Command;

use crate::run::{is_there, run};

pub(crate) fn book() -> Result<(), String> {
    if !is_there("mdbook", "--version") {
        return Err("mdbook is not installed: `cargo install mdbook`, and again".to_owned());
    }
    let mut mdbook = Command::new("mdbook");
    mdbook.args(["build", "docs"]);
    run(mdbook)
}
