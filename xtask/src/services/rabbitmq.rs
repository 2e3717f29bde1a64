//! RabbitMQ, with its management, on ports and in folders of its own.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Place, Service};

pub(crate) struct RabbitMq;

/// Its own scripts: those in /usr/sbin change to a user of their own.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Where the port of its management is kept.
const MANAGEMENT: &str = "management";

/// Erlang's port mapper, which would otherwise become a daemon and stay: it
/// ends with the server, into which this shell turns.
const START: &str = "epmd -address 127.0.0.1 -port $ERL_EPMD_PORT & epmd=$!; \
     (while kill -0 $$; do sleep 0.2; done; kill -KILL $epmd) 2>/dev/null & \
     exec \"$0\"";

impl Service for RabbitMq {
    fn name(&self) -> &'static str {
        "rabbitmq"
    }

    fn program(&self) -> (&'static str, &'static str) {
        ("/usr/lib/rabbitmq/bin/rabbitmq-defaults", "")
    }

    fn process(&self) -> &'static str {
        "beam.smp"
    }

    fn package(&self) -> &'static str {
        "rabbitmq-server"
    }

    fn command(&self, place: &Place) -> Command {
        let at = |name: &str| place.folder.join(name);
        let management = free_port();
        let settings = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nloopback_users = none\n\
             disk_free_limit.absolute = 50MB\nmanagement.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {management}\n",
            place.port
        );
        // Without them it does not start, and its log says so.
        let _ = fs::write(at("rabbitmq.conf"), settings);
        let _ = fs::write(at("plugins"), "[rabbitmq_management].");
        let _ = fs::write(at(MANAGEMENT), management.to_string());
        let mut command = Command::new("sh");
        command
            .args(["-c", START, SERVER])
            .current_dir(&place.folder);
        command
            .env("HOME", &place.folder)
            .env("ERL_EPMD_PORT", free_port().to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env(
                "RABBITMQ_NODENAME",
                format!("canvas{}@localhost", place.port),
            )
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", place.port.to_string())
            .env("RABBITMQ_DIST_PORT", free_port().to_string())
            .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
            .env("RABBITMQ_LOG_BASE", at("log"))
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
            .env("RABBITMQ_PID_FILE", at("pid"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            // It then is the process that was started, and no child of it.
            .env("RUNNING_UNDER_SYSTEMD", "1")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+sbwt none +sbwtdcpu none +sbwtdio none \
                 -kernel inet_dist_use_interface {127,0,0,1}",
            );
        command
    }

    fn is_ready(&self, place: &Place) -> bool {
        // It listens some time before it speaks.
        let speak = || -> std::io::Result<bool> {
            let limit = Duration::from_secs(1);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, place.port));
            let mut stream = TcpStream::connect_timeout(&address, limit)?;
            stream.set_read_timeout(Some(limit))?;
            stream.write_all(b"AMQP\x00\x00\x09\x01")?;
            let mut first = [0];
            stream.read_exact(&mut first)?;
            Ok(first == [1])
        };
        speak().unwrap_or(false)
    }

    fn variables(&self, place: &Place) -> Vec<(&'static str, String)> {
        let management = read(&place.folder.join(MANAGEMENT));
        vec![
            (
                "CANVAS_TEST_AMQP_URL",
                format!("amqp://guest:guest@127.0.0.1:{}//", place.port),
            ),
            (
                "CANVAS_TEST_AMQP_MANAGEMENT_URL",
                format!("http://guest:guest@127.0.0.1:{management}"),
            ),
        ]
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// 0, which RabbitMQ refuses, if there is none.
fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.map_or(0, |address| address.port())
}
