use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::{
    codec::{Codec, CodecError, Step, Wrapped},
    mux::Mux,
    obfs::{Http, Tls},
    *,
};

fn server() -> ServerOptions {
    ServerOptions { server: "s.test".to_owned(), server_port: 8388 }
}

fn plugin(name: &str, options: &str) -> Result<Plugin, String> {
    Plugin::new(name, options, &server()).map(Option::unwrap).map_err(|error| error.to_string())
}

#[test]
fn options_are_read() {
    assert_eq!(Plugin::new("", "", &server()), Ok(None));
    let http = Inner::Http { host: "a.test".into(), port: 8388 };
    assert_eq!(plugin("obfs-local", "obfs-host=a.test").unwrap().inner, http);
    assert_eq!(
        plugin("obfs-local", "obfs=tls").unwrap().inner,
        Inner::Tls { host: "s.test".into() }
    );
    assert_eq!(plugin("obfs-local", "obfs=x").unwrap_err(), "unknown obfs mode x");
    assert_eq!(plugin("x", "").unwrap_err(), "plugin not found: x");
    assert!(plugin("v2ray-plugin", "mux=a").is_err());
    assert_eq!(plugin("v2ray-plugin", "mode=x").unwrap_err(), "v2ray-plugin: unknown mode: x");
    let plain = plugin("v2ray-plugin", "").unwrap();
    assert!(plain.tls.is_none());
    assert_eq!(plain.inner, Inner::Mux);
    let tls = plugin("v2ray-plugin", "tls;host=a.test;path=/x;mux=0;certRaw=QQ==").unwrap();
    assert_eq!(tls.inner, Inner::Nothing);
    assert_eq!(tls.tls.unwrap().server_name, "a.test");
    let Some(TransportOptions::Ws(ws)) = tls.transport else { panic!("no WebSocket") };
    assert_eq!(ws.path, "/x");
    assert_eq!(ws.headers.iter().next(), Some(("Host", "a.test")));
}

/// Takes everything apart that a codec makes of these bytes, which come in two parts.
fn unwrap_all(codec: &mut impl Codec, bytes: &[u8], cut: usize) -> Result<Vec<u8>, CodecError> {
    let (mut at, mut out) = (0, Vec::new());
    for end in [cut.min(bytes.len()), bytes.len()] {
        while at < end || !codec.reads_plain() {
            if codec.reads_plain() {
                out.extend(&bytes[at..end]);
                at = end;
                continue;
            }
            match codec.unwrap(&bytes[at..end])? {
                Step::Need(need) => {
                    assert!(need > end - at, "asks for what it has");
                    break;
                }
                Step::End => return Ok(out),
                Step::Skip(len) => {
                    assert!(len > 0);
                    at += len;
                }
                Step::Payload(len) => {
                    assert!(len > 0);
                    out.extend(&bytes[at..at + len]);
                    at += len;
                }
            }
        }
    }
    Ok(out)
}

#[test]
fn an_http_request_carries_the_first_payload() {
    let mut codec = Http::new("a.test", 80);
    let mut out = Vec::new();
    codec.wrap(b"first", &mut out);
    let text = String::from_utf8(out).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("GET / HTTP/1.1\r\nHost: a.test\r\nUser-Agent: curl/7."));
    assert!(head.contains("\r\nContent-Length: 5"));
    assert_eq!(body, "first");
    assert!(codec.writes_plain());
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nServer: nginx\r\n\r\nanswer";
    for cut in 0..answer.len() {
        let mut codec = Http::new("a.test", 81);
        assert_eq!(unwrap_all(&mut codec, answer, cut).unwrap(), b"answer", "cut at {cut}");
    }
    assert!(Http::new("a.test", 80).unwrap(&[b'x'; 9000]).is_err());
}

#[test]
fn a_client_hello_carries_the_first_payload() {
    for len in [1, 100, 40_000] {
        let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
        let mut codec = Tls::new("a.test");
        let mut out = Vec::new();
        codec.wrap(&payload, &mut out);
        let record = usize::from(u16::from_be_bytes([out[3], out[4]]));
        assert!(record <= 1 << 14);
        assert_eq!(usize::from(u16::from_be_bytes([out[7], out[8]])), record - 4);
        let first = usize::from(u16::from_be_bytes([out[140], out[141]]));
        assert_eq!(out[142..142 + first], payload[..first]);
        // Lengths as simple-obfs counts them.
        assert_eq!(record, 212 + first + 6);
        let mut rest = out[5 + record..].to_vec();
        let mut back = Tls::new("");
        let mut answer = vec![22, 3, 1, 0, 2, 9, 9, 20, 3, 3, 0, 1, 1];
        answer.append(&mut rest);
        assert_eq!(unwrap_all(&mut back, &answer, 9).unwrap(), payload[first..]);
    }
    assert!(Tls::new("").unwrap(b"HTTP/1.1 400").is_err());
}

#[test]
fn mux_frames_are_those_of_the_reference() {
    let mut codec = Mux::default();
    let mut out = Vec::new();
    codec.wrap(b"ab", &mut out);
    codec.wrap(b"c", &mut out);
    let mut expected = vec![0, 20, 0, 0, 1, 1, 1, 0x02, 0x9a, 2, 11];
    expected.extend(b"v1.mux.cool");
    expected.extend([0, 2, b'a', b'b', 0, 4, 0, 0, 2, 1, 0, 1, b'c']);
    assert_eq!(out, expected);
    let answer = [0, 4, 0, 0, 2, 1, 0, 2, b'x', b'y', 0, 4, 0, 0, 4, 0, 0, 4, 0, 0, 3, 0];
    for cut in 0..answer.len() {
        assert_eq!(unwrap_all(&mut Mux::default(), &answer, cut).unwrap(), b"xy");
    }
    assert!(Mux::default().unwrap(&[0, 4, 0, 0, 2, 2]).is_err());
    assert!(Mux::default().unwrap(&[0, 3, 0, 0, 2, 2]).is_err());
}

#[tokio::test]
async fn a_wrapped_stream_carries_bytes_both_ways() {
    let (near, mut far) = duplex(4000);
    let mut stream = Wrapped::boxed(Box::new(near), Http::new("a.test", 80));
    let echo = tokio::spawn(async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(far.read_u8().await.unwrap());
        }
        far.write_all(b"HTTP/1.1 101 ok\r\n\r\n").await.unwrap();
        let (mut read, mut write) = tokio::io::split(far);
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let text: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let send = async {
        write.write_all(&text).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let (_, got) = tokio::join!(send, read.read_to_end(&mut back));
    got.unwrap();
    assert!(back == text);
    echo.await.unwrap();
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, cut: usize) {
        let cut = cut % (bytes.len() + 1);
        let _ = unwrap_all(&mut Http::new("", 1), &bytes, cut);
        let _ = unwrap_all(&mut Tls::new(""), &bytes, cut);
        let _ = unwrap_all(&mut Mux::default(), &bytes, cut);
    }

    #[test]
    fn any_records_come_back(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20_000), 1..4),
        cut: usize,
    ) {
        let mut bytes = vec![22, 3, 1, 0, 0, 20, 3, 3, 0, 1, 1];
        let mut codec = Tls::new("a");
        codec.wrap(b"x", &mut Vec::new());
        let mut frames = Vec::new();
        let mut mux = Mux::default();
        mux.wrap(b"x", &mut Vec::new());
        for payload in &payloads {
            codec.wrap(payload, &mut bytes);
            mux.wrap(payload, &mut frames);
        }
        let text = payloads.concat();
        prop_assert_eq!(&unwrap_all(&mut Tls::new(""), &bytes, cut % bytes.len()).unwrap(), &text);
        prop_assert_eq!(&unwrap_all(&mut Mux::default(), &frames, cut % frames.len()).unwrap(), &text);
    }
}
