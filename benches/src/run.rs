//! What is measured, round by round: S1 (SOCKS5 to direct), S2 to S4 and S6 (both ends of a protocol), S7 (large rule-sets), S8
//! (DNS), and S9 (memory), S10 (start) and S12 (reload) of them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use crosspoint_conformance::loud;
use serde_json::Value;

use crate::links::{Link, Through};
use crate::load::bulk::{Bulk, Direction, Opening, STREAMS};
use crate::load::conn::Connections;
use crate::load::dns::{Ask, Queries};
use crate::load::rr::PingPong;
use crate::load::udp::Datagrams;
use crate::load::{Load, Sample, Timing, idle, measure, reload};
use crate::proxy::{Program, Proxy};
use crate::scenario::{Fixtures, ORIGIN, Scenario, Stored};

/// A group of figures that are measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Down,
    Up,
    Conn,
    Rr,
    Udp,
    Idle,
    Capacity,
    Start,
    Reload,
    Emfile,
    Named,
    Rules,
    RulesIdle,
    RulesReload,
    DnsHit,
    DnsMiss,
    DnsTcp,
    StartRules,
    StartSource,
    StartBig,
    Linked(Link, Through),
}

impl Part {
    /// Command, name and part.
    pub(crate) const ALL: [(&'static str, &'static str, Part); 45] = [
        ("s1", "down", Part::Down),
        ("s1", "up", Part::Up),
        ("s1", "conn", Part::Conn),
        ("s1", "rr", Part::Rr),
        ("s1", "udp", Part::Udp),
        ("s1", "idle", Part::Idle),
        ("s1", "capacity", Part::Capacity),
        ("s1", "start", Part::Start),
        ("s1", "reload", Part::Reload),
        ("s1", "emfile", Part::Emfile),
        ("s2", "ss-down", Part::Linked(Link::Shadowsocks, Through::Down)),
        ("s2", "ss-up", Part::Linked(Link::Shadowsocks, Through::Up)),
        ("s2", "ss-conn", Part::Linked(Link::Shadowsocks, Through::Conn)),
        ("s2", "ss-udp", Part::Linked(Link::Shadowsocks, Through::Udp)),
        ("s2", "ss22-down", Part::Linked(Link::Shadowsocks2022, Through::Down)),
        ("s2", "ss22-up", Part::Linked(Link::Shadowsocks2022, Through::Up)),
        ("s2", "ss22-conn", Part::Linked(Link::Shadowsocks2022, Through::Conn)),
        ("s2", "ss22-udp", Part::Linked(Link::Shadowsocks2022, Through::Udp)),
        ("s3", "trojan-down", Part::Linked(Link::Trojan, Through::Down)),
        ("s3", "trojan-up", Part::Linked(Link::Trojan, Through::Up)),
        ("s3", "trojan-conn", Part::Linked(Link::Trojan, Through::Conn)),
        ("s4", "ws-down", Part::Linked(Link::VlessWs, Through::Down)),
        ("s4", "ws-up", Part::Linked(Link::VlessWs, Through::Up)),
        ("s4", "ws-conn", Part::Linked(Link::VlessWs, Through::Conn)),
        ("vision", "vision-down", Part::Linked(Link::Vision, Through::Down)),
        ("vision", "vision-up", Part::Linked(Link::Vision, Through::Up)),
        ("idle-tls", "trojan-idle", Part::Linked(Link::Trojan, Through::Idle)),
        ("s6", "wg-down", Part::Linked(Link::WireGuard, Through::DownOn(8))),
        ("s6", "wg-up", Part::Linked(Link::WireGuard, Through::UpOn(8))),
        ("s6", "wg-down1", Part::Linked(Link::WireGuard, Through::DownOn(1))),
        ("s6", "wg-up1", Part::Linked(Link::WireGuard, Through::UpOn(1))),
        ("s6", "wg-conn", Part::Linked(Link::WireGuard, Through::Conn)),
        ("s6", "wg-rr", Part::Linked(Link::WireGuard, Through::RoundTrip)),
        ("s6", "wg-udp", Part::Linked(Link::WireGuard, Through::Udp)),
        ("s6", "wg-idle", Part::Linked(Link::WireGuard, Through::Idle)),
        ("s7", "named", Part::Named),
        ("s7", "rules", Part::Rules),
        ("s7", "rules-idle", Part::RulesIdle),
        ("s7", "rules-reload", Part::RulesReload),
        ("s8", "dns-hit", Part::DnsHit),
        ("s8", "dns-miss", Part::DnsMiss),
        ("s8", "dns-tcp", Part::DnsTcp),
        ("s10", "start-rules", Part::StartRules),
        ("s10", "start-source", Part::StartSource),
        ("s10", "start-big", Part::StartBig),
    ];

    /// How many of `rounds` it takes part in: what waits for seconds or cannot vary runs less often.
    fn rounds(self, rounds: usize) -> usize {
        match self {
            Part::Idle | Part::RulesIdle | Part::Linked(_, Through::Idle) => rounds.min(2),
            Part::Capacity | Part::Reload | Part::RulesReload | Part::Emfile => rounds.min(1),
            _ => rounds,
        }
    }

    fn scenario(self) -> Scenario {
        match self {
            Part::Named => Scenario::Named,
            Part::Rules | Part::RulesIdle | Part::RulesReload | Part::StartRules => {
                Scenario::Rules(Stored::Binary)
            }
            Part::StartSource => Scenario::Rules(Stored::Source),
            Part::DnsHit | Part::DnsMiss | Part::DnsTcp => Scenario::Dns,
            Part::StartBig => Scenario::Big,
            Part::Linked(link, _) => Scenario::Linked(link),
            _ => Scenario::S1,
        }
    }
}

/// Settings of a run.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The command that asked for it.
    pub(crate) command: String,
    /// Files that the configurations name.
    pub(crate) made: Fixtures,
    pub(crate) reference: Program,
    pub(crate) subject: Program,
    pub(crate) rounds: usize,
    pub(crate) timing: Timing,
    pub(crate) parts: Vec<Part>,
    /// Idle connections for the memory of one.
    pub(crate) idle: usize,
}

/// The samples of one program by key, a value for each round.
pub(crate) type Figures = BTreeMap<&'static str, Vec<f64>>;

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) reference: Figures,
    pub(crate) subject: Figures,
    /// The largest share of its core that the load took, by part.
    pub(crate) own_share: BTreeMap<&'static str, f64>,
    /// The largest share of a window in which something else had the load's core, by part.
    pub(crate) disturbed: BTreeMap<&'static str, f64>,
}

/// Runs the rounds, reference first in even ones and subject first in odd ones.
pub(crate) fn run(plan: &Plan) -> Result<Measured> {
    let mut measured = Measured::default();
    for round in 0..plan.rounds {
        for (_, name, part) in Part::ALL {
            if !plan.parts.contains(&part) || round >= part.rounds(plan.rounds) {
                continue;
            }
            let mut order = [&plan.reference, &plan.subject];
            let swapped = round % 2 == 1;
            if swapped {
                order.reverse();
            }
            for (place, program) in order.into_iter().enumerate() {
                let is_subject = (place == 1) != swapped;
                let figures =
                    if is_subject { &mut measured.subject } else { &mut measured.reference };
                let taken = measure_part(plan, program, part)
                    .with_context(|| format!("{name} with {}", program.name));
                let taken = match taken {
                    Ok(taken) => taken,
                    // The reference may fail at what it cannot do; that is a result as well.
                    Err(error) if !is_subject => {
                        loud::not_run(&format!("{name}, round {round}"), &format!("{error:#}"));
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                for (key, value) in taken.figures {
                    figures.entry(key).or_default().push(value);
                }
                let share = measured.own_share.entry(name).or_default();
                *share = share.max(taken.own_share);
                let share = measured.disturbed.entry(name).or_default();
                *share = share.max(taken.disturbed);
            }
            loud::line(&format!("round {} of {}: {name}", round + 1, plan.rounds));
        }
    }
    Ok(measured)
}

#[derive(Default)]
struct Taken {
    figures: Vec<(&'static str, f64)>,
    own_share: f64,
    disturbed: f64,
}

impl Taken {
    fn of<const N: usize>(figures: [(&'static str, f64); N]) -> Self {
        Self { figures: figures.to_vec(), ..Self::default() }
    }
}

fn measure_part(plan: &Plan, program: &Program, part: Part) -> Result<Taken> {
    let scenario = part.scenario();
    let config = plan.made.config(scenario, None);
    match part {
        Part::Start => return start(program, &config, ["start", "start_cpu", "check"]),
        Part::StartRules => {
            return start(program, &config, ["start_srs", "start_srs_cpu", "check_srs"]);
        }
        Part::StartSource => {
            return start(program, &config, ["start_src", "start_src_cpu", "check_src"]);
        }
        Part::StartBig => {
            return start(program, &config, ["start_big", "start_big_cpu", "check_big"]);
        }
        _ => {}
    }
    let mut proxy = program.start_with(plan.made.back(scenario).as_ref(), &config)?;
    proxy.host = Fixtures::host(scenario);
    let addr = Some(proxy.via());
    let window = |proxy: &Proxy, load: Result<Box<dyn Load>>| -> Result<Sample> {
        proxy.context(load.and_then(|mut load| measure(&mut *load, Some(proxy), plan.timing)))
    };
    let taken = match part {
        Part::Down => {
            let load = Bulk::open(addr, Direction::Down, STREAMS, Opening::Nothing)
                .map(|load| Box::new(load) as _);
            let s = window(&proxy, load)?;
            sampled(&s, [("down_cpu", s.cpu), ("down_rate", s.rate)])
        }
        Part::Up => {
            let load = Bulk::open(addr, Direction::Up, STREAMS, Opening::Nothing)
                .map(|load| Box::new(load) as _);
            let s = window(&proxy, load)?;
            sampled(&s, [("up_cpu", s.cpu), ("up_rate", s.rate)])
        }
        Part::Conn => {
            let s = window(&proxy, Connections::open(addr, None).map(|load| Box::new(load) as _))?;
            sampled(
                &s,
                [
                    ("conn_cpu", s.cpu),
                    ("conn_rate", s.rate),
                    ("conn_p50", s.p50),
                    ("conn_p99", s.p99),
                    ("conn_lost", s.lost),
                ],
            )
        }
        Part::Rr => {
            let s = window(&proxy, PingPong::open(addr).map(|load| Box::new(load) as _))?;
            sampled(&s, [("rr_cpu", s.cpu), ("rr_rate", s.rate), ("rr_p99", s.p99)])
        }
        Part::Udp => {
            let s = window(&proxy, Datagrams::open(addr).map(|load| Box::new(load) as _))?;
            sampled(
                &s,
                [
                    ("udp_cpu", s.cpu),
                    ("udp_rate", s.rate),
                    ("udp_p99", s.p99),
                    ("udp_lost", s.lost),
                ],
            )
        }
        Part::Idle => {
            let idle = proxy.context(idle::measure(&proxy, plan.idle))?;
            Taken::of([
                ("idle_rss", idle.rss),
                ("idle_conn", idle.per_connection),
                ("idle_fds", idle.fds),
                ("idle_after", idle.after),
                ("idle_fds_left", idle.fds_left),
            ])
        }
        Part::Capacity => Taken::of([("capacity", idle::capacity(&proxy, 9000)?)]),
        Part::Linked(link, through) => linked(plan, &proxy, link, through)?,
        Part::Start | Part::StartRules | Part::StartSource | Part::StartBig => Taken::default(),
        Part::Named => {
            let load = Connections::open(addr, Some(ORIGIN)).map(|load| Box::new(load) as _);
            let s = window(&proxy, load)?;
            sampled(&s, [("named_cpu", s.cpu), ("named_rate", s.rate), ("named_lost", s.lost)])
        }
        Part::Rules => {
            let load = Connections::open(addr, Some(ORIGIN)).map(|load| Box::new(load) as _);
            let s = window(&proxy, load)?;
            sampled(&s, [("rules_cpu", s.cpu), ("rules_rate", s.rate), ("rules_lost", s.lost)])
        }
        Part::RulesIdle => {
            let with = proxy.rss();
            proxy.alive()?;
            drop(proxy);
            let without = program.start(&plan.made.config(Scenario::Named, None))?;
            return Ok(Taken::of([("rules_rss", with), ("rules_more", with - without.rss())]));
        }
        Part::RulesReload => {
            let config = |number| plan.made.config(scenario, Some(number));
            let reloads = reload::measure(&mut proxy, 20, config);
            let reloads = proxy.context(reloads)?;
            Taken::of([
                ("rules_dropped", reloads.dropped),
                ("rules_refused", reloads.refused),
                ("rules_gap", reloads.gap),
                ("rules_growth", reloads.growth),
            ])
        }
        Part::DnsHit => {
            let load = Queries::open(proxy.addr, Ask::Known).map(|load| Box::new(load) as _);
            let s = window(&proxy, load)?;
            sampled(
                &s,
                [
                    ("hit_rate", s.rate),
                    ("hit_cpu", s.cpu),
                    ("hit_p99", s.p99),
                    ("hit_lost", s.lost),
                ],
            )
        }
        Part::DnsMiss => {
            let load = Queries::open(proxy.addr, Ask::Fresh).map(|load| Box::new(load) as _);
            let s = window(&proxy, load)?;
            sampled(
                &s,
                [
                    ("miss_rate", s.rate),
                    ("miss_cpu", s.cpu),
                    ("miss_p99", s.p99),
                    ("miss_lost", s.lost),
                ],
            )
        }
        Part::DnsTcp => {
            let load = Queries::open(proxy.addr, Ask::KnownTcp).map(|load| Box::new(load) as _);
            let s = window(&proxy, load)?;
            sampled(&s, [("tcp_rate", s.rate), ("tcp_cpu", s.cpu), ("tcp_p99", s.p99)])
        }
        Part::Reload => {
            let config = |number| plan.made.config(scenario, Some(number));
            let reloads = reload::measure(&mut proxy, 20, config);
            let reloads = proxy.context(reloads)?;
            Taken::of([
                ("reload_dropped", reloads.dropped),
                ("reload_refused", reloads.refused),
                ("reload_gap", reloads.gap),
                ("reload_gap_worst", reloads.worst_gap),
                ("reload_growth", reloads.growth),
            ])
        }
        Part::Emfile => {
            let out = proxy.context(idle::exhaust(&proxy))?;
            Taken::of([
                ("emfile_lost", out.lost),
                ("emfile_lines", out.lines),
                ("emfile_cpu", out.cpu),
                ("emfile_recovery", out.recovery),
            ])
        }
    };
    proxy.alive()?;
    drop(proxy);
    // Its last sockets close in the background; the next program starts on a quiet machine.
    std::thread::sleep(Duration::from_millis(100));
    Ok(taken)
}

/// What goes through two programs.
fn linked(plan: &Plan, proxy: &Proxy, link: Link, through: Through) -> Result<Taken> {
    let (addr, keys) = (Some(proxy.via()), link.keys());
    let window = |load: Result<Box<dyn Load>>| -> Result<Sample> {
        proxy.context(load.and_then(|mut load| measure(&mut *load, Some(proxy), plan.timing)))
    };
    let pairs = |keys: [&'static str; 4], s: &Sample| {
        sampled(s, [(keys[0], s.cpu), (keys[1], s.rate), (keys[2], s.p99), (keys[3], s.lost)])
    };
    let bulk = |direction, streams| -> Result<Taken> {
        let s = window(
            Bulk::open(addr, direction, streams, link.opening()).map(|load| Box::new(load) as _),
        )?;
        let keys = match (direction, streams) {
            (Direction::Down, 1) => keys.down_one,
            (Direction::Up, 1) => keys.up_one,
            (Direction::Down, _) => keys.down,
            (Direction::Up, _) => keys.up,
        };
        Ok(sampled(&s, [(keys[0], s.cpu), (keys[1], s.rate)]))
    };
    Ok(match through {
        Through::Down => bulk(Direction::Down, STREAMS)?,
        Through::Up => bulk(Direction::Up, STREAMS)?,
        Through::DownOn(streams) => bulk(Direction::Down, streams)?,
        Through::UpOn(streams) => bulk(Direction::Up, streams)?,
        Through::RoundTrip => {
            let s = window(PingPong::open(addr).map(|load| Box::new(load) as _))?;
            sampled(&s, [(keys.rr[0], s.cpu), (keys.rr[1], s.rate), (keys.rr[2], s.p99)])
        }
        Through::Conn => {
            let s = window(Connections::open(addr, None).map(|load| Box::new(load) as _))?;
            pairs(keys.conn, &s)
        }
        Through::Udp => {
            let s = window(Datagrams::open(addr).map(|load| Box::new(load) as _))?;
            pairs(keys.udp, &s)
        }
        Through::Idle => {
            let idle = proxy.context(idle::measure(proxy, plan.idle))?;
            Taken::of([
                (keys.idle[0], idle.rss),
                (keys.idle[1], idle.per_connection),
                (keys.idle[2], idle.fds),
                (keys.idle[3], idle.after),
                (keys.idle[4], idle.fds_left),
            ])
        }
    })
}

fn sampled<const N: usize>(sample: &Sample, figures: [(&'static str, f64); N]) -> Taken {
    let (own_share, disturbed) = (sample.own_share, sample.disturbed);
    Taken { figures: figures.to_vec(), own_share, disturbed }
}

/// Three starts and three checks. They are pushed one by one, so that the spread is seen.
fn start(program: &Program, config: &Value, keys: [&'static str; 3]) -> Result<Taken> {
    let mut taken = Taken::of([]);
    for _ in 0..3 {
        let proxy = program.start(config)?;
        taken.figures.push((keys[0], proxy.started_in.as_secs_f64()));
        taken.figures.push((keys[1], proxy.start_cpu));
        drop(proxy);
        taken.figures.push((keys[2], program.check(config)?));
    }
    Ok(taken)
}
