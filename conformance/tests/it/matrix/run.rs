//! Runs the cells of one direction: one process on either side, a few cells at a time.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use crosspoint_conformance::{
    loud,
    net::{
        Socks, Via,
        suite::{self, Origins},
        within,
    },
    peers::Peer,
    ports,
    process::{Launch, Ready, Running},
    subject::{Subject, write_config},
};
use serde_json::Value;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    axes::Cell,
    dialect,
    known::{Kind, Known},
    mihomo,
};
use crate::{proxy::mihomo::ANY_SOURCE, tls::certs::Files};

/// Cells that run at once.
const AT_ONCE: usize = 4;
/// Bytes each way: some windows of every multiplexer.
const BULK: u64 = 1 << 20;

/// Longest time for all streams of a cell, and for all its datagrams.
const LIMIT: Duration = Duration::from_secs(30);

/// A cell that takes longer is named.
const SLOW: Duration = Duration::from_secs(5);

/// What became of a cell.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// Everything that it can.
    Works(Can),
    Failed(String),
    Impossible,
    Pending,
    /// Not in the set of this run.
    NotRun,
}

/// What a cell is to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Can {
    pub(super) half_close: bool,
    pub(super) server_end: bool,
    pub(super) burst: bool,
    pub(super) udp: bool,
    pub(super) long_udp: bool,
}

enum Program {
    Dialect(Subject),
    Mihomo,
}

impl Program {
    fn named(name: &str) -> Result<Self> {
        Ok(match name {
            "ours" => Self::Dialect(Subject::under_test()),
            "reference" => Self::Dialect(Subject::Reference),
            "mihomo" => Self::Mihomo,
            other => bail!("no program {other}"),
        })
    }

    fn is_reference(&self) -> bool {
        matches!(self, Self::Dialect(subject) if subject.is_reference())
    }

    async fn start(&self, config: &Value, listening: Vec<Ready>) -> Result<Running> {
        let launch = match self {
            Self::Dialect(subject) => subject.launch(config)?,
            Self::Mihomo => {
                let launch = Launch::new("mihomo", Peer::Mihomo.path()?)?;
                write_config(launch.dir(), config)?;
                let dir = launch.dir().to_string_lossy().into_owned();
                let (key, value) = ANY_SOURCE;
                launch.env(key, value).args([
                    "-d".to_owned(),
                    dir.clone(),
                    "-f".to_owned(),
                    format!("{dir}/config.json"),
                ])
            }
        };
        launch.ready(listening).timeout(Duration::from_secs(30)).start().await
    }
}

/// Runs cells that all have the same direction.
pub(super) async fn direction(
    cells: &[Cell],
    known: &Known,
    files: &Files,
    authority: &Path,
) -> Result<Vec<(Cell, Verdict)>> {
    let Some(direction) = cells.first().map(|cell| cell.direction()) else { return Ok(Vec::new()) };
    let (client, server) = direction.split_once('>').context("a direction")?;
    let (client, server) = (Program::named(client)?, Program::named(server)?);
    let places: Vec<(Cell, u16, u16)> =
        cells.iter().map(|cell| (*cell, ports::free(), ports::free())).collect();
    let behind: Vec<(Cell, u16)> = places.iter().map(|(cell, _, port)| (*cell, *port)).collect();
    let config = match server {
        Program::Dialect(_) => dialect::server(&behind, files),
        Program::Mihomo => mihomo::server(&behind, files)?,
    };
    let listening = behind.iter().map(|(_, port)| Ready::Tcp(*port)).collect();
    let back =
        server.start(&config, listening).await.with_context(|| format!("{direction}: server"))?;
    let config = match client {
        Program::Dialect(_) => dialect::client(&places, authority),
        Program::Mihomo => mihomo::client(&places),
    };
    let listening = places.iter().map(|(_, port, _)| Ready::Tcp(*port)).collect();
    let front =
        client.start(&config, listening).await.with_context(|| format!("{direction}: client"))?;

    let origins = Arc::new(Origins::v4().await?);
    let started = Instant::now();
    let (mut running, turns) = (JoinSet::new(), Arc::new(Semaphore::new(AT_ONCE)));
    for (cell, entry, _) in places {
        let (origins, turns) = (origins.clone(), turns.clone());
        let can = Can {
            // The reference as a client of these protocols ends both directions when its own client ends one.
            half_close: !known.says(cell, Kind::NoHalfClose) && !client.is_reference(),
            server_end: !known.says(cell, Kind::NoServerEnd),
            burst: !known.says(cell, Kind::SlowStart),
            udp: !known.says(cell, Kind::NoUdp),
            long_udp: !known.says(cell, Kind::ShortUdp),
        };
        let tries = if known.says(cell, Kind::Flaky) { 3 } else { 1 };
        let patient = matches!(client, Program::Mihomo) || matches!(server, Program::Mihomo);
        running.spawn(async move {
            let _turn = turns.acquire().await;
            let via = Via::from(Socks::v5(([127, 0, 0, 1], entry).into()));
            if patient {
                // mihomo listens before it has loaded its rules, and hangs up on whoever comes in between.
                while suite::tcp_ping_pong(&via, &origins.echo.addr().into()).await.is_err()
                    && started.elapsed() < Duration::from_secs(10)
                {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
            let begun = Instant::now();
            let mut result = one(&via, &origins, can).await;
            for _ in 1..tries {
                if result.is_err() {
                    result = one(&via, &origins, can).await;
                }
            }
            let verdict = match result {
                Ok(()) => Verdict::Works(can),
                Err(error) => Verdict::Failed(format!("{error:#}")),
            };
            let took = begun.elapsed();
            if took > SLOW {
                loud::line(&format!("SLOW  {cell}: {took:?}"));
            }
            (cell, verdict)
        });
    }
    let mut verdicts = Vec::new();
    while let Some(done) = running.join_next().await {
        verdicts.push(done.context("a cell")?);
    }
    if verdicts.iter().any(|(_, verdict)| matches!(verdict, Verdict::Failed(_)))
        && std::env::var_os("CONFORMANCE_MATRIX_LOGS").is_some()
    {
        for program in [&front, &back] {
            loud::line(&format!("{direction}: {}\n{}", program.name(), program.log()));
        }
    }
    Ok(verdicts)
}

/// What is done in each cell. Streams and datagrams are tried whatever becomes of the other.
async fn one(via: &Via, origins: &Origins, can: Can) -> Result<()> {
    let streams = within("streams", LIMIT, streams(via, origins, can)).await;
    let datagrams = within("datagrams", LIMIT, datagrams(via, origins, can)).await;
    match (streams, datagrams) {
        (Ok(()), result) | (result, Ok(())) => result,
        (Err(one), Err(other)) => bail!("{one:#}; {other:#}"),
    }
}

async fn streams(via: &Via, origins: &Origins, can: Can) -> Result<()> {
    let (echo, sink, source) =
        (origins.echo.addr().into(), origins.sink.addr().into(), origins.source.addr().into());
    suite::tcp_ping_pong(via, &echo).await.context("TCP ping-pong")?;
    if can.burst {
        suite::tcp_bulk_open(via, &echo, BULK).await.context("TCP both ways")?;
    } else {
        let end = can.half_close;
        suite::tcp_bulk_after_pause(via, &echo, BULK, end).await.context("TCP after a pause")?;
    }
    if can.burst && can.half_close {
        suite::tcp_bulk(via, &echo, BULK).await.context("TCP both ways, client ends first")?;
        suite::tcp_upload(via, &sink, BULK).await.context("TCP upload, client ends first")?;
    }
    if can.server_end {
        suite::tcp_download(via, &source, BULK).await.context("TCP download, server ends first")?;
    }
    Ok(())
}

async fn datagrams(via: &Via, origins: &Origins, can: Can) -> Result<()> {
    let echo = origins.udp.addr().into();
    if can.udp {
        suite::udp_ping_pong(via, &echo).await.context("UDP ping-pong")?;
        suite::udp_many(via, &echo, 10, 1400).await.context("UDP 10 × 1400")?;
    }
    if can.udp && can.long_udp {
        suite::udp_size(via, &echo, 4096).await.context("UDP 4096")?;
    }
    Ok(())
}
