//! Every protocol over every transport, with and without TLS, through every multiplexer, in every direction: a generated
//! matrix. A run takes a covering set, in which any two values of two axes meet as far as they can;
//! `CONFORMANCE_MATRIX=full` takes all cells, `CONFORMANCE_MATRIX=vmess/ws/*/*/*` those of a pattern. What cannot be, and
//! what is not built yet, stands in `conformance/matrix.tsv` with its reason. The result is printed as a table, and a cell
//! that neither works nor stands there fails the test.
//!
//! In each cell: ping-pong; bulk in both directions at once, compared byte by byte; an upload whose client ends first and
//! a download whose server does, by digest; datagrams of 4, 1400 and 4096 bytes.

mod axes;
mod dialect;
mod known;
mod mihomo;
mod run;
mod table;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use crosspoint_conformance::{loud, subject::Subject};

use self::{
    axes::{Cell, DIRECTIONS},
    known::{Kind, Known},
    run::Verdict,
};
use crate::tls::certs::Certs;

/// What to run: nothing for a covering set, `full`, or a pattern.
const ENV: &str = "CONFORMANCE_MATRIX";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protocols_transports_security_and_multiplexers() -> Result<()> {
    let known = Known::read()?;
    let all = axes::all();
    let mut verdicts: BTreeMap<Cell, Verdict> = BTreeMap::new();
    let mut possible = Vec::new();
    for cell in all {
        match known.of(cell, Kind::ends_cell) {
            Some(Kind::Impossible) => verdicts.insert(cell, Verdict::Impossible),
            Some(_) => verdicts.insert(cell, Verdict::Pending),
            None => {
                possible.push(cell);
                verdicts.insert(cell, Verdict::NotRun)
            }
        };
    }
    let chosen = match std::env::var(ENV).as_deref() {
        Err(_) | Ok("") => axes::covering(&possible),
        Ok("full") => possible,
        Ok(pattern) => {
            let pattern = axes::Pattern::parse(pattern)?;
            possible.retain(|cell| pattern.matches(*cell));
            possible
        }
    };
    let certs = Certs::new("matrix")?;
    let files = certs.issue("server", &["localhost"])?;
    let authority = certs.file();
    for direction in DIRECTIONS {
        let cells: Vec<Cell> =
            chosen.iter().copied().filter(|cell| cell.direction() == *direction).collect();
        if !cells.is_empty() {
            verdicts.extend(run::direction(&cells, &known, &files, &authority).await?);
        }
    }
    loud::line(&table::drawn(&verdicts));
    let failures: Vec<String> = verdicts
        .iter()
        .filter_map(|(cell, verdict)| match verdict {
            Verdict::Failed(why) => Some(format!("{cell}: {why}")),
            _ => None,
        })
        .collect();
    failures.iter().for_each(|line| loud::line(line));
    ensure!(failures.is_empty(), "{} holes:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

/// A line of the list that says nothing of any cell, or that says "pending" of what is there by now, is wrong.
#[test]
fn the_list_is_up_to_date() -> Result<()> {
    let known = Known::read()?;
    let all = axes::all();
    let certs = Certs::new("matrix")?;
    let files = certs.issue("server", &["localhost"])?;
    let mut wrong = Vec::new();
    for line in &known.lines {
        let cells: Vec<Cell> = all.iter().copied().filter(|c| line.pattern.matches(*c)).collect();
        // A cell that is impossible is not pending.
        let first = cells.iter().copied().find(|cell| {
            line.kind == Kind::Impossible
                || known.of(*cell, |kind| kind == Kind::Impossible).is_none()
        });
        match first {
            None => wrong.push(format!("{line}: says nothing")),
            Some(cell) if line.kind == Kind::Pending => {
                let mut config = dialect::server(&[(cell, 1080)], &files);
                let client = dialect::client(&[(cell, 1081, 1080)], &certs.file());
                for section in ["outbounds", "route"] {
                    config[section] = client[section].clone();
                }
                config["inbounds"].as_array_mut().into_iter().for_each(|list| {
                    list.extend(client["inbounds"].as_array().cloned().into_iter().flatten())
                });
                let dir = tempfile::tempdir()?;
                std::fs::write(dir.path().join("config.json"), config.to_string())?;
                let output = Subject::under_test().run_cli(dir.path(), ["check"], &[])?;
                if output.status.success() {
                    wrong.push(format!("{line}: {cell} is accepted by now"));
                }
            }
            Some(_) => {}
        }
    }
    ensure!(wrong.is_empty(), "conformance/matrix.tsv:\n{}", wrong.join("\n"));
    Ok(())
}
