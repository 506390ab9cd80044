//! S12: SIGHUP under load. 50 busy connections and a knock every 2 ms, while the configuration
//! changes in a part that neither of them uses.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};

use super::crowd::Crowd;
use serde_json::Value;

use crate::poll::{Flags, Poller};
use crate::proxy::Proxy;
use crate::socks::GREETING;
use crate::stats::{median, range};

const BUSY: usize = 50;
const TICK: Duration = Duration::from_millis(2);
const BEFORE: Duration = Duration::from_millis(100);
const AFTER: Duration = Duration::from_millis(500);
const PROBE: u64 = 1 << 32;

/// What clients noticed of all reloads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reloads {
    /// Busy connections that broke.
    pub(crate) dropped: f64,
    /// Knocks that were refused, reset or not answered.
    pub(crate) refused: f64,
    /// Longest time between two knocks that were answered around one reload, in seconds; 2 ms is
    /// none. The median of all reloads, and the worst.
    pub(crate) gap: f64,
    pub(crate) worst_gap: f64,
    /// Resident bytes after the last reload, in units of those before the first.
    pub(crate) growth: f64,
}

/// Reloads `times` times, with what `config` makes of each number.
pub(crate) fn measure(
    proxy: &mut Proxy,
    times: usize,
    config: impl Fn(usize) -> Value,
) -> Result<Reloads> {
    let mut crowd = Crowd::new()?;
    crowd.heal(proxy.via(), BUSY)?;
    let (mut seen, mut gaps) = (Reloads::default(), Vec::new());
    // The first reload pays for code that is touched for the first time; memory counts from there.
    let mut rss = proxy.rss();
    for number in 0..times {
        let cycle = Cycle::run(proxy, &crowd, &config(number))?;
        proxy.alive()?;
        seen.dropped += cycle.dropped as f64;
        seen.refused += cycle.refused as f64;
        gaps.push(cycle.gap.as_secs_f64());
        crowd.heal(proxy.via(), BUSY).context("after a reload")?;
        if number == 0 {
            rss = proxy.rss();
        }
    }
    (seen.gap, seen.worst_gap) = (median(&gaps), range(&gaps).1);
    seen.growth = proxy.rss() / rss;
    Ok(seen)
}

struct Probe {
    fd: OwnedFd,
    begun: Instant,
    greeted: bool,
}

#[derive(Default)]
struct Cycle {
    dropped: usize,
    refused: usize,
    gap: Duration,
    probes: Vec<Option<Probe>>,
    dead: Vec<bool>,
}

impl Cycle {
    fn run(proxy: &mut Proxy, crowd: &Crowd, config: &Value) -> Result<Self> {
        let mut cycle = Cycle { dead: vec![false; crowd.pairs().len()], ..Cycle::default() };
        let mut poller = Poller::new()?;
        for (index, (client, server)) in crowd.pairs().iter().enumerate() {
            poller.add(client, 2 * index as u64, Flags::IN)?;
            poller.add(server, 2 * index as u64 + 1, Flags::IN)?;
        }
        let begun = Instant::now();
        let (mut next, mut answered, mut told) = (begun, begun, false);
        let mut turned = begun;
        while begun.elapsed() < BEFORE + AFTER {
            // When this thread itself was held up, by other work on its core, nobody knocked: that
            // time is no gap of the proxy.
            let held_up = turned.elapsed().saturating_sub(2 * TICK);
            answered = (answered + held_up).min(Instant::now());
            turned = Instant::now();
            if !told && begun.elapsed() >= BEFORE {
                told = true;
                proxy.reload(config)?;
            }
            if Instant::now() >= next {
                next += TICK;
                cycle.knock(proxy.addr, &poller)?;
                cycle.speak(crowd);
            }
            for (token, _) in poller.wait(next, TICK)? {
                if token >= PROBE {
                    if cycle.probe((token - PROBE) as usize) {
                        cycle.gap = cycle.gap.max(answered.elapsed());
                        answered = Instant::now();
                    }
                } else {
                    cycle.echo(crowd, token as usize, &poller)?;
                }
            }
        }
        cycle.gap = cycle.gap.max(answered.elapsed());
        // Knocks of the last moments may still be answered; older ones have had their time.
        let late = |probe: &&Probe| probe.begun.elapsed() > Duration::from_millis(200);
        cycle.refused += cycle.probes.iter().flatten().filter(late).count();
        Ok(cycle)
    }

    fn knock(&mut self, addr: SocketAddr, poller: &Poller) -> Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        match connect(&fd, &addr) {
            Ok(()) | Err(Errno::INPROGRESS) => {
                let token = PROBE + self.probes.len() as u64;
                poller.add(&fd, token, Flags::IN | Flags::OUT | Flags::ET)?;
                self.probes.push(Some(Probe { fd, begun: Instant::now(), greeted: false }));
            }
            Err(_) => self.refused += 1,
        }
        Ok(())
    }

    /// Moves a knock on; true when it was answered just now.
    fn probe(&mut self, index: usize) -> bool {
        let Some(slot) = self.probes.get_mut(index) else { return false };
        let Some(probe) = slot.as_mut() else { return false };
        if !probe.greeted {
            match send(&probe.fd, &GREETING, SendFlags::NOSIGNAL) {
                Ok(_) => probe.greeted = true,
                Err(Errno::AGAIN | Errno::NOTCONN) => return false,
                Err(_) => {
                    self.refused += 1;
                    *slot = None;
                    return false;
                }
            }
        }
        let mut buf = [0; 2];
        match recv(&probe.fd, &mut buf[..], RecvFlags::empty()) {
            Err(Errno::AGAIN) => false,
            Ok((_, 1..)) => {
                *slot = None;
                true
            }
            _ => {
                self.refused += 1;
                *slot = None;
                false
            }
        }
    }

    fn speak(&self, crowd: &Crowd) {
        for ((client, _), dead) in crowd.pairs().iter().zip(&self.dead) {
            if !dead {
                // That it is broken is seen by reading.
                let _ = send(client, &[3; 64], SendFlags::NOSIGNAL);
            }
        }
    }

    fn echo(&mut self, crowd: &Crowd, token: usize, poller: &Poller) -> Result<()> {
        let index = token / 2;
        let Some((client, server)) = crowd.pairs().get(index) else { return Ok(()) };
        let (stream, is_server) = if token % 2 == 1 { (server, true) } else { (client, false) };
        let mut buf = [0; 16 * 1024];
        match recv(stream, &mut buf[..], RecvFlags::empty()) {
            Ok((_, len @ 1..)) if is_server => {
                let _ = send(stream, &buf[..len], SendFlags::NOSIGNAL);
            }
            Ok((_, 1..)) | Err(Errno::AGAIN) => {}
            _ => {
                if !std::mem::replace(&mut self.dead[index], true) {
                    self.dropped += 1;
                }
                // A closed socket is ready for ever; it is not looked at any more.
                poller.modify(stream, token as u64, Flags::empty())?;
            }
        }
        Ok(())
    }
}
