//! STUN beside DERP.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::pattern::Pattern,
    ports,
    tailnet::{derp::random, stun},
};
use serde_json::json;
use tokio::net::UdpSocket;

use super::stage::World;

async fn ask(socket: &UdpSocket, packet: &[u8], wait: Duration) -> Result<Option<Vec<u8>>> {
    socket.send(packet).await?;
    let mut buffer = [0; 2048];
    match tokio::time::timeout(wait, socket.recv(&mut buffer)).await {
        Ok(read) => Ok(Some(buffer[..read?].to_vec())),
        Err(_) => Ok(None),
    }
}

/// The reference tells an IPv4 address as one of IPv6 when its socket is one of both; nodes take either.
fn plain(told: SocketAddr) -> SocketAddr {
    SocketAddr::new(told.ip().to_canonical(), told.port())
}

#[tokio::test]
async fn addresses_are_told() -> Result<()> {
    let world = World::new()?;
    let port = ports::free();
    let stun_options = json!({ "stun": { "enabled": true, "listen": "::", "listen_port": port } });
    let _server = world.start(&stun_options).await?;
    let (quiet, wait) = (Duration::from_millis(200), Duration::from_secs(3));
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let socket = UdpSocket::bind((ip, 0)).await?;
        socket.connect(SocketAddr::new(ip, port)).await?;
        let mut told = None;
        // The socket may be bound a moment after the other one.
        for _ in 0..20 {
            let transaction = random()?;
            let answer = ask(&socket, &stun::request(transaction), wait / 10).await;
            if let Ok(Some(answer)) = answer {
                told = Some(stun::answer(&answer, transaction)?);
                break;
            }
        }
        let told = told.with_context(|| format!("no answer at {ip}"))?;
        ensure!(plain(told) == socket.local_addr()?, "{told} at {ip}");

        // Whatever is no request of a node gets no answer: no other server is to be scanned through this one.
        let request = stun::request([1; 12]);
        let mut wrong_sum = request.clone();
        wrong_sum[39] ^= 1;
        for (what, packet) in [
            ("without attributes", stun::bare_request([1; 12])),
            ("with a wrong fingerprint", wrong_sum),
            ("that is cut", request[..30].to_vec()),
            ("that goes on", [&request[..], b"more"].concat()),
            ("that is an answer", [&[1, 1], &request[2..]].concat()),
            ("of noise", Pattern::new(1).take(1200)),
            ("of nothing", Vec::new()),
        ] {
            let answer = ask(&socket, &packet, quiet).await?;
            ensure!(answer.is_none(), "a packet {what} is answered: {answer:02x?}");
        }
        let transaction = random()?;
        let answer = ask(&socket, &stun::request(transaction), wait).await?.context("silent")?;
        ensure!(plain(stun::answer(&answer, transaction)?) == socket.local_addr()?);
    }
    Ok(())
}
