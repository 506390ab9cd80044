//! DNS server `local`, in a namespace whose hosts file and resolv.conf are ours: clients are told what the reference
//! tells them, and the servers of resolv.conf are asked the same, or the difference is listed in `deviations.tsv`
//! under the suite `dns local`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use crosspoint_conformance::golden::lists::Deviations;
use crosspoint_conformance::netns::{self, Lab};
use crosspoint_conformance::subject::Subject;
use crosspoint_conformance::{loud, ports};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::client::Ask;
use super::origin::Origin;

/// Longer than one try of the reference, which does not send a lost packet again before that.
const WAIT: Duration = Duration::from_secs(6);

/// What stands in resolv.conf, with SERVER for a server that answers and DEAD for an address that nobody has.
const FILES: &[(&str, &str)] = &[
    ("plain", "search lan\nnameserver SERVER\n"),
    (
        "options",
        "nameserver DEAD\nnameserver SERVER\noptions timeout:1 trust-ad ndots:3\nsearch lan\n",
    ),
    ("tcp", "nameserver SERVER\noptions use-vc single-request\n"),
];

/// Questions to each of them.
const ASKS: &[&str] = &[
    "box.test A",
    "BOX.test AAAA",
    "a.1.test A",
    "a.1.test AAAA",
    "a.2.test TXT",
    "a.3.test MX",
    "a.4.test HTTPS",
    "A.5.TeSt A",
    "a A",
    "a TXT",
    "cname.6.test A",
    "nx.7.test A",
    "nx.8.test TXT",
    "none.9.test AAAA",
    "none.10.test MX",
    "servfail.11.test A",
    "servfail.12.test TXT",
    "refused.13.test A",
    "many.14.test A",
    "huge.15.test A tcp",
    "wrongid.16.test A",
    "edns.17.test TXT do",
];

#[tokio::test]
async fn local_asks_what_the_system_asks() -> Result<()> {
    if !netns::available("dns local") {
        return Ok(());
    }
    let subject = Subject::under_test();
    let deviations = if subject.is_reference() { None } else { Some(Deviations::load()?) };
    let (mut wrong, mut names) = (Vec::new(), Vec::new());
    for (file, text) in FILES {
        let ours = observe(&subject, text).await?;
        let theirs = observe(&Subject::Reference, text).await?;
        for ((ask, ours), theirs) in ASKS.iter().zip(ours).zip(theirs) {
            let name = format!("{file}: {ask}");
            let listed = deviations.as_ref().and_then(|list| list.find("dns local", &name));
            match (ours == theirs, listed) {
                (true, None) => {}
                (true, Some(_)) => wrong.push(format!("{name}: no longer deviates")),
                (false, Some(deviation)) if ours == deviation.what => {}
                (false, _) => {
                    wrong.push(format!("{name}\n  reference {theirs}\n  subject   {ours}"));
                }
            }
            names.push(name);
        }
    }
    for deviation in deviations.iter().flat_map(|list| list.of("dns local")) {
        if !names.contains(&deviation.name) {
            wrong.push(format!("{}: listed as deviation, but no such question", deviation.name));
        }
    }
    loud::line(&format!("COMPARED {} questions to local, {} wrong", names.len(), wrong.len()));
    if !wrong.is_empty() {
        bail!("a client is told something else:\n{}", wrong.join("\n"));
    }
    Ok(())
}

/// What is answered to each question, and what the server of resolv.conf sees of it.
async fn observe(subject: &Subject, resolv: &str) -> Result<Vec<String>> {
    let lab = Lab::new()?;
    lab.left.hosts(&[("box.test", Ipv4Addr::new(192, 0, 2, 1).into())])?;
    let server = SocketAddr::new(lab.right.v4(), 53);
    let dead = server.to_string().replace(".2:53", ".77");
    let text = resolv.replace("SERVER", &server.ip().to_string()).replace("DEAD", &dead);
    let file = format!("/etc/netns/{}/resolv.conf", lab.left.name());
    std::fs::write(file, text).context("write the resolv.conf of a namespace")?;

    let (ready, is_ready) = oneshot::channel();
    let (end, is_end) = oneshot::channel::<()>();
    let origin = lab.right.run(move || async move {
        let origin = Origin::bind("r", server).await?;
        let _ = ready.send(());
        let _ = is_end.await;
        Ok(origin.seen())
    })?;
    is_ready.await.context("the server in the namespace")?;
    let port = ports::free();
    let running = subject.launch(&config(port))?.netns(&lab.left).start().await?;
    let mut told = Vec::new();
    for ask in ASKS {
        let ask = Ask::parse(ask)?;
        let listener = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        told.push(lab.left.within(move || async move { patiently(&ask, listener).await }).await?);
    }
    drop(running);
    drop(end);
    let seen = tokio::task::spawn_blocking(move || origin.join()).await?;
    let seen = seen.map_err(|_| anyhow::anyhow!("the server panicked"))??;
    for (ask, told) in ASKS.iter().zip(&mut told) {
        let (name, kind) = ask.split_once(' ').unwrap_or((ask, ""));
        let kind = kind.split(' ').next().unwrap_or_default();
        for seen in seen.iter().filter(|seen| seen.name.eq_ignore_ascii_case(name)) {
            // How large an answer may be is everybody's own choice.
            let text = seen.text.split(" edns").next().unwrap_or_default();
            let note = format!(" [{text}]");
            if text.contains(&format!(" {kind} ")) && !told.contains(&note) {
                *told += &note;
            }
        }
    }
    Ok(told)
}

/// The reference loses a packet now and then.
async fn patiently(ask: &Ask, listener: SocketAddr) -> Result<String> {
    for _ in 0..2 {
        let told = ask.at(listener, WAIT).await?;
        if told != "no answer" {
            return Ok(told);
        }
    }
    ask.at(listener, WAIT).await
}

fn config(port: u16) -> Value {
    json!({
        "log": { "level": "debug" },
        "dns": { "servers": [{ "type": "local", "tag": "l" }], "disable_cache": true },
        "inbounds": [{ "type": "direct", "listen": "127.0.0.1", "listen_port": port }],
        "route": { "rules": [{ "action": "hijack-dns" }] },
    })
}
