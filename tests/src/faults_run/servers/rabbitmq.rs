//! RabbitMQ, asked and cut off by its management.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Kind, Messages};
use crate::faults_run::process::{lasting_port, program};

/// Its own scripts: those in /usr/sbin change to a user of their own.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

/// Erlang's port mapper, which would otherwise become a daemon and stay: it
/// ends with the server, into which this shell turns.
const START: &str = "epmd -address 127.0.0.1 -port $ERL_EPMD_PORT & epmd=$!; \
     (while kill -0 $$; do sleep 0.2; done; kill -KILL $epmd) 2>/dev/null & \
     exec \"$0\"";

/// How long it may take to answer, but for what takes its time.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct RabbitMq {
    folder: PathBuf,
    port: u16,
    management: u16,
    distribution: u16,
    epmd: u16,
}

impl RabbitMq {
    pub(super) fn boxed(folder: &Path) -> io::Result<Box<dyn Kind>> {
        Ok(Box::new(Self {
            folder: folder.to_owned(),
            port: lasting_port()?,
            management: lasting_port()?,
            distribution: lasting_port()?,
            epmd: lasting_port()?,
        }))
    }

    /// Whether it speaks AMQP: it listens some time before.
    async fn speaks(&self) -> io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        match stream.read_u8().await? {
            1 => Ok(()),
            _ => Err(io::Error::other("it does not speak AMQP")),
        }
    }

    /// Sends a request to its management, and gives the answer.
    async fn manage(&self, method: &str, path: &str) -> io::Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.management)).await?;
        // guest:guest
        let request = format!(
            "{method} /api/{path} HTTP/1.0\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
             Content-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let code = head.split(' ').nth(1).unwrap_or_default();
        match code {
            "204" => Ok(Value::Null),
            "200" => serde_json::from_str(body).map_err(io::Error::other),
            // Somebody else ended what was to be ended.
            "404" if method == "DELETE" => Ok(Value::Null),
            _ => Err(io::Error::other(format!("{method} {path}: {answer}"))),
        }
    }

    async fn in_time<T>(&self, what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let in_time = tokio::time::timeout(LIMIT, what).await;
        in_time.map_err(|_| io::Error::other("RabbitMQ takes too long"))?
    }
}

#[async_trait]
impl Kind for RabbitMq {
    fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}//", self.port)
    }

    fn prepare(&self) -> io::Result<()> {
        let settings = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nloopback_users = none\n\
             disk_free_limit.absolute = 50MB\nmanagement.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {}\ncollect_statistics_interval = 1000\n",
            self.port, self.management
        );
        fs::write(self.folder.join("rabbitmq.conf"), settings)?;
        fs::write(self.folder.join("plugins"), "[rabbitmq_management].")
    }

    fn command(&self) -> io::Result<Option<Command>> {
        let server = program("rabbitmq-server", &[Path::new(SCRIPTS)], "rabbitmq-server")?;
        let at = |name: &str| self.folder.join(name);
        let mut command = Command::new("sh");
        command.args(["-c", START]).arg(server);
        command
            .env("HOME", &self.folder)
            .env("ERL_EPMD_PORT", self.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env(
                "RABBITMQ_NODENAME",
                format!("canvas{}@localhost", self.port),
            )
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution.to_string())
            .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
            .env("RABBITMQ_LOG_BASE", at("logs"))
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
        Ok(Some(command))
    }

    async fn ready(&self) -> io::Result<()> {
        let ready = async {
            self.speaks().await?;
            self.manage("GET", "overview").await.map(drop)
        };
        self.in_time(ready).await
    }

    async fn cut(&self) -> io::Result<()> {
        let cut = async {
            let list = self.manage("GET", "connections?columns=name").await?;
            for connection in list.as_array().into_iter().flatten() {
                let name = connection["name"].as_str().unwrap_or_default();
                let name = name.replace(' ', "%20").replace('>', "%3E");
                self.manage("DELETE", &format!("connections/{name}"))
                    .await?;
            }
            Ok(())
        };
        self.in_time(cut).await
    }

    fn messages(&self) -> Option<&dyn Messages> {
        Some(self)
    }
}

#[async_trait]
impl Messages for RabbitMq {
    async fn out(&self) -> io::Result<u64> {
        let list = self.manage("GET", "queues?columns=messages_unacknowledged");
        let list = self.in_time(list).await?;
        let queues = list.as_array().into_iter().flatten();
        let out = queues.filter_map(|queue| queue["messages_unacknowledged"].as_u64());
        Ok(out.sum())
    }
}
