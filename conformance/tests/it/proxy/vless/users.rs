//! Users that come and go while the inbound runs.

use std::time::Duration;

use anyhow::{Result, ensure};
use crosspoint_conformance::{
    net::{Socks, Via, suite::Origins},
    ports,
    subject::Subject,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{VISION, until};
use crate::proxy::stage::Ports;

async fn talks(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    let talk = async {
        stream.write_all(b"hello").await?;
        stream.read_exact(&mut answer).await
    };
    matches!(timeout(Duration::from_secs(5), talk).await, Ok(Ok(_))) && &answer == b"hello"
}

/// Streams and sessions (XUDP) of a user who goes end, nobody else's; whose flow changes counts as another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_user_is_cut_and_nobody_else() -> Result<()> {
    let origin = Origins::v4().await?;
    let [server, ann, bob, cat] = ports::many();
    let names = [("ann", ann), ("bob", bob), ("cat", cat)];
    let config = |users: Value| {
        json!({
            "inbounds": [{
                "type": "vless", "tag": "in", "listen": "127.0.0.1", "listen_port": server, "users": users,
                "tls": { "enabled": true, "insecure": true },
            }],
        })
    };
    let user = |name: &str, flow: &str| json!({ "name": name, "uuid": name, "flow": flow });
    let all = json!([user("ann", ""), user("bob", ""), user("cat", VISION)]);
    let mut back = Subject::under_test().start(&config(all)).await?;
    let entry = |(name, port): (&str, u16)| json!({ "type": "mixed", "tag": name, "listen": "127.0.0.1", "listen_port": port });
    let exit = |(name, _): (&str, u16)| {
        json!({
            "type": "vless", "tag": format!("out {name}"), "server": "127.0.0.1", "server_port": server, "uuid": name,
            "flow": if name == "cat" { VISION } else { "" },
            "tls": { "enabled": true, "insecure": true, "server_name": "localhost" },
        })
    };
    let rules =
        names.map(|(name, _)| json!({ "inbound": name, "outbound": format!("out {name}") }));
    let _front = Subject::under_test()
        .start(&json!({
            "inbounds": names.map(entry), "outbounds": names.map(exit), "route": { "rules": rules },
        }))
        .await?;
    let (echo, udp) = (origin.echo.addr().into(), origin.udp.addr().into());
    let mut streams = Vec::new();
    let mut datagrams = Vec::new();
    for (name, port) in names {
        let via = Via::from(Socks::v5(Ports::v4(port)));
        let mut stream = via.tcp(&echo).await?;
        ensure!(talks(&mut stream).await, "{name}");
        streams.push(stream);
        let association = via.udp(&udp).await?;
        association.send(b"hello").await?;
        ensure!(association.recv().await? == b"hello", "{name}");
        datagrams.push(association);
    }
    let users = json!([user("ann", ""), user("cat", ""), user("new", "")]);
    back.reload(&config(users))?;
    let ctl = |back: &crosspoint_conformance::process::Running| -> Result<Vec<String>> {
        let all = back.ctl(&["connections"])?;
        let all = all["connections"].as_array().cloned().unwrap_or_default();
        Ok(all.iter().filter_map(|one| Some(one["user"].as_str()?.to_owned())).collect())
    };
    until("only the flows of ann are left", async || {
        let left = ctl(&back)?;
        Ok(!left.is_empty() && left.iter().all(|user| user == "ann"))
    })
    .await?;
    ensure!(talks(&mut streams[0]).await, "ann was cut");
    datagrams[0].send(b"again").await?;
    ensure!(datagrams[0].recv().await? == b"again");
    for (stream, (name, _)) in streams[1..].iter_mut().zip(&names[1..]) {
        ensure!(!talks(stream).await, "{name} is still served");
    }
    let via = Via::from(Socks::v5(Ports::v4(bob)));
    if let Ok(mut stream) = via.tcp(&echo).await {
        ensure!(!talks(&mut stream).await, "bob is served again");
    }
    Ok(())
}
