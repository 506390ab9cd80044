//! Side-by-side measurements against the reference: `cargo run --release -p crosspoint-benches -- s1`.

mod cpu;
mod derp;
mod goals;
mod host;
mod links;
mod load;
mod poll;
mod proxy;
mod report;
mod run;
mod scenario;
mod socks;
mod stats;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use crosspoint_conformance::loud;
use crosspoint_conformance::subject::Subject;
use crosspoint_conformance::workspace;

use crate::load::bulk::{Bulk, Direction, Opening, STREAMS};
use crate::load::conn::Connections;
use crate::load::rr::PingPong;
use crate::load::udp::Datagrams;
use crate::load::{Load, Timing, measure};
use crate::proxy::Program;
use crate::run::{Part, Plan};
use crate::scenario::Fixtures;

const HELP: &str = "\
cargo run --release -p crosspoint-benches -- s1 [OPTIONS]   subject and reference, interleaved
cargo run --release -p crosspoint-benches -- raw            the load alone, without a proxy

  s1    SOCKS5 to direct                        s7   the same with 100,000 domains and 20,000 prefixes in rule-sets
  s2    Shadowsocks, both ends the same program s8   DNS
  s3    Trojan over TLS, both ends              s10  start and check with large configurations
  s4    VLESS over WebSocket, both ends         s6   WireGuard in user space, both ends
  all   all of them
  idle-tls   memory of idle Trojan connections, both ends
  vision     VLESS with Vision over TLS, both ends
  derp  a DERP server, with --loads flood rr idle, against Tailscale's own (fetched by pip if need be)

  --subject PATH|reference|crosspoint   default crosspoint, built by cargo if need be
  --reference PATH                      default sing-box 1.12.12, fetched by pip if need be
  --rounds N          default 5
  --loads A,B         down up conn rr udp idle capacity start reload emfile, named rules rules-idle
                      rules-reload, dns-hit dns-miss dns-tcp, start-rules start-source start-big,
                      ss-down ss-up ss-conn ss-udp, ss22-down ss22-up ss22-conn ss22-udp,
                      trojan-down trojan-up trojan-conn trojan-idle, ws-down ws-up ws-conn,
                      vision-down vision-up,
                      wg-down wg-up (8 flows) wg-down1 wg-up1 wg-conn wg-rr wg-udp wg-idle;
                      default all of the command
  --window SECONDS    default 1.5, after --warm SECONDS, default 0.4
  --tries N           windows to measure when other work disturbs one, default 3
  --idle N            idle connections for the memory of one, default 2000
  --layout pin|free   pin: proxy on core 0, load on core 1 (default); free: proxy on every core
  --json FILE         default target/bench/COMMAND.json
  --first             run before everything else on a machine that is not quiet (nice -20, root)
  --gate              exit 1 when a \"must\" is missed";

struct Options {
    command: String,
    subject: String,
    reference: Option<PathBuf>,
    rounds: usize,
    loads: Option<String>,
    timing: Timing,
    idle: usize,
    pinned: bool,
    json: PathBuf,
    gate: bool,
    first: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let options = parse(std::env::args().skip(1))?;
    if cfg!(debug_assertions) {
        loud::line("note: built without --release; the load itself will be slow");
    }
    match options.command.as_str() {
        "s1" | "s2" | "s3" | "s4" | "s6" | "s7" | "s8" | "s10" | "vision" | "idle-tls" | "all" => {
            side_by_side(options)
        }
        "derp" => derp::run(&options),
        "raw" => raw(&options),
        _ => {
            println!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        command: args.next().unwrap_or_default(),
        subject: "crosspoint".to_owned(),
        reference: None,
        rounds: 5,
        loads: None,
        timing: Timing {
            warm: Duration::from_millis(400),
            window: Duration::from_millis(1500),
            tries: 3,
        },
        idle: 2000,
        pinned: true,
        json: PathBuf::new(),
        gate: false,
        first: false,
    };
    options.json = workspace::target_dir().join("bench").join(format!("{}.json", options.command));
    while let Some(flag) = args.next() {
        match flag.as_str() {
            "--gate" => options.gate = true,
            "--first" => options.first = true,
            _ => {}
        }
        if matches!(flag.as_str(), "--gate" | "--first") {
            continue;
        }
        let value = args.next().with_context(|| format!("{flag} needs a value\n{HELP}"))?;
        let seconds = || value.parse().map(Duration::from_secs_f64).context("seconds");
        match flag.as_str() {
            "--subject" => options.subject = value,
            "--reference" => options.reference = Some(value.into()),
            "--rounds" => options.rounds = value.parse().context("--rounds")?,
            "--loads" => options.loads = Some(value),
            "--window" => options.timing.window = seconds()?,
            "--warm" => options.timing.warm = seconds()?,
            "--tries" => options.timing.tries = value.parse().context("--tries")?,
            "--idle" => options.idle = value.parse().context("--idle")?,
            "--layout" => options.pinned = value != "free",
            "--json" => options.json = value.into(),
            _ => bail!("unknown option {flag}\n{HELP}"),
        }
    }
    Ok(options)
}

fn side_by_side(options: Options) -> Result<ExitCode> {
    // Fetching and building need the network, so they come before the namespace, and the paths
    // they end in are handed on.
    let reference = match &options.reference {
        Some(path) => path.clone(),
        None => Subject::Reference.binary()?,
    };
    let subject = match options.subject.as_str() {
        "reference" => reference.clone(),
        "crosspoint" => Subject::Crosspoint(None).binary()?,
        path => PathBuf::from(path),
    };
    for path in [&reference, &subject] {
        anyhow::ensure!(path.is_file(), "{} is not a program", path.display());
    }
    let mut again: Vec<String> = std::env::args().skip(1).collect();
    again.extend(["--reference".to_owned(), reference.display().to_string()]);
    again.extend(["--subject".to_owned(), subject.display().to_string()]);
    host::enter_namespace(&again)?;
    host::raise_descriptors()?;
    if options.first {
        host::first_in_line()?;
    }

    let program = |name: &str, path: PathBuf| Program {
        name: name.to_owned(),
        path: path.canonicalize().unwrap_or(path),
        pinned: options.pinned,
    };
    let made = Fixtures::make(&reference)?;
    let plan = Plan {
        made,
        reference: program("reference", reference),
        subject: program("subject", subject),
        rounds: options.rounds,
        timing: options.timing,
        parts: parts(&options.command, options.loads.as_deref())?,
        command: options.command.clone(),
        idle: options.idle,
    };
    if options.pinned {
        host::pin(host::LOAD_CORE)?;
    }
    let measured = run::run(&plan)?;
    report::print(&plan, &measured);
    report::write(&options.json, &plan, &measured)?;
    println!("written to {}", options.json.display());
    let met = report::gates_met(&measured) || !options.gate;
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The parts of a command, or those that were named.
fn parts(command: &str, loads: Option<&str>) -> Result<Vec<Part>> {
    let Some(loads) = loads else {
        let meant = |of: &str| command == "all" || command == of;
        return Ok(Part::ALL.iter().filter(|(of, ..)| meant(of)).map(|(_, _, p)| *p).collect());
    };
    loads
        .split(',')
        .map(|name| {
            let found = Part::ALL.iter().find(|(_, known, _)| *known == name);
            found.map(|(_, _, part)| *part).with_context(|| format!("unknown load {name}\n{HELP}"))
        })
        .collect()
}

/// What the load can do by itself, on one core: the ceiling of every figure through a proxy.
fn raw(options: &Options) -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    host::enter_namespace(&args)?;
    host::raise_descriptors()?;
    if options.first {
        host::first_in_line()?;
    }
    if options.pinned {
        host::pin(host::LOAD_CORE)?;
    }
    println!("load without a proxy, client and origin on one core, {}", host::describe());
    let loads: [(&str, Box<dyn Load>, f64); 4] = [
        (
            "bulk, Gbit/s",
            Box::new(Bulk::open(None, Direction::Down, STREAMS, Opening::Nothing)?),
            8e-9,
        ),
        ("conn, 1/s", Box::new(Connections::open(None, None)?), 1.0),
        ("rr, 1/s", Box::new(PingPong::open(None)?), 1.0),
        ("udp1200, packets/s", Box::new(Datagrams::open(None)?), 1.0),
    ];
    for (name, mut load, scale) in loads {
        let sample = measure(&mut *load, None, options.timing)?;
        println!("{name:20} {:.1}", sample.rate * scale);
    }
    Ok(ExitCode::SUCCESS)
}
