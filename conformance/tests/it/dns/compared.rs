//! The same DNS configuration on the subject and on the reference: answers must be the same, and servers must be asked
//! the same, or the difference is listed in `deviations.tsv` under the suite `dns`.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use crosspoint_conformance::golden::lists::Deviations;
use crosspoint_conformance::subject::Subject;
use crosspoint_conformance::{loud, ports};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::client::Ask;
use super::origin::Origin;

/// The one difference in almost every answer with EDNS has one line, which names what the reference writes.
const FLAGS: &str = "EDNS flags";

/// How long to wait where an answer must come, or must not.
const WAIT: Duration = Duration::from_secs(2);

/// How long to wait where a server hangs: the reference gives it ten seconds.
const LONG: Duration = Duration::from_secs(12);

/// A scenario: questions in a row to one listener, and what was answered and asked.
struct Scenario {
    name: String,
    /// In this `dns` section.
    section: &'static str,
    /// With servers of its own.
    alone: bool,
    /// `in` or `in2`.
    inbound: &'static str,
    asks: Vec<Ask>,
    wait: Duration,
}

/// Questions to the configuration `section`; several are asked one after the other.
const SCENARIOS: &[(&str, &[&str])] = &[
    ("base", &["a.1.test A"]),
    ("base", &["a.2.test AAAA"]),
    ("base", &["a.3.test MX"]),
    ("base", &["a.4.test TXT"]),
    ("base", &["a.5.test HTTPS"]),
    ("base", &["a.6.test A tcp"]),
    ("base", &["a.7.test A norec"]),
    ("base", &["a.8.test A cd"]),
    ("base", &["flags.9.test A"]),
    ("base", &["A.10.TeSt A"]),
    ("base", &["a.11.test A", "a.11.test A", "A.11.test A", "a.11.test A tcp"]),
    ("base", &["empty.12.test A", "empty.12.test A"]),
    ("base", &["nx.13.test A", "nx.13.test A", "nx.13.test AAAA"]),
    ("base", &["nxbare.14.test A", "nxbare.14.test A"]),
    ("base", &["nodatabare.15.test A", "nodatabare.15.test A"]),
    ("base", &["servfail.16.test A", "servfail.16.test A"]),
    ("base", &["refused.17.test A", "refused.17.test A"]),
    ("base", &["notimp.18.test A"]),
    ("base", &["cname.19.test A", "cname.19.test A"]),
    ("base", &["cname.20.test AAAA"]),
    ("base", &["cname.21.test CNAME"]),
    ("base", &["dangling.22.test A"]),
    ("base", &["zero.23.test A", "zero.23.test A"]),
    ("base", &["ttls.24.test A", "ttls.24.test A"]),
    ("base", &["slow.25.test A"]),
    ("base", &["wrongid.26.test A"]),
    ("base", &["six.27.test A", "six.27.test AAAA"]),
    ("base", &[". NS"]),
    // Sizes.
    ("base", &["many.30.test A"]),
    ("base", &["many.31.test A edns=512"]),
    ("base", &["many.32.test A edns=1232"]),
    ("base", &["many.33.test A tcp"]),
    ("base", &["many.34.test A tcp", "many.34.test A"]),
    ("base", &["huge.35.test A"]),
    ("base", &["huge.36.test A edns=1232"]),
    ("base", &["huge.37.test A edns=4096"]),
    ("base", &["huge.38.test A edns=65000"]),
    ("base", &["huge.39.test A tcp"]),
    ("base", &["long.40.test TXT edns=1232"]),
    ("base", &["many.41.test A edns=100"]),
    // EDNS.
    ("base", &["edns.50.test TXT"]),
    ("base", &["edns.51.test TXT edns=1232"]),
    ("base", &["edns.52.test TXT edns=4096 do", "edns.52.test TXT edns=4096 do"]),
    ("base", &["edns.53.test TXT ecs=198.51.100.0/24", "edns.53.test TXT ecs=198.51.100.0/24"]),
    ("base", &["edns.54.test TXT edns=1232", "edns.54.test TXT"]),
    ("base", &["edns.55.test TXT", "edns.55.test TXT edns=1232"]),
    ("base", &["a.56.test A tcp edns=1232"]),
    // Rules.
    ("base", &["who.60.other.test TXT"]),
    ("base", &["who.61.tcp.test TXT", "who.61.tcp.test A tcp"]),
    ("base", &["h.test A"]),
    ("base", &["h.test AAAA"]),
    ("base", &["h4.test AAAA"]),
    ("base", &["h.test MX"]),
    ("base", &["missing.hosts.test A"]),
    ("base", &["a.62.fake.test A", "a.62.fake.test A"]),
    ("base", &["a.63.fake.test MX"]),
    ("base", &["a.64.fake.test HTTPS"]),
    ("base", &["reject.test A", "reject.test MX tcp"]),
    ("base", &["reject.test A edns=1232"]),
    ("base", &["drop.test A"]),
    ("base", &["drop.test A tcp"]),
    ("base", &["pre.test A", "pre.test AAAA", "pre.test TXT tcp"]),
    ("base", &["pre.test A edns=1232"]),
    ("base", &["prenx.test A"]),
    ("base", &["preboth.test A"]),
    ("base", &["sub.prewild.test TXT"]),
    ("base", &["a.70.v4.test A", "a.70.v4.test AAAA", "a.70.v4.test HTTPS"]),
    ("base", &["a.71.v6.test A", "a.71.v6.test AAAA", "a.71.v6.test HTTPS"]),
    ("base", &["a.72.p6.test A", "a.72.p6.test AAAA"]),
    ("base", &["a.73.ttl.test A", "a.73.ttl.test A"]),
    ("base", &["ttls.74.ttl.test A"]),
    ("base", &["nx.75.ttl.test A"]),
    ("base", &["edns.76.ecs.test TXT", "edns.76.ecs.test TXT"]),
    ("base", &["edns.77.ecs.test TXT edns=1232"]),
    ("base", &["edns.78.ecs.test TXT ecs=198.51.100.0/24"]),
    ("base", &["edns.79.ecs6.test TXT"]),
    ("base", &["who.80.opt.test TXT"]),
    ("base", &["who.81.in.test TXT"]),
    ("base", &["who.82.nocache.test TXT", "who.82.nocache.test TXT"]),
    ("base", &["private.83.lim.test A", "private.83.lim.test A"]),
    ("base", &["a.84.lim.test A", "a.84.lim.test A"]),
    ("base", &["a.85.lim.test MX"]),
    ("base", &["nx.86.lim.test A"]),
    ("base", &["who.87.qt.test TXT", "who.87.qt.test A"]),
    ("base", &["rx7.test TXT"]),
    ("base", &["who.88.xkeywordx.test TXT"]),
    ("base", &["who.89.src.test TXT"]),
    ("base", &["who.90.net.test TXT", "who.91.net.test TXT tcp"]),
    ("base", &["who.92.logic.test TXT", "who.92.logic.test A"]),
    ("base", &["who.94.gone.test TXT"]),
    ("base", &["who.95.set.test TXT", "who.95.unset.test TXT"]),
    // Other sections.
    ("no cache", &["a.100.test A", "a.100.test A"]),
    ("no cache", &["nx.101.test A", "nx.101.test A"]),
    ("v4", &["a.110.test A", "a.110.test AAAA", "a.110.test HTTPS", "a.110.test MX"]),
    ("v6", &["a.111.test A", "a.111.test AAAA", "a.111.test HTTPS"]),
    ("ecs", &["edns.120.test TXT", "edns.120.test TXT"]),
    ("ecs", &["edns.121.test TXT edns=4096"]),
    ("ecs", &["edns.122.test TXT ecs=198.51.100.0/24"]),
    ("independent", &["a.130.test A", "a.130.test A"]),
    ("independent", &["who.131.other.test TXT", "who.131.other.test TXT"]),
    ("no expiry", &["zero.140.test A", "zero.140.test A"]),
    ("no expiry", &["ttls.141.test A", "ttls.141.test A"]),
    ("legacy", &["who.150.test TXT", "who.151.other.test TXT"]),
    ("legacy", &["a.152.rcode.test A"]),
    ("legacy", &["edns.153.other.test TXT", "a.154.other.test AAAA"]),
    ("legacy", &["a.155.fake.test A"]),
    ("empty", &["localhost A"]),
];

/// Scenarios in which a server does not answer as it should; each with servers of its own, because the reference lets
/// others suffer.
const HANGING: &[(&str, &[&str])] = &[
    ("base", &["hang.200.test A"]),
    ("base", &["hang.201.test A tcp"]),
    ("base", &["garbage.202.test A"]),
    ("base", &["half.203.test A"]),
    ("base", &["a.204.dead.test A"]),
    ("base", &["a.205.dead.test A tcp"]),
];

fn scenarios() -> Result<Vec<Scenario>> {
    let mut all = Vec::new();
    for (list, wait, alone) in [(SCENARIOS, WAIT, false), (HANGING, LONG, true)] {
        for (section, texts) in list {
            let asks = texts.iter().map(|text| Ask::parse(text)).collect::<Result<_>>()?;
            let name = format!("{section}: {}", texts.join(", "));
            all.push(Scenario { name, section, alone, inbound: "in", asks, wait });
        }
    }
    let second = vec![Ask::parse("who.83.in.test TXT")?, Ask::parse("who.84.in.test TXT tcp")?];
    let name = "base: by inbound".to_owned();
    all.push(Scenario {
        name,
        section: "base",
        alone: false,
        inbound: "in2",
        asks: second,
        wait: WAIT,
    });
    for (what, bytes) in raw_messages()? {
        for tcp in [false, true] {
            all.push(Scenario {
                name: format!("base: {what} over {}", if tcp { "TCP" } else { "UDP" }),
                section: "base",
                alone: false,
                inbound: "in",
                asks: vec![Ask::raw(bytes.clone(), tcp)?],
                wait: WAIT,
            });
        }
    }
    Ok(all)
}

/// Messages that are not what they should be.
fn raw_messages() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let good = Ask::parse("a.300.test A")?.message(0x5a01)?;
    let edit = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        edit(&mut bytes);
        bytes
    };
    Ok(vec![
        ("garbage", vec![0xff; 30]),
        ("three bytes", vec![1, 2, 3]),
        ("a header alone", good[..12].to_vec()),
        ("a header that says nothing", vec![0x5a, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("half a question", good[..good.len() - 3].to_vec()),
        (
            "two questions",
            edit(&|b| {
                b[5] = 2;
                b.extend_from_within(12..);
            }),
        ),
        ("bytes behind", edit(&|b| b.extend_from_slice(b"behind"))),
        ("a count too high", edit(&|b| b[11] = 3)),
        (
            "a name that points at itself",
            edit(&|b| {
                b.truncate(12);
                b.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
            }),
        ),
        ("another class", edit(&|b| *b.last_mut().unwrap_or(&mut 0) = 3)),
    ])
}

/// What a client and the servers saw, by scenario.
type Observed = HashMap<String, String>;

#[tokio::test]
async fn answers_are_those_of_the_reference() -> Result<()> {
    let subject = Subject::under_test();
    let ours = observe(&subject).await?;
    let mut theirs = observe(&Subject::Reference).await?;
    let deviations = if subject.is_reference() { None } else { Some(Deviations::load()?) };
    let all = scenarios()?;
    let mut wrong = judge(&all, &ours, &theirs, deviations.as_ref());
    // The reference loses an answer now and then; we may not.
    for _ in 0..2 {
        if wrong.is_empty() {
            break;
        }
        theirs = observe(&Subject::Reference).await?;
        wrong = judge(&all, &ours, &theirs, deviations.as_ref());
    }
    for deviation in deviations.iter().flat_map(|list| list.of("dns")) {
        let known = deviation.name == FLAGS || all.iter().any(|s| s.name == deviation.name);
        if !known {
            wrong.push(format!("{}: listed as deviation, but no such scenario", deviation.name));
        }
    }
    loud::line(&format!("COMPARED {} DNS scenarios, {} wrong", all.len(), wrong.len()));
    if std::env::var_os("CONFORMANCE_SHOW").is_some() {
        for Scenario { name, .. } in &all {
            loud::line(&format!("  {name}: {}", said(&theirs, name)));
        }
    }
    if !wrong.is_empty() {
        bail!("a client is told something else:\n{}", wrong.join("\n"));
    }
    Ok(())
}

/// What is different and not listed, or listed and not different.
fn judge(
    all: &[Scenario],
    ours: &Observed,
    theirs: &Observed,
    deviations: Option<&Deviations>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let masked = deviations.and_then(|list| list.find("dns", FLAGS));
    for Scenario { name, .. } in all {
        let (ours, mut theirs) = (said(ours, name), said(theirs, name).to_owned());
        for flags in masked.iter().flat_map(|deviation| deviation.what.split(' ')) {
            theirs = theirs.replace(flags, "");
        }
        let listed = deviations.and_then(|list| list.find("dns", name));
        match (ours == theirs, listed) {
            (true, None) => {}
            (true, Some(_)) => wrong.push(format!("{name}: no longer deviates")),
            (false, Some(deviation)) if ours == deviation.what => {}
            (false, listed) => {
                let listed = listed.map(|d| format!("\n  listed    {}", d.what));
                wrong.push(format!(
                    "{name}\n  reference {theirs}\n  subject   {ours}{}",
                    listed.unwrap_or_default()
                ));
            }
        }
    }
    wrong
}

fn said<'a>(observed: &'a Observed, name: &str) -> &'a str {
    observed.get(name).map_or("nothing", String::as_str)
}

async fn observe(subject: &Subject) -> Result<Observed> {
    let mut sections: HashMap<(&str, usize), Vec<Scenario>> = HashMap::new();
    for (at, scenario) in scenarios()?.into_iter().enumerate() {
        let group = if scenario.alone { at } else { 0 };
        sections.entry((scenario.section, group)).or_default().push(scenario);
    }
    let mut running = JoinSet::new();
    for ((section, _), scenarios) in sections {
        let subject = subject.clone();
        running.spawn(async move { in_section(&subject, section, scenarios).await });
    }
    let mut observed = Observed::new();
    while let Some(done) = running.join_next().await {
        observed.extend(done??);
    }
    Ok(observed)
}

async fn in_section(
    subject: &Subject,
    section: &str,
    scenarios: Vec<Scenario>,
) -> Result<Vec<(String, String)>> {
    let origins = [Origin::start("main").await?, Origin::start("other").await?];
    let [first, second] = ports::many();
    let config = config(section, [first, second], origins.each_ref().map(Origin::port));
    let launch = subject.launch(&config)?.env("ENABLE_DEPRECATED_LEGACY_DNS_SERVERS", "true");
    let program = launch.start().await.with_context(|| format!("section {section}"))?;
    // The reference loses queries while it opens its socket to a server, and all of them whenever one allows larger
    // answers than any before.
    for text in ["warm.0.test A", "warm.1.test A edns=65535", "warm.2.other.test A edns=65535"] {
        let ask = Ask::parse(text)?;
        ask.at((Ipv4Addr::LOCALHOST, first).into(), Duration::from_millis(500)).await?;
    }
    let mut running = JoinSet::new();
    for scenario in scenarios {
        let port = if scenario.inbound == "in" { first } else { second };
        running.spawn(async move {
            let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut told = Vec::new();
            for ask in &scenario.asks {
                told.push(match ask.at(server, scenario.wait).await {
                    Ok(answer) => answer,
                    Err(error) => format!("failed: {error:#}"),
                });
            }
            (scenario, told.join(" ; "))
        });
    }
    let mut observed = Vec::new();
    while let Some(done) = running.join_next().await {
        let (scenario, mut told) = done?;
        for (tag, origin) in ["main", "other"].into_iter().zip(&origins) {
            for seen in origin.seen() {
                let said = format!(" [{tag} {}]", seen.text);
                // How often a silent server is asked again is a matter of taste.
                let again = scenario.alone && told.contains(&said);
                let ours = |ask: &Ask| ask.name.eq_ignore_ascii_case(&seen.name);
                if !again && scenario.asks.iter().any(ours) {
                    told += &said;
                }
            }
        }
        observed.push((scenario.name, told));
    }
    drop(program);
    Ok(observed)
}

/// A configuration with two `direct` inbounds whose DNS is taken over.
fn config(section: &str, inbounds: [u16; 2], [main, other]: [u16; 2]) -> Value {
    let inbound = |tag: &str, port: u16| json!({ "type": "direct", "tag": tag, "listen": "127.0.0.1", "listen_port": port });
    json!({
        "log": { "level": "debug" },
        "dns": dns(section, main, other),
        "inbounds": [inbound("in", inbounds[0]), inbound("in2", inbounds[1])],
        "outbounds": [{ "type": "direct", "tag": "direct" }],
        "route": {
            "rules": [{ "inbound": ["in", "in2"], "action": "hijack-dns" }],
            "rule_set": [{
                "type": "inline", "tag": "set", "rules": [{ "domain_suffix": [".set.test"] }],
            }],
            "default_domain_resolver": "main",
        },
    })
}

fn dns(section: &str, main: u16, other: u16) -> Value {
    let server = |kind: &str, tag: &str, port: u16| json!({ "type": kind, "tag": tag, "server": "127.0.0.1", "server_port": port });
    let mut dns = json!({
        "servers": [
            server("udp", "main", main),
            server("udp", "other", other),
            server("tcp", "tcp", other),
            server("udp", "dead", 1),
            { "type": "hosts", "tag": "hosts", "path": ["/nonexistent"], "predefined": {
                "h.test": ["192.0.2.50", "2001:db8::50"], "h4.test": "192.0.2.51",
            } },
            {
                "type": "fakeip", "tag": "fake",
                "inet4_range": "198.18.0.0/15", "inet6_range": "fc00::/18",
            },
        ],
        "rules": [
            { "domain_suffix": ".other.test", "server": "other" },
            { "domain_suffix": ".tcp.test", "server": "tcp" },
            { "domain_suffix": ".dead.test", "server": "dead" },
            { "domain": ["h.test", "h4.test", "missing.hosts.test"], "server": "hosts" },
            { "domain_suffix": ".fake.test", "query_type": ["A", "AAAA"], "server": "fake" },
            { "domain": "reject.test", "action": "reject" },
            { "domain": "drop.test", "action": "reject", "method": "drop" },
            { "domain": "pre.test", "action": "predefined", "rcode": "NOERROR",
              "answer": ["pre.test. IN A 192.0.2.77", "pre.test. 40 IN AAAA 2001:db8::77"] },
            { "domain": "prenx.test", "action": "predefined", "rcode": "NXDOMAIN" },
            { "domain": "preboth.test", "action": "predefined",
              "answer": "preboth.test. 60 IN CNAME a.test.",
              "ns": "test. 60 IN NS ns.test.", "extra": "ns.test. 60 IN A 192.0.2.53" },
            { "domain_suffix": ".prewild.test", "action": "predefined",
              "answer": "*. 60 IN TXT \"said\"" },
            { "domain_suffix": ".v4.test", "server": "main", "strategy": "ipv4_only" },
            { "domain_suffix": ".v6.test", "server": "main", "strategy": "ipv6_only" },
            { "domain_suffix": ".p6.test", "server": "main", "strategy": "prefer_ipv6" },
            { "domain_suffix": ".ttl.test", "server": "main", "rewrite_ttl": 50 },
            { "domain_suffix": ".ecs.test", "server": "main", "client_subnet": "192.0.2.0/24" },
            { "domain_suffix": ".ecs6.test", "server": "main", "client_subnet": "2001:db8::/48" },
            { "domain_suffix": ".opt.test", "action": "route-options", "rewrite_ttl": 20 },
            { "domain_suffix": ".opt.test", "server": "other" },
            { "inbound": "in2", "domain_suffix": ".in.test", "server": "other" },
            { "domain_suffix": ".nocache.test", "server": "other", "disable_cache": true },
            { "domain_suffix": ".lim.test", "ip_is_private": true, "server": "main" },
            { "domain_suffix": ".lim.test", "server": "other" },
            { "domain_suffix": ".qt.test", "query_type": "TXT", "server": "other" },
            { "domain_regex": "^rx[0-9]\\.test$", "server": "other" },
            { "domain_keyword": "xkeywordx", "server": "other" },
            { "domain_suffix": ".src.test", "source_ip_cidr": "127.0.0.0/8", "server": "other" },
            { "domain_suffix": ".net.test", "network": "tcp", "server": "other" },
            { "type": "logical", "mode": "and", "server": "other", "rules": [
                { "domain_suffix": ".logic.test" }, { "query_type": "A", "invert": true },
            ] },
            { "rule_set": "set", "server": "other" },
        ],
        "final": "main",
    });
    let rule_sets_unused = |dns: &mut Value| {
        dns["rules"] = json!([{ "domain_suffix": ".other.test", "server": "other" }]);
    };
    match section {
        "no cache" => dns["disable_cache"] = json!(true),
        "v4" => dns["strategy"] = json!("ipv4_only"),
        "v6" => dns["strategy"] = json!("ipv6_only"),
        "ecs" => dns["client_subnet"] = json!("192.0.2.0/24"),
        "independent" => {
            rule_sets_unused(&mut dns);
            dns["independent_cache"] = json!(true);
        }
        "no expiry" => dns["disable_expire"] = json!(true),
        "legacy" => {
            dns = json!({
                "servers": [
                    { "tag": "main", "address": format!("udp://127.0.0.1:{main}") },
                    { "tag": "other", "address": format!("tcp://127.0.0.1:{other}"),
                      "strategy": "ipv4_only", "client_subnet": "192.0.2.0/24" },
                    { "tag": "refuse", "address": "rcode://refused" },
                    { "tag": "fake", "address": "fakeip" },
                ],
                "fakeip": {
                    "enabled": true, "inet4_range": "198.18.0.0/15", "inet6_range": "fc00::/18",
                },
                "rules": [
                    { "domain_suffix": ".other.test", "server": "other" },
                    { "domain_suffix": ".rcode.test", "server": "refuse" },
                    { "domain_suffix": ".fake.test", "server": "fake" },
                ],
                "final": "main",
            });
        }
        "empty" => {
            dns = json!({ "servers": [
                { "type": "hosts", "tag": "main", "predefined": { "localhost": "127.0.0.1" } },
            ] });
        }
        _ => {}
    }
    dns
}
