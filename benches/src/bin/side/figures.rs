//! What is measured: the figures, what is wanted of them, and the samples.

use std::collections::BTreeMap;

use canvas_benches::side::Shape;

use crate::peer::Side;

/// What a number says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Tasks or messages in a second: more is better.
    Rate,
    /// Less is better.
    Seconds,
    /// Less is better.
    Bytes,
}

impl Unit {
    fn is_more_better(self) -> bool {
        self == Self::Rate
    }
}

/// Something that is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    /// How many times better than Celery it is to be.
    pub(crate) wanted: Option<f64>,
    /// What part of the ceiling it is to reach.
    pub(crate) of_ceiling: Option<f64>,
    /// At most so much, with references.
    pub(crate) limit: Option<f64>,
}

pub(crate) const fn figure(name: &'static str, unit: Unit) -> Figure {
    Figure {
        name,
        unit,
        wanted: None,
        of_ceiling: None,
        limit: None,
    }
}

pub(crate) const fn wanted(times: f64, name: &'static str, unit: Unit) -> Figure {
    Figure {
        wanted: Some(times),
        ..figure(name, unit)
    }
}

const fn limited(bytes: f64, name: &'static str) -> Figure {
    Figure {
        limit: Some(bytes),
        ..figure(name, Unit::Bytes)
    }
}

pub(crate) const ENQUEUE: &str = "enqueue a group";
pub(crate) const STORED: &str = "drain, results stored";
pub(crate) const IGNORED: &str = "drain, results ignored";
pub(crate) const MEDIAN: &str = "one task, median";
pub(crate) const P99: &str = "one task, p99";
pub(crate) const MEMORY: &str = "worker memory, idle";
pub(crate) const SHARED: &str = "worker memory, shared pages once";
pub(crate) const HEADER: &str = "header of chord(1000, chain(10)), bodies";
pub(crate) const WHOLE: &str = "header of chord(1000, chain(10)), whole messages";

/// Rates, times and memory, in the order of the table.
pub(crate) const FIGURES: [Figure; 14] = [
    wanted(50.0, ENQUEUE, Unit::Rate),
    Figure {
        of_ceiling: Some(0.5),
        ..wanted(50.0, STORED, Unit::Rate)
    },
    figure(IGNORED, Unit::Rate),
    wanted(4.0, MEDIAN, Unit::Seconds),
    figure(P99, Unit::Seconds),
    figure("chord of 10", Unit::Seconds),
    figure("chord of 1000", Unit::Seconds),
    wanted(40.0, "chord of 10000", Unit::Seconds),
    figure("chain of 10", Unit::Seconds),
    wanted(6.0, "chain of 100", Unit::Seconds),
    figure("chain of 1000", Unit::Seconds),
    figure("chord(1000, chain(10))", Unit::Seconds),
    wanted(8.0, MEMORY, Unit::Bytes),
    figure(SHARED, Unit::Bytes),
];

/// Bytes through Redis, both ways, in the order of the table.
pub(crate) const SIZES: [Figure; 7] = [
    figure("chain of 100", Unit::Bytes),
    limited(3e6, "chain of 1000"),
    figure("chord of 100", Unit::Bytes),
    figure("chord of 1000", Unit::Bytes),
    figure("chord(1000, chain(10))", Unit::Bytes),
    figure(HEADER, Unit::Bytes),
    limited(1e6, WHOLE),
];

/// The same canvas, ten times as large: bytes a task are to stay the same.
pub(crate) const TENFOLD: [(Shape, Shape); 2] = [
    (Shape::Chain(100), Shape::Chain(1_000)),
    (Shape::Chord(100), Shape::Chord(1_000)),
];

/// By how much bytes a task may grow when a canvas grows tenfold.
pub(crate) const FLAT: f64 = 1.25;

/// What a shape is called in the tables.
pub(crate) fn title(shape: Shape) -> String {
    match shape {
        Shape::Chain(steps) => format!("chain of {steps}"),
        Shape::Chord(width) => format!("chord of {width}"),
        Shape::ChordOfChains(width, steps) => format!("chord({width}, chain({steps}))"),
    }
}

/// What one run of a drain took, for each task.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Cost {
    /// Processor time of the worker and of Redis, in seconds.
    pub(crate) worker: f64,
    pub(crate) server: f64,
    /// Bytes through Redis.
    pub(crate) bytes: f64,
    /// Commands, those that scripts call included: how often, and how many
    /// seconds.
    pub(crate) commands: BTreeMap<String, (f64, f64)>,
}

/// All that was measured: for each figure and side, a number a round.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) values: BTreeMap<(String, Side), Vec<f64>>,
    /// Bytes through Redis, by canvas.
    pub(crate) sizes: BTreeMap<(String, Side), Vec<f64>>,
    pub(crate) costs: BTreeMap<(String, Side), Vec<Cost>>,
}

impl Samples {
    pub(crate) fn value(&self, name: &str, side: Side) -> Option<f64> {
        median(self.values.get(&(name.to_owned(), side))?)
    }

    pub(crate) fn size(&self, name: &str, side: Side) -> Option<f64> {
        median(self.sizes.get(&(name.to_owned(), side))?)
    }

    /// How many times better than `than` canvas is.
    pub(crate) fn times(&self, figure: &Figure, than: Side) -> Option<f64> {
        let ours = self.value(figure.name, Side::Canvas)?;
        let theirs = self.value(figure.name, than)?;
        let times = if figure.unit.is_more_better() {
            ours / theirs
        } else {
            theirs / ours
        };
        times.is_finite().then_some(times)
    }

    /// By how much bytes a task grow when a canvas grows tenfold.
    pub(crate) fn growth(&self, (small, large): (Shape, Shape), side: Side) -> Option<f64> {
        let each = |shape: Shape| Some(self.size(&title(shape), side)? / shape.tasks() as f64);
        Some(each(large)? / each(small)?)
    }
}

pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (lower, upper) = (
        sorted.get(sorted.len().checked_sub(1)? / 2)?,
        sorted.get(sorted.len() / 2)?,
    );
    Some(f64::midpoint(*lower, *upper))
}

/// The value below which so many percent of them are.
pub(crate) fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().checked_sub(1)?))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(figure: &str, canvas: &[f64], celery: &[f64]) -> Samples {
        let mut samples = Samples::default();
        for (side, values) in [(Side::Canvas, canvas), (Side::Celery, celery)] {
            let key = (figure.to_owned(), side);
            samples.values.insert(key.clone(), values.to_vec());
            samples.sizes.insert(key, values.to_vec());
        }
        samples
    }

    #[test]
    fn more_tasks_in_a_second_and_less_time_are_both_better() {
        let [enqueue, .., _] = FIGURES;
        let rates = samples(enqueue.name, &[900.0, 1000.0, 5000.0], &[10.0, 20.0]);
        assert_eq!(rates.times(&enqueue, Side::Celery), Some(1000.0 / 15.0));
        let chain = FIGURES[9];
        let times = samples(chain.name, &[0.5], &[3.0]);
        assert_eq!(times.times(&chain, Side::Celery), Some(6.0));
        assert_eq!(times.times(&chain, Side::Ceiling), None);
    }

    #[test]
    fn growth_is_that_of_the_bytes_of_one_task() {
        let mut sizes = samples("chain of 100", &[1e3], &[1e3]);
        let more = samples("chain of 1000", &[1e4], &[1e5]);
        sizes.sizes.extend(more.sizes);
        assert_eq!(sizes.growth(TENFOLD[0], Side::Canvas), Some(1.0));
        assert_eq!(sizes.growth(TENFOLD[0], Side::Celery), Some(10.0));
    }

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(median(&[]), None);
        assert_eq!(percentile(&[], 99), None);
        assert_eq!(percentile(&[1.0, 2.0], 99), Some(2.0));
    }
}
