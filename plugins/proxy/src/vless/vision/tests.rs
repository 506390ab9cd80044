use crosspoint_kernel::{flow::BoxStream, resolve::NO_TRAIL};
use crosspoint_schema::{
    decode::{Context as Decoding, Cursor, Options},
    json::Loaded,
};
use crosspoint_tls::{Client, ClientDefaults, Server, ServerDefaults};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::vless::reply::Reply;

const ID: Uuid = *b"0123456789abcdef";

fn options<T: Options>(text: &str) -> T {
    let loaded = Loaded::from_text("test", text).unwrap();
    let cx = Decoding::new(loaded.sources);
    T::decode_object(&Cursor::new(&loaded.root, "", &cx)).unwrap()
}

/// Both ends of a connection, after the handshake of TLS.
async fn sealed() -> [BoxStream; 2] {
    let defaults = ClientDefaults { leavable: true, ..ClientDefaults::default() };
    let client =
        Client::new(&options(r#"{ "server_name": "a.test", "insecure": true }"#), "", &defaults);
    let defaults = ServerDefaults { leavable: true, ..ServerDefaults::default() };
    let server = Server::new(&options(r#"{ "insecure": true }"#), &defaults).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (near, client) = (near.unwrap(), client.unwrap());
    let shaken = tokio::join!(
        client.connect(Box::new(near), &NO_TRAIL),
        server.accept(Box::new(far.unwrap().0))
    );
    [Box::new(shaken.0.unwrap()), Box::new(shaken.1.unwrap())]
}

/// Both ends with the flow. A request of three bytes and a response of two go in front.
async fn pair() -> [BoxStream; 2] {
    let [near, mut far] = sealed().await;
    let reply = Box::new(Reply::new(near));
    let mut near: BoxStream = Box::new(Vision::client(reply, ID, b"req".to_vec()));
    near.write_all(&client_hello()).await.unwrap();
    near.flush().await.unwrap();
    let mut ahead = vec![0; 100];
    far.read_exact(&mut ahead).await.unwrap();
    assert_eq!(ahead.drain(..3).as_slice(), b"req");
    let mut far: BoxStream = Box::new(Vision::server(far, ID, b"\0\0".to_vec(), ahead));
    let mut hello = vec![0; client_hello().len()];
    far.read_exact(&mut hello).await.unwrap();
    assert_eq!(hello, client_hello());
    [near, far]
}

fn client_hello() -> Vec<u8> {
    [&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc][..], &[0x33; 508]].concat()
}

/// The first flight of a server.
fn server_hello(tls13: bool) -> Vec<u8> {
    let mut out = [&[22, 3, 3, 0, 122, 2, 0, 0, 118, 3, 3][..], &[0x44; 116]].concat();
    out[43] = 32;
    out[76..78].copy_from_slice(&[0x13, 1]);
    if tls13 {
        out[100..106].copy_from_slice(&[0, 0x2b, 0, 2, 3, 4]);
    }
    out.extend(record(1000));
    out
}

fn record(len: u16) -> Vec<u8> {
    let mut out = vec![23, 3, 3];
    out.extend(len.to_be_bytes());
    out.extend((0..len).map(|n| (n % 251) as u8));
    out
}

/// Sends from one to the other, both ways at once.
async fn exchange(pair: &mut [BoxStream; 2], up: &[u8], down: &[u8]) {
    let [near, far] = pair;
    let (mut near_in, mut near_out) = tokio::io::split(near);
    let (mut far_in, mut far_out) = tokio::io::split(far);
    let (mut up_got, mut down_got) = (vec![0; up.len()], vec![0; down.len()]);
    let work = async {
        let results = tokio::join!(
            async {
                near_out.write_all(up).await?;
                near_out.flush().await
            },
            async {
                far_out.write_all(down).await?;
                far_out.flush().await
            },
            far_in.read_exact(&mut up_got),
            near_in.read_exact(&mut down_got),
        );
        results.0.unwrap();
        results.1.unwrap();
        results.2.unwrap();
        results.3.unwrap();
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), work).await.unwrap();
    assert!(up_got == up && down_got == down);
}

/// Whether they are raw: what the client writes, what it reads.
fn raw(pair: &mut [BoxStream; 2]) -> [bool; 2] {
    let [near, far] = pair;
    [
        near.raw_sink().is_some() && far.raw_source().is_some(),
        far.raw_sink().is_some() && near.raw_source().is_some(),
    ]
}

#[tokio::test]
async fn tls_1_3_goes_its_own_way() {
    let mut pair = pair().await;
    exchange(&mut pair, &[], &server_hello(true)).await;
    exchange(&mut pair, &[&[20, 3, 3, 0, 1, 1][..], &record(53)].concat(), &[]).await;
    assert_eq!(raw(&mut pair), [false, false]);
    exchange(&mut pair, &record(300), &[]).await;
    // The command has come; one more byte shows that nothing is left of the outer TLS.
    exchange(&mut pair, &record(16_000), &record(20)).await;
    exchange(&mut pair, b"x", b"y").await;
    assert_eq!(raw(&mut pair), [true, true]);
    let bulk: Vec<u8> = (0..2_000_000u32).map(|n| (n >> 3) as u8).collect();
    exchange(&mut pair, &bulk, &bulk).await;
    // The end of one direction leaves the other one open.
    let [near, far] = &mut pair;
    near.shutdown().await.unwrap();
    assert_eq!(far.read(&mut [0; 10]).await.unwrap(), 0);
    exchange(&mut pair, &[], &record(1000)).await;
}

#[tokio::test]
async fn tls_1_2_stays_encrypted() {
    let mut pair = pair().await;
    exchange(&mut pair, &[], &server_hello(false)).await;
    for n in 0..20 {
        exchange(&mut pair, &record(300 + n), &record(1000)).await;
    }
    let bulk = record(16_000).repeat(30);
    exchange(&mut pair, &bulk, &bulk).await;
    assert_eq!(raw(&mut pair), [false, false]);
    let [near, far] = &mut pair;
    far.shutdown().await.unwrap();
    assert_eq!(near.read(&mut [0; 10]).await.unwrap(), 0);
    exchange(&mut pair, &record(1000), &[]).await;
}

#[tokio::test]
async fn other_traffic_passes() {
    let mut pair = pair().await;
    for n in 0..20u8 {
        exchange(&mut pair, &[n; 100], &[n; 9000]).await;
    }
    let bulk = vec![7; 1_000_000];
    exchange(&mut pair, &bulk, &bulk).await;
    assert_eq!(raw(&mut pair), [false, false]);
}

#[tokio::test]
async fn a_server_may_talk_first() {
    let [near, mut far] = sealed().await;
    let mut near = Vision::client(near, ID, b"req".to_vec());
    let reader = tokio::spawn(async move {
        let mut got = [0; 8];
        near.read_exact(&mut got).await.unwrap();
        (near, got)
    });
    // The request comes with a padded block that has nothing in it.
    let mut ahead = vec![0; 2000];
    let n = far.read(&mut ahead).await.unwrap();
    ahead.truncate(n);
    assert!(n > 900 && ahead.starts_with(b"req0123456789abcdef\0\0\0"), "{n}");
    let mut far = Vision::server(far, ID, Vec::new(), ahead.split_off(3));
    far.write_all(b"greeting").await.unwrap();
    far.flush().await.unwrap();
    let (mut near, got) = reader.await.unwrap();
    assert_eq!(&got, b"greeting");
    near.write_all(b"hello").await.unwrap();
    near.shutdown().await.unwrap();
    let mut heard = String::new();
    far.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "hello");
}

#[tokio::test]
async fn who_says_nothing_still_asks() {
    let [near, mut far] = sealed().await;
    let mut near = Vision::client(near, ID, b"req".to_vec());
    near.shutdown().await.unwrap();
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert!(got.starts_with(b"req0123456789abcdef\0\0\0"));
}
