//! What all tests of a process log, kept: one collector for all, as `tracing`
//! may forget lines of which another thread's collector wanted none.

use std::io;
use std::sync::{Mutex, Once};

#[derive(Clone, Copy)]
struct Log;

static LOGGED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts to keep what is logged.
pub(crate) fn keep_log() {
    static KEEPING: Once = Once::new();
    KEEPING.call_once(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(|| Log);
        tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    });
}

/// What was logged with this in it.
pub(crate) fn logged(with: &str) -> Vec<String> {
    let log = String::from_utf8(LOGGED.lock().unwrap().clone()).unwrap();
    let lines = log.lines().filter(|line| line.contains(with));
    lines.map(str::to_owned).collect()
}
