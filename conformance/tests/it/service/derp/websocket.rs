//! DERP inside a WebSocket, as clients in browsers have it.

use anyhow::{Context, Result, bail, ensure};
use crosspoint_conformance::{
    net::{pattern::Pattern, within},
    tailnet::derp::{Client, Frame, Hello, Keys, kind, random},
};
use crosspoint_tls::TlsStream;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::stage::{STEP, Server, World};

/// Asks for a WebSocket; the head of the answer, and the connection.
async fn ask(server: &Server, protocol: &str) -> Result<(String, TlsStream)> {
    let mut stream = server.tls().await?;
    let request = format!(
        "GET /derp HTTP/1.1\r\nHost: derp.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Origin: https://elsewhere.test\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.context("the answer to the upgrade")?);
        ensure!(head.len() < 8192, "an endless head");
    }
    Ok((String::from_utf8(head)?, stream))
}

/// Takes the WebSocket off: bytes on one side, binary messages on the other. Up to
/// 16 kB that are there at once are a message.
async fn unwrap(stream: TlsStream, plain: DuplexStream) -> Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    let (mut reader, mut writer) = tokio::io::split(plain);
    let sending = async {
        // The reference takes messages of at most 32 kB.
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = reader.read(&mut buffer).await?;
            if read == 0 {
                return anyhow::Ok(());
            }
            let mask: [u8; 4] = random()?;
            let mut message = vec![0x82];
            match u8::try_from(read) {
                Ok(read @ ..126) => message.push(0x80 | read),
                _ => {
                    message.push(0x80 | 126);
                    message.extend((read as u16).to_be_bytes());
                }
            }
            message.extend(mask);
            message.extend(buffer[..read].iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
            to.write_all(&message).await?;
            to.flush().await?;
        }
    };
    let receiving = async {
        loop {
            let (kind, length) = (from.read_u8().await?, from.read_u8().await?);
            let length = match length {
                126 => u64::from(from.read_u16().await?),
                127 => from.read_u64().await?,
                length @ 0..126 => u64::from(length),
                _ => bail!("a masked message of a server"),
            };
            ensure!(length <= 1 << 20, "a message of {length} bytes");
            let mut body = vec![0; length as usize];
            from.read_exact(&mut body).await?;
            match kind & 0xf {
                0 | 2 => writer.write_all(&body).await?,
                8 => return anyhow::Ok(()),
                9 | 10 => {}
                other => bail!("a message of type {other}"),
            }
        }
    };
    tokio::select! { done = sending => done, done = receiving => done }
}

#[tokio::test]
async fn a_client_in_a_websocket() -> Result<()> {
    let world = World::new()?;
    let server = world.start(&json!({})).await?;
    let (head, stream) = ask(&server, "derp").await?;
    let field = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
    // RFC 6455 §1.3, its own example.
    ensure!(field("Sec-WebSocket-Accept") == Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    ensure!(field("Sec-WebSocket-Protocol") == Some("derp"), "{head}");
    ensure!(field("Sec-WebSocket-Extensions").is_none(), "{head}");
    let (near, far) = tokio::io::duplex(1 << 20);
    let pump = tokio::spawn(unwrap(stream, far));
    let keys = Keys::generate()?;
    let hello = Hello::default();
    let entering = Client::login_inside(near, &keys, &hello);
    let mut web = within("log in", STEP, entering).await?;

    let mut ann = server.client().await?;
    ensure!(web.server == ann.server, "another key inside a WebSocket");
    for length in [1, 0, 120, 1280, 65_536] {
        let text = Pattern::new(length as u64).take(length);
        web.writer.send(&ann.key, &text).await?;
        let frame = ann.reader.expect(kind::RECV).await?;
        ensure!(frame.keyed()? == (web.key, &text[..]), "{length} bytes out of a WebSocket");
        ann.writer.send(&web.key, &text).await?;
        let frame: Frame = web.reader.expect(kind::RECV).await?;
        ensure!(frame.keyed()? == (ann.key, &text[..]), "{length} bytes into a WebSocket");
    }
    web.writer.frame(kind::PING, &[b"abcdefgh"]).await?;
    ensure!(web.reader.expect(kind::PONG).await?.body == b"abcdefgh");
    // Frames need not begin where messages do.
    let bytes = Frame::bytes(kind::SEND, &[&ann.key, b"in pieces"]);
    for piece in bytes.chunks(7) {
        web.writer.raw(piece).await?;
        tokio::task::yield_now().await;
    }
    let frame = ann.reader.expect(kind::RECV).await?;
    ensure!(frame.keyed()? == (web.key, &b"in pieces"[..]));
    pump.abort();
    Ok(())
}
