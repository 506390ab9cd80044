//! mihomo on the other side: an implementation that shares no code with the reference's inbounds.

use std::time::Duration;

use anyhow::{Context, Result};
use crosspoint_conformance::{
    net::{
        Socks, Via,
        suite::{self, Naming, Origins},
    },
    peers::Peer,
    ports,
    process::{Launch, Ready, Running},
    subject::{Subject, write_config},
};
use serde_json::{Value, json};

use super::stage::{PASSWORD, Ports, USER};

/// mihomo refuses a client that has the address and port of one of its own connections to a target, as if it had dialled
/// itself. Where all programs are on one address, any client may have them by chance: one multiplexed connection then loses
/// all its streams ("reject loopback connection"; seen with our client and with the reference's). This turns it off.
pub(crate) const ANY_SOURCE: (&str, &str) = ("DISABLE_LOOPBACK_DETECTOR", "true");

/// mihomo takes JSON for its YAML.
pub(super) async fn mihomo(config: &Value, port: u16) -> Result<Running> {
    let launch = Launch::new("mihomo", Peer::Mihomo.path()?)?;
    write_config(launch.dir(), config)?;
    let dir = launch.dir().to_string_lossy().into_owned();
    let args = ["-d".to_owned(), dir.clone(), "-f".to_owned(), format!("{dir}/config.json")];
    let (key, value) = ANY_SOURCE;
    launch.args(args).env(key, value).ready([Ready::Tcp(port)]).start().await
}

/// What both configurations share: no DNS, no geo data, nothing but the port.
pub(super) fn base(port: u16, login: bool) -> Value {
    json!({
        "mixed-port": port, "bind-address": "127.0.0.1", "allow-lan": true, "ipv6": true,
        "mode": "rule", "log-level": "warning",
        "authentication": if login { json!([format!("{USER}:{PASSWORD}")]) } else { json!([]) },
    })
}

pub(super) async fn suites(port: u16, login: bool, udp: bool, what: &str) -> Result<()> {
    let (v4, v6) = (Origins::v4().await?, Origins::v6().await?);
    let socks = Socks::v5(Ports::v4(port));
    let via = Via::from(if login { socks.login(USER, PASSWORD) } else { socks });
    let what = || what.to_owned();
    // mihomo listens before it has loaded its rules, and hangs up on whoever comes in between.
    for _ in 0..200 {
        if suite::tcp_ping_pong(&via, &v4.echo.addr().into()).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    suite::tcp(&via, &v4, Naming::Address).await.with_context(what)?;
    suite::tcp(&via, &v6, Naming::Address).await.with_context(what)?;
    if udp {
        suite::udp(&via, &v4, Naming::Address).await.with_context(what)?;
    }
    Ok(())
}

#[tokio::test]
async fn mihomo_serves_our_outbounds() -> Result<()> {
    let [peer, front] = ports::many();
    let mut config = base(peer, true);
    config["rules"] = json!(["MATCH,DIRECT"]);
    let _peer = mihomo(&config, peer).await?;
    for (kind, udp) in [("socks", true), ("http", false)] {
        let _front = Subject::under_test()
            .start(&json!({
                "inbounds": [{ "type": "mixed", "listen": "127.0.0.1", "listen_port": front }],
                "outbounds": [{
                    "type": kind, "server": "127.0.0.1", "server_port": peer,
                    "username": USER, "password": PASSWORD
                }],
            }))
            .await?;
        suites(front, false, udp, &format!("{kind} outbound to mihomo")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn our_inbounds_serve_mihomo() -> Result<()> {
    let [mixed] = ports::many();
    let users = json!([{ "username": USER, "password": PASSWORD }]);
    let _back = Subject::under_test()
        .start(&json!({
            "inbounds": [{ "type": "mixed", "listen": "127.0.0.1", "listen_port": mixed, "users": users }],
        }))
        .await?;
    for (kind, udp) in [("socks5", true), ("http", false)] {
        let port = ports::free();
        let mut config = base(port, false);
        config["proxies"] = json!([{
            "name": "link", "type": kind, "server": "127.0.0.1", "port": mixed,
            "username": USER, "password": PASSWORD, "udp": udp
        }]);
        config["rules"] = json!(["MATCH,link"]);
        let _peer = mihomo(&config, port).await?;
        suites(port, false, udp, &format!("mihomo's {kind} to our mixed")).await?;
    }
    Ok(())
}
