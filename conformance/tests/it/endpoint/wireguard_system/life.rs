//! How long an interface lives: as long as its endpoint, whatever happens to that.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::{Target, Via},
    netns::{self, Netns},
    process::Running,
    subject::{Subject, write_config},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::stage::{NAME, Served, Stand, entry, some};
use crate::live::stage::{Daemon, until};

/// A stream over which something is said now and then.
struct Flow(TcpStream);

impl Flow {
    async fn open(netns: &Netns, target: Target) -> Result<Self> {
        let open = move || async move { Ok(entry().tcp(&target).await?.into_std()?) };
        Ok(Self(TcpStream::from_std(netns.within(open).await?)?))
    }

    async fn beat(&mut self, when: &str) -> Result<()> {
        let said = async {
            self.0.write_all(b"still here").await?;
            let mut heard = [0; 10];
            self.0.read_exact(&mut heard).await?;
            ensure!(&heard == b"still here");
            Ok(())
        };
        let said = tokio::time::timeout(Duration::from_secs(10), said).await;
        said.map_err(|_| anyhow::anyhow!("silence")).flatten().with_context(|| when.to_owned())
    }
}

/// Puts a configuration in force.
fn reload(program: &Running, config: &Value) -> Result<()> {
    write_config(program.dir(), config)?;
    program.ctl(&["reload"]).map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_work_fails_and_the_interface_stays() -> Result<()> {
    if !netns::available("faults of an endpoint with an interface of the system") {
        return Ok(());
    }
    let stand = Stand::new()?;
    let (left, right) = (&stand.lab.left, &stand.lab.right);
    let mut config = stand.config(1, &json!({ "system": true, "name": NAME }));
    config["endpoints"][0]["type"] = json!("fault-wireguard");
    config["crosspoint"] = json!({ "supervision": {
        "backoff_min": "20ms", "reset_after": "100ms", "pulse": "100ms", "max_restarts": 1000,
    } });
    let daemon = Daemon::start_within(&config, left).await?;
    let _theirs = stand.theirs(&json!({})).await?;
    let far = Served::on(right, "127.0.0.1").await?;
    let mine = Served::on(left, "10.9.0.1").await?;
    some(left, entry(), &far, "127.0.0.1", "at first").await?;
    let index = stand.index()?;
    ensure!(index.is_some(), "no interface");
    let again = async |what: &str, order: &str| {
        let before = daemon.status().await?.component("endpoint", "tunnel")?;
        daemon.order("tunnel.sock", order).await?;
        until(what, Duration::from_secs(10), async || {
            let now = daemon.status().await.and_then(|s| s.component("endpoint", "tunnel"));
            now.is_ok_and(|now| now.epoch == before.epoch + 1 && now.state == "up")
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(120)).await;
        anyhow::Ok(())
    };
    // Nothing of ours goes through it, and it stays for the programs of the system.
    for order in ["panic", "error", "panic"] {
        again(order, order).await?;
        ensure!(stand.index()? == index, "another interface after {order}");
        some(left, Via::Direct, &far, "10.9.0.2", order).await?;
        some(right, entry(), &mine, "10.9.0.1", order).await?;
    }
    // Flows of ours hold it whatever happens.
    let mut flow = Flow::open(left, far.tcp("127.0.0.1")?).await?;
    for order in ["hang", "panic", "error"] {
        again(order, order).await?;
        ensure!(stand.index()? == index, "another interface after {order}, with a flow");
        flow.beat(order).await?;
        some(left, entry(), &far, "127.0.0.1", order).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interface_lives_with_its_endpoint() -> Result<()> {
    if !netns::available("the life of an interface of the system") {
        return Ok(());
    }
    let stand = Stand::new()?;
    let (left, right) = (&stand.lab.left, &stand.lab.right);
    let more = json!({ "system": true, "name": NAME });
    let mut ours = stand.ours(&more).await?;
    let _theirs = stand.theirs(&json!({})).await?;
    let far = Served::on(right, "127.0.0.1").await?;
    let mut flow = Flow::open(left, far.tcp("127.0.0.1")?).await?;
    flow.beat("a new flow").await?;
    let index = stand.index()?;
    ensure!(index.is_some(), "no interface");

    // Other networks of a peer: the interface stays.
    let mut config = stand.config(1, &more);
    let allowed = config["endpoints"][0]["peers"][0]["allowed_ips"].as_array_mut();
    allowed.context("no networks")?.push(json!("fd00:60::/48"));
    reload(&ours, &config)?;
    ensure!(stand.index()? == index, "another interface after a reload of peers");
    ensure!(
        stand.ip("-6 route show table all")?.contains("fd00:60::/48"),
        "no route to a new network"
    );
    flow.beat("after a reload of peers").await?;
    reload(&ours, &stand.config(1, &more))?;
    ensure!(
        !stand.ip("-6 route show table all")?.contains("fd00:60::/48"),
        "a route to an old network"
    );
    flow.beat("after a second one").await?;

    // A new instance takes the interface of the old one, and its flows.
    ours.ctl(&["restart", "endpoint/tunnel"])?;
    ensure!(stand.index()? == index, "another interface after a restart");
    flow.beat("after a restart").await?;

    // Two owners of one name are refused, and nothing changes.
    let mut config = stand.config(1, &more);
    let mut second = config["endpoints"][0].clone();
    second["tag"] = json!("second");
    second["listen_port"] = json!(5001);
    config["endpoints"].as_array_mut().context("no endpoints")?.push(second);
    write_config(ours.dir(), &config)?;
    let refused = ours.ctl_raw(&["reload"])?;
    let said = String::from_utf8_lossy(&refused.stdout) + String::from_utf8_lossy(&refused.stderr);
    ensure!(said.contains("interface cpwg is already taken"), "two owners: {said}");
    flow.beat("after a refused reload").await?;
    drop(flow);

    // Another size: another interface of the same name, with new flows.
    reload(&ours, &stand.config(1, &json!({ "system": true, "name": NAME, "mtu": 1300 })))?;
    let link = stand.ip(&format!("link show {NAME}")).with_context(|| ours.log_tail())?;
    ensure!(link.contains("mtu 1300"), "the old size: {link}");
    some(left, entry(), &far, "127.0.0.1", "after a change of size").await?;

    // Somebody takes the interface away: it comes back.
    let index = stand.index()?;
    stand.ip(&format!("link del {NAME}"))?;
    let began = Instant::now();
    while stand.index()?.is_none_or(|now| Some(now) == index) {
        ensure!(began.elapsed() < Duration::from_secs(10), "it is gone: {}", ours.log_tail());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    some(left, entry(), &far, "127.0.0.1", "after the interface was taken away").await?;
    let rules = stand.ip("-6 rule show")?;
    ensure!(rules.matches(NAME).count() == 1, "not one rule: {rules}");

    ours.stop().await?;
    stand.is_clean()
}

/// An interface that cannot be had is said, and the rest works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_interface_the_rest_works() -> Result<()> {
    if !netns::available("an interface of the system that cannot be had") {
        return Ok(());
    }
    let stand = Stand::new()?;
    let left = &stand.lab.left;
    // The cable is no TUN interface.
    let mut config = stand.config(1, &json!({ "system": true, "name": "veth0" }));
    config["route"] = json!({ "final": "direct" });
    let mut ours = stand.start(&Subject::under_test(), left, &config).await?;
    ours.wait_log(|log| log.contains("open interface veth0"), Duration::from_secs(5)).await?;
    let near = Served::on(left, "127.0.0.1").await?;
    some(left, entry(), &near, "127.0.0.1", "another part of the program").await
}
