//! What every backend must do, asked of this one.

use std::sync::Arc;
use std::time::Duration;

use canvas_conformance::{BackendFixture, Need};
use canvas_files::FilesBackend;

async fn files(need: Need) -> BackendFixture {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().to_owned();
    let expiry = Duration::from_secs(2);
    let backend = FilesBackend::new(&path, (need == Need::Expiry).then_some(expiry));
    BackendFixture::new(Arc::new(backend))
        .keep(folder)
        .expiring_after(expiry)
        .restarting(async || BackendFixture::new(Arc::new(FilesBackend::new(path, None))))
}

canvas_conformance::backend_suite!(files);
