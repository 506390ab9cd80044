//! The table on the terminal and the same as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::goals::{self, LINES, Limit, Line};
use crate::host;
use crate::load::QUIET;
use crate::run::{Figures, Measured, Plan};
use crate::stats::{median, range, ratio};

/// A load that takes more of its core than this may be what was measured.
const BUSY: f64 = 0.95;
/// The lines of the report that were measured.
pub(crate) fn print(plan: &Plan, measured: &Measured) {
    let layout = if plan.subject.pinned { "pin" } else { "free" };
    println!("\n{}, layout {layout}, {} rounds, {}", plan.command, plan.rounds, host::describe());
    println!("reference {}", plan.reference.path.display());
    println!("subject   {}", plan.subject.path.display());
    let head = ["", "reference", "subject", "ratio", "must", "aim", ""];
    println!("{}", row(&head.map(str::to_owned)));
    for line in measured_lines(measured) {
        let (theirs, ours) = (values(&measured.reference, &line), values(&measured.subject, &line));
        let known = ratio(&ours, &theirs);
        let show = |limit: Option<Limit>| limit.map_or("-".to_owned(), |limit| limit.to_string());
        println!(
            "{}",
            row(&[
                line.label.to_owned(),
                cell(&theirs),
                cell(&ours),
                known.map_or("-".to_owned(), |ratio| format!("x{ratio:.2}")),
                show(line.must),
                show(line.aim),
                verdict(&line, median(&ours), known).to_owned(),
            ])
        );
    }
    let percents = |shares: &BTreeMap<&'static str, f64>| {
        let each = shares.iter().filter(|(_, share)| **share > 0.0);
        let each = each.map(|(part, share)| format!("{part} {:.0}", share * 100.0));
        each.collect::<Vec<_>>().join(", ")
    };
    println!("load ran, % of its core at most:  {}", percents(&measured.own_share));
    println!("load or proxy waited for core, %: {}", percents(&measured.disturbed));
    if measured.own_share.values().any(|share| *share > BUSY) {
        println!("note: above {:.0} % a rate may be the load's own limit", BUSY * 100.0);
    }
    if measured.disturbed.values().any(|share| *share > QUIET) {
        println!(
            "note: DISTURBED by other work on this machine: ratios may hold, the rest does not"
        );
    }
}

/// Writes everything to a file.
pub(crate) fn write(path: &Path, plan: &Plan, measured: &Measured) -> Result<()> {
    let lines: Vec<Value> = measured_lines(measured)
        .map(|line| {
            let theirs = values(&measured.reference, &line);
            let ours = values(&measured.subject, &line);
            let known = ratio(&ours, &theirs);
            json!({
                "key": line.key, "label": line.label, "reference": theirs, "subject": ours,
                "reference_median": median(&theirs), "subject_median": median(&ours),
                "ratio": known,
                "must": line.must.map(|limit| limit.to_string()),
                "aim": line.aim.map(|limit| limit.to_string()),
                "verdict": verdict(&line, median(&ours), known),
            })
        })
        .collect();
    let report = json!({
        "command": plan.command,
        "host": host::describe(),
        "reference": plan.reference.path, "subject": plan.subject.path,
        "layout": if plan.subject.pinned { "pin" } else { "free" },
        "rounds": plan.rounds,
        "warm_s": plan.timing.warm.as_secs_f64(), "window_s": plan.timing.window.as_secs_f64(),
        "load_share_of_core": measured.own_share, "disturbed": measured.disturbed,
        "lines": lines,
    });
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    std::fs::write(path, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("write {}", path.display()))
}

/// Whether every gate is met that could be judged.
pub(crate) fn gates_met(measured: &Measured) -> bool {
    measured_lines(measured).all(|line| {
        let ours = values(&measured.subject, &line);
        let known = ratio(&ours, &values(&measured.reference, &line));
        line.must.and_then(|limit| limit.met(median(&ours), known)) != Some(false)
    })
}

fn measured_lines(measured: &Measured) -> impl Iterator<Item = Line> {
    LINES.into_iter().chain(goals::links()).filter(|line| measured.subject.contains_key(line.key))
}

fn values(figures: &Figures, line: &Line) -> Vec<f64> {
    figures.get(line.key).into_iter().flatten().map(|value| value * line.scale).collect()
}

fn verdict(line: &Line, value: f64, ratio: Option<f64>) -> &'static str {
    let met = |limit: Option<Limit>| limit.and_then(|limit| limit.met(value, ratio));
    match (met(line.must), met(line.aim)) {
        (Some(false), _) => "MISS",
        (_, Some(true)) => "PASS, aim reached",
        (Some(true), _) => "PASS",
        (None, Some(false)) => "misses the aim",
        (None, None) => "",
    }
}

fn cell(values: &[f64]) -> String {
    let (low, high) = range(values);
    let show = |value: f64| match value.abs() {
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    match values.len() {
        0 => "-".to_owned(),
        1 => show(median(values)),
        _ => format!("{} [{}-{}]", show(median(values)), show(low), show(high)),
    }
}

fn row(cells: &[String; 7]) -> String {
    let widths = [28, 25, 25, 7, 8, 8, 0];
    let mut text = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        text += cell;
        // By characters: µ and × are two bytes and one column.
        let pad: usize = width;
        text.extend(std::iter::repeat_n(' ', pad.saturating_sub(cell.chars().count()) + 1));
    }
    text.trim_end().to_owned()
}
