//! The chart: bars on a logarithmic scale, as SVG.

use std::fmt::Write;

use crate::figures::{FIGURES, Figure, SIZES, Samples, Unit};
use crate::peer::Side;
use crate::report::shown;

/// Where the bars begin, and how long the longest can be.
const LEFT: f64 = 310.0;
const LENGTH: f64 = 420.0;
const WIDTH: f64 = LEFT + LENGTH + 110.0;
const BAR: f64 = 12.0;
const GAP: f64 = 10.0;

/// The sides that are drawn, and their colours.
const SIDES: [(Side, &str, &str); 4] = [
    (Side::Canvas, "canvas", "#2a78b8"),
    (Side::References, "canvas, references", "#8fc1e3"),
    (Side::Celery, "Celery", "#7fa650"),
    (Side::Ceiling, "ceiling", "#b0b0b0"),
];

/// Draws all that was measured.
pub(crate) fn svg(samples: &Samples) -> String {
    let value = |figure: &Figure, side| samples.value(figure.name, side);
    let size = |figure: &Figure, side| samples.size(figure.name, side);
    let of = |unit| FIGURES.iter().filter(move |figure| figure.unit == unit);
    let panels = [
        Panel::new("in a second: longer is better", of(Unit::Rate), value),
        Panel::new("time: shorter is better", of(Unit::Seconds), value),
        Panel::new("memory: shorter is better", of(Unit::Bytes), value),
        Panel::new("bytes through Redis: shorter is better", SIZES.iter(), size),
    ];
    let mut body = String::new();
    let mut y = 50.0;
    for panel in panels.iter().filter(|panel| !panel.rows.is_empty()) {
        y = panel.draw(&mut body, y);
    }
    let mut legend = String::new();
    let mut x = LEFT;
    for (_, name, colour) in SIDES {
        let _ = write!(
            legend,
            r#"<rect x="{x}" y="14" width="12" height="12" fill="{colour}"/><text x="{}" y="24">{name}</text>"#,
            x + 17.0
        );
        x += 40.0 + 7.0 * name.len() as f64;
    }
    format!(
        concat!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" "#,
            r#"font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>"#,
            "{legend}\n{body}</svg>\n"
        ),
        w = WIDTH,
        h = y,
        legend = legend,
        body = body
    )
}

/// A row: what it shows, and the bars that it has.
type Row = (&'static str, Vec<(f64, &'static str)>);

/// Figures of one unit, on one scale.
struct Panel {
    title: &'static str,
    unit: Unit,
    rows: Vec<Row>,
}

impl Panel {
    fn new<'a>(
        title: &'static str,
        figures: impl Iterator<Item = &'a Figure>,
        value: impl Fn(&Figure, Side) -> Option<f64>,
    ) -> Self {
        let mut panel = Self {
            title,
            unit: Unit::Bytes,
            rows: Vec::new(),
        };
        for figure in figures {
            panel.unit = figure.unit;
            let bar = |(side, _, colour)| Some((value(figure, side)?, colour));
            let bars: Vec<_> = SIDES.into_iter().filter_map(bar).collect();
            if !bars.is_empty() {
                panel.rows.push((figure.name, bars));
            }
        }
        panel
    }

    /// The powers of ten between which all values are.
    fn decades(&self) -> (i32, i32) {
        let values = self.rows.iter().flat_map(|(_, bars)| bars);
        let logs = values.map(|(value, _)| value.max(1e-9).log10());
        let (low, high) = logs.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), log| {
            (low.min(log), high.max(log))
        });
        // A bar needs some length even for the smallest.
        let low = (low - 0.3).floor() as i32;
        (low, (high.ceil() as i32).max(low + 1))
    }

    /// Draws it below `y`; tells where it ends.
    fn draw(&self, text: &mut String, mut y: f64) -> f64 {
        let (low, high) = self.decades();
        let at = |value: f64| {
            let part = (value.max(1e-9).log10() - f64::from(low)) / f64::from(high - low);
            LENGTH * part.clamp(0.0, 1.0)
        };
        let _ = writeln!(
            text,
            r#"<text x="10" y="{}" font-weight="bold">{}</text>"#,
            y + 4.0,
            self.title
        );
        y += 28.0;
        let bars: usize = self.rows.iter().map(|(_, bars)| bars.len()).sum();
        let height = BAR * bars as f64 + GAP * self.rows.len() as f64;
        for decade in low..=high {
            let value = 10_f64.powi(decade);
            let x = LEFT + at(value);
            let _ = writeln!(
                text,
                r##"<line x1="{x:.1}" x2="{x:.1}" y1="{}" y2="{}" stroke="#ddd"/><text x="{x:.1}" y="{}" fill="#777" font-size="10" text-anchor="middle">{}</text>"##,
                y - 4.0,
                y + height,
                y - 8.0,
                tick(value, self.unit)
            );
        }
        for (name, bars) in &self.rows {
            let middle = y + BAR * bars.len() as f64 / 2.0 + 4.0;
            let _ = writeln!(
                text,
                r#"<text x="{}" y="{middle:.1}" text-anchor="end">{name}</text>"#,
                LEFT - 8.0
            );
            for (value, colour) in bars {
                let length = at(*value);
                let _ = writeln!(
                    text,
                    r#"<rect x="{LEFT}" y="{y:.1}" width="{length:.1}" height="{}" fill="{colour}"/><text x="{:.1}" y="{:.1}" font-size="10">{}</text>"#,
                    BAR - 1.0,
                    LEFT + length + 4.0,
                    y + BAR - 3.0,
                    shown(Some(*value), self.unit)
                );
                y += BAR;
            }
            y += GAP;
        }
        y + 20.0
    }
}

/// A power of ten, short.
fn tick(value: f64, unit: Unit) -> String {
    let (divisor, suffix) = match (unit, value) {
        (Unit::Seconds, n) if n < 0.9e-3 => (1e-6, " µs"),
        (Unit::Seconds, n) if n < 0.9 => (1e-3, " ms"),
        (Unit::Seconds, _) => (1.0, " s"),
        (Unit::Bytes, n) if n < 0.9e6 => (1e3, " kB"),
        (Unit::Bytes, _) => (1e6, " MB"),
        (Unit::Rate, n) if n < 0.9e3 => (1.0, ""),
        (Unit::Rate, n) if n < 0.9e6 => (1e3, " k"),
        (Unit::Rate, _) => (1e6, " M"),
    };
    let number = value / divisor;
    if number < 0.9 {
        format!("{number:.1}{suffix}")
    } else {
        format!("{number:.0}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::ENQUEUE;

    #[test]
    fn ten_times_as_much_is_one_decade_longer() {
        let mut samples = Samples::default();
        for (side, value) in [(Side::Canvas, 1e5), (Side::Celery, 1e4)] {
            let key = (ENQUEUE.to_owned(), side);
            samples.values.insert(key, vec![value]);
        }
        let drawn = svg(&samples);
        // From 10³ to 10⁵: two decades.
        for half in [LENGTH, LENGTH / 2.0] {
            let bar = format!(r#"width="{half:.1}""#);
            assert!(drawn.contains(&bar), "{bar}: {drawn}");
        }
        assert!(drawn.ends_with("</svg>\n"), "{drawn}");
        assert_eq!(drawn.matches("<svg").count(), 1);
    }
}
