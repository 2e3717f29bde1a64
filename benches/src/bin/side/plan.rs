//! What is done to get the figures.

use canvas_benches::side::Shape;

use crate::Outcome;
use crate::figures::{
    Cost, ENQUEUE, HEADER, IGNORED, MEDIAN, MEMORY, P99, SHARED, STORED, Samples, WHOLE,
    percentile, title,
};
use crate::peer::{Peer, Side};
use crate::server::{Database, Server};

/// One thing to do, for one or more figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bench {
    Memory,
    Enqueue,
    Drain { stored: bool },
    Latency,
    Run(Shape),
    Header,
}

/// How much of it, for a side: each is to take about a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// How many tasks to enqueue and to drain.
    tasks: u64,
    /// How many to call one after the other.
    calls: u64,
}

impl Scale {
    pub(crate) fn new(side: Side, quick: bool, tasks: Option<u64>) -> Self {
        let (usual, calls) = match side {
            Side::Celery => (2_000, 400),
            Side::Canvas | Side::References => (60_000, 1_500),
            Side::Ceiling => (120_000, 1_500),
        };
        let divisor = if quick { 2 } else { 1 };
        let tasks = tasks.filter(|_| side != Side::Celery);
        Self {
            tasks: tasks.unwrap_or(usual / divisor),
            calls: calls / divisor,
        }
    }
}

/// The header whose messages are weighed.
const WEIGHED: Shape = Shape::ChordOfChains(1_000, 10);

impl Bench {
    pub(crate) fn all(quick: bool) -> Vec<Self> {
        let mut all = vec![
            Self::Memory,
            Self::Enqueue,
            Self::Drain { stored: true },
            Self::Drain { stored: false },
            Self::Latency,
        ];
        let chords = [10, 100, 1_000, 10_000].map(Shape::Chord);
        let chains = [10, 100, 1_000].map(Shape::Chain);
        all.extend(chords.into_iter().chain(chains).map(Self::Run));
        all.push(Self::Header);
        if !quick {
            all.push(Self::Run(WEIGHED));
        }
        all
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Memory => "memory".to_owned(),
            Self::Enqueue => "enqueue".to_owned(),
            Self::Drain { stored: true } => "drain, stored".to_owned(),
            Self::Drain { stored: false } => "drain, ignored".to_owned(),
            Self::Latency => "latency".to_owned(),
            Self::Run(shape) => title(shape),
            Self::Header => "bytes of a header".to_owned(),
        }
    }

    /// Whether it belongs to what was asked for.
    pub(crate) fn is_part_of(self, name: &str) -> bool {
        let is_weighed = match self {
            Self::Run(Shape::Chain(size) | Shape::Chord(size)) => [100, 1_000].contains(&size),
            Self::Run(Shape::ChordOfChains(..)) => true,
            _ => false,
        };
        self.name().contains(name) || (name == "bytes" && is_weighed)
    }

    /// Whether a side has this at all.
    pub(crate) fn concerns(self, side: Side) -> bool {
        match self {
            Self::Run(_) | Self::Header => side != Side::Ceiling,
            _ => side != Side::References,
        }
    }

    /// Sizes do not differ from round to round, and some take long.
    pub(crate) fn rounds(self, wanted: usize) -> usize {
        match self {
            Self::Memory | Self::Header | Self::Run(Shape::ChordOfChains(..)) => 1,
            _ => wanted,
        }
    }

    pub(crate) async fn measure(
        self,
        (peer, database): (&mut Peer, &mut Database),
        server: &mut Server,
        scale: Scale,
        samples: &mut Samples,
    ) -> Outcome<()> {
        let side = peer.side;
        let mut note = |name: &str, value: f64| {
            let key = (name.to_owned(), side);
            samples.values.entry(key).or_default().push(value);
        };
        match self {
            Self::Memory => {
                let taken = peer.worker.taken();
                note(MEMORY, taken.rss as f64);
                note(SHARED, taken.pss as f64);
            }
            Self::Enqueue => {
                let took = peer.client.enqueue(scale.tasks, false).await?;
                note(ENQUEUE, scale.tasks as f64 / took.as_secs_f64());
            }
            Self::Latency => {
                let took = peer.client.call(scale.calls).await?;
                let took: Vec<f64> = took.iter().map(std::time::Duration::as_secs_f64).collect();
                note(MEDIAN, percentile(&took, 50).unwrap_or(f64::NAN));
                note(P99, percentile(&took, 99).unwrap_or(f64::NAN));
            }
            Self::Drain { stored } => {
                let name = if stored { STORED } else { IGNORED };
                peer.client.enqueue(scale.tasks, !stored).await?;
                let (before, worker) = (server.done().await?, peer.worker.taken().cpu);
                let took = database.drain(scale.tasks, stored).await?;
                let (after, until) = (server.done().await?, peer.worker.taken().cpu);
                let tasks = scale.tasks as f64;
                note(name, tasks / took.as_secs_f64());
                let commands = after.commands.into_iter().map(|(command, (calls, time))| {
                    let (had, took) = before.commands.get(&command).copied().unwrap_or_default();
                    (command, ((calls - had) / tasks, (time - took) / tasks))
                });
                let cost = Cost {
                    worker: (until - worker) / tasks,
                    server: (after.cpu - before.cpu) / tasks,
                    bytes: (after.bytes - before.bytes) / tasks,
                    commands: commands.filter(|(_, (calls, _))| *calls > 0.0).collect(),
                };
                let key = (name.to_owned(), side);
                samples.costs.entry(key).or_default().push(cost);
            }
            Self::Run(shape) => {
                let before = server.done().await?;
                let took = peer.client.run(shape).await?;
                let after = server.done().await?;
                if let Some(took) = took {
                    note(&title(shape), took.as_secs_f64());
                    let key = (title(shape), side);
                    let sizes = samples.sizes.entry(key).or_default();
                    sizes.push(after.bytes - before.bytes);
                }
            }
            Self::Header => {
                peer.client.stage(WEIGHED).await?;
                let messages = database.staged().await?;
                if messages.len() != 1_000 {
                    return Err(format!("{} messages on the stage", messages.len()).into());
                }
                let mut note = |name: &str, bytes: usize| {
                    let key = (name.to_owned(), side);
                    samples.sizes.entry(key).or_default().push(bytes as f64);
                };
                note(HEADER, messages.iter().map(|message| message.body).sum());
                note(WHOLE, messages.iter().map(|message| message.whole).sum());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_that_the_usage_gives_is_that_of_something() {
        let names = "enqueue, drain, stored, ignored, latency, memory, chord, chain, bytes";
        for name in names.split(", ") {
            assert!(crate::USAGE.contains(name), "{name}");
            let all = Bench::all(false).into_iter();
            assert!(
                all.filter(|bench| bench.is_part_of(name)).count() > 0,
                "{name}"
            );
        }
        assert!(!Bench::Enqueue.is_part_of("drain"));
        assert!(Bench::Run(Shape::Chain(1_000)).is_part_of("bytes"));
    }
}
