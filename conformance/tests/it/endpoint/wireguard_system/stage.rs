//! Two hosts, what they run, and what is said between them.

use std::{net::SocketAddr, process::Command, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::{
        Socks, Target, Via,
        suite::{self, Naming, Origins},
    },
    netns::{Lab, Netns},
    process::Running,
    subject::Subject,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::endpoint::wireguard_stage::{Keys, keys};

/// Where clients enter, on loopback of both hosts, and where the outer sockets are.
pub(super) const ENTRY: u16 = 1080;
pub(super) const OUTER: u16 = 5000;
pub(super) const NAME: &str = "cpwg";

/// Two hosts, and a key for each.
pub(super) struct Stand {
    pub(super) lab: Lab,
    keys: [Keys; 2],
}

/// Servers in a namespace, until they are dropped.
pub(super) struct Served {
    origins: Arc<Origins>,
    _stop: oneshot::Sender<()>,
}

impl Served {
    pub(super) async fn on(netns: &Netns, ip: &str) -> Result<Self> {
        let (started, starting) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let addr = SocketAddr::new(ip.parse()?, 0).to_string();
        netns.run(move || async move {
            let _ = started.send(Origins::on(&addr).await);
            let _ = stopped.await;
            Ok(())
        })?;
        let origins = starting.await.with_context(|| format!("servers at {ip}"))??;
        Ok(Self { origins: Arc::new(origins), _stop: stop })
    }

    /// The echo server as it is seen at another address.
    pub(super) fn tcp(&self, ip: &str) -> Result<Target> {
        Ok(SocketAddr::new(ip.parse()?, self.origins.echo.addr().port()).into())
    }

    pub(super) fn udp(&self, ip: &str) -> Result<Target> {
        Ok(SocketAddr::new(ip.parse()?, self.origins.udp.addr().port()).into())
    }
}

pub(super) fn entry() -> Via {
    Via::from(Socks::v5(([127, 0, 0, 1], ENTRY).into()))
}

impl Stand {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { lab: Lab::new()?, keys: [keys()?, keys()?] })
    }

    /// The configuration of host 1 (left) or 2. Its endpoint has what `more` says beside.
    pub(super) fn config(&self, me: usize, more: &Value) -> Value {
        let other = 3 - me;
        let far = if me == 1 { self.lab.right.v4() } else { self.lab.left.v4() };
        let mut endpoint = json!({
            "type": "wireguard", "tag": "tunnel", "listen_port": OUTER,
            "private_key": self.keys[me - 1].private,
            "address": [format!("10.9.0.{me}/24"), format!("fd00:9::{me}/64")],
            "peers": [{
                "address": far.to_string(), "port": OUTER, "public_key": self.keys[other - 1].public,
                "allowed_ips": [
                    format!("10.9.0.{other}/32"), format!("10.50.{other}.0/24"),
                    format!("fd00:9::{other}/128"), format!("fd00:50:{other}::/48"),
                ],
            }],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            endpoint[key] = value.clone();
        }
        // Loopback addresses are those of the other host; networks behind this one end at its own loopback.
        let toward = |ip: &str, to: String| json!({ "inbound": "in", "ip_cidr": ip, "outbound": "tunnel", "override_address": to });
        let here = |ip: String, to: &str| json!({ "inbound": "tunnel", "ip_cidr": ip, "outbound": "direct", "override_address": to });
        json!({
            "log": { "level": "debug" },
            "inbounds": [{ "type": "mixed", "tag": "in", "listen": "127.0.0.1", "listen_port": ENTRY }],
            "endpoints": [endpoint],
            "outbounds": [{ "type": "direct", "tag": "direct" }],
            "route": { "rules": [
                toward("127.0.0.1/32", format!("10.9.0.{other}")),
                toward("::1/128", format!("fd00:9::{other}")),
                here(format!("10.50.{me}.0/24"), "127.0.0.1"),
                here(format!("fd00:50:{me}::/48"), "::1"),
                { "inbound": "in", "outbound": "tunnel" },
            ], "final": "direct" },
        })
    }

    pub(super) async fn ours(&self, more: &Value) -> Result<Running> {
        let config = self.config(1, more);
        let mut ours = self.start(&Subject::under_test(), &self.lab.left, &config).await?;
        has_interface(&mut ours).await?;
        Ok(ours)
    }

    pub(super) async fn theirs(&self, more: &Value) -> Result<Running> {
        self.start(&Subject::Reference, &self.lab.right, &self.config(2, more)).await
    }

    pub(super) async fn start(
        &self,
        subject: &Subject,
        netns: &Netns,
        config: &Value,
    ) -> Result<Running> {
        let launch = subject.launch(config)?.netns(netns);
        let launch = launch
            .env("ENABLE_DEPRECATED_WIREGUARD_OUTBOUND", "true")
            .env("ENABLE_DEPRECATED_WIREGUARD_GSO", "true");
        launch.start().await.with_context(|| subject.name().to_owned())
    }

    /// What `ip` prints on the left.
    pub(super) fn ip(&self, command: &str) -> Result<String> {
        let netns = self.lab.left.name();
        let output = Command::new("ip").args(["-n", netns]).args(command.split(' ')).output()?;
        ensure!(
            output.status.success(),
            "ip {command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Number of our interface, if there is one.
    pub(super) fn index(&self) -> Result<Option<u32>> {
        let links = self.ip("-o link show")?;
        let mine = links.lines().find(|line| line.contains(&format!(" {NAME}:")));
        mine.and_then(|line| line.split(':').next()).map(|n| Ok(n.trim().parse()?)).transpose()
    }

    /// Nothing of ours is left in the system.
    pub(super) fn is_clean(&self) -> Result<()> {
        ensure!(self.index()?.is_none(), "the interface is still there");
        let rules = self.ip("-6 rule show")?;
        ensure!(!rules.contains(NAME), "a rule is still there: {rules}");
        Ok(())
    }
}

/// Waits until a program has its interface: inbounds may listen before.
pub(super) async fn has_interface(ours: &mut Running) -> Result<()> {
    let begun = |log: &str| log.contains("]: started at ");
    ours.wait_log(begun, Duration::from_secs(20)).await.context("no interface")
}

/// Everything from the clients of a host to servers, through that way.
pub(super) async fn all(netns: &Netns, via: Via, served: &Served, what: &str) -> Result<()> {
    let origins = served.origins.clone();
    let said = format!("{what}, {}", origins.echo.addr());
    let suites = move || async move {
        suite::tcp(&via, &origins, Naming::Address).await?;
        suite::udp(&via, &origins, Naming::Address).await
    };
    netns.within(suites).await.with_context(|| said)
}

/// A little of everything, to servers that are seen at another address.
pub(super) async fn some(
    netns: &Netns,
    via: Via,
    served: &Served,
    ip: &str,
    what: &str,
) -> Result<()> {
    let (tcp, udp) = (served.tcp(ip)?, served.udp(ip)?);
    let suites = move || async move {
        suite::tcp_ping_pong(&via, &tcp).await?;
        suite::tcp_bulk(&via, &tcp, 1_000_000).await?;
        suite::udp_ping_pong(&via, &udp).await?;
        suite::udp_size(&via, &udp, 4096).await
    };
    netns.within(suites).await.with_context(|| format!("{what}, {ip}"))
}

/// A hundred flows at once from a host.
pub(super) async fn many(netns: &Netns, served: &Served, ip: &str) -> Result<()> {
    let target = served.tcp(ip)?;
    let flows = move || async move {
        let mut flows = tokio::task::JoinSet::new();
        for n in 0..100_u64 {
            let target = target.clone();
            let len = if n % 20 == 0 { 1_000_000 } else { 20_000 };
            flows.spawn(async move { suite::tcp_bulk(&entry(), &target, len).await });
        }
        while let Some(done) = flows.join_next().await {
            done??;
        }
        Ok(())
    };
    netns.within(flows).await.with_context(|| format!("a hundred flows to {ip}"))
}
