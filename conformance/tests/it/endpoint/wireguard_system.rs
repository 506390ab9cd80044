//! WireGuard with an interface of the system (`system`), in two namespaces with a cable between them:
//!
//! ```text
//!  left: the program under test      10.77.N.1 ──── 10.77.N.2      right: the reference
//!        interface cpwg 10.9.0.1 ═════════ tunnel ═════════ 10.9.0.2 in user space, or an interface too
//!        10.50.1.0/24: its router                  10.50.2.0/24: its router
//! ```

mod life;
mod stage;
mod watch;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::{Via, suite},
    netns,
    subject::Subject,
};
use serde_json::json;

use self::{
    stage::{NAME, OUTER, Served, Stand, all, entry, has_interface, many, some},
    watch::Watch,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interface_of_ours_and_the_reference_in_user_space() -> Result<()> {
    if !netns::available("WireGuard with an interface of the system") {
        return Ok(());
    }
    let stand = Stand::new()?;
    let (left, right) = (&stand.lab.left, &stand.lab.right);
    for mtu in [1280, 1408, 1500] {
        // With the largest, messages are longer than the cable takes at once.
        let inner = json!({ "mtu": mtu, "udp_fragment": mtu == 1500 });
        let mut outer = json!({ "system": true, "name": NAME });
        outer["mtu"] = inner["mtu"].clone();
        outer["udp_fragment"] = inner["udp_fragment"].clone();
        let _ours = stand.ours(&outer).await?;
        let _theirs = stand.theirs(&inner).await?;
        let link = stand.ip(&format!("link show {NAME}"))?;
        ensure!(link.contains(&format!("mtu {mtu} ")), "another MTU: {link}");
        let watch = Watch::on(right)?;
        for [ours, theirs, loopback, our_net, their_net] in [
            ["10.9.0.1", "10.9.0.2", "127.0.0.1", "10.50.1.7", "10.50.2.7"],
            ["fd00:9::1", "fd00:9::2", "::1", "fd00:50:1::7", "fd00:50:2::7"],
        ] {
            let far = Served::on(right, loopback).await?;
            let near = Served::on(left, loopback).await?;
            let mine = Served::on(left, ours).await?;
            let what = |what: &str| format!("MTU {mtu}, {what}");
            some(left, entry(), &far, loopback, &what("from us")).await?;
            some(left, Via::Direct, &far, theirs, &what("from our system")).await?;
            some(right, entry(), &mine, ours, &what("to our system")).await?;
            some(left, entry(), &far, their_net, &what("behind the peer")).await?;
            some(right, entry(), &near, our_net, &what("to our router")).await?;
            if mtu == 1408 {
                all(left, entry(), &far, "from us").await?;
                all(right, entry(), &mine, "to our system").await?;
                many(left, &far, loopback).await?;
                many(right, &mine, ours).await?;
            }
        }
        ensure!(watch.end().await? > 1000, "the watch saw nothing");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_interfaces() -> Result<()> {
    if !netns::available("WireGuard between two interfaces of the system") {
        return Ok(());
    }
    let stand = Stand::new()?;
    let (left, right) = (&stand.lab.left, &stand.lab.right);
    let _ours = stand.ours(&json!({ "system": true, "name": NAME })).await?;
    let _theirs = stand.theirs(&json!({ "system": true, "name": "wgref" })).await?;
    for (ours, theirs) in [("10.9.0.1", "10.9.0.2"), ("fd00:9::1", "fd00:9::2")] {
        let (mine, far) = (Served::on(left, ours).await?, Served::on(right, theirs).await?);
        some(left, entry(), &far, theirs, "from us").await?;
        some(left, Via::Direct, &far, theirs, "from our system").await?;
        some(right, Via::Direct, &mine, ours, "from their system").await?;
        // The reference loses datagrams that are larger than the MTU of its interface.
        let (tcp, udp) = (mine.tcp(ours)?, mine.udp(ours)?);
        let suites = move || async move {
            suite::tcp_bulk(&entry(), &tcp, 1_000_000).await?;
            suite::udp_many(&entry(), &udp, 50, 1200).await
        };
        right.within(suites).await.context("from the reference")?;
    }
    Ok(())
}

/// The old outbound: everything that comes in belongs to the system. Its interface has no name, so that it gets a number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_outbound_has_an_interface() -> Result<()> {
    if !netns::available("the old WireGuard outbound with an interface of the system") {
        return Ok(());
    }
    let stand = Stand::new()?;
    let (left, right) = (&stand.lab.left, &stand.lab.right);
    let mut config = stand.config(1, &json!({}));
    let endpoint = config["endpoints"][0].take();
    config["endpoints"] = json!([]);
    let peer = &endpoint["peers"][0];
    let outbound = json!({
        "type": "wireguard", "tag": "tunnel", "system_interface": true, "gso": true,
        "local_address": endpoint["address"], "private_key": endpoint["private_key"],
        "peers": [{ "server": peer["address"], "server_port": OUTER, "public_key": peer["public_key"], "allowed_ips": peer["allowed_ips"] }],
    });
    let more = config["outbounds"].as_array_mut().context("no outbounds")?;
    more.push(outbound);
    let mut ours = stand.start(&Subject::under_test(), left, &config).await?;
    let _theirs = stand.theirs(&json!({})).await?;
    has_interface(&mut ours).await?;
    stand.ip("link show wg0").context("an interface of the next number")?;
    let (far, mine) = (Served::on(right, "127.0.0.1").await?, Served::on(left, "10.9.0.1").await?);
    some(left, entry(), &far, "127.0.0.1", "from us").await?;
    some(right, entry(), &mine, "10.9.0.1", "to our system").await?;
    ours.stop().await?;
    ensure!(stand.ip("link show wg0").is_err(), "the interface is still there");
    ensure!(!stand.ip("-6 rule show")?.contains("wg0"), "its rule is still there");
    Ok(())
}
