//! Several streams in one connection of Trojan, as trojan-go has them: frames by hand, to our inbound and to the reference's.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use crosspoint_conformance::{net::suite::Origins, ports, subject::Subject};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::stage::Ports;

/// SHA-224 of "password".
const KEY: &str = "d63dc919e201d7bc4c825630d2cf25fdc93d4b2f0d46706d29038d01";

const SYN: u8 = 0;
const FIN: u8 = 1;
const PSH: u8 = 2;

/// A frame of smux, version 1.
fn frame(kind: u8, stream: u32, data: &[u8]) -> Vec<u8> {
    let mut out = vec![1, kind];
    out.extend((data.len() as u16).to_le_bytes());
    out.extend(stream.to_le_bytes());
    out.extend(data);
    out
}

fn target(port: u16) -> Vec<u8> {
    let mut out = vec![1, 127, 0, 0, 1];
    out.extend(port.to_be_bytes());
    out
}

/// Reads frames until every stream has said what is expected of it.
async fn expect(stream: &mut TcpStream, expected: &[(u32, Vec<u8>)]) -> Result<()> {
    let mut got: HashMap<u32, Vec<u8>> = HashMap::new();
    let done = |got: &HashMap<u32, Vec<u8>>| {
        expected.iter().all(|(id, data)| got.get(id).is_some_and(|had| had.len() >= data.len()))
    };
    while !done(&got) {
        let mut head = [0; 8];
        timeout(Duration::from_secs(10), stream.read_exact(&mut head))
            .await
            .context("a frame")??;
        let [1, kind, low, high, id @ ..] = head else { bail!("{head:?}") };
        let mut data = vec![0; usize::from(u16::from_le_bytes([low, high]))];
        stream.read_exact(&mut data).await?;
        if kind == PSH {
            got.entry(u32::from_le_bytes(id)).or_default().extend(data);
        }
    }
    for (id, data) in expected {
        ensure!(got.get(id) == Some(data), "stream {id} says something else");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_datagrams_in_one_connection() -> Result<()> {
    let origins = Origins::v4().await?;
    for back in [Subject::under_test(), Subject::Reference] {
        let server = ports::free();
        let _back = back
            .start(&json!({
                "inbounds": [{
                    "type": "trojan", "listen": "127.0.0.1", "listen_port": server,
                    "users": [{ "name": "ann", "password": "password" }],
                }],
            }))
            .await?;
        let mut stream = TcpStream::connect(Ports::v4(server)).await?;
        let mut out = format!("{KEY}\r\n\x7f").into_bytes();
        // Where to is said by each stream.
        out.extend([3, 8]);
        out.extend(b"MUX_CONN\0\0\r\n");
        let (tcp, udp) = (target(origins.echo.addr().port()), target(origins.udp.addr().port()));
        let datagram = [&udp[..], &[0, 4], b"\r\nping"].concat();
        let first: [(u32, u8, &[u8], &[u8]); 3] =
            [(3, 1, &tcp, b"hello "), (5, 1, &tcp, b"hello "), (7, 3, &udp, &datagram)];
        for (id, command, to, payload) in first {
            out.extend(frame(SYN, id, &[]));
            if back.is_reference() {
                // It loses what it has read together with the destination.
                out.extend(frame(PSH, id, &[&[command], to].concat()));
                stream.write_all(&out).await?;
                tokio::time::sleep(Duration::from_millis(300)).await;
                out = frame(PSH, id, payload);
            } else {
                out.extend(frame(PSH, id, &[&[command], to, payload].concat()));
            }
        }
        stream.write_all(&out).await?;
        let hello = |more: &[u8]| [b"hello ", more].concat();
        expect(&mut stream, &[(3, hello(&[])), (5, hello(&[])), (7, datagram.clone())])
            .await
            .with_context(|| back.name().to_owned())?;

        // Many frames of several streams in turn; one that ends leaves the others alone.
        let large: Vec<u8> = (0..200_000u32).map(|n| (n % 253) as u8).collect();
        let (mut reader, mut writer) = stream.split();
        let write = async {
            writer.write_all(&frame(FIN, 3, &[])).await?;
            for piece in large.chunks(9000) {
                writer.write_all(&frame(PSH, 5, piece)).await?;
                writer.write_all(&frame(PSH, 7, &datagram)).await?;
            }
            anyhow::Ok(())
        };
        let count = large.chunks(9000).count();
        let read = async {
            let (mut bytes, mut datagrams) = (Vec::new(), Vec::new());
            while bytes.len() < large.len() || datagrams.len() < datagram.len() * count {
                let mut head = [0; 8];
                reader.read_exact(&mut head).await?;
                let [1, kind, low, high, id, ..] = head else { bail!("{head:?}") };
                let mut data = vec![0; usize::from(u16::from_le_bytes([low, high]))];
                reader.read_exact(&mut data).await?;
                match (kind, id) {
                    (PSH, 5) => bytes.extend(data),
                    (PSH, 7) => datagrams.extend(data),
                    _ => {}
                }
            }
            ensure!(bytes == large, "the bytes differ");
            Ok(())
        };
        let both = timeout(Duration::from_secs(20), async { tokio::try_join!(write, read) }).await;
        both.with_context(|| format!("{}: nothing in 20 s", back.name()))??;
    }
    Ok(())
}
