//! Servers that misbehave, in this process.

mod datagrams;
mod secure;
mod streams;

use std::{future::Future, net::SocketAddr, sync::Arc};

use crosspoint_kernel::{
    BuildError, Component, Kind,
    component::{Incarnation, Outbound},
    plugin::registry,
    resolve::{DnsServer, ExchangeError, NO_TRAIL, Query},
    slot::Slot,
    snapshot::Namespace,
};
use crosspoint_schema::{
    RawComponent,
    component::LegacyDns,
    decode::{Context, Cursor},
    json,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
};

use super::wire;
use crate::testkit::{build_cx, plane};

/// A server from its JSON, with outbounds to go through.
pub(super) async fn build(
    text: &str,
    outbounds: &[(&str, Arc<dyn Outbound>)],
) -> Arc<dyn DnsServer> {
    build_old(text, outbounds, None).await
}

/// The same for a server that was written in the old form; the first outbound is the default one.
pub(super) async fn build_old(
    text: &str,
    outbounds: &[(&str, Arc<dyn Outbound>)],
    old: Option<LegacyDns>,
) -> Arc<dyn DnsServer> {
    try_build(text, outbounds, old).await.expect("built").dns.expect("a DNS server")
}

/// The same, if it can be built; the options are right.
pub(super) async fn try_build(
    text: &str,
    outbounds: &[(&str, Arc<dyn Outbound>)],
    old: Option<LegacyDns>,
) -> Result<Component, BuildError> {
    let (node, cx) = (json::parse(text).expect("JSON"), Context::default());
    let raw = RawComponent::split(Kind::DnsServer, 0, &Cursor::new(&node, "x[0]", &cx));
    let mut raw = raw.expect("a component");
    raw.legacy_dns = old.map(Box::new);
    let plugin = registry()[&(Kind::DnsServer, raw.type_name.as_str())];
    let spec = (plugin.parse)(raw.raw(&cx)).expect("options");
    let mut names = Namespace::default();
    for (tag, outbound) in outbounds {
        let me =
            Incarnation { kind: Kind::Outbound, type_name: "test", tag: (*tag).into(), epoch: 1 };
        let slot = Slot::<dyn Outbound>::new((*tag).into());
        slot.set(Arc::new(me), outbound.clone());
        names.default_outbound.get_or_insert(slot.clone());
        names.outbounds.insert((*tag).into(), slot);
    }
    spec.build(build_cx(plugin.type_name, plane(names))).await
}

/// A server of that type at that address.
pub(super) async fn at(type_name: &str, addr: SocketAddr) -> Arc<dyn DnsServer> {
    let text = format!(
        r#"{{"type": "{type_name}", "server": "{}", "server_port": {}}}"#,
        addr.ip(),
        addr.port()
    );
    build(&text, &[]).await
}

/// A query for an address of `name`.
pub(super) fn query(id: u16, name: &str) -> Vec<u8> {
    let mut query = [&id.to_be_bytes()[..], b"\x01\x20\0\x01\0\0\0\0\0\x01"].concat();
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend(b"\0\0\x01\0\x01");
    // An OPT record with a cookie: what the client says in EDNS must arrive.
    query.extend(b"\0\0\x29\x10\0\0\0\0\0\0\x0c\0\x0a\0\x08cookies!");
    query
}

/// An answer: the query with the bit, and something at the end that tells whose it is.
pub(super) fn answer(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    answer.extend(b"answer");
    answer
}

/// Asks, as the resolver does, and looks at the answer.
pub(super) async fn ask(
    server: &dyn DnsServer,
    id: u16,
    name: &str,
) -> Result<Vec<u8>, ExchangeError> {
    let message = query(id, name);
    let trail = NO_TRAIL.enter(&"tested".into()).expect("no loop");
    let found = server.exchange(Query { message: &message, trail: &trail }).await?;
    assert_eq!(wire::id(&found), id, "the id is the asker's");
    Ok(found)
}

/// Asks and wants the right answer.
pub(super) async fn ask_well(server: &dyn DnsServer, id: u16, name: &str) {
    let found = ask(server, id, name).await.unwrap();
    assert_eq!(found, answer(&query(id, name)), "{name}");
}

/// A UDP server that answers the n-th datagram with whatever `reply` says.
pub(super) async fn udp_server(
    mut reply: impl FnMut(usize, &[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buf = vec![0; 65_535];
        for n in 0.. {
            let Ok((length, from)) = socket.recv_from(&mut buf).await else { continue };
            for message in reply(n, &buf[..length]) {
                let _ = socket.send_to(&message, from).await;
            }
        }
    });
    addr
}

/// A TCP server that runs `serve` on the n-th connection.
pub(super) async fn tcp_server<F>(
    listener: TcpListener,
    serve: impl Fn(usize, TcpStream) -> F + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for n in 0.. {
            let Ok((stream, _)) = listener.accept().await else { continue };
            tokio::spawn(serve(n, stream));
        }
    });
    addr
}

pub(super) async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// Reads a message with its length; `None` at the end.
pub(super) async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let length = stream.read_u16().await.ok()?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// Writes a message with its length.
pub(super) async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap();
    let framed = [&length.to_be_bytes()[..], message].concat();
    let _ = stream.write_all(&framed).await;
    let _ = stream.flush().await;
}
