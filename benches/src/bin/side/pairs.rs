//! Pairs of a broker and a backend: canvas, Celery and, where there is one, a
//! loop written by hand, in turns on each pair.
//!
//! There is no stage here as there is in Redis: messages are sent to the queue
//! of a worker that is stopped, and the time begins when it may run again. It
//! ends with the result of a task that was sent behind all others.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::time::Instant;

use canvas_benches::side::Shape;
use serde_json::json;

use crate::figures::{
    Cost, ENQUEUE, Figure, IGNORED, MEDIAN, STORED, Samples, Unit, figure, percentile, title,
    wanted,
};
use crate::peer::{Peer, Place, Side};
use crate::program::cpu_with_children;
use crate::report::{self, Setting};
use crate::server::Server;
use crate::{Options, Outcome, load};

const CHORD: Shape = Shape::Chord(1_000);

/// A broker and a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair {
    broker: Store,
    backend: Store,
}

/// Where messages or results are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    Redis,
    /// Or results as messages, through the broker.
    RabbitMq,
    Postgres,
    Memcached,
}

const ALL: [Pair; 5] = [
    pair(Store::RabbitMq, Store::Redis),
    pair(Store::RabbitMq, Store::RabbitMq),
    pair(Store::RabbitMq, Store::Postgres),
    pair(Store::Redis, Store::Postgres),
    pair(Store::Redis, Store::Memcached),
];

const fn pair(broker: Store, backend: Store) -> Pair {
    Pair { broker, backend }
}

impl Store {
    fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::RabbitMq => "amqp",
            Self::Postgres => "postgres",
            Self::Memcached => "memcached",
        }
    }

    /// What the server is called, and where its URL is found.
    fn server(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Redis => None,
            Self::RabbitMq => Some(("rabbitmq", "CANVAS_TEST_AMQP_URL")),
            Self::Postgres => Some(("postgres", "CANVAS_TEST_POSTGRES_URL")),
            Self::Memcached => Some(("memcached", "CANVAS_TEST_MEMCACHED_URL")),
        }
    }

    /// Its URL, as Celery has it too.
    fn url(self, side: Side, redis: &Server) -> Outcome<String> {
        let Some((name, variable)) = self.server() else {
            return Ok(redis.url(side as u8));
        };
        let url = std::env::var(variable).map_err(|_| {
            format!("no {name}: set {variable}, or use `cargo xtask bench --pairs`")
        })?;
        Ok(match self {
            // With the driver that is installed; of itself it would take another.
            Self::Postgres => url.replacen("postgres:", "db+postgresql+psycopg2:", 1),
            Self::Memcached => format!("cache+{url}"),
            Self::Redis | Self::RabbitMq => url,
        })
    }
}

impl Pair {
    fn name(self) -> String {
        let backend = match self.backend {
            Store::RabbitMq => "rpc",
            other => other.name(),
        };
        format!("{}+{backend}", self.broker.name())
    }

    fn backend_url(self, side: Side, redis: &Server) -> Outcome<String> {
        match self.backend {
            Store::RabbitMq => Ok("rpc://".to_owned()),
            other => other.url(side, redis),
        }
    }

    /// Results that are messages have no place for the members of a chord.
    fn has_chords(self) -> bool {
        self.backend != Store::RabbitMq
    }

    fn sides(self, chosen: &[Side]) -> impl Iterator<Item = Side> {
        let has = move |side: &Side| match side {
            Side::Canvas | Side::Celery => true,
            Side::Ceiling => self == pair(Store::RabbitMq, Store::Redis),
            Side::References => false,
        };
        chosen.iter().copied().filter(has)
    }

    /// What is measured, and what is wanted of it.
    fn figures(self) -> [Figure; 5] {
        let drain = |name| match self.broker {
            Store::RabbitMq => Figure {
                of_ceiling: Some(0.6),
                ..wanted(10.0, name, Unit::Rate)
            },
            _ => figure(name, Unit::Rate),
        };
        [
            figure(ENQUEUE, Unit::Rate),
            drain(STORED),
            drain(IGNORED),
            figure(MEDIAN, Unit::Seconds),
            figure("chord of 1000", Unit::Seconds),
        ]
    }

    fn cost_of_servers(self, servers: &Servers, redis: f64) -> f64 {
        let of = |store: Store| match store.server() {
            None => redis,
            Some((name, _)) => servers.cpu(name),
        };
        let broker = of(self.broker);
        if self.broker == self.backend {
            broker
        } else {
            broker + of(self.backend)
        }
    }
}

/// How much is to be done by a side: a second or a few of each.
struct Amount {
    tasks: u64,
    calls: u64,
}

impl Amount {
    fn of(pair: Pair, side: Side, options: &Options) -> Self {
        let slow = matches!(pair.backend, Store::Postgres | Store::Memcached);
        let (tasks, calls) = match (side, slow) {
            (Side::Celery, false) => (2_000, 200),
            // It looks for results twice in a second.
            (Side::Celery, true) => (2_000, 10),
            (_, false) => (30_000, 500),
            (_, true) => (10_000, 500),
        };
        let divisor = if options.quick { 2 } else { 1 };
        let chosen = options.tasks.filter(|_| side != Side::Celery);
        Self {
            tasks: chosen.unwrap_or(tasks / divisor),
            calls: calls / divisor,
        }
    }
}

/// The servers that were started for this, by the number of their process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Servers(BTreeMap<String, u32>);

impl Servers {
    /// Notes `NAME=PID`.
    pub(crate) fn add(&mut self, text: &str) -> Outcome<()> {
        let (name, pid) = text.split_once('=').ok_or("--server takes NAME=PID")?;
        self.0.insert(name.to_owned(), pid.parse()?);
        Ok(())
    }

    /// The processor time of one so far, in seconds; 0 if nobody said which it is.
    fn cpu(&self, name: &str) -> f64 {
        self.0.get(name).map_or(0.0, |pid| cpu_with_children(*pid))
    }
}

/// Which pairs to measure, on which servers.
#[derive(Debug)]
pub(crate) struct Chosen {
    pairs: Vec<Pair>,
    servers: Servers,
}

impl Chosen {
    /// Reads names with commas between them, or `all`.
    pub(crate) fn read(names: &str, servers: Servers) -> Outcome<Self> {
        let find = |name: &str| {
            let found = ALL.into_iter().find(|pair| pair.name() == name);
            found.ok_or_else(|| {
                let known = ALL.map(Pair::name).join(", ");
                format!("no such pair: {name}; there are {known}")
            })
        };
        let pairs = match names {
            "all" => ALL.to_vec(),
            names => names.split(',').map(find).collect::<Result<_, _>>()?,
        };
        Ok(Self { pairs, servers })
    }
}

/// Measures them, and writes it down.
pub(crate) async fn measure(
    options: &Options,
    chosen: &Chosen,
    redis: &mut Server,
    setting: &mut Setting,
) -> Outcome<()> {
    let started = Instant::now();
    let mut measured = Vec::new();
    for pair in &chosen.pairs {
        let mut samples = Samples::default();
        let mut peers = Vec::new();
        for side in pair.sides(&options.sides) {
            let broker = pair.broker.url(side, redis)?;
            let backend = pair.backend_url(side, redis)?;
            let place = Place::of_pair(side, broker, backend);
            let peer = Peer::start(side, place, &options.setup).await?;
            for version in &peer.versions {
                if !setting.versions.contains(version) {
                    setting.versions.push(version.clone());
                }
            }
            peer.worker.let_run(false)?;
            peers.push(peer);
        }
        for round in 1..=options.rounds {
            for peer in &mut peers {
                let what = format!("{}, {}, round {round}", pair.name(), peer.side.name());
                let began = Instant::now();
                let amount = Amount::of(*pair, peer.side, options);
                let turn = turn(*pair, peer, &amount, (&chosen.servers, redis), &mut samples);
                turn.await.map_err(|error| format!("{what}: {error}"))?;
                redis.database(peer.side as u8).await?.clear().await?;
                eprintln!("{:>6.1} s  {what}", began.elapsed().as_secs_f64());
            }
        }
        measured.push((*pair, samples));
        setting.load[1] = load();
        setting.took = started.elapsed().as_secs_f64();
        // After each, as all of them take long.
        write(options, setting, &measured)?;
    }
    let path = options.setup.folder.join("pairs.md");
    print!("{}", fs::read_to_string(&path)?);
    println!("This is {}, with .json beside it", path.display());
    Ok(())
}

/// The turn of a side: all of its figures once.
async fn turn(
    pair: Pair,
    peer: &mut Peer,
    amount: &Amount,
    (servers, redis): (&Servers, &mut Server),
    samples: &mut Samples,
) -> Outcome<()> {
    let side = peer.side;
    let key = |name: &str| (name.to_owned(), side);
    let mut note = |name: &str, value: f64| {
        samples.values.entry(key(name)).or_default().push(value);
    };
    peer.wake().await?;
    let took = peer.client.call(amount.calls).await?;
    let took: Vec<f64> = took.iter().map(std::time::Duration::as_secs_f64).collect();
    note(MEDIAN, percentile(&took, 50).unwrap_or(f64::NAN));
    if pair.has_chords()
        && let Some(took) = peer.client.run(CHORD).await?
    {
        note(&title(CHORD), took.as_secs_f64());
    }
    let tasks = amount.tasks as f64;
    for (name, quietly) in [(STORED, false), (IGNORED, true)] {
        peer.worker.let_run(false)?;
        let took = peer.client.enqueue(amount.tasks, quietly).await?;
        if !quietly {
            note(ENQUEUE, tasks / took.as_secs_f64());
        }
        let before = pair.cost_of_servers(servers, redis.done().await?.cpu);
        let worker = peer.worker.taken().cpu;
        let started = Instant::now();
        peer.worker.let_run(true)?;
        peer.client.last().await?;
        let took = started.elapsed();
        let after = pair.cost_of_servers(servers, redis.done().await?.cpu);
        note(name, tasks / took.as_secs_f64());
        let cost = Cost {
            worker: (peer.worker.taken().cpu - worker) / tasks,
            server: (after - before) / tasks,
            ..Cost::default()
        };
        samples.costs.entry(key(name)).or_default().push(cost);
    }
    peer.worker.let_run(false)
}

fn write(options: &Options, setting: &Setting, measured: &[(Pair, Samples)]) -> Outcome<()> {
    let mut text = report::head("Pairs", setting);
    let mut json = report::setting_to_json(setting);
    for (pair, samples) in measured {
        let (name, figures) = (pair.name(), pair.figures());
        let _ = writeln!(text, "## {name}\n");
        report::speed(&mut text, &figures, samples);
        costs(&mut text, samples);
        json["pairs"][&name] = report::figures_to_json(&figures, samples);
        for ((figure, side), rounds) in &samples.costs {
            let cost = report::middle(rounds);
            json["for_each_task"][&name][figure][side.name()] =
                json!({ "worker_cpu_s": cost.worker, "servers_cpu_s": cost.server });
        }
    }
    for (file, content) in [("pairs.md", &text), ("pairs.json", &format!("{json:#}\n"))] {
        let path = options.setup.folder.join(file);
        fs::write(&path, content).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn costs(text: &mut String, samples: &Samples) {
    text.push_str("| each task of | by | worker's CPU | servers' CPU |\n|---|---|--:|--:|\n");
    for ((name, side), rounds) in &samples.costs {
        let cost = report::middle(rounds);
        let (worker, servers) = (cost.worker * 1e6, cost.server * 1e6);
        let side = side.name();
        let _ = writeln!(
            text,
            "| {name} | {side} | {worker:.1} µs | {servers:.1} µs |"
        );
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_is_found_by_the_name_that_the_usage_gives() {
        for pair in ALL {
            assert!(crate::USAGE.contains(&pair.name()), "{}", pair.name());
            let chosen = Chosen::read(&pair.name(), Servers::default()).unwrap();
            assert_eq!(chosen.pairs, [pair]);
        }
        let all = Chosen::read("all", Servers::default()).unwrap();
        assert_eq!(all.pairs, ALL);
        let error = Chosen::read("redis+tape", Servers::default()).unwrap_err();
        assert!(error.to_string().contains("amqp+redis"), "{error}");
    }

    #[test]
    fn only_what_goes_through_rabbitmq_has_a_goal() {
        for pair in ALL {
            let has_goal = pair.figures().iter().any(|figure| figure.wanted.is_some());
            assert_eq!(has_goal, pair.name().starts_with("amqp"));
        }
    }
}
