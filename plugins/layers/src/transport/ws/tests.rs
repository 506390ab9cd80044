//! Both sides with each other, and streams under odd conditions.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use crosspoint_kernel::{
    BoxFuture, DialError,
    addr::Target,
    flow::{BoxStream, Stream},
};
use crosspoint_schema::options::WsTransport;
use tokio::{
    io::{
        AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex,
    },
    sync::{Mutex, OwnedSemaphorePermit},
    time::timeout,
};

use super::stream::{Role, WsStream};
use crate::transport::{AdmitError, Arrived, Carried, Guests, Host, Lower};

/// A stream that takes and gives few bytes at a time, with gathered writes.
struct Narrow(DuplexStream, usize);

impl AsyncRead for Narrow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = self.1;
        let mut part = buf.take(most);
        let before = part.filled().len();
        let polled = Pin::new(&mut self.0).poll_read(cx, &mut part);
        let n = part.filled().len() - before;
        buf.advance(n);
        polled
    }
}

impl AsyncWrite for Narrow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = data.len().min(self.1);
        Pin::new(&mut self.0).poll_write(cx, &data[..n])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        self.poll_write(cx, &all)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Stream for Narrow {}

fn pair(narrow: usize) -> (WsStream, WsStream) {
    let (near, far) = duplex(100_000);
    let client = WsStream::new(Box::new(Narrow(near, narrow)), Role::Client);
    (client, WsStream::new(Box::new(Narrow(far, narrow)), Role::Server))
}

fn noise(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test]
async fn bytes_arrive_as_they_were() {
    for (narrow, len) in [(1, 3000), (7, 20_000), (4096, 700_000), (1 << 20, 3_000_000)] {
        for down in [false, true] {
            let (client, server) = pair(narrow);
            let (mut from, mut to) = if down { (server, client) } else { (client, server) };
            let sent = noise(len);
            let expected = sent.clone();
            let sender = tokio::spawn(async move {
                for part in sent.chunks(260_000) {
                    from.write_all(part).await.unwrap();
                }
                from.shutdown().await.unwrap();
                from
            });
            let mut received = Vec::new();
            timeout(Duration::from_secs(20), to.read_to_end(&mut received)).await.unwrap().unwrap();
            assert!(received == expected, "{narrow} {len} {down}");
            sender.await.unwrap();
        }
    }
}

#[tokio::test]
async fn gathered_pieces_arrive_in_order() {
    let (mut client, mut server) = pair(1000);
    let pieces: Vec<Vec<u8>> = (0..40).map(|n| noise(n * 7 + 1)).collect();
    for (from, to) in [(&mut client, 0), (&mut server, 1)] {
        let _ = to;
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|p| IoSlice::new(p)).collect();
        let mut slices = &mut slices[..];
        while !slices.is_empty() {
            let n = from.write_vectored(slices).await.unwrap();
            IoSlice::advance_slices(&mut slices, n);
        }
        from.flush().await.unwrap();
    }
    for to in [&mut server, &mut client] {
        let mut received = vec![0; pieces.concat().len()];
        to.read_exact(&mut received).await.unwrap();
        assert_eq!(received, pieces.concat());
    }
}

#[tokio::test]
async fn one_direction_ends_before_the_other() {
    for client_first in [false, true] {
        let (client, server) = pair(1 << 20);
        let (mut first, mut last) = if client_first { (client, server) } else { (server, client) };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        let mut text = String::new();
        last.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "question");
        last.write_all(b"answer").await.unwrap();
        last.shutdown().await.unwrap();
        drop(last);
        text.clear();
        first.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "answer");
    }
}

/// The other side in plain bytes.
fn raw(role: Role) -> (WsStream, DuplexStream) {
    let (near, far) = duplex(100_000);
    (WsStream::new(Box::new(near), role), far)
}

#[tokio::test]
async fn pings_are_answered_while_reading() {
    let (mut server, mut far) = raw(Role::Server);
    far.write_all(&[0x89, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2, 0x82, 1, b'x']).await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
    let mut pong = [0; 4];
    far.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"\x8a\x02hi");
}

#[tokio::test]
async fn a_pong_does_not_break_a_frame() {
    let (near, mut far) = duplex(16);
    let mut server = WsStream::new(Box::new(Narrow(near, 100)), Role::Server);
    // A frame of 60 bytes, of which few fit.
    let data = noise(60);
    let n = server.write(&data).await.unwrap();
    assert!(n < 60);
    far.write_all(&[0x89, 1, b'p', 0x82, 1, b'x']).await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
    let reader = tokio::spawn(async move {
        let mut bytes = vec![0; 62 + 3];
        far.read_exact(&mut bytes).await.unwrap();
        bytes
    });
    server.write_all(&data[n..]).await.unwrap();
    server.flush().await.unwrap();
    let bytes = reader.await.unwrap();
    assert_eq!(bytes[..2], [0x82, 60]);
    assert_eq!(bytes[2..62], data);
    assert_eq!(&bytes[62..], b"\x8a\x01p");
}

#[tokio::test]
async fn ends() {
    let mut byte = [0; 1];
    // Between two frames, and in good order.
    for end in [&[][..], &[0x88, 0], &[0x88, 2, 3, 0xe8, 0x82, 1, b'x']] {
        let (mut client, mut far) = raw(Role::Client);
        far.write_all(end).await.unwrap();
        far.shutdown().await.unwrap();
        assert_eq!(client.read(&mut byte).await.unwrap(), 0, "{end:?}");
    }
    // Within one, with another code, and with no frame at all.
    for (end, kind) in [
        (&[0x82][..], io::ErrorKind::UnexpectedEof),
        (&[0x82, 5, b'x'], io::ErrorKind::UnexpectedEof),
        (&[0x02, 1, b'x'], io::ErrorKind::UnexpectedEof),
        (&[0x88, 2, 3, 0xf3], io::ErrorKind::ConnectionAborted),
        (b"HTTP/1.1", io::ErrorKind::InvalidData),
    ] {
        let (mut client, mut far) = raw(Role::Client);
        far.write_all(end).await.unwrap();
        far.shutdown().await.unwrap();
        let mut all = Vec::new();
        assert_eq!(client.read_to_end(&mut all).await.unwrap_err().kind(), kind, "{end:?}");
    }
}

#[tokio::test]
async fn who_gives_up_says_so() {
    let (server, mut far) = raw(Role::Server);
    drop(server);
    let mut all = Vec::new();
    far.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, [0x88, 2, 3, 0xe8]);
}

#[tokio::test]
async fn a_short_rest_goes_along() {
    let (mut client, mut far) = raw(Role::Client);
    let sent = noise(64 * 1024 + 24);
    assert_eq!(client.write(&sent).await.unwrap(), sent.len());
    let mut bytes = vec![0; 64 * 1024 + 6 + 32];
    far.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes[..4], [0x82, 0xfe, 0xff, 0xf8]);
    assert_eq!(bytes[64 * 1024..][..2], [0x82, 0x80 | 32]);
}

/// What lies below, once.
struct Once(Mutex<Option<DuplexStream>>);

impl Lower for Once {
    fn open(&self) -> BoxFuture<'_, Result<Carried, DialError>> {
        Box::pin(async {
            let stream = self.0.lock().await.take().unwrap();
            Ok(Carried { stream: Box::new(stream), alpn: None })
        })
    }
}

struct Nobody;

impl Host for Nobody {
    fn take(self: Arc<Self>, _: Arrived, _: u64, _: SocketAddr, _: OwnedSemaphorePermit) {}
    fn next_id(&self) -> u64 {
        0
    }
}

fn options(max: u32, header: &str) -> WsTransport {
    WsTransport {
        path: if header.is_empty() { "/way" } else { "/way in" }.to_owned(),
        max_early_data: max,
        early_data_header_name: header.to_owned(),
        ..WsTransport::default()
    }
}

/// Both sides, connected; the server runs in a task.
async fn connected(
    client: &WsTransport,
    server: &WsTransport,
) -> (Result<BoxStream, DialError>, tokio::task::JoinHandle<Result<Option<Arrived>, AdmitError>>) {
    let (near, far) = duplex(100_000);
    let server = super::server(server).of;
    let accepted = tokio::spawn(async move {
        let guests = Guests::new(Arc::new(Nobody), "127.0.0.1:1".parse().unwrap());
        server.admit(Carried { stream: Box::new(far), alpn: None }, &guests).await
    });
    let client = super::client(client, &Target::new("server", 80)).unwrap().of;
    (client.open(&Once(Mutex::new(Some(near)))).await, accepted)
}

#[tokio::test]
async fn data_in_the_request() {
    for (max, header) in [
        (0, ""),
        (0, "Sec-WebSocket-Protocol"),
        (4, "Sec-WebSocket-Protocol"),
        (2048, "Sec-WebSocket-Protocol"),
        (2048, "x-early"),
    ] {
        let options = options(max, header);
        let (stream, accepted) = connected(&options, &options).await;
        let mut stream = stream.unwrap();
        stream.write_all(b"question").await.unwrap();
        stream.flush().await.unwrap();
        let mut server = accepted.await.unwrap().unwrap().unwrap().stream;
        let mut question = [0; 8];
        server.read_exact(&mut question).await.unwrap();
        assert_eq!(&question, b"question", "{max} {header}");
        server.write_all(b"answer").await.unwrap();
        server.flush().await.unwrap();
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
    }
}

/// A path that is written in another way than it was configured takes no data, as at the reference's server.
#[tokio::test]
async fn data_in_the_path() {
    let path = |path: &str| WsTransport { path: path.to_owned(), ..options(2048, "") };
    let (stream, accepted) = connected(&path("/x/"), &path("/x/")).await;
    let mut stream = stream.unwrap();
    stream.write_all(b"question").await.unwrap();
    let mut server = accepted.await.unwrap().unwrap().unwrap().stream;
    let mut question = [0; 8];
    server.read_exact(&mut question).await.unwrap();
    assert_eq!(&question, b"question");

    let (stream, _accepted) = connected(&path("/way in"), &path("/way in")).await;
    let mut stream = stream.unwrap();
    stream.write_all(b"question").await.unwrap();
    let error = stream.read_u8().await.unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
    assert!(stream.write_all(b"more").await.is_err(), "and it stays so");
}

/// Who reads and who writes are two tasks; the reader is there first.
#[tokio::test]
async fn a_reader_waits_for_the_first_data() {
    let options = options(4, "x-early");
    let (stream, accepted) = connected(&options, &options).await;
    let (mut reader, mut writer) = tokio::io::split(stream.unwrap());
    let read = tokio::spawn(async move { reader.read_u8().await.unwrap() });
    tokio::task::yield_now().await;
    let write = tokio::spawn(async move {
        writer.write_all(b"question").await.unwrap();
        writer.flush().await.unwrap();
        writer
    });
    let mut server = accepted.await.unwrap().unwrap().unwrap().stream;
    let mut question = [0; 8];
    server.read_exact(&mut question).await.unwrap();
    server.write_all(b"!").await.unwrap();
    server.flush().await.unwrap();
    let _writer = timeout(Duration::from_secs(5), write).await.unwrap().unwrap();
    assert_eq!(timeout(Duration::from_secs(5), read).await.unwrap().unwrap(), b'!');
}

#[tokio::test]
async fn the_wrong_path() {
    let other = WsTransport { path: "/other".to_owned(), ..WsTransport::default() };
    let (stream, accepted) = connected(&other, &options(0, "")).await;
    let error = stream.err().unwrap();
    assert!(error.to_string().contains("404"), "{error}");
    let Err(AdmitError::Refused(why)) = accepted.await.unwrap() else { panic!("let in") };
    assert_eq!(why, "bad path: /other");
}

/// RFC 6455 §4.1: who answers must have understood.
#[tokio::test]
async fn answers_of_who_is_no_websocket() {
    for (answer, why) in [
        ("HTTP/1.1 200 OK\r\n\r\n", "status: 200"),
        ("HTTP/1.1 101 x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", "does not speak"),
        (
            "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            "Accept",
        ),
        ("220 smtp\r\n\r\n", "unexpected answer"),
        ("", "closed before"),
    ] {
        let (near, mut far) = duplex(4096);
        far.write_all(answer.as_bytes()).await.unwrap();
        far.shutdown().await.unwrap();
        let client = super::client(&options(0, ""), &Target::new("server", 80)).unwrap().of;
        let error = client.open(&Once(Mutex::new(Some(near)))).await.err().unwrap();
        assert!(error.to_string().contains(why), "{error}");
    }
}
