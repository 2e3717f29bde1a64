//! The Python that the drivers' tests compare themselves with.

use std::path::{Path, PathBuf};

/// A Python that has `packages`: Celery, and what it needs to use the server.
pub(crate) fn python(packages: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // A Python finds its packages by the path that it is called by.
    let root = root.canonicalize().unwrap();
    let python = std::env::var_os("CANVAS_CELERY_PYTHON").map_or_else(
        || root.join("target/interop/venv/bin/python"),
        PathBuf::from,
    );
    assert!(
        python.exists(),
        "no {}: `cargo xtask test` makes it; or name a Python in CANVAS_CELERY_PYTHON that has \
         {packages}",
        python.display()
    );
    python
}
