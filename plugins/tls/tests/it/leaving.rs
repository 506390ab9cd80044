//! TLS that is left in the middle of a connection.

use std::{future::poll_fn, time::Duration};

use crosspoint_kernel::{
    flow::{BoxStream, Stream as _},
    resolve::NO_TRAIL,
};
use crosspoint_tls::{Client, ClientDefaults, Server, ServerDefaults, TlsStream};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::support::{options, self_signed};

fn sides(version: &str, leavable: bool) -> (Client, Server) {
    let pair = self_signed("a.test", true);
    let near =
        json!({ "server_name": "a.test", "certificate": pair.certificate, "max_version": version });
    let far = json!({ "certificate": pair.certificate, "key": pair.key });
    let defaults = ClientDefaults { leavable, ..ClientDefaults::default() };
    let client = Client::new(&options(&near), "", &defaults).unwrap();
    let defaults = ServerDefaults { leavable, ..ServerDefaults::default() };
    (client, Server::new(&options(&far), &defaults).unwrap())
}

async fn shake(version: &str, near: BoxStream, far: BoxStream) -> (TlsStream, TlsStream) {
    let (client, server) = sides(version, true);
    let (near, far) = tokio::join!(client.connect(near, &NO_TRAIL), server.accept(far));
    (near.unwrap(), far.unwrap())
}

/// Bytes that look like records of TLS, among them.
fn bytes(len: usize, seed: usize) -> Vec<u8> {
    let byte = |n: usize| [0x17, 3, 3, 0, 40, (n * 31 + seed) as u8][n % 6];
    (0..len).map(byte).collect()
}

/// Writes `sealed` bytes through TLS and `open` bytes below it.
async fn send(stream: &mut TlsStream, sealed: usize, open: usize) {
    stream.write_all(&bytes(sealed, 1)).await.unwrap();
    poll_fn(|cx| stream.seal().unwrap().poll_open_sink(cx)).await.unwrap();
    stream.write_all(&bytes(open, 2)).await.unwrap();
    stream.flush().await.unwrap();
}

/// Reads them, `piece` bytes at a time.
async fn receive(stream: &mut TlsStream, sealed: usize, open: usize, piece: usize) {
    let mut got: Vec<u8> = Vec::new();
    let mut buffer = vec![0; piece];
    while got.len() < sealed {
        let n = stream.read(&mut buffer).await.unwrap();
        assert!(n > 0, "ended after {} of {sealed} bytes", got.len());
        got.extend(&buffer[..n]);
        // The last one may be known before it was read whole: what is decrypted still comes.
        if got.len() + piece >= sealed {
            break;
        }
    }
    stream.seal().unwrap().open_source();
    while got.len() < sealed + open {
        let n = stream.read(&mut buffer).await.unwrap();
        assert!(n > 0, "ended after {} of {} bytes", got.len(), sealed + open);
        got.extend(&buffer[..n]);
    }
    let mut expected = bytes(sealed, 1);
    expected.extend(bytes(open, 2));
    assert!(got == expected);
}

#[tokio::test]
async fn what_follows_the_last_record_stays_as_it_is() {
    for version in ["1.3", "1.2"] {
        for (pipe, sealed, open, piece) in [
            (4000, 1, 30_000, 1000),
            (100_000, 5000, 30_000, 16_384),
            (100_000, 5000, 30_000, 3000),
            (100_000, 16_384, 5, 16_384),
            (4000, 16_384, 100_000, 20_000),
        ] {
            let (near, far) = tokio::io::duplex(pipe);
            let shaken = shake(version, Box::new(near), Box::new(far)).await;
            let (mut near, mut far) = shaken;
            let work = async {
                tokio::join!(send(&mut near, sealed, open), receive(&mut far, sealed, open, piece));
                // The other direction is still sealed, and stays it.
                assert!(far.raw_source().is_none());
                near.seal().unwrap().keep_source();
                let data = bytes(40_000, 3);
                let write = async {
                    far.write_all(&data).await.unwrap();
                    far.shutdown().await.unwrap();
                };
                let mut got = Vec::new();
                let (_, read) = tokio::join!(write, near.read_to_end(&mut got));
                read.unwrap();
                assert!(got == data);
            };
            tokio::time::timeout(Duration::from_secs(20), work).await.unwrap();
        }
    }
}

#[tokio::test]
async fn records_come_one_by_one_until_then() {
    let (near, far) = tokio::io::duplex(200_000);
    let (mut near, mut far) = shake("1.3", Box::new(near), Box::new(far)).await;
    for n in 1..=3 {
        near.write_all(&[n; 10]).await.unwrap();
    }
    near.flush().await.unwrap();
    let mut buffer = [0; 100];
    for n in 1..=2 {
        assert_eq!(far.read(&mut buffer).await.unwrap(), 10);
        assert_eq!(buffer[..10], [n; 10]);
    }
    far.seal().unwrap().keep_source();
    near.write_all(&[4; 10]).await.unwrap();
    far.read_exact(&mut buffer[..20]).await.unwrap();
    assert_eq!(buffer[..20], [[3; 10], [4; 10]].concat());
}

#[tokio::test]
async fn sockets_come_to_light_and_memory_goes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (mut near, mut far) = shake("1.3", Box::new(near.unwrap()), Box::new(far.unwrap().0)).await;
    for _ in 0..2 {
        tokio::join!(send(&mut near, 300, 5000), receive(&mut far, 300, 5000, 1000));
        assert!(near.raw_sink().is_some());
        // One more read finds that nothing is left of TLS.
        near.write_all(b"x").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'x');
        assert!(far.raw_source().is_some());
        std::mem::swap(&mut near, &mut far);
    }
    assert!(near.raw_tcp().is_some() && far.raw_tcp().is_some());
    assert!(near.alpn().is_none() && near.local_addr().is_some());
    // The end of a direction is the end of the socket's.
    near.shutdown().await.unwrap();
    assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn others_cannot_be_left() {
    let (client, server) = sides("1.3", false);
    let (near, far) = tokio::io::duplex(1000);
    let (near, far) =
        tokio::join!(client.connect(Box::new(near), &NO_TRAIL), server.accept(Box::new(far)));
    assert!(near.unwrap().seal().is_none() && far.unwrap().seal().is_none());
}
