//! Memcached, over TCP only.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::{Place, Service};

pub(crate) struct Memcached;

impl Service for Memcached {
    fn name(&self) -> &'static str {
        "memcached"
    }

    fn program(&self) -> (&'static str, &'static str) {
        ("memcached", "-V")
    }

    fn package(&self) -> &'static str {
        "memcached"
    }

    fn command(&self, place: &Place) -> Command {
        let mut command = Command::new("memcached");
        command.args(["-l", "127.0.0.1", "-p", &place.port.to_string(), "-U", "0"]);
        // As root it does not run without a user; as anybody else it takes no notice.
        command.args(["-u", "root", "-m", "256"]);
        command.current_dir(&place.folder);
        command
    }

    fn is_ready(&self, place: &Place) -> bool {
        let ask = || -> std::io::Result<bool> {
            let limit = Duration::from_secs(1);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, place.port));
            let mut stream = TcpStream::connect_timeout(&address, limit)?;
            stream.set_read_timeout(Some(limit))?;
            stream.write_all(b"version\r\n")?;
            let mut answer = [0; 7];
            stream.read_exact(&mut answer)?;
            Ok(&answer == b"VERSION")
        };
        ask().unwrap_or(false)
    }

    fn variables(&self, place: &Place) -> Vec<(&'static str, String)> {
        vec![(
            "CANVAS_TEST_MEMCACHED_URL",
            format!("memcached://127.0.0.1:{}", place.port),
        )]
    }
}
