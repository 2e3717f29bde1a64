//! A broker and a backend, and the servers that they are.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::faults_run::scenario::{Scenario, Which};
use crate::faults_run::servers::{self, Joins, Messages, Results, Server};

/// A broker and a backend, such as `amqp+redis`; or one server that is both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    broker: String,
    /// None if it is the broker.
    backend: Option<String>,
}

impl Pair {
    /// All whose store is persistent.
    pub const PERSISTENT: [&'static str; 7] = [
        "redis",
        "amqp+redis",
        "redis+postgres",
        "redis+mariadb",
        "amqp+postgres",
        "redis+sqlite",
        "amqp+mariadb",
    ];

    /// Reads the name of a pair.
    ///
    /// # Errors
    /// A sentence that names those that there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        let (broker, backend) = match name.split_once('+') {
            Some((broker, backend)) => (broker, Some(backend)),
            None => (name, None),
        };
        let is_broker = ["amqp", "redis"].contains(&broker);
        let store = backend.unwrap_or(broker);
        if !is_broker || store == "amqp" || !servers::is_known(store) {
            let known = Self::PERSISTENT.join(", ");
            return Err(format!("no such pair: {name}; there are {known}"));
        }
        Ok(Self {
            broker: broker.to_owned(),
            backend: backend.map(str::to_owned),
        })
    }

    /// What it is called.
    pub fn name(&self) -> String {
        match &self.backend {
            Some(backend) => format!("{}+{backend}", self.broker),
            None => self.broker.clone(),
        }
    }

    /// What can go wrong with it.
    pub fn scenarios(&self) -> Vec<Scenario> {
        let which = match &self.backend {
            None => vec![Which::Only],
            Some(backend) if servers::is_file(backend) => vec![Which::Broker],
            Some(_) => vec![Which::Broker, Which::Backend],
        };
        let mut all = vec![Scenario::WorkerKilled, Scenario::ConnectionsCut];
        all.extend(which.iter().map(|which| Scenario::Paused(*which)));
        all.extend(which.iter().map(|which| Scenario::ShutDown(*which)));
        all
    }
}

/// The servers of a pair.
#[derive(Debug)]
pub struct Servers {
    broker: Server,
    backend: Option<Server>,
}

impl Servers {
    /// Starts them, with nothing in them, each in a folder inside of `folder`.
    ///
    /// # Errors
    /// If one cannot be started.
    pub async fn start(pair: &Pair, folder: &Path) -> io::Result<Self> {
        let broker = Server::start(&pair.broker, &folder.join("broker")).await?;
        let backend = match &pair.backend {
            Some(kind) => Some(Server::start(kind, &folder.join("backend")).await?),
            None => None,
        };
        Ok(Self { broker, backend })
    }

    /// Where the broker is.
    pub fn broker_url(&self) -> String {
        self.broker.kind().url()
    }

    /// Where the backend is.
    pub fn backend_url(&self) -> String {
        self.backend().kind().url()
    }

    fn backend(&self) -> &Server {
        self.backend.as_ref().unwrap_or(&self.broker)
    }

    /// One of them.
    pub fn get(&mut self, which: Which) -> &mut Server {
        match (which, &mut self.backend) {
            (Which::Backend, Some(backend)) => backend,
            _ => &mut self.broker,
        }
    }

    /// Cuts all connections to all of them.
    ///
    /// # Errors
    /// That of asking for it.
    pub async fn cut(&self) -> io::Result<()> {
        self.broker.kind().cut().await?;
        match &self.backend {
            Some(backend) => backend.kind().cut().await,
            None => Ok(()),
        }
    }

    fn messages(&self) -> io::Result<&dyn Messages> {
        let messages = self.broker.kind().messages();
        messages.ok_or_else(|| io::Error::other("it is no broker"))
    }

    fn results(&self) -> io::Result<&dyn Results> {
        let results = self.backend().kind().results();
        results.ok_or_else(|| io::Error::other("it is no backend"))
    }

    /// Has the backend count how often results are stored. Its tables are there.
    ///
    /// # Errors
    /// That of asking it to.
    pub async fn count_stored(&self) -> io::Result<()> {
        self.results()?.count_stored().await
    }

    /// How often each result was stored, by the id of its task.
    ///
    /// # Errors
    /// That of reading it.
    pub async fn stored(&self) -> io::Result<HashMap<String, u64>> {
        self.results()?.stored().await
    }

    /// How often each message was delivered, by the id of its task, if the
    /// broker knows.
    ///
    /// # Errors
    /// That of reading it.
    pub fn deliveries(&self) -> io::Result<Option<HashMap<String, u64>>> {
        self.messages()?.deliveries()
    }

    /// The Redis in which the deliveries that are out can be looked at.
    ///
    /// # Errors
    /// If there is no broker.
    pub fn watched(&self) -> io::Result<Option<String>> {
        Ok(self.messages()?.watched())
    }

    /// How many messages are out, and what joins there are.
    ///
    /// # Errors
    /// That of asking.
    pub async fn left(&self) -> io::Result<(u64, Joins)> {
        let out = self.messages()?.out().await?;
        Ok((out, self.results()?.joins().await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_of_a_pair_goes_wrong_on_its_own() {
        let names = |pair: &str| -> Vec<String> {
            let scenarios = Pair::parse(pair).unwrap().scenarios();
            let names = scenarios.into_iter().map(Scenario::name);
            names
                .map(|name| name.replace("shut-down", "down"))
                .collect()
        };
        let first = ["worker-killed", "connections-cut"];
        let with = |more: &[&'static str]| [&first, more].concat();
        assert_eq!(names("redis"), with(&["server-paused", "server-down"]));
        assert_eq!(
            names("amqp+postgres"),
            with(&[
                "broker-paused",
                "backend-paused",
                "broker-down",
                "backend-down"
            ])
        );
        assert_eq!(
            names("redis+sqlite"),
            with(&["broker-paused", "broker-down"])
        );
    }

    #[test]
    fn what_is_no_pair_is_refused_with_those_that_are() {
        for name in Pair::PERSISTENT {
            assert_eq!(Pair::parse(name).unwrap().name(), name);
        }
        for name in [
            "amqp",
            "postgres",
            "postgres+redis",
            "redis+amqp",
            "redis+",
            "",
        ] {
            let error = Pair::parse(name).unwrap_err();
            assert!(error.contains("amqp+redis"), "{error}");
        }
    }
}
