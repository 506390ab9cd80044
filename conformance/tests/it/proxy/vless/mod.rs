//! VLESS with and without Vision: the reference, mihomo and Xray on the other side, TLS inside or not; and what is refused.

mod peers;
mod refused;
mod users;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::{
        Socks, Via,
        suite::{self, Naming, Origins},
    },
    ports,
    process::Running,
    subject::Subject,
};
use serde_json::{Value, json};

use super::stage::Ports;
use crate::tls::certs::{Certs, Files};

const ID: &str = "b831381d-6324-4d53-ad4f-8cda48b30811";
const VISION: &str = "xtls-rprx-vision";

/// Bytes of a download that shows splicing.
const BULK: u64 = 24 << 20;

/// One way between two programs.
struct Link {
    name: &'static str,
    inbound: Value,
    outbound: Value,
    /// Whether datagrams may go to names.
    names: bool,
}

impl Link {
    fn has_vision(&self) -> bool {
        self.outbound["flow"] == json!(VISION)
    }
}

fn links(files: &Files) -> Vec<Link> {
    let plain = json!([{ "name": "other", "uuid": "somebody" }, { "name": "ann", "uuid": ID }]);
    let vision = json!([
        { "name": "other", "uuid": "somebody" },
        { "name": "ann", "uuid": ID, "flow": VISION },
    ]);
    let server = |users: &Value, tls: bool| match tls {
        true => json!({ "type": "vless", "users": users, "tls": tls_in(files) }),
        false => json!({ "type": "vless", "users": users }),
    };
    let client = |more: Value| {
        let mut out = json!({ "type": "vless", "uuid": ID });
        merge(&mut out, &more);
        out
    };
    let tls = json!({ "enabled": true, "server_name": "localhost", "insecure": true });
    let old = json!({ "enabled": true, "server_name": "localhost", "insecure": true, "max_version": "1.2" });
    let link = |name, inbound, outbound, names| Link { name, inbound, outbound, names };
    vec![
        link("no flow, no TLS", server(&plain, false), client(json!({})), true),
        link(
            "no flow, an id that is no UUID, no packet encoding",
            server(&plain, true),
            client(json!({ "uuid": "somebody", "tls": tls, "packet_encoding": "" })),
            true,
        ),
        link(
            "no flow, packetaddr",
            server(&plain, true),
            client(json!({ "tls": tls, "packet_encoding": "packetaddr" })),
            false,
        ),
        link("vision", server(&vision, true), client(json!({ "flow": VISION, "tls": tls })), true),
        link(
            "vision in TLS 1.2",
            server(&vision, true),
            client(json!({ "flow": VISION, "tls": old, "packet_encoding": "xudp" })),
            true,
        ),
    ]
}

fn tls_in(files: &Files) -> Value {
    let mut tls = files.server();
    tls["enabled"] = json!(true);
    tls
}

fn merge(into: &mut Value, more: &Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more.clone());
    }
}

/// A daemon of ours that speaks TLS through another proxy, to itself: what it is asked for goes over Trojan and TLS through
/// the SOCKS server at `through`.
struct Inside {
    versions: [(&'static str, u16); 2],
    _program: Running,
}

impl Inside {
    async fn start(files: &Files, through: u16) -> Result<Self> {
        let [new, old, server] = ports::many();
        let versions = [("1.3", new), ("1.2", old)];
        let entry = |(version, port): &(&str, u16)| json!({ "type": "mixed", "tag": version, "listen": "127.0.0.1", "listen_port": port });
        let exit = |(version, _): &(&str, u16)| {
            json!({
                "type": "trojan", "tag": format!("out {version}"), "server": "127.0.0.1", "server_port": server,
                "password": "inside", "detour": "through",
                "tls": { "enabled": true, "insecure": true, "server_name": "localhost", "max_version": version },
            })
        };
        let mut inbounds: Vec<Value> = versions.iter().map(entry).collect();
        inbounds.push(json!({
            "type": "trojan", "tag": "server", "listen": "127.0.0.1", "listen_port": server,
            "users": [{ "name": "a", "password": "inside" }], "tls": tls_in(files),
        }));
        let mut outbounds = vec![
            json!({ "type": "direct", "tag": "direct" }),
            json!({ "type": "socks", "tag": "through", "server": "127.0.0.1", "server_port": through }),
        ];
        outbounds.extend(versions.iter().map(exit));
        let rules = versions.map(
            |(version, _)| json!({ "inbound": version, "outbound": format!("out {version}") }),
        );
        let config = json!({ "inbounds": inbounds, "outbounds": outbounds, "route": { "rules": rules, "final": "direct" } });
        Ok(Self {
            versions,
            _program: Subject::under_test().start(&config).await.context("inside")?,
        })
    }

    /// Says everything through TLS through the link, once with each version.
    async fn suites(&self, origins: &Origins, half_close: bool) -> Result<()> {
        for (version, port) in self.versions {
            let via = Via::from(Socks::v5(Ports::v4(port)));
            let what = || format!("TLS {version} inside");
            match half_close {
                true => suite::tcp(&via, origins, Naming::Address).await.with_context(what)?,
                false => {
                    suite::tcp_open(&via, origins, Naming::Address).await.with_context(what)?
                }
            }
        }
        Ok(())
    }

    /// Downloads through TLS 1.3, and looks how much of that one of ours has spliced.
    async fn spliced(&self, origins: &Origins, ours: &Running) -> Result<u64> {
        let [(_, port), _] = self.versions;
        let via = Via::from(Socks::v5(Ports::v4(port)));
        let so_far = || ours.ctl(&["status"])?["spliced"].as_u64().context("no counter");
        let before = so_far()?;
        suite::tcp_download(&via, &origins.source.addr().into(), BULK).await?;
        Ok(so_far()? - before)
    }
}

/// Runs every link between two programs: one process each, a port for each link.
async fn chain(front: &Subject, back: &Subject) -> Result<()> {
    let authority = Certs::new("vless")?;
    let files = authority.issue("server", &["localhost"])?;
    let links = links(&files);
    let ports: Vec<[u16; 2]> = links.iter().map(|_| ports::many()).collect();
    let listen = |mut inbound: Value, port: u16| {
        merge(&mut inbound, &json!({ "listen": "127.0.0.1", "listen_port": port }));
        inbound
    };
    let ways = || links.iter().zip(&ports).enumerate();
    let inbounds: Vec<Value> =
        ways().map(|(_, (link, [_, port]))| listen(link.inbound.clone(), *port)).collect();
    let back_config = json!({ "inbounds": inbounds, "outbounds": [{ "type": "direct" }] });
    let back_runs = back.start(&back_config).await.context("back")?;
    let entries: Vec<Value> = ways()
        .map(|(n, (_, [port, _]))| {
            listen(json!({ "type": "mixed", "tag": format!("in{n}") }), *port)
        })
        .collect();
    let exits: Vec<Value> = ways()
        .map(|(n, (link, [_, port]))| {
            let mut outbound = link.outbound.clone();
            merge(
                &mut outbound,
                &json!({ "tag": format!("out{n}"), "server": "127.0.0.1", "server_port": port }),
            );
            outbound
        })
        .collect();
    let rules: Vec<Value> = ways()
        .map(|(n, _)| json!({ "inbound": format!("in{n}"), "outbound": format!("out{n}") }))
        .collect();
    let front_config =
        json!({ "inbounds": entries, "outbounds": exits, "route": { "rules": rules } });
    let front_runs = front.start(&front_config).await.context("front")?;
    let (v4, v6) = (Origins::v4().await?, Origins::v6().await?);
    // The reference as a client closes both directions when its own client ends one.
    let half_close = !front.is_reference();
    for (link, [port, _]) in links.iter().zip(&ports) {
        let via = Via::from(Socks::v5(Ports::v4(*port)));
        let what = || format!("{} -> {}, {}", front.name(), back.name(), link.name);
        for (origins, naming) in
            [(&v4, Naming::Address), (&v4, Naming::Localhost), (&v6, Naming::Address)]
        {
            match half_close {
                true => suite::tcp(&via, origins, naming).await.with_context(what)?,
                false => suite::tcp_open(&via, origins, naming).await.with_context(what)?,
            }
            // The reference as a client without an encoding loses the answers of peers with names.
            let lost = front.is_reference() && link.outbound["packet_encoding"] == json!("");
            if link.names && !lost || naming == Naming::Address {
                suite::udp(&via, origins, naming).await.with_context(what)?;
            }
        }
        if !link.has_vision() {
            continue;
        }
        let inside = Inside::start(&files, *port).await?;
        inside.suites(&v4, half_close).await.with_context(what)?;
        for (subject, runs) in [(front, &front_runs), (back, &back_runs)] {
            if !subject.is_reference() {
                let spliced = inside.spliced(&v4, runs).await.with_context(what)?;
                ensure!(spliced > BULK / 2, "{}: {spliced} bytes spliced", what());
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_clients_with_the_reference() -> Result<()> {
    chain(&Subject::under_test(), &Subject::Reference).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_servers_with_the_reference() -> Result<()> {
    chain(&Subject::Reference, &Subject::under_test()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ourselves() -> Result<()> {
    chain(&Subject::under_test(), &Subject::under_test()).await
}

/// A moment for what happens in the background.
async fn until(what: &str, mut done: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..100 {
        if done().await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("{what}: not within five seconds")
}
