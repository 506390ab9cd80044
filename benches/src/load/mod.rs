//! Loads: what is sent through a proxy, and how it is counted.
//!
//! A load and its sinks are one thread on one core. It drives non-blocking sockets by epoll and
//! must never be what is measured: its own share of the core is noted with each sample.

pub(crate) mod bulk;
pub(crate) mod conn;
pub(crate) mod crowd;
pub(crate) mod dns;
pub(crate) mod hello;
pub(crate) mod idle;
pub(crate) mod reload;
pub(crate) mod rr;
pub(crate) mod udp;

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cpu;
use crate::host::PROXY_CORE;
use crate::proxy::Proxy;
use crate::stats::percentile;

/// Something that can be driven for a while.
pub(crate) trait Load {
    /// Keeps the load up until the given moment.
    fn drive(&mut self, until: Instant) -> Result<()>;
    /// What has happened since the last call.
    fn take(&mut self) -> Counts;
}

/// What happened in a window.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Bytes, connections, transactions or packets.
    pub(crate) units: u64,
    /// Of each unit, in nanoseconds; empty for bytes.
    pub(crate) latencies: Vec<u32>,
    /// Units that never came back.
    pub(crate) lost: u64,
}

/// One window of one load.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Units a second.
    pub(crate) rate: f64,
    /// Seconds of the proxy's CPU for one unit.
    pub(crate) cpu: f64,
    /// Share of the window in which the load ran, 0 to 1.
    pub(crate) own_share: f64,
    /// Share of the window in which the load or the proxy waited for its core, whichever is more,
    /// because other work had it.
    pub(crate) disturbed: f64,
    /// 50th and 99th percentile of latency, in seconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Lost units among all that were sent.
    pub(crate) lost: f64,
}

/// How long to warm up and how long to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) warm: Duration,
    pub(crate) window: Duration,
    /// Windows to measure at most when something else has the load's core; the quietest counts.
    pub(crate) tries: usize,
}

/// A window in which load and proxy waited less than this for their cores is quiet.
pub(crate) const QUIET: f64 = 0.05;

/// Warms up, measures a window, and relates the proxy's CPU to what was done in it.
pub(crate) fn measure(
    load: &mut dyn Load,
    proxy: Option<&Proxy>,
    timing: Timing,
) -> Result<Sample> {
    load.drive(Instant::now() + timing.warm)?;
    let mut best = window(load, proxy, timing.window)?;
    for _ in 1..timing.tries {
        if best.disturbed < QUIET {
            break;
        }
        let next = window(load, proxy, timing.window)?;
        if next.disturbed < best.disturbed {
            best = next;
        }
    }
    Ok(best)
}

fn window(load: &mut dyn Load, proxy: Option<&Proxy>, length: Duration) -> Result<Sample> {
    load.take();
    let (begun, own) = (Instant::now(), cpu::own());
    let before = proxy.map(Proxy::cpu);
    let busy = cpu::busy(PROXY_CORE);
    load.drive(begun + length)?;
    let (used, starved) = proxy.zip(before).map_or((0.0, 0.0), |(proxy, before)| {
        let after = proxy.cpu();
        let used = after.since(&before);
        // Two that share a core wait for each other: what counts is the time that neither of them had.
        let others = (cpu::busy(PROXY_CORE) - busy - used).max(0.0);
        (used, if proxy.is_shared() { others } else { after.waited_since(&before) })
    });
    let seconds = begun.elapsed().as_secs_f64();
    let (ran, waited) = cpu::own();
    let mut counts = load.take();
    let units = counts.units.max(1) as f64;
    counts.latencies.sort_unstable();
    Ok(Sample {
        rate: counts.units as f64 / seconds,
        cpu: used / units,
        own_share: (ran - own.0) / seconds,
        disturbed: (waited - own.1).max(starved) / seconds,
        p50: percentile(&counts.latencies, 0.50) / 1e9,
        p99: percentile(&counts.latencies, 0.99) / 1e9,
        lost: counts.lost as f64 / (counts.lost as f64 + units),
    })
}

/// Nanoseconds since `begun`, as latencies are kept.
pub(crate) fn nanos(begun: Instant) -> u32 {
    u32::try_from(begun.elapsed().as_nanos()).unwrap_or(u32::MAX)
}
