//! The result, for people.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    axes::{Cell, DIRECTIONS},
    run::Verdict,
};

const LEGEND: &str = "ok: everything; less h: the client cannot end its direction alone, e: nor the server, s: slow start, \
                      u: no datagrams, l: no long ones; -: cannot be; pend: not built yet; .: not in this run";

fn mark(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Works(can) => {
            let missing: String = [
                (can.half_close, 'h'),
                (can.server_end, 'e'),
                (can.burst, 's'),
                (can.udp, 'u'),
                (can.long_udp, 'l'),
            ]
            .into_iter()
            .filter_map(|(can, mark)| (!can).then_some(mark))
            .collect();
            if missing.is_empty() { "ok".to_owned() } else { format!("ok -{missing}") }
        }
        Verdict::Failed(_) => "FAIL".to_owned(),
        Verdict::Impossible => "-".to_owned(),
        Verdict::Pending => "pend".to_owned(),
        Verdict::NotRun => ".".to_owned(),
    }
}

/// A row for each protocol, security and multiplexer, a column for each transport; one table for each direction.
pub(super) fn drawn(verdicts: &BTreeMap<Cell, Verdict>) -> String {
    let mut out = String::new();
    for direction in DIRECTIONS {
        let mut rows: BTreeMap<Vec<&str>, Vec<(&str, String)>> = BTreeMap::new();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (cell, verdict) in verdicts.iter().filter(|(cell, _)| cell.direction() == *direction) {
            let security = if cell.tls() { "tls" } else { "plain" };
            let row = vec![cell.protocol(), security, cell.mux().unwrap_or("off")];
            rows.entry(row).or_default().push((cell.transport(), mark(verdict)));
            *counts.entry(mark(verdict)).or_default() += 1;
        }
        let counts: Vec<String> = counts.iter().map(|(mark, n)| format!("{mark} {n}")).collect();
        let _ = writeln!(out, "MATRIX  {direction}: {}", counts.join(", "));
        let mut head = false;
        for (row, cells) in rows {
            if !head {
                let names: Vec<String> =
                    cells.iter().map(|(name, _)| format!("{name:<12}")).collect();
                let _ =
                    writeln!(out, "  {:<12}{:<7}{:<7}{}", "", "", "", names.concat().trim_end());
                head = true;
            }
            let marks: Vec<String> = cells.iter().map(|(_, mark)| format!("{mark:<12}")).collect();
            let [protocol, security, mux] = row[..] else { continue };
            let line = format!("  {protocol:<12}{security:<7}{mux:<7}{}", marks.concat());
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
    out + LEGEND
}
