//! The benchmarks of criterion, with a summary of what was measured, of which
//! versions and on which machine.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::run::{cargo, run};
use crate::workspace;

/// The files of benches/benches/.
pub(crate) const BENCHES: [&str; 2] = ["core", "memory"];

/// Measures; `extra` are arguments of criterion.
pub(crate) fn criterion(extra: &[String]) -> Result<(), String> {
    let started = SystemTime::now();
    let mut benches = cargo("bench --package canvas-benches");
    for bench in BENCHES {
        benches.args(["--bench", bench]);
    }
    benches.arg("--").args(extra);
    run(benches)?;
    let target = workspace::target()?;
    let mut figures = Vec::new();
    collect(&target.join("criterion"), started, &mut figures);
    if figures.is_empty() {
        return Err("nothing was measured: does the filter match any benchmark?".to_owned());
    }
    figures.sort_by(|a, b| a.name.cmp(&b.name));
    let setting = Setting::read()?;
    let directory = target.join("bench");
    let text = markdown(&setting, &figures);
    let write = |name: &str, content: &str| {
        let path = directory.join(name);
        fs::write(&path, content).map_err(|e| format!("{}: {e}", path.display()))
    };
    fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    write("summary.md", &text)?;
    write(
        "summary.json",
        &format!("{:#}\n", to_json(&setting, &figures)),
    )?;
    println!("{text}\nThis is {}", directory.join("summary.md").display());
    Ok(())
}

/// What one benchmark came to, in nanoseconds.
#[derive(Debug, PartialEq)]
struct Figure {
    name: String,
    /// How many elements a run has: tasks, messages.
    elements: Option<f64>,
    estimate: f64,
    /// Between which bounds it is, with 95 % confidence.
    bounds: (f64, f64),
}

/// Reads what criterion has left below `directory` since `started`.
fn collect(directory: &Path, started: SystemTime, figures: &mut Vec<Figure>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if !path.is_dir() {
            continue;
        }
        if path.file_name().is_some_and(|name| name == "new") {
            figures.extend(figure(&path, started));
        } else {
            collect(&path, started, figures);
        }
    }
}

fn figure(directory: &Path, started: SystemTime) -> Option<Figure> {
    let read = |name: &str| -> Option<Value> {
        serde_json::from_slice(&fs::read(directory.join(name)).ok()?).ok()
    };
    let written = fs::metadata(directory.join("estimates.json"))
        .ok()?
        .modified()
        .ok()?;
    if written < started {
        return None;
    }
    estimate(&read("benchmark.json")?, &read("estimates.json")?)
}

fn estimate(benchmark: &Value, estimates: &Value) -> Option<Figure> {
    // The slope is the better estimate, where there is one.
    let best = [&estimates["slope"], &estimates["mean"]];
    let best = best.into_iter().find(|estimate| estimate.is_object())?;
    let bound = |side: &str| best["confidence_interval"][side].as_f64();
    Some(Figure {
        name: benchmark["full_id"].as_str()?.to_owned(),
        elements: benchmark["throughput"]["Elements"].as_f64(),
        estimate: best["point_estimate"].as_f64()?,
        bounds: (bound("lower_bound")?, bound("upper_bound")?),
    })
}

/// What was measured where.
#[derive(Debug)]
struct Setting {
    version: String,
    rustc: String,
    commit: String,
    cpu: String,
    cores: usize,
    kernel: String,
}

impl Setting {
    fn read() -> Result<Self, String> {
        let packages = workspace::packages()?;
        let facade = packages.iter().find(|package| package.name == "canvas");
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Ok(Self {
            version: facade
                .map(|facade| facade.version.clone())
                .unwrap_or_default(),
            rustc: output("rustc", &["--version"]),
            commit: output("git", &["describe", "--always", "--dirty"]),
            cpu: model
                .unwrap_or("unknown")
                .trim_start_matches([' ', '\t', ':'])
                .to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: or_unknown(&kernel),
        })
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(workspace::root())
        .output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    or_unknown(&String::from_utf8_lossy(&text))
}

fn or_unknown(text: &str) -> String {
    match text.trim() {
        "" => "unknown".to_owned(),
        text => text.to_owned(),
    }
}

fn markdown(setting: &Setting, figures: &[Figure]) -> String {
    let mut text = String::from("# Benchmarks of canvas\n\n");
    let Setting {
        version,
        rustc,
        commit,
        cpu,
        cores,
        kernel,
    } = setting;
    let _ = writeln!(
        text,
        "canvas {version} ({commit}), {rustc}, profile bench  "
    );
    let _ = writeln!(text, "{cpu}, {cores} cores, Linux {kernel}\n");
    text.push_str("| benchmark | time | 95 % within | of one element | elements/s |\n");
    text.push_str("|---|--:|--:|--:|--:|\n");
    for Figure {
        name,
        elements,
        estimate,
        bounds: (low, high),
    } in figures
    {
        let (each, rate) = match elements {
            Some(elements) => (time(estimate / elements), rate(elements * 1e9 / estimate)),
            None => Default::default(),
        };
        let (estimate, low, high) = (time(*estimate), time(*low), time(*high));
        let _ = writeln!(
            text,
            "| {name} | {estimate} | {low} to {high} | {each} | {rate} |"
        );
    }
    text
}

fn to_json(setting: &Setting, figures: &[Figure]) -> Value {
    let figure = |figure: &Figure| {
        json!({
            "name": figure.name,
            "elements": figure.elements,
            "estimate_ns": figure.estimate,
            "lower_ns": figure.bounds.0,
            "upper_ns": figure.bounds.1,
        })
    };
    json!({
        "canvas": setting.version,
        "commit": setting.commit,
        "rustc": setting.rustc,
        "cpu": setting.cpu,
        "cores": setting.cores,
        "kernel": setting.kernel,
        "benchmarks": figures.iter().map(figure).collect::<Vec<_>>(),
    })
}

/// Nanoseconds, in the unit that reads best.
fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n < 1e3 => format!("{n:.1} ns"),
        n if n < 1e6 => format!("{:.2} µs", n / 1e3),
        n if n < 1e9 => format!("{:.2} ms", n / 1e6),
        n => format!("{:.2} s", n / 1e9),
    }
}

fn rate(a_second: f64) -> String {
    match a_second {
        n if n < 1e3 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.1} k", n / 1e3),
        n => format!("{:.2} M", n / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_read_from_what_criterion_wrote() {
        let benchmark = json!({ "full_id": "plan/chain/10", "throughput": { "Elements": 10 } });
        let mean = json!({
            "point_estimate": 2000.0,
            "confidence_interval": { "lower_bound": 1900.0, "upper_bound": 2100.0 },
        });
        let figure = Figure {
            name: "plan/chain/10".to_owned(),
            elements: Some(10.0),
            estimate: 2000.0,
            bounds: (1900.0, 2100.0),
        };
        let found = estimate(&benchmark, &json!({ "mean": mean, "slope": null }));
        assert_eq!(found.as_ref(), Some(&figure));
        assert_eq!(estimate(&benchmark, &json!({})), None);
    }

    #[test]
    fn the_summary_says_what_one_element_takes() {
        let setting = Setting {
            version: "0.1.0".to_owned(),
            rustc: "rustc 1.95.0".to_owned(),
            commit: "abc".to_owned(),
            cpu: "A CPU".to_owned(),
            cores: 2,
            kernel: "6.1".to_owned(),
        };
        let figure = Figure {
            name: "plan/chain/10".to_owned(),
            elements: Some(10.0),
            estimate: 2000.0,
            bounds: (1900.0, 2100.0),
        };
        let text = markdown(&setting, &[figure]);
        let row = "| plan/chain/10 | 2.00 µs | 1.90 µs to 2.10 µs | 200.0 ns | 5.00 M |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("A CPU, 2 cores, Linux 6.1"), "{text}");
    }
}
