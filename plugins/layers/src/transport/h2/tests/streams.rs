//! Streams: bytes, ends, windows.

use std::{
    io::ErrorKind,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crosspoint_kernel::flow::BoxStream;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::house::{Manner, PEER, Site, client, grpc, http, ways};

/// Bytes that are the same for no two positions near each other.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

async fn exchange(stream: BoxStream, sent: Vec<u8>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
        writer
    });
    let mut back = Vec::new();
    reader.read_to_end(&mut back).await.unwrap();
    assert!(back == expected, "{} of {} bytes", back.len(), expected.len());
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn bytes_come_back_and_then_the_end() {
    for (options, tls) in ways() {
        let site = Site::new(&options, tls, Manner::Echo);
        let client = client(&options, tls);
        for len in [0, 1, 5, 70_000, 9 << 20] {
            let stream = client.open(&site).await.unwrap();
            let exchange = exchange(stream, pattern(len));
            timeout(Duration::from_secs(30), exchange).await.unwrap();
        }
    }
}

#[tokio::test]
async fn many_streams_share_a_connection() {
    for (options, tls, dials) in [(http(), true, 1), (grpc(), false, 1)] {
        let site = Site::new(&options, tls, Manner::Echo);
        let client = client(&options, tls);
        let mut tasks = Vec::new();
        for n in 0..100 {
            let stream = client.open(&site).await.unwrap();
            tasks.push(tokio::spawn(exchange(stream, pattern(1000 * n))));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(site.dials(), dials);
        assert_eq!(site.house.taken.load(Ordering::Relaxed), 100);
    }
}

#[tokio::test]
async fn beyond_what_a_server_takes_there_is_another_connection() {
    let site = Site::new(&http(), true, Manner::Echo);
    let client = client(&http(), true);
    let mut streams = Vec::new();
    for _ in 0..300 {
        let mut stream = client.open(&site).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        streams.push(stream);
    }
    assert_eq!(site.dials(), 2);
}

#[tokio::test]
async fn a_stream_that_nobody_reads_stops_its_writer_and_no_other() {
    for options in [http(), grpc()] {
        let site = Site::new(&options, true, Manner::Deaf);
        let client = client(&options, true);
        let mut full = client.open(&site).await.unwrap();
        let chunk = vec![7; 64 << 10];
        let mut written = 0;
        while let Ok(n) = timeout(Duration::from_millis(300), full.write(&chunk)).await {
            written += n.unwrap();
            assert!(written < 8 << 20, "no end of it");
        }
        // At least a window fits, less the heads of messages.
        assert!(written >= 1_000_000, "{written}");
        drop(full);
        drop(client);
    }
    // In the other direction the server is the one that waits; a second stream goes on.
    for options in [http(), grpc()] {
        let site = Site::new(&options, true, Manner::Echo);
        let client = client(&options, true);
        let full = client.open(&site).await.unwrap();
        let (_reader, mut writer) = tokio::io::split(full);
        let mut written = 0;
        while let Ok(n) = timeout(Duration::from_millis(300), writer.write(&chunk())).await {
            written += n.unwrap();
            assert!(written < 16 << 20, "no end of it");
        }
        let other = client.open(&site).await.unwrap();
        timeout(Duration::from_secs(10), exchange(other, pattern(5 << 20))).await.unwrap();
        assert_eq!(site.dials(), 1);
    }
}

fn chunk() -> Vec<u8> {
    vec![9; 64 << 10]
}

#[tokio::test]
async fn ends_are_those_of_one_direction() {
    for (options, tls) in ways() {
        let site = Site::new(&options, tls, Manner::Echo);
        let client = client(&options, tls);
        let mut stream = client.open(&site).await.unwrap();
        stream.write_all(b"question").await.unwrap();
        stream.shutdown().await.unwrap();
        let error = stream.write(b"more").await;
        assert!(error.is_err() || !tls, "written after the end");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "question");
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_dropped_stream_is_reset() {
    let site = Site::new(&grpc(), true, Manner::Echo);
    let client = client(&grpc(), true);
    let mut kept = client.open(&site).await.unwrap();
    for _ in 0..200 {
        let mut stream = client.open(&site).await.unwrap();
        stream.write_all(b"some").await.unwrap();
        drop(stream);
    }
    kept.write_all(b"x").await.unwrap();
    assert_eq!(kept.read_u8().await.unwrap(), b'x');
    assert_eq!(site.dials(), 1);
}

#[tokio::test]
async fn requests_that_do_not_fit_are_refused() {
    use crosspoint_schema::options::{HttpTransport, TransportOptions};
    let with = |host: &str, path: &str, method: &str| {
        TransportOptions::Http(HttpTransport {
            host: crosspoint_schema::decode::Listable(vec![host.to_owned()]),
            path: path.to_owned(),
            method: method.to_owned(),
            ..Default::default()
        })
    };
    let server = with("a.example", "/p", "PUT");
    for (asks, status) in [
        (with("b.example", "/p", ""), "400"),
        (with("a.example", "/q", ""), "404"),
        (with("a.example", "/p", "POST"), "404"),
        // The path is a prefix.
        (with("a.example", "/path", "PUT"), ""),
    ] {
        for tls in [true, false] {
            let site = Site::new(&server, tls, Manner::Echo);
            let client = client(&asks, tls);
            let mut stream = client.open(&site).await.unwrap();
            let _ = stream.write_all(b"x").await;
            let read = timeout(Duration::from_secs(5), stream.read_u8()).await.unwrap();
            match read {
                Ok(byte) => assert_eq!((byte, status), (b'x', "")),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!status.is_empty() && error.contains(status), "{error}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_service_is_refused() {
    let site = Site::new(&grpc(), true, Manner::Echo);
    let other =
        client(&crosspoint_schema::options::TransportOptions::Grpc(Default::default()), true);
    let mut stream = other.open(&site).await.unwrap();
    let error = stream.read_u8().await.unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
    // Told again, and not in another way.
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn who_a_reverse_proxy_names() {
    use crosspoint_schema::{
        decode::{HeaderMap, Listable},
        options::{HttpTransport, TransportOptions},
    };
    let mut headers = HeaderMap::default();
    headers.0.insert("X-Forwarded-For".to_owned(), Listable(vec!["192.0.2.99".to_owned()]));
    let asks = TransportOptions::Http(HttpTransport { headers, ..Default::default() });
    let server = TransportOptions::Http(HttpTransport::default());
    for tls in [true, false] {
        let site: Arc<Site> = Site::new(&server, tls, Manner::Echo);
        let mut stream = client(&asks, tls).open(&site).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        let port = PEER.parse::<std::net::SocketAddr>().unwrap().port();
        let named = format!("192.0.2.99:{port}").parse().unwrap();
        assert_eq!(site.house.sources.lock()[..], [Some(named)]);
    }
}
