//! DERP: our service against that of the reference, which is Tailscale's own server in Go. Pairs that flood, pairs that wait
//! for each other, and clients that do nothing; all over TLS, with the server on one core.

mod crowd;
mod server;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::peers::Library;
use crosspoint_conformance::subject::Subject;
use serde_json::json;
use tokio::runtime::Runtime;

use self::crowd::{Crowd, Door};
use self::server::{Program, Server};
use crate::cpu;
use crate::host::{self, PROXY_CORE};
use crate::load::QUIET;
use crate::stats::{median, range, ratio};

/// Pairs that send to each other.
const PAIRS: usize = 200;
/// Bytes of a packet: what WireGuard makes of a full one in a tunnel of 1280.
const PACKET: usize = 1280;
/// Clients that do nothing.
const IDLE: usize = 5000;

/// Key, what it says, factor for display.
const LINES: [(&str, &str, f64); 13] = [
    ("flood_cpu", "200 pairs flooding, CPU µs a frame", 1e6),
    ("flood_rate", "200 pairs flooding, frames/s", 1.0),
    ("flood_share", "of what was sent, arrived %", 100.0),
    ("flood_rss", "RSS after it, MB", 1e-6),
    ("rr_cpu", "200 pairs in turns, CPU µs a frame", 1e6),
    ("rr_rate", "200 pairs in turns, frames/s", 1.0),
    ("rr_p99", "200 pairs in turns, there and back p99 ms", 1e3),
    ("login_cpu", "log in, CPU ms", 1e3),
    ("idle_rss", "5000 idle clients, RSS MB", 1e-6),
    ("idle_conn", "an idle client, kB", 1e-3),
    ("idle_cpu", "5000 idle clients, CPU ms/s", 1e3),
    ("idle_after", "RSS 5 s after they left, × before", 1.0),
    ("idle_fds_left", "descriptors 5 s after they left", 1.0),
];

/// Figures by key, one a round.
type Figures = BTreeMap<&'static str, Vec<f64>>;

/// The whole comparison.
pub(crate) fn run(options: &crate::Options) -> Result<ExitCode> {
    // Before the namespace, which has no way out.
    Library::SingBox.path()?;
    let subject = match options.subject.as_str() {
        "crosspoint" => Subject::Crosspoint(None).binary()?,
        path => path.into(),
    };
    let mut again: Vec<String> = std::env::args().skip(1).collect();
    again.extend(["--subject".to_owned(), subject.display().to_string()]);
    host::enter_namespace(&again)?;
    host::raise_descriptors()?;
    if options.first {
        host::first_in_line()?;
    }
    let programs = [
        Program::reference(options.pinned),
        if options.subject == "reference" {
            Program::reference(options.pinned)
        } else {
            Program::subject(&subject, options.pinned)
        },
    ];
    if options.pinned {
        host::pin(host::LOAD_CORE)?;
    }
    let bench = Bench {
        runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        door: Door::new()?,
        options,
    };
    let mut figures = [Figures::new(), Figures::new()];
    let (mut own_share, mut disturbed) = (0.0_f64, 0.0_f64);
    for round in 0..options.rounds {
        for which in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            eprintln!("round {} {}", round + 1, programs[which].name);
            let (own, waited) = bench
                .round(&programs[which], &mut figures[which])
                .with_context(|| programs[which].name.clone())?;
            (own_share, disturbed) = (own_share.max(own), disturbed.max(waited));
        }
    }
    let [theirs, ours] = &figures;
    println!("\nderp, {} rounds, {}", options.rounds, host::describe());
    println!("reference Tailscale's server in sing-box 1.13.21 (its memory holds Python's, too)");
    println!("subject   {}", subject.display());
    println!("{:42} {:>28} {:>28} ratio", "", "reference", "subject");
    for (key, label, scale) in LINES {
        let scaled = |of: &Figures| -> Vec<f64> {
            of.get(key).into_iter().flatten().map(|value| value * scale).collect()
        };
        let (theirs, ours) = (scaled(theirs), scaled(ours));
        let known = ratio(&ours, &theirs).map_or("-".to_owned(), |known| format!("x{known:.2}"));
        println!("{label:42} {:>28} {:>28} {known}", cell(&theirs), cell(&ours));
    }
    println!("load ran at most {:.0} % of its core", own_share * 100.0);
    println!("load or server waited for a core at most {:.0} % of a window", disturbed * 100.0);
    if disturbed > QUIET {
        println!(
            "note: DISTURBED by other work on this machine: ratios may hold, the rest does not"
        );
    }
    let report = json!({
        "command": "derp", "host": host::describe(), "subject": subject, "rounds": options.rounds,
        "reference_figures": theirs, "subject_figures": ours, "load_share_of_core": own_share,
        "disturbed": disturbed,
    });
    if let Some(dir) = options.json.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(&options.json, serde_json::to_vec_pretty(&report)?)?;
    println!("written to {}", options.json.display());
    Ok(ExitCode::SUCCESS)
}

fn cell(values: &[f64]) -> String {
    let (low, high) = range(values);
    let digits = if high >= 1000.0 { 0 } else { 2 };
    format!("{:.digits$} [{low:.digits$}-{high:.digits$}]", median(values))
}

struct Bench<'a> {
    runtime: Runtime,
    door: Door,
    options: &'a crate::Options,
}

impl Bench<'_> {
    /// Everything once with one program; the largest share of its core that the load took, and that somebody waited.
    fn round(&self, program: &Program, figures: &mut Figures) -> Result<(f64, f64)> {
        let mut worst = (0.0_f64, 0.0_f64);
        let wanted = |name: &str| {
            let loads = self.options.loads.as_deref();
            loads.is_none_or(|loads| loads.split(',').any(|load| load == name))
        };
        let mut keep = |key, value| figures.entry(key).or_default().push(value);
        if wanted("flood") {
            let mut server = program.start(&self.door)?;
            let crowd = self.runtime.block_on(Crowd::flood(&self.door, PAIRS, PACKET))?;
            let window = self.window(&server, &crowd)?;
            server.alive()?;
            keep("flood_cpu", window.cpu / window.arrived);
            keep("flood_rate", window.arrived / window.seconds);
            keep("flood_share", window.arrived / window.sent);
            keep("flood_rss", server.rss());
            worst = (worst.0.max(window.own_share), worst.1.max(window.disturbed));
        }
        if wanted("rr") {
            let mut server = program.start(&self.door)?;
            let crowd = self.runtime.block_on(Crowd::turns(&self.door, PAIRS, PACKET))?;
            let window = self.window(&server, &crowd)?;
            server.alive()?;
            keep("rr_cpu", window.cpu / window.arrived);
            keep("rr_rate", window.arrived / window.seconds);
            keep("rr_p99", window.p99);
            worst = (worst.0.max(window.own_share), worst.1.max(window.disturbed));
        }
        if wanted("idle") {
            let mut server = program.start(&self.door)?;
            // What the first client brings into being is not counted.
            drop(self.runtime.block_on(Crowd::idle(&self.door, 50))?);
            self.sleep(Duration::from_secs(1));
            let (rss, fds, used) = (server.rss(), server.fds(), server.cpu());
            let clients = self.runtime.block_on(Crowd::idle(&self.door, IDLE))?;
            keep("login_cpu", server.cpu().since(&used) / IDLE as f64);
            self.sleep(Duration::from_secs(1));
            let held = server.rss();
            keep("idle_rss", held);
            keep("idle_conn", (held - rss) / IDLE as f64);
            ensure!(server.fds() >= fds + IDLE as f64, "not all clients are connected");
            let (begun, used) = (Instant::now(), server.cpu());
            self.sleep(Duration::from_secs(3));
            keep("idle_cpu", server.cpu().since(&used) / begun.elapsed().as_secs_f64());
            drop(clients);
            self.sleep(Duration::from_secs(5));
            keep("idle_after", server.rss() / rss);
            keep("idle_fds_left", server.fds() - fds);
            server.alive()?;
        }
        Ok(worst)
    }

    fn sleep(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// Warms up, and measures the quietest of some windows.
    fn window(&self, server: &Server, crowd: &Crowd) -> Result<Window> {
        let timing = self.options.timing;
        self.sleep(timing.warm);
        let mut best: Option<Window> = None;
        for _ in 0..timing.tries {
            crowd.take();
            let (begun, own, before) = (Instant::now(), cpu::own(), server.cpu());
            self.sleep(timing.window);
            let after = server.cpu();
            let (seconds, (ran, waited)) = (begun.elapsed().as_secs_f64(), cpu::own());
            let counts = crowd.take();
            ensure!(counts.arrived > 0, "nothing arrived");
            let starved = after.waited_since(&before).max(waited - own.1);
            let window = Window {
                seconds,
                cpu: after.since(&before),
                sent: counts.sent as f64,
                arrived: counts.arrived as f64,
                p99: counts.p99(),
                own_share: (ran - own.0) / seconds,
                disturbed: starved / seconds,
            };
            crowd.whole()?;
            let quiet = window.disturbed < QUIET;
            if best.as_ref().is_none_or(|best| window.disturbed < best.disturbed) {
                best = Some(window);
            }
            if quiet {
                break;
            }
        }
        best.context("no window")
    }
}

struct Window {
    seconds: f64,
    cpu: f64,
    sent: f64,
    arrived: f64,
    p99: f64,
    own_share: f64,
    disturbed: f64,
}

/// The core of the server, in the words of its launcher.
fn core(pinned: bool) -> Option<usize> {
    pinned.then_some(PROXY_CORE)
}
