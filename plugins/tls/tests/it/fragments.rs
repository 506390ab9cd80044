//! A ClientHello in pieces, as whoever listens on the wire sees it.

use std::time::{Duration, Instant};

use crosspoint_kernel::{flow::Stream as _, resolve::NO_TRAIL};
use crosspoint_tls::fragment::{Fragmenting, Split, cuts, server_name};
use proptest::prelude::*;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::support::{client, self_signed, server};

const NAME: &str = "www.first.second.test";

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    (near, far)
}

/// What a client writes first, and in which pieces it arrives.
async fn capture(options: serde_json::Value) -> (Vec<Vec<u8>>, Duration) {
    let (near, mut far) = pair().await;
    let mut value = json!({"server_name": NAME, "insecure": true});
    value.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    let client = client(value);
    let begin = Instant::now();
    let work = tokio::spawn(async move {
        let _ = client.connect(Box::new(near), &NO_TRAIL).await;
    });
    let mut reads = Vec::new();
    loop {
        let mut buffer = vec![0; 4096];
        let next = tokio::time::timeout(Duration::from_millis(400), far.read(&mut buffer)).await;
        let Ok(Ok(n @ 1..)) = next else { break };
        buffer.truncate(n);
        reads.push((buffer, begin.elapsed()));
    }
    work.abort();
    let last = reads.last().map_or(Duration::ZERO, |(_, at)| *at);
    (reads.into_iter().map(|(bytes, _)| bytes).collect(), last)
}

/// The payloads of the records in a stream.
fn records(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    while let [0x16, 3, _, high, low, rest @ ..] = stream {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        out.push(rest[..len].to_vec());
        stream = &rest[len..];
    }
    assert!(stream.is_empty());
    out
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn a_hello_goes_out_in_records() {
    let (reads, _) = capture(json!({"record_fragment": true})).await;
    let records = records(&reads.concat());
    // One cut in each of three labels.
    assert_eq!(records.len(), 4);
    let whole = records.concat();
    assert!(contains(&whole, NAME));
    assert!(
        records
            .iter()
            .all(|record| !contains(record, "www.first") && !contains(record, "first.second"))
    );
    // It is still a hello, as long as its header says.
    assert_eq!(
        whole.len(),
        4 + usize::from(whole[1]) * 65536 + usize::from(whole[2]) * 256 + usize::from(whole[3])
    );
}

#[tokio::test]
async fn a_hello_goes_out_in_segments() {
    let (reads, last) = capture(json!({"fragment": true, "fragment_fallback_delay": "50ms"})).await;
    assert_eq!(reads.len(), 4, "{reads:?}");
    assert_eq!(records(&reads.concat()).len(), 1);
    assert!(reads.iter().all(|read| !contains(read, NAME)));
    // The loopback acknowledges at once, which is taken for a middlebox: there is a pause each time.
    assert!(last >= Duration::from_millis(150), "{last:?}");
}

#[tokio::test]
async fn a_hello_goes_out_in_segments_of_records() {
    let options =
        json!({"fragment": true, "record_fragment": true, "fragment_fallback_delay": "20ms"});
    let (reads, _) = capture(options).await;
    assert_eq!(reads.len(), 4);
    assert!(reads.iter().all(|read| records(read).len() == 1));
}

#[tokio::test]
async fn a_hello_without_the_options_goes_out_whole() {
    let (reads, _) = capture(json!({})).await;
    assert_eq!(records(&reads.concat()).len(), 1);
    assert!(contains(&reads.concat(), NAME));
}

#[tokio::test]
async fn servers_understand_fragments() {
    let one = self_signed(NAME, false);
    for options in [
        json!({"record_fragment": true}),
        json!({"fragment": true, "fragment_fallback_delay": "1ms"}),
        json!({"fragment": true, "record_fragment": true, "fragment_fallback_delay": "1ms"}),
    ] {
        let (near, far) = pair().await;
        let mut value = json!({"server_name": NAME, "certificate": one.certificate});
        value.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let (client, server) = (client(value), server(&one, json!({})));
        let (near, far) =
            tokio::join!(client.connect(Box::new(near), &NO_TRAIL), server.accept(Box::new(far)));
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        assert_eq!(far.server_name(), Some(NAME));
        near.write_all(b"ping").await.unwrap();
        let mut heard = [0; 4];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ping");
    }
}

#[tokio::test]
async fn what_is_no_hello_passes() {
    let split = Split { segments: true, records: true, fallback_delay: None };
    for (first, then) in [
        (&b"SSH-2.0-x\r\n"[..], &b"more"[..]),
        (b"\x16", b"\x03\x01\x00"),
        (b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", b"tail"),
        (b"\x16\x03\x09\x00\x05", b"tail"),
    ] {
        let (near, mut far) = pair().await;
        let mut near = Fragmenting::new(Box::new(near), split);
        assert!(near.raw_tcp().is_none());
        near.write_all(first).await.unwrap();
        near.flush().await.unwrap();
        near.write_all(then).await.unwrap();
        near.shutdown().await.unwrap();
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, [first, then].concat());
        assert!(near.raw_tcp().is_some());
    }
}

/// A hello of a client, whole.
async fn hello() -> Vec<u8> {
    capture(json!({})).await.0.concat()
}

#[tokio::test]
async fn a_hello_that_comes_byte_by_byte_is_split_all_the_same() {
    let hello = hello().await;
    let (near, mut far) = pair().await;
    let split = Split { records: true, ..Split::default() };
    let mut near = Fragmenting::new(Box::new(near), split);
    for byte in &hello {
        near.write_all(std::slice::from_ref(byte)).await.unwrap();
        near.flush().await.unwrap();
    }
    // What follows the record is not of it.
    near.write_all(b"tail").await.unwrap();
    near.shutdown().await.unwrap();
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap();
    let tail = heard.split_off(heard.len() - 4);
    assert_eq!(tail, b"tail");
    let records = records(&heard);
    assert_eq!((records.len(), records.concat().as_slice()), (4, &hello[5..]));
}

#[tokio::test]
async fn places_are_within_the_labels() {
    let hello = hello().await;
    let name = server_name(&hello).unwrap();
    assert_eq!(&hello[name.clone()], NAME.as_bytes());
    let at = |places: Vec<usize>| places.iter().map(|at| at - name.start).collect::<Vec<_>>();
    assert_eq!(at(cuts(&hello, |_| 0)), [0, 4, 10]);
    assert_eq!(at(cuts(&hello, |n| n - 1)), [2, 8, 15]);
    assert_eq!(at(cuts(&hello, |_| 1000)), [2, 8, 15]);
    for end in 0..hello.len() {
        // The name must be there as a whole.
        assert_eq!(server_name(&hello[..end]).is_some(), end >= name.end);
    }
}

proptest! {
    #[test]
    fn hostile_hellos_do_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        at in 0usize..300,
        random in any::<usize>(),
    ) {
        let _ = cuts(&bytes, |_| random);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut like = vec![0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
        like.extend_from_slice(&bytes);
        if let Some(byte) = like.get_mut(at) {
            *byte = byte.wrapping_add(1);
        }
        for place in cuts(&like, |_| random) {
            prop_assert!(place < like.len());
        }
        let heard = runtime.block_on(async {
            let (near, mut far) = tokio::io::duplex(1 << 16);
            let split = Split { segments: true, ..Split::default() };
            let mut near = Fragmenting::new(Box::new(near), Split { segments: false, ..split });
            near.write_all(&like).await.unwrap();
            near.shutdown().await.unwrap();
            let mut heard = Vec::new();
            far.read_to_end(&mut heard).await.unwrap();
            heard
        });
        prop_assert_eq!(heard, like);
    }
}
