//! What connections cost that do nothing, and what happens when there are too many.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::crowd::Crowd;
use crate::proxy::Proxy;

/// Memory and descriptors of a proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    /// Resident bytes before any connection.
    pub(crate) rss: f64,
    /// Bytes and descriptors that one idle connection adds.
    pub(crate) per_connection: f64,
    pub(crate) fds: f64,
    /// Resident bytes five seconds after all were closed, in units of `rss`.
    pub(crate) after: f64,
    /// Descriptors five seconds after, less those before.
    pub(crate) fds_left: f64,
}

/// Opens `count` connections, lets them rest, closes them.
pub(crate) fn measure(proxy: &Proxy, count: usize) -> Result<Idle> {
    std::thread::sleep(Duration::from_secs(1));
    let (rss, fds) = (proxy.rss(), proxy.fds());
    let mut crowd = Crowd::new()?;
    let opened = crowd.grow(proxy.via(), count);
    anyhow::ensure!(opened == count, "only {opened} of {count} connections were taken");
    std::thread::sleep(Duration::from_secs(2));
    let (rss_with, fds_with) = (proxy.rss(), proxy.fds());
    drop(crowd);
    std::thread::sleep(Duration::from_secs(5));
    Ok(Idle {
        rss,
        per_connection: (rss_with - rss) / count as f64,
        fds: (fds_with - fds) / count as f64,
        after: proxy.rss() / rss,
        fds_left: proxy.fds() - fds,
    })
}

/// How many idle connections the proxy takes under the machine's limit of descriptors.
pub(crate) fn capacity(proxy: &Proxy, most: usize) -> Result<f64> {
    Ok(Crowd::new()?.grow(proxy.via(), most) as f64)
}

/// What a proxy does when it has no descriptor left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exhaustion {
    /// Of 20 live connections, those that broke.
    pub(crate) lost: f64,
    /// Lines logged a second while connections waited in vain.
    pub(crate) lines: f64,
    /// Share of a core used in that time.
    pub(crate) cpu: f64,
    /// Seconds until a new connection worked again, five at most.
    pub(crate) recovery: f64,
}

/// Takes the proxy's descriptors away, knocks 200 times, and gives way again.
pub(crate) fn exhaust(proxy: &Proxy) -> Result<Exhaustion> {
    const LIVE: usize = 20;
    let mut crowd = Crowd::new()?;
    anyhow::ensure!(crowd.grow(proxy.via(), LIVE) == LIVE, "no live connections");
    let limit = Some(proxy.fds() as u64 + 30);
    let pid = Pid::from_raw(i32::try_from(proxy.pid())?);
    prlimit(pid, Resource::Nofile, Rlimit { current: limit, maximum: limit })
        .context("limit the proxy's descriptors")?;

    let (lines, cpu, begun) = (proxy.log_lines(), proxy.cpu(), Instant::now());
    // The kernel answers for the listener, so these connect whatever the proxy does.
    let knocking: Vec<_> = (0..200).filter_map(|_| TcpStream::connect(proxy.addr).ok()).collect();
    let mut lost = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        lost = lost.max(crowd.broken()?);
        std::thread::sleep(Duration::from_millis(100));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let lines = (proxy.log_lines() - lines) as f64 / seconds;
    let cpu = proxy.cpu().since(&cpu) / seconds;
    drop(knocking);
    let begun = Instant::now();
    while crowd.probe(proxy.via()).is_err() && begun.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let recovery = begun.elapsed().as_secs_f64();
    Ok(Exhaustion { lost: lost as f64, lines, cpu, recovery })
}
