//! The tables, as Markdown and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::figures::{Cost, FIGURES, FLAT, Figure, SIZES, Samples, TENFOLD, Unit, median, title};
use crate::peer::Side;

/// Where and with what it was measured.
#[derive(Debug, Default)]
pub(crate) struct Setting {
    /// Name and version.
    pub(crate) versions: Vec<(String, String)>,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    /// The load average of a minute, before and after.
    pub(crate) load: [String; 2],
    pub(crate) rounds: usize,
    pub(crate) took: f64,
}

pub(crate) fn markdown(setting: &Setting, samples: &Samples) -> String {
    let mut text = head("Side by side", setting);
    speed(&mut text, &FIGURES, samples);
    sizes(&mut text, samples);
    costs(&mut text, samples);
    text
}

/// The title, and where and with what it was measured.
pub(crate) fn head(title: &str, setting: &Setting) -> String {
    let mut text = format!("# {title}\n\n");
    let versions: Vec<String> = setting
        .versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let _ = writeln!(text, "{}  ", versions.join(", "));
    let [before, after] = &setting.load;
    let _ = writeln!(
        text,
        "{}, {} cores, load {before} before and {after} after; medians of {} rounds, in {:.0} s\n",
        setting.cpu, setting.cores, setting.rounds, setting.took
    );
    text
}

pub(crate) fn speed(text: &mut String, figures: &[Figure], samples: &Samples) {
    let mut rows = String::new();
    for figure in figures {
        let cell = |side| shown(samples.value(figure.name, side), figure.unit);
        let values = [Side::Canvas, Side::Celery, Side::Ceiling].map(cell);
        if values.iter().all(|value| value == "–") {
            continue;
        }
        let [canvas, celery, ceiling] = values;
        let times = samples.times(figure, Side::Celery);
        let part = samples.times(figure, Side::Ceiling);
        let _ = writeln!(
            rows,
            "| {} | {canvas} | {celery} | {ceiling} | {} | {} | {} | {} |",
            figure.name,
            ratio(times),
            figure.wanted.map(|w| format!("≥ {w}×")).unwrap_or_default(),
            part.map(|part| format!("{part:.2}")).unwrap_or_default(),
            verdict(figure, times, part),
        );
    }
    if !rows.is_empty() {
        text.push_str("| | canvas | Celery | ceiling | times better than Celery | wanted | of the ceiling | |\n");
        text.push_str("|---|--:|--:|--:|--:|--:|--:|---|\n");
        text.push_str(&rows);
        text.push('\n');
    }
}

/// Whether what is wanted is reached; nothing where nothing is.
fn verdict(figure: &Figure, times: Option<f64>, part: Option<f64>) -> &'static str {
    let goals = [(figure.wanted, times), (figure.of_ceiling, part)];
    let mut seen = goals
        .into_iter()
        .filter_map(|(goal, reached)| Some(reached? >= goal?))
        .peekable();
    match (seen.peek().is_some(), seen.all(|is_reached| is_reached)) {
        (false, _) => "",
        (true, true) => "reached",
        (true, false) => "SHORT",
    }
}

fn sizes(text: &mut String, samples: &Samples) {
    let sides = [Side::Canvas, Side::References, Side::Celery];
    let mut rows = String::new();
    for figure in &SIZES {
        let sizes = sides.map(|side| samples.size(figure.name, side));
        if sizes.iter().all(Option::is_none) {
            continue;
        }
        let [canvas, references, celery] = sizes.map(|size| shown(size, Unit::Bytes));
        let (limit, reached) = match (figure.limit, sizes[1]) {
            (Some(limit), Some(size)) if size <= limit => {
                (shown(Some(limit), Unit::Bytes), "reached")
            }
            (Some(limit), Some(_)) => (shown(Some(limit), Unit::Bytes), "SHORT"),
            _ => Default::default(),
        };
        let name = figure.name;
        let _ = writeln!(
            rows,
            "| {name} | {canvas} | {references} | {celery} | {limit} | {reached} |"
        );
    }
    for pair in TENFOLD {
        let growth = sides.map(|side| samples.growth(pair, side));
        if growth.iter().all(Option::is_none) {
            continue;
        }
        let reached = match growth[1] {
            Some(growth) if growth <= FLAT => "reached",
            Some(_) => "SHORT",
            None => "",
        };
        let [canvas, references, celery] = growth.map(ratio);
        let (small, large) = (title(pair.0), title(pair.1));
        let _ = writeln!(
            rows,
            "| growth of a task's bytes, {small} → {large} | {canvas} | {references} | {celery} | ≤ {FLAT}× | {reached} |"
        );
    }
    if !rows.is_empty() {
        text.push_str("Bytes through Redis, in and out; the limits are for references.\n\n");
        text.push_str("| | canvas | canvas, references | Celery | limit | |\n");
        text.push_str("|---|--:|--:|--:|--:|---|\n");
        text.push_str(&rows);
        text.push('\n');
    }
}

fn costs(text: &mut String, samples: &Samples) {
    if samples.costs.is_empty() {
        return;
    }
    text.push_str("What each task took, its share of all that was done in batches.\n\n");
    text.push_str(
        "| | | worker's CPU | Redis's CPU | bytes | commands, in scripts too, and their time |\n",
    );
    text.push_str("|---|---|--:|--:|--:|---|\n");
    for ((name, side), costs) in &samples.costs {
        let cost = middle(costs);
        let _ = writeln!(
            text,
            "| {name} | {} | {:.1} µs | {:.1} µs | {:.0} | {} |",
            side.name(),
            cost.worker * 1e6,
            cost.server * 1e6,
            cost.bytes,
            commands(&cost)
        );
    }
    text.push('\n');
}

/// Those that take longest; the rest is in the JSON.
fn commands(cost: &Cost) -> String {
    const SHOWN: usize = 6;
    let mut commands: Vec<_> = cost.commands.iter().collect();
    commands.sort_by(|(_, (_, one)), (_, (_, other))| other.total_cmp(one));
    let shown = commands.iter().take(SHOWN).map(|(name, (calls, time))| {
        let time = time * 1e6;
        format!("{name} {calls:.2} ({time:.1} µs)")
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// The medians of their parts, and the commands of the last one.
pub(crate) fn middle(costs: &[Cost]) -> Cost {
    let of = |part: fn(&Cost) -> f64| {
        let parts: Vec<f64> = costs.iter().map(part).collect();
        median(&parts).unwrap_or_default()
    };
    Cost {
        worker: of(|cost| cost.worker),
        server: of(|cost| cost.server),
        bytes: of(|cost| cost.bytes),
        commands: costs
            .last()
            .map(|cost| cost.commands.clone())
            .unwrap_or_default(),
    }
}

fn ratio(times: Option<f64>) -> String {
    match times {
        None => String::new(),
        Some(times) if times >= 100.0 => format!("{times:.0}×"),
        Some(times) if times >= 10.0 => format!("{times:.1}×"),
        Some(times) => format!("{times:.2}×"),
    }
}

/// A number with its unit.
pub(crate) fn shown(value: Option<f64>, unit: Unit) -> String {
    let Some(value) = value else {
        return "–".to_owned();
    };
    match (unit, value) {
        (Unit::Rate, n) if n < 1e3 => format!("{n:.0}/s"),
        (Unit::Rate, n) => format!("{}/s", thousands(n)),
        (Unit::Seconds, n) if n < 1.0 => format!("{:.2} ms", n * 1e3),
        (Unit::Seconds, n) => format!("{n:.2} s"),
        (Unit::Bytes, n) if n < 1e6 => format!("{:.1} kB", n / 1e3),
        (Unit::Bytes, n) => format!("{:.2} MB", n / 1e6),
    }
}

fn thousands(n: f64) -> String {
    let n = n.round() as u64;
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{},{:03}", n / 1_000, n % 1_000),
        _ => format!(
            "{},{:03},{:03}",
            n / 1_000_000,
            n / 1_000 % 1_000,
            n % 1_000
        ),
    }
}

/// The figures of a table, with the numbers of each round.
pub(crate) fn figures_to_json(wanted: &[Figure], samples: &Samples) -> Value {
    let mut figures = json!({});
    for figure in wanted {
        for side in Side::ALL {
            let key = (figure.name.to_owned(), side);
            if let Some(rounds) = samples.values.get(&key) {
                figures[figure.name][side.name()] =
                    json!({ "median": median(rounds), "rounds": rounds });
            }
        }
        let vs_celery = samples.times(figure, Side::Celery);
        let vs_ceiling = samples.times(figure, Side::Ceiling);
        if let (Some(entry), true) = (
            figures.get_mut(figure.name),
            vs_celery.or(vs_ceiling).is_some(),
        ) {
            entry["times_better_than_celery"] = json!(vs_celery);
            entry["part_of_ceiling"] = json!(vs_ceiling);
            entry["wanted"] = json!(figure.wanted);
        }
    }
    figures
}

pub(crate) fn to_json(setting: &Setting, samples: &Samples) -> Value {
    let mut bytes = json!({});
    for ((name, side), sizes) in &samples.sizes {
        bytes[name][side.name()] = json!(median(sizes));
    }
    let mut costs = json!({});
    for ((name, side), rounds) in &samples.costs {
        let cost = middle(rounds);
        let commands: serde_json::Map<String, Value> = cost
            .commands
            .iter()
            .map(|(name, (calls, time))| (name.clone(), json!({ "calls": calls, "time_s": time })))
            .collect();
        costs[name][side.name()] = json!({
            "worker_cpu_s": cost.worker,
            "redis_cpu_s": cost.server,
            "bytes": cost.bytes,
            "commands": commands,
        });
    }
    let mut report = setting_to_json(setting);
    report["figures"] = figures_to_json(&FIGURES, samples);
    report["bytes_through_redis"] = bytes;
    report["for_each_task"] = costs;
    report
}

pub(crate) fn setting_to_json(setting: &Setting) -> Value {
    let versions: serde_json::Map<String, Value> = setting
        .versions
        .iter()
        .map(|(name, version)| (name.clone(), json!(version)))
        .collect();
    json!({
        "versions": versions,
        "cpu": setting.cpu,
        "cores": setting.cores,
        "load": setting.load,
        "rounds": setting.rounds,
        "took_s": setting.took,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::STORED;

    #[test]
    fn a_figure_that_misses_one_of_its_goals_is_short() {
        let mut samples = Samples::default();
        let key = |side| (STORED.to_owned(), side);
        samples.values.insert(key(Side::Canvas), vec![60_000.0]);
        samples.values.insert(key(Side::Celery), vec![1_000.0]);
        let row = |samples: &Samples| markdown(&Setting::default(), samples);
        let cells = "| 60,000/s | 1,000/s | – | 60.0× | ≥ 50× |  | reached |";
        assert!(row(&samples).contains(cells), "{}", row(&samples));
        samples.values.insert(key(Side::Ceiling), vec![128_000.0]);
        let cells = "| 128,000/s | 60.0× | ≥ 50× | 0.47 | SHORT |";
        assert!(row(&samples).contains(cells), "{}", row(&samples));
    }

    #[test]
    fn what_was_not_measured_is_not_shown() {
        let text = markdown(&Setting::default(), &Samples::default());
        assert!(!text.contains('|'), "{text}");
    }
}
