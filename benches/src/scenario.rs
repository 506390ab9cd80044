//! The configurations that are measured, in the words that both programs understand.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::links::{self, Link};

/// Below the ephemeral range of the namespace.
pub(crate) const PORT: u16 = 1080;

/// Where the back of two programs listens.
pub(crate) const BACK: u16 = 1081;

/// Where the DNS server listens that the programs ask.
pub(crate) const UPSTREAM: u16 = 5300;

/// The name that connections of S7 ask for; no rule knows it.
pub(crate) const ORIGIN: &str = "origin.test";

/// Domains and prefixes of S7.
const DOMAINS: usize = 100_000;
const PREFIXES: usize = 20_000;

/// Outbounds and rules of the large configuration of S10.
const OUTBOUNDS: usize = 2000;
const RULES: usize = 5000;

/// How the rule-sets of S7 are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// As JSON.
    Source,
    /// As `.srs`.
    Binary,
}

/// What a program is started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// SOCKS5 to direct.
    S1,
    /// The same with names, and no rule-sets: what S7 is compared with.
    Named,
    /// The same with 100,000 domains and 20,000 prefixes to look at.
    Rules(Stored),
    /// A DNS server with rules and a cache.
    Dns,
    /// Many outbounds and rules.
    Big,
    /// Two programs with a protocol between them.
    Linked(Link),
}

/// Rule-set files and certificates, made once for a run.
#[derive(Debug)]
pub(crate) struct Fixtures {
    dir: TempDir,
}

impl Fixtures {
    /// Writes the sources and has the reference compile them.
    pub(crate) fn make(reference: &Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let fixtures = Self { dir };
        fixtures.compile(reference, "domains", &domains())?;
        fixtures.compile(reference, "prefixes", &prefixes())?;
        links::make_certificates(fixtures.dir.path())?;
        Ok(fixtures)
    }

    fn compile(&self, reference: &Path, name: &str, rule: &Value) -> Result<()> {
        let source = self.path(name, Stored::Source);
        let set = json!({ "version": 3, "rules": [rule] });
        std::fs::write(&source, serde_json::to_vec(&set)?)?;
        let output = Command::new(reference)
            .args(["rule-set", "compile", "--output"])
            .args([&self.path(name, Stored::Binary), &source])
            .output()
            .context("run the reference")?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the reference does not compile {name}: {text}");
        Ok(())
    }

    fn path(&self, name: &str, stored: Stored) -> PathBuf {
        self.dir.path().join(match stored {
            Stored::Source => format!("{name}.json"),
            Stored::Binary => format!("{name}.srs"),
        })
    }

    fn sets(&self, stored: Stored) -> Value {
        let set = |name: &str| {
            let format = match stored {
                Stored::Source => "source",
                Stored::Binary => "binary",
            };
            json!({ "tag": name, "type": "local", "format": format, "path": self.path(name, stored) })
        };
        json!([set("domains"), set("prefixes")])
    }

    /// The configuration; `extra` adds an outbound that nothing uses, for reloads that change something.
    pub(crate) fn config(&self, scenario: Scenario, extra: Option<usize>) -> Value {
        let mut config = match scenario {
            Scenario::S1 => base(),
            Scenario::Named => named(),
            Scenario::Rules(stored) => {
                let mut config = named();
                config["route"]["rule_set"] = self.sets(stored);
                config["route"]["rules"] =
                    json!([{ "rule_set": ["domains", "prefixes"], "action": "reject" }]);
                config
            }
            Scenario::Dns => self.dns(),
            Scenario::Big => big(),
            Scenario::Linked(link) => link.configs(self.dir.path()).1,
        };
        if let (Some(number), Some(outbounds)) = (extra, config["outbounds"].as_array_mut()) {
            outbounds.push(json!({
                "type": "socks", "tag": "unused", "server": "127.0.0.1", "server_port": 9,
                "username": format!("change-{number}"), "password": "x",
            }));
        }
        config
    }

    /// The configuration of the program behind the first one, where there are two.
    pub(crate) fn back(&self, scenario: Scenario) -> Option<Value> {
        match scenario {
            Scenario::Linked(link) => Some(link.configs(self.dir.path()).0),
            _ => None,
        }
    }

    /// The address that stands for loopback behind the programs, if it is another one.
    pub(crate) fn host(scenario: Scenario) -> Option<Ipv4Addr> {
        match scenario {
            Scenario::Linked(link) => link.host(),
            _ => None,
        }
    }

    fn dns(&self) -> Value {
        json!({
            "log": { "level": "error" },
            "dns": {
                "servers": [
                    { "type": "udp", "tag": "up", "server": "127.0.0.1", "server_port": UPSTREAM },
                    { "type": "udp", "tag": "other", "server": "127.0.0.1", "server_port": 9 },
                ],
                "rules": [{ "rule_set": "domains", "server": "other" }],
                "final": "up",
            },
            "inbounds": [
                { "type": "direct", "tag": "dns", "listen": "127.0.0.1", "listen_port": PORT },
            ],
            "outbounds": [{ "type": "direct", "tag": "direct" }],
            "route": {
                "rule_set": self.sets(Stored::Binary),
                "rules": [{ "inbound": "dns", "action": "hijack-dns" }],
                "final": "direct",
            },
        })
    }
}

fn base() -> Value {
    json!({
        "log": { "level": "error" },
        "inbounds": [
            { "type": "socks", "tag": "in", "listen": "127.0.0.1", "listen_port": PORT },
        ],
        "outbounds": [{ "type": "direct", "tag": "direct" }],
        "route": { "final": "direct" },
    })
}

fn named() -> Value {
    let mut config = base();
    config["dns"] = json!({
        "servers": [{ "type": "hosts", "tag": "hosts", "predefined": { ORIGIN: "127.0.0.1" } }],
    });
    config["route"]["default_domain_resolver"] = json!("hosts");
    config
}

fn big() -> Value {
    let mut config = base();
    let more = (0..OUTBOUNDS).map(|n| {
        json!({ "type": "socks", "tag": format!("out-{n}"), "server": "127.0.0.1", "server_port": 9 })
    });
    if let Some(outbounds) = config["outbounds"].as_array_mut() {
        outbounds.extend(more);
    }
    let mut names = Names::new(3);
    let rule = |n: usize| {
        let outbound = format!("out-{}", n % OUTBOUNDS);
        let ip = format!("10.{}.{}.0/24", n / 256, n % 256);
        match n % 3 {
            0 => json!({ "domain_suffix": [names.next(), names.next()], "outbound": outbound }),
            1 => json!({ "domain": [names.next()], "port": [443], "outbound": outbound }),
            _ => json!({ "ip_cidr": [ip], "outbound": outbound }),
        }
    };
    config["route"]["rules"] = (0..RULES).map(rule).collect();
    config
}

fn domains() -> Value {
    let mut names = Names::new(1);
    let mut take = |count: usize| -> Vec<String> { (0..count).map(|_| names.next()).collect() };
    json!({ "domain": take(DOMAINS / 2), "domain_suffix": take(DOMAINS / 2) })
}

fn prefixes() -> Value {
    let v4 = (0..PREFIXES / 2).map(|n| {
        let n = n as u32 * 7919;
        format!("{}.{}.{}.0/24", 11 + n / 65536 % 100, n / 256 % 256, n % 256)
    });
    let v6 = (0..PREFIXES / 2).map(|n| format!("2a{:02x}:{:x}::/32", n % 256, n * 37 % 65536));
    json!({ "ip_cidr": v4.chain(v6).collect::<Vec<_>>() })
}

/// Names that look like those of real lists, the same in each run.
struct Names(u64);

impl Names {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn number(&mut self, below: u64) -> u64 {
        // Knuth's MMIX generator: good enough for names.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn next(&mut self) -> String {
        const ENDS: [&str; 8] = ["com", "net", "org", "io", "cn", "co.uk", "de", "app"];
        let mut name = String::new();
        for _ in 0..self.number(2) {
            self.label(&mut name, 3);
            name.push('.');
        }
        self.label(&mut name, 9);
        let end = ENDS[self.number(ENDS.len() as u64) as usize];
        let _ = write!(name, ".{end}");
        name
    }

    fn label(&mut self, name: &mut String, most: u64) {
        for _ in 0..3 + self.number(most) {
            name.push(char::from(b'a' + self.number(26) as u8));
        }
    }
}
