//! Peers that misbehave. What is bounded: memory, time, and the number of streams.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use crosspoint_schema::options::{HttpTransport, TransportOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    time::timeout,
};

use super::house::{Manner, Site};
use crate::transport::AdmitError;

const SOON: Duration = Duration::from_secs(20);

fn open_house(manner: Manner) -> Arc<Site> {
    Site::new(&TransportOptions::Http(HttpTransport::default()), true, manner)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// POST, https, `/`, by the static table of HPACK.
const HEAD: [u8; 3] = [0x83, 0x87, 0x84];

const END_HEADERS: u8 = 4;

/// A connection with its preface sent and these settings.
async fn begun(site: &Arc<Site>, settings: &[u8]) -> DuplexStream {
    let mut raw = site.connect();
    raw.write_all(super::super::PREFACE).await.unwrap();
    raw.write_all(&frame(4, 0, 0, settings)).await.unwrap();
    raw
}

/// Reads to the end; the kinds of frames that came, and the reason of the last GOAWAY.
async fn drained(raw: &mut DuplexStream) -> (Vec<u8>, Option<u32>) {
    let mut all = Vec::new();
    let _ = timeout(SOON, raw.read_to_end(&mut all)).await.expect("an end");
    let (mut kinds, mut reason, mut at) = (Vec::new(), None, 0);
    while let Some(head) = all.get(at..at + 9) {
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        kinds.push(head[3]);
        if head[3] == 7 {
            let word = all.get(at + 13..at + 17).unwrap();
            reason = Some(u32::from_be_bytes(word.try_into().unwrap()));
        }
        at += 9 + len;
    }
    (kinds, reason)
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let site = open_house(Manner::Deaf);
    let mut raw = begun(&site, &[]).await;
    let mut flood = Vec::new();
    for n in 0..2000u32 {
        flood.extend(frame(1, END_HEADERS, 2 * n + 1, &HEAD));
        flood.extend(frame(3, 0, 2 * n + 1, &[0, 0, 0, 8]));
    }
    let _ = raw.write_all(&flood).await;
    let (_, reason) = drained(&mut raw).await;
    // ENHANCE_YOUR_CALM
    assert_eq!(reason, Some(11));
    assert!(matches!(site.ended().await, Err(AdmitError::Io(_))));
    assert!(site.house.taken.load(Ordering::Relaxed) < 200);
}

#[tokio::test]
async fn more_streams_than_announced_are_refused() {
    let site = open_house(Manner::Deaf);
    let mut raw = begun(&site, &[]).await;
    for n in 0..1000u32 {
        raw.write_all(&frame(1, END_HEADERS, 2 * n + 1, &HEAD)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(site.house.taken.load(Ordering::Relaxed), 250);
}

#[tokio::test]
async fn giant_heads_are_refused() {
    // One header that never ends, in CONTINUATION frames (CVE-2024-24549 and others).
    let site = open_house(Manner::Deaf);
    let mut raw = begun(&site, &[]).await;
    raw.write_all(&frame(1, 0, 1, &HEAD)).await.unwrap();
    // A literal of 1 GiB whose name is `a`: only its length is a lie that costs nothing.
    let mut literal = vec![0x00, 0x01, b'a', 0x7f];
    literal.extend([0x81, 0xff, 0xff, 0xff, 0x03]);
    literal.extend(vec![b'x'; 15_000]);
    for _ in 0..2000 {
        if raw.write_all(&frame(9, 0, 1, &literal)).await.is_err() {
            break;
        }
    }
    let (_, reason) = drained(&mut raw).await;
    assert!(reason.is_none_or(|reason| reason != 0), "{reason:?}");
    assert!(matches!(site.ended().await, Err(AdmitError::Io(_))));
    assert_eq!(site.house.taken.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_client_without_windows_costs_little() {
    // SETTINGS_INITIAL_WINDOW_SIZE = 0: the echo can send nothing, so it stops reading.
    let site = open_house(Manner::Echo);
    let mut raw = begun(&site, &[0, 4, 0, 0, 0, 0]).await;
    raw.write_all(&frame(1, END_HEADERS, 1, &HEAD)).await.unwrap();
    let data = frame(0, 0, 1, &[5; 16 << 10]);
    let mut sent = 0;
    // Its windows are not looked at: the server must insist on them.
    let (mut reader, mut writer) = tokio::io::split(raw);
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        let _ = timeout(SOON, reader.read_to_end(&mut all)).await;
        all
    });
    for _ in 0..400 {
        if writer.write_all(&data).await.is_err() {
            break;
        }
        sent += data.len();
    }
    assert!(sent < 5 << 20, "{sent}");
    assert!(matches!(site.ended().await, Err(AdmitError::Io(_))));
    let echoed = reading.await.unwrap();
    assert!(echoed.len() < 1000, "{}", echoed.len());
}

#[tokio::test]
async fn tiny_frames_are_bounded() {
    let site = open_house(Manner::Deaf);
    let mut raw = begun(&site, &[]).await;
    raw.write_all(&frame(1, END_HEADERS, 1, &HEAD)).await.unwrap();
    let tiny = frame(0, 0, 1, b"x").repeat(1000);
    for _ in 0..200 {
        if raw.write_all(&tiny).await.is_err() {
            break;
        }
    }
    assert_eq!(drained(&mut raw).await.1, Some(11));
}

#[tokio::test]
async fn garbage_ends() {
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nSSH-2.0-OpenSSH_9.6\r\n\r\n----------------",
        b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        for tls in [true, false] {
            let site = Site::new(&super::house::grpc(), tls, Manner::Deaf);
            let mut raw = site.connect();
            raw.write_all(garbage).await.unwrap();
            raw.shutdown().await.unwrap();
            let mut answer = Vec::new();
            timeout(SOON, raw.read_to_end(&mut answer)).await.unwrap().unwrap();
            timeout(SOON, site.ended()).await.unwrap().unwrap_err();
            assert_eq!(site.house.taken.load(Ordering::Relaxed), 0);
        }
    }
}

#[tokio::test]
async fn pings_and_settings_without_end_are_answered_no_faster_than_they_are_read() {
    let site = open_house(Manner::Deaf);
    let mut raw = begun(&site, &[]).await;
    let flood = [frame(6, 0, 0, &[1; 8]), frame(4, 0, 0, &[])].concat().repeat(500);
    let mut sent = 0;
    for _ in 0..200 {
        // Nobody reads the answers: at some point the server reads no more either.
        match timeout(Duration::from_millis(300), raw.write_all(&flood)).await {
            Ok(Ok(())) => sent += flood.len(),
            _ => break,
        }
    }
    assert!(sent < 3 << 20, "{sent}");
}

#[tokio::test]
async fn who_is_told_nothing_gets_an_empty_response() {
    // The protocol drops a stranger's stream: HEADERS and an empty DATA, no RST_STREAM.
    let site = open_house(Manner::Rude);
    let mut raw = begun(&site, &[]).await;
    raw.write_all(&frame(1, END_HEADERS, 1, &HEAD)).await.unwrap();
    raw.write_all(&frame(0, 1, 1, b"garbage")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    raw.shutdown().await.unwrap();
    let (kinds, _) = drained(&mut raw).await;
    let of_stream: Vec<u8> = kinds.into_iter().filter(|kind| [0, 1, 3].contains(kind)).collect();
    assert_eq!(of_stream, [1, 0]);

    // One that can say nothing is not even served.
    let site = open_house(Manner::Echo);
    let mut raw = begun(&site, &[]).await;
    raw.write_all(&frame(1, END_HEADERS | 1, 1, &HEAD)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    raw.shutdown().await.unwrap();
    let (kinds, _) = drained(&mut raw).await;
    assert!(kinds.contains(&1) && !kinds.contains(&0), "{kinds:?}");
    assert_eq!(site.house.taken.load(Ordering::Relaxed), 0);
}
