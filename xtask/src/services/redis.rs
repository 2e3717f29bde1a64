//! Redis, without persistence.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::{Place, Service};

pub(crate) struct Redis;

impl Service for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn program(&self) -> (&'static str, &'static str) {
        ("redis-server", "--version")
    }

    fn package(&self) -> &'static str {
        "redis-server"
    }

    fn command(&self, place: &Place) -> Command {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &place.port.to_string()]);
        command.arg("--dir").arg(&place.folder);
        // A database for each test that wants one of its own.
        command.args(["--databases", "1024", "--save", "", "--appendonly", "no"]);
        command
    }

    fn is_ready(&self, place: &Place) -> bool {
        let ping = || -> std::io::Result<bool> {
            let limit = Duration::from_secs(1);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, place.port));
            let mut stream = TcpStream::connect_timeout(&address, limit)?;
            stream.set_read_timeout(Some(limit))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            Ok(&answer == b"+PONG")
        };
        ping().unwrap_or(false)
    }

    fn variables(&self, place: &Place) -> Vec<(&'static str, String)> {
        vec![(
            "CANVAS_TEST_REDIS_URL",
            format!("redis://127.0.0.1:{}", place.port),
        )]
    }
}
